//! What this validator signed, so that no restart, race or stale copy of the ledger makes it
//! sign something else.
//!
//! The file lies where the operator says, by default outside the data directory: deleting or
//! restoring the ledger must not make the node forget what it signed.
//!
//! Invariant: for one (height, round, step) [`SignerGuard::check`] returns `Sign` for one value
//! only, over all restarts and threads; the value is durable before the first `Sign`.
//! Deliberately absent: signing, and any way to lower the floor or remove an entry above it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use protocol::amount::Height;
use protocol::ids::{BlockHash, ChainId};
use thiserror::Error;

use crate::durable::{self, at};
use crate::lock::{FileLock, LockError};
use crate::record::{self, LogKind, RecordError, RecordLog, TornTail};

/// File size in bytes above which raising the floor rewrites the file.
const REWRITE_BYTES_MIN: u64 = 256 * 1024;
/// Largest record: tag, height, round, step, value.
const PAYLOAD_BYTES_MAX: u32 = 1 + 8 + 4 + 1 + 1 + 32;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A proposal.
    Proposal,
    /// A first vote.
    Prevote,
    /// A second vote.
    Precommit,
}

/// A signature about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardEntry {
    /// Height.
    pub height: Height,
    /// Consensus round.
    pub round: u32,
    /// What is signed.
    pub step: Step,
    /// For which block; `None` is nil.
    pub value: Option<BlockHash>,
}

/// Whether to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Sign: the value is recorded, durably.
    Sign,
    /// Do not sign.
    Refuse(Refusal),
}

/// Why not to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another value was signed for this (height, round, step): this one.
    Conflict(Option<BlockHash>),
    /// The height is below this floor, whose records are gone.
    BelowFloor(Height),
}

/// Why nothing can be signed.
#[derive(Debug, Error)]
pub enum GuardError {
    /// Another process signs with this guard.
    #[error("the signer guard cannot be locked")]
    Lock(#[from] LockError),
    /// The file is damaged or cannot be used.
    #[error("the signer guard cannot be used, so nothing is signed")]
    Record(#[from] RecordError),
    /// A guard of an older schema and its copy differ; the guard is as it was.
    #[error(
        "the copy of the signer guard in a newer format is not equal to it, so nothing is signed"
    )]
    Migration,
    /// A record passes its checksum but means nothing.
    #[error("record {0} of the signer guard has an unknown form: it needs a newer program")]
    Unknown(u64),
}

/// Version of the file's format: 2 ends with a mark, so that no cut of the file goes unnoticed.
pub const SCHEMA: u8 = 2;

type Key = (Height, u32, Step);

/// The guard. Share it behind an `Arc`; one per process and key.
#[derive(Debug)]
pub struct SignerGuard {
    inner: Mutex<Inner>,
    _lock: FileLock,
}

#[derive(Debug)]
struct Inner {
    log: RecordLog,
    floor: Height,
    entries: BTreeMap<Key, Option<BlockHash>>,
    rewrite_bytes_min: u64,
}

impl SignerGuard {
    /// Opens or creates the guard at `path` (a file) and locks it (`<path>.lock`).
    ///
    /// With a torn tail, records may be missing that were acknowledged: the owner must then raise
    /// the floor above every height that it may have signed at ([`crate::ledger`] does).
    pub fn open(path: &Path, chain: &ChainId) -> Result<(Self, Option<TornTail>), GuardError> {
        if let Some(parent) = durable::parent_of(path) {
            durable::create_dir(parent).map_err(LockError::from)?;
        }
        let mut lock_path = path.as_os_str().to_os_string();
        lock_path.push(".lock");
        let lock = FileLock::acquire(Path::new(&lock_path), path)?;
        let migrated = migrate(path, chain)?;
        let mut floor = Height::ZERO;
        let mut entries = BTreeMap::new();
        let mut unknown = None;
        let opened = RecordLog::open(path, kind(chain), |index, payload| match parse(payload) {
            Some(Record::Signed(entry)) => {
                entries.entry(key(&entry)).or_insert(entry.value);
            }
            Some(Record::Floor(height)) => floor = floor.max(height),
            None => unknown = unknown.or(Some(index)),
        });
        let (log, torn) = opened?;
        if let Some(index) = unknown {
            return Err(GuardError::Unknown(index));
        }
        let entries = entries.split_off(&(floor, 0, Step::Proposal));
        let inner = Inner { log, floor, entries, rewrite_bytes_min: REWRITE_BYTES_MIN };
        Ok((Self { inner: Mutex::new(inner), _lock: lock }, torn.or(migrated)))
    }

    /// What the file at `path` says was signed, read without a lock and changing nothing: for
    /// whoever looks from outside, also while a node signs. A record that is being written is
    /// left out; what lies below the floor is there until the file is rewritten.
    pub fn survey(path: &Path, chain: &ChainId) -> Result<Vec<GuardEntry>, GuardError> {
        let mut entries = Vec::new();
        RecordLog::survey(path, kind(chain), |_, payload| {
            if let Some(Record::Signed(entry)) = parse(payload) {
                entries.push(entry);
            }
        })?;
        Ok(entries)
    }

    /// Rewrites from `bytes` on instead of 256 KiB.
    pub fn with_rewrite_bytes_min(self, bytes: u64) -> Self {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).rewrite_bytes_min = bytes;
        self
    }

    /// Decides whether `entry` may be signed, recording it first. Safe from many threads.
    pub fn check(&self, entry: &GuardEntry) -> Result<Decision, GuardError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if entry.height < inner.floor {
            return Ok(Decision::Refuse(Refusal::BelowFloor(inner.floor)));
        }
        if let Some(signed) = inner.entries.get(&key(entry)) {
            return Ok(if *signed == entry.value {
                Decision::Sign
            } else {
                Decision::Refuse(Refusal::Conflict(*signed))
            });
        }
        inner.log.append(&encode(&Record::Signed(*entry)))?;
        inner.log.sync()?;
        inner.entries.insert(key(entry), entry.value);
        Ok(Decision::Sign)
    }

    /// Refuses everything below `floor` from now on, and forgets it. Lower floors do nothing.
    pub fn raise_floor(&self, floor: Height) -> Result<(), GuardError> {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        if floor <= inner.floor {
            return Ok(());
        }
        inner.log.append(&encode(&Record::Floor(floor)))?;
        inner.log.sync()?;
        inner.floor = floor;
        inner.entries = inner.entries.split_off(&(floor, 0, Step::Proposal));
        if inner.log.bytes() > inner.rewrite_bytes_min {
            inner.rewrite()?;
        }
        Ok(())
    }

    /// Heights below this are refused.
    pub fn floor(&self) -> Height {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).floor
    }

    /// The highest height of any recorded signature that is not pruned.
    pub fn highest(&self) -> Option<Height> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries.last_key_value().map(|((height, _, _), _)| *height)
    }
}

impl Inner {
    fn rewrite(&mut self) -> Result<(), RecordError> {
        let mut payloads = vec![encode(&Record::Floor(self.floor))];
        payloads.extend(self.entries.iter().map(|((height, round, step), value)| {
            let entry = GuardEntry { height: *height, round: *round, step: *step, value: *value };
            encode(&Record::Signed(entry))
        }));
        self.log.rewrite(payloads.iter().map(Vec::as_slice))
    }
}

fn kind(chain: &ChainId) -> LogKind {
    LogKind {
        name: "signer guard",
        schema: SCHEMA,
        end_mark: true,
        chain: *chain,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
    }
}

/// Brings a guard of schema 1 to the present one: a copy is written, compared, renamed into place.
fn migrate(path: &Path, chain: &ChainId) -> Result<Option<TornTail>, GuardError> {
    if record::schema_of(path)? != Some(1) {
        return Ok(None);
    }
    let old = LogKind { schema: 1, end_mark: false, ..kind(chain) };
    let mut records = Vec::new();
    let (_, torn) = RecordLog::open(path, old, |_, payload| records.push(payload.to_vec()))?;
    let mut name = path.as_os_str().to_os_string();
    name.push(".migrating");
    let next = Path::new(&name);
    RecordLog::write_new(next, kind(chain), records.iter().map(Vec::as_slice))?;
    let mut copied = Vec::new();
    RecordLog::open_whole(next, kind(chain), |_, payload| copied.push(payload.to_vec()))?;
    if copied != records {
        return Err(GuardError::Migration);
    }
    std::fs::rename(next, path)
        .map_err(at("rename into place", path))
        .map_err(RecordError::from)?;
    durable::sync_parent(path).map_err(RecordError::from)?;
    Ok(torn)
}

enum Record {
    Signed(GuardEntry),
    Floor(Height),
}

const TAG_SIGNED: u8 = 1;
const TAG_FLOOR: u8 = 2;

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAYLOAD_BYTES_MAX as usize);
    match record {
        Record::Floor(height) => {
            bytes.push(TAG_FLOOR);
            bytes.extend_from_slice(&height.get().to_le_bytes());
        }
        Record::Signed(entry) => {
            bytes.push(TAG_SIGNED);
            bytes.extend_from_slice(&entry.height.get().to_le_bytes());
            bytes.extend_from_slice(&entry.round.to_le_bytes());
            bytes.push(match entry.step {
                Step::Proposal => 0,
                Step::Prevote => 1,
                Step::Precommit => 2,
            });
            if let Some(block) = entry.value {
                bytes.extend_from_slice(block.as_bytes());
            }
        }
    }
    bytes
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let (tag, rest) = bytes.split_first()?;
    let (height, rest) = rest.split_first_chunk::<8>()?;
    let height = Height::new(u64::from_le_bytes(*height));
    match *tag {
        TAG_FLOOR => rest.is_empty().then_some(Record::Floor(height)),
        TAG_SIGNED => {
            let (round, rest) = rest.split_first_chunk::<4>()?;
            let (step, rest) = rest.split_first()?;
            let step = match step {
                0 => Step::Proposal,
                1 => Step::Prevote,
                2 => Step::Precommit,
                _ => return None,
            };
            let value = match rest.len() {
                0 => None,
                _ => Some(BlockHash::from_bytes(rest.try_into().ok()?)),
            };
            let round = u32::from_le_bytes(*round);
            Some(Record::Signed(GuardEntry { height, round, step, value }))
        }
        _ => None,
    }
}

const fn key(entry: &GuardEntry) -> Key {
    (entry.height, entry.round, entry.step)
}
