//! The decided blocks, in height order from 1: the truth that everything else is rebuilt from.
//!
//! Payload of a record: height (u64 LE), block hash (32), canonical `DecidedBlock`. The first two
//! repeat what the certificate says, so that opening need not decode a chain's worth of blocks.
//!
//! Invariant: a block is durable when [`BlockLog::append`] returned, and heights have no gap.
//! Deliberately absent: checking certificates and blocks (rules do that before they append),
//! pruning, and logs that begin above height 1.

use std::path::Path;

use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::codec::{self, Canonical, CodecError};
use protocol::ids::{BlockHash, ChainId};
use thiserror::Error;

use crate::record::{LogKind, RecordError, RecordLog, TornTail};

const PREFIX_BYTES: usize = 40;

/// The last block of a log or state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub block: BlockHash,
}

/// Why a block was not appended, read or opened.
#[derive(Debug, Error)]
pub enum BlockLogError {
    /// The block is not the next one.
    #[error("block {found} does not follow: the log expects height {expected}")]
    OutOfOrder {
        /// Height of the block.
        found: Height,
        /// Height that comes next.
        expected: Height,
    },
    /// A record passes its checksum but is not the block of its height: it was written wrongly.
    #[error("record {index} of the block log is not block {}: {what}", index + 1)]
    Inconsistent {
        /// Index of the record.
        index: u64,
        /// What is wrong.
        what: String,
    },
    /// The block is over its size limit.
    #[error("the block cannot be stored")]
    Codec(#[from] CodecError),
    /// The file is damaged or cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The block log.
#[derive(Debug)]
pub struct BlockLog {
    log: RecordLog,
    tip: Option<Tip>,
}

impl BlockLog {
    /// Opens or creates `blocks.log` in `dir`, checking every record.
    pub fn open(dir: &Path, chain: &ChainId) -> Result<(Self, Option<TornTail>), BlockLogError> {
        let kind = LogKind {
            name: "block log",
            chain: *chain,
            payload_bytes_max: (DecidedBlock::BYTES_MAX + PREFIX_BYTES) as u32,
        };
        let mut tip = None;
        let mut wrong = None;
        let (log, torn) = RecordLog::open(&dir.join("blocks.log"), kind, |index, payload| {
            match split(payload) {
                Some((found, _)) if found.height.get() == index + 1 => tip = Some(found),
                Some(_) | None => wrong = wrong.or(Some(index)),
            }
        })?;
        if let Some(index) = wrong {
            let what = "it states another height".to_string();
            return Err(BlockLogError::Inconsistent { index, what });
        }
        Ok((Self { log, tip }, torn))
    }

    /// Appends the next block. Durable when this returns.
    pub fn append(&mut self, block: &DecidedBlock) -> Result<Tip, BlockLogError> {
        let next = Tip { height: block.certificate.height, block: block.certificate.block };
        let expected = self.next_height();
        if next.height != expected {
            return Err(BlockLogError::OutOfOrder { found: next.height, expected });
        }
        let body = codec::encode_checked(block)?;
        let mut payload = Vec::with_capacity(PREFIX_BYTES + body.len());
        payload.extend_from_slice(&next.height.get().to_le_bytes());
        payload.extend_from_slice(next.block.as_bytes());
        payload.extend_from_slice(&body);
        self.log.append(&payload)?;
        self.log.sync()?;
        self.tip = Some(next);
        Ok(next)
    }

    /// The block at `height`; `None` for 0 and for heights that are not decided yet.
    pub fn get(&self, height: Height) -> Result<Option<DecidedBlock>, BlockLogError> {
        let Some((index, payload)) = self.payload(height)? else { return Ok(None) };
        let wrong = |what: String| BlockLogError::Inconsistent { index, what };
        let (stated, body) = split(&payload).ok_or_else(|| wrong("it is too short".to_string()))?;
        let block: DecidedBlock = codec::decode(body).map_err(|e| wrong(e.to_string()))?;
        if block.certificate.height != height || block.certificate.block != stated.block {
            return Err(wrong("its certificate is for another block".to_string()));
        }
        Ok(Some(block))
    }

    /// The hash of the block at `height`.
    pub fn hash_at(&self, height: Height) -> Result<Option<BlockHash>, BlockLogError> {
        match self.tip {
            Some(tip) if tip.height == height => Ok(Some(tip.block)),
            Some(_) | None => Ok(self
                .payload(height)?
                .and_then(|(_, payload)| split(&payload).map(|(tip, _)| tip.block))),
        }
    }

    /// The last block.
    pub const fn tip(&self) -> Option<Tip> {
        self.tip
    }

    /// Blocks from height `from` on, at most `limit`, each read when the iterator reaches it.
    pub fn range(
        &self,
        from: Height,
        limit: u64,
    ) -> impl Iterator<Item = Result<DecidedBlock, BlockLogError>> + '_ {
        let first = from.get().max(1);
        let end = self.next_height().get().min(first.saturating_add(limit));
        (first..end).filter_map(|height| self.get(Height::new(height)).transpose())
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    fn next_height(&self) -> Height {
        self.tip.map_or(Height::ZERO, |tip| tip.height).plus(1)
    }

    fn payload(&self, height: Height) -> Result<Option<(u64, Vec<u8>)>, BlockLogError> {
        let Some(index) = height.get().checked_sub(1) else { return Ok(None) };
        Ok(self.log.read(index)?.map(|payload| (index, payload)))
    }
}

fn split(payload: &[u8]) -> Option<(Tip, &[u8])> {
    let (height, rest) = payload.split_first_chunk::<8>()?;
    let (block, body) = rest.split_first_chunk::<32>()?;
    let height = Height::new(u64::from_le_bytes(*height));
    Some((Tip { height, block: BlockHash::from_bytes(*block) }, body))
}
