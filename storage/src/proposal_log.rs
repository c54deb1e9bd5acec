//! Bodies of blocks that are not decided yet: what this node proposed or vouched for.
//!
//! A validator that voted for a block must still be able to give its body after a crash, else a
//! decided block could be lost; so bodies are durable before the vote is sent.
//!
//! Invariant: a body is durable when [`ProposalLog::insert`] returned `Stored` or `Known`, and a
//! (height, round) has at most [`limits::BODIES_PER_ROUND_MAX`] of them.
//! Deliberately absent: checking signatures (done before), and bodies in memory.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::amount::Height;
use protocol::codec::{self, Canonical, CodecError};
use protocol::consensus::{BodyOffer, ProposalBody};
use protocol::ids::{BlockHash, ChainId, ValidatorId};
use protocol::limits;
use thiserror::Error;

use crate::record::{LogKind, RecordError, RecordLog, TornTail};

/// File size in bytes above which pruning rewrites the file. Lower: more rewriting; higher: more
/// disk, and a slower start.
pub const REWRITE_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Name of the file.
const FILE: &str = "proposals.log";
/// Version of the file's format.
pub const SCHEMA: u8 = 1;

type Key = (Height, u32, BlockHash);

/// What became of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// Stored.
    Stored,
    /// It was stored before.
    Known,
    /// The (height, round) has all the bodies it may have: the proposer equivocates.
    Full,
}

/// Why a body was not stored or read.
#[derive(Debug, Error)]
pub enum ProposalLogError {
    /// The body is over its size limit, or a stored one does not decode.
    #[error("a proposal body has a bad encoding")]
    Codec(#[from] CodecError),
    /// The file is damaged or cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The proposal log.
#[derive(Debug)]
pub struct ProposalLog {
    log: RecordLog,
    /// Index of each body's record.
    index: BTreeMap<Key, u64>,
    rewrite_bytes_min: u64,
}

impl ProposalLog {
    /// Opens or creates `proposals.log` in `dir`, checking every record.
    pub fn open(dir: &Path, chain: &ChainId) -> Result<(Self, Option<TornTail>), ProposalLogError> {
        let path = dir.join(FILE);
        let mut index = BTreeMap::new();
        let mut bad = None;
        let (log, torn) =
            RecordLog::open(&path, kind(chain), |record, payload| {
                match codec::decode::<ProposalBody>(payload) {
                    Ok(body) => {
                        index.insert(key(&body), record);
                    }
                    Err(error) => bad = Some(error),
                }
            })?;
        match bad {
            Some(error) => Err(error.into()),
            None => Ok((Self { log, index, rewrite_bytes_min: REWRITE_BYTES_MIN }, torn)),
        }
    }

    /// Who offered which block, as the log in `dir` says, in the order of writing; read without a
    /// lock and changing nothing. A record that is being written is left out.
    pub fn survey(
        dir: &Path,
        chain: &ChainId,
    ) -> Result<Vec<(ValidatorId, BodyOffer)>, ProposalLogError> {
        let mut offers = Vec::new();
        let mut bad = None;
        RecordLog::survey(&dir.join(FILE), kind(chain), |_, payload| {
            match codec::decode::<ProposalBody>(payload) {
                Ok(body) => offers.push((body.proposer, body.offer)),
                Err(error) => bad = Some(error),
            }
        })?;
        bad.map_or(Ok(offers), |error| Err(error.into()))
    }

    /// Rewrites from `bytes` on instead of [`REWRITE_BYTES_MIN`].
    pub const fn with_rewrite_bytes_min(mut self, bytes: u64) -> Self {
        self.rewrite_bytes_min = bytes;
        self
    }

    /// Stores a body. Durable when this returns.
    pub fn insert(&mut self, body: &ProposalBody) -> Result<Insertion, ProposalLogError> {
        let key = key(body);
        if self.index.contains_key(&key) {
            return Ok(Insertion::Known);
        }
        if self.round(key.0, key.1).count() >= limits::BODIES_PER_ROUND_MAX {
            return Ok(Insertion::Full);
        }
        let payload = codec::encode_checked(body)?;
        let record = self.log.append(&payload)?;
        self.log.sync()?;
        self.index.insert(key, record);
        Ok(Insertion::Stored)
    }

    /// The bodies of one (height, round), ordered by hash.
    pub fn for_round(
        &self,
        height: Height,
        round: u32,
    ) -> Result<Vec<ProposalBody>, ProposalLogError> {
        self.round(height, round).filter_map(|record| self.read(record).transpose()).collect()
    }

    /// The body of a block at a height, of whichever round.
    pub fn find(
        &self,
        height: Height,
        block: &BlockHash,
    ) -> Result<Option<ProposalBody>, ProposalLogError> {
        let mut of_height = self.index.range(bounds(height, 0).0..=bounds(height, u32::MAX).1);
        match of_height.find(|((_, _, hash), _)| hash == block) {
            Some((_, record)) => self.read(*record),
            None => Ok(None),
        }
    }

    /// Forgets the bodies up to and including a height. Rewrites a file that has grown large.
    pub fn prune(&mut self, up_to: Height) -> Result<(), ProposalLogError> {
        self.index = self.index.split_off(&bounds(up_to.plus(1), 0).0);
        if self.log.bytes() <= self.rewrite_bytes_min {
            return Ok(());
        }
        let mut keys: Vec<(Key, u64)> = self.index.iter().map(|(k, r)| (*k, *r)).collect();
        keys.sort_by_key(|(_, record)| *record);
        let mut bodies = Vec::with_capacity(keys.len());
        for (_, record) in &keys {
            bodies.extend(self.log.read(*record)?);
        }
        self.log.rewrite(bodies.iter().map(Vec::as_slice))?;
        self.index = keys.into_iter().map(|(key, _)| key).zip(0..).collect();
        Ok(())
    }

    /// Number of bodies.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    fn round(&self, height: Height, round: u32) -> impl Iterator<Item = u64> + '_ {
        let (first, last) = bounds(height, round);
        self.index.range(first..=last).map(|(_, record)| *record)
    }

    fn read(&self, record: u64) -> Result<Option<ProposalBody>, ProposalLogError> {
        match self.log.read(record)? {
            Some(payload) => Ok(Some(codec::decode(&payload)?)),
            None => Ok(None),
        }
    }
}

const fn kind(chain: &ChainId) -> LogKind {
    LogKind {
        name: "proposal log",
        schema: SCHEMA,
        end_mark: false,
        chain: *chain,
        payload_bytes_max: ProposalBody::BYTES_MAX as u32,
    }
}

const fn key(body: &ProposalBody) -> Key {
    (body.offer.height, body.offer.round, body.offer.block)
}

const fn bounds(height: Height, round: u32) -> (Key, Key) {
    let first = (height, round, BlockHash::from_bytes([0; 32]));
    let last = (height, round, BlockHash::from_bytes([0xff; 32]));
    (first, last)
}
