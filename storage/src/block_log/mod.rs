//! The decided blocks, in height order: the truth that everything else is rebuilt from.
//!
//! The log is cut into segments of about 64 MiB (see `segment`). Opening reads the last one whole
//! and of the others only index and head, so a start does not grow with the chain; every record is
//! checked again when it is read, and [`BlockLog::check`] reads them all. Each segment's head
//! holds the last checksum of the segment before, so the segments are one chain.
//!
//! Invariant: a block is durable when [`BlockLog::append`] returned, and heights have no gap.
//! Deliberately absent: checking certificates and blocks (rules do that before they append), and
//! deciding what may be pruned ([`crate::ledger`]).

use std::fs;
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::block::{DecidedBlock, Header};
use protocol::codec::{self, CodecError};
use protocol::consensus::CommitCertificate;
use protocol::ids::{BlockHash, ChainId};
use thiserror::Error;

use crate::durable::{self, FileError, at};
use crate::record::{LogKind, RecordError, TornTail};

mod index;
pub(crate) mod repair;
mod segment;

use index::Index;
pub use repair::Survey;
pub use segment::SCHEMA;
use segment::{Active, Sealed};

/// Length in bytes from which a segment takes no more blocks. Smaller: more files; larger: a
/// slower start and coarser pruning.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Name of the log's folder in a data directory.
pub const FOLDER: &str = "blocks";

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
    /// Records pass their checksums but do not make a log: a segment is missing, or was put there
    /// from elsewhere.
    #[error("{} does not belong here: {what}", path.display())]
    Inconsistent {
        /// The segment.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A log that is not empty cannot begin elsewhere.
    #[error("{} already holds a block log", .0.display())]
    NotEmpty(PathBuf),
    /// An earlier write failed; the disk may differ from what this process believes.
    #[error(
        "an earlier write to the block log failed, so it takes no more: restart once the cause is gone"
    )]
    Poisoned,
    /// The block is over its size limit.
    #[error("a block has a bad encoding")]
    Codec(#[from] CodecError),
    /// A file is damaged or cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl BlockLogError {
    fn inconsistent(path: &Path, what: String) -> Self {
        Self::Inconsistent { path: path.to_path_buf(), what }
    }

    /// Whether the disk is full: nothing is damaged, and a restart succeeds once there is space.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::File(error) | Self::Record(RecordError::File(error)) => error.is_out_of_space(),
            _ => false,
        }
    }
}

/// The block log.
#[derive(Debug)]
pub struct BlockLog {
    dir: PathBuf,
    kind: LogKind,
    /// Ascending by height, without gaps.
    sealed: Vec<Sealed>,
    /// `None`: no block yet.
    active: Option<Active>,
    tip: Option<Tip>,
    segment_bytes: u64,
    /// Whether the next block begins a segment, however long the last one is.
    roll: bool,
    poisoned: bool,
}

impl BlockLog {
    /// Opens or creates the log in folder [`FOLDER`] of `dir`.
    pub fn open(dir: &Path, chain: &ChainId) -> Result<(Self, Option<TornTail>), BlockLogError> {
        Self::open_folder(&dir.join(FOLDER), chain)
    }

    /// As [`Self::open`], for the folder itself.
    pub(crate) fn open_folder(
        dir: &Path,
        chain: &ChainId,
    ) -> Result<(Self, Option<TornTail>), BlockLogError> {
        durable::create_dir(dir)?;
        let kind = segment::kind(chain);
        let firsts = segment::list(dir)?;
        let mut log = Self {
            dir: dir.to_path_buf(),
            kind,
            sealed: Vec::new(),
            active: None,
            tip: None,
            segment_bytes: SEGMENT_BYTES,
            roll: false,
            poisoned: false,
        };
        let Some((last, before)) = firsts.split_last() else { return Ok((log, None)) };
        for first in before {
            let (sealed, previous) = Sealed::open(dir, &kind, *first)?;
            log.check_follows(&sealed.path, *first, &previous)?;
            log.sealed.push(sealed);
        }
        let (active, previous, tip, torn) = Active::open(dir, &kind, *last)?;
        log.check_follows(active.log.path(), *last, &previous)?;
        log.active = Some(active);
        log.tip = Some(tip);
        Ok((log, torn))
    }

    /// Makes a log that begins with this block, which must lie above the state it is used with or
    /// be its tip. For a node that starts from a snapshot.
    pub(crate) fn create_at(
        dir: &Path,
        chain: &ChainId,
        block: &DecidedBlock,
    ) -> Result<Self, BlockLogError> {
        let (mut log, _) = Self::open_folder(dir, chain)?;
        if log.tip.is_some() {
            return Err(BlockLogError::NotEmpty(dir.to_path_buf()));
        }
        let tip = Tip { height: block.certificate.height, block: block.certificate.block };
        log.append_payload(tip, &segment::encode(block)?, true)?;
        Ok(log)
    }

    /// Seals segments from `bytes` on instead of [`SEGMENT_BYTES`].
    pub const fn with_segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    pub(crate) const fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// Lets the next block begin a segment: segments are deleted whole, so where one ends is where
    /// the log can be cut.
    pub(crate) const fn roll(&mut self) {
        self.roll = true;
    }

    /// Appends the next block. Durable when this returns.
    pub fn append(&mut self, block: &DecidedBlock) -> Result<Tip, BlockLogError> {
        if self.poisoned {
            return Err(BlockLogError::Poisoned);
        }
        let next = Tip { height: block.certificate.height, block: block.certificate.block };
        let expected = self.next_height();
        if next.height != expected {
            return Err(BlockLogError::OutOfOrder { found: next.height, expected });
        }
        let payload = segment::encode(block)?;
        self.append_payload(next, &payload, true)?;
        Ok(next)
    }

    /// Appends the record of the next block, which was taken from another log of this network.
    /// Not durable.
    pub(crate) fn append_record(&mut self, payload: &[u8]) -> Result<Tip, BlockLogError> {
        let wrong = || BlockLogError::inconsistent(&self.dir, "a record is no block".to_string());
        let (next, _) = segment::split(payload).ok_or_else(wrong)?;
        let expected = self.next_height();
        if next.height != expected {
            return Err(BlockLogError::OutOfOrder { found: next.height, expected });
        }
        self.append_payload(next, payload, false)?;
        Ok(next)
    }

    /// The record of a block, for [`Self::append_record`].
    pub(crate) fn record(&self, height: Height) -> Result<Option<Vec<u8>>, BlockLogError> {
        Ok(self.payload(height)?.map(|(_, payload)| payload))
    }

    fn append_payload(
        &mut self,
        tip: Tip,
        payload: &[u8],
        durable: bool,
    ) -> Result<(), BlockLogError> {
        let room = self.segment_bytes;
        if let Some(active) =
            self.active.as_mut().filter(|active| !self.roll && active.log.bytes() < room)
        {
            active.log.append(payload)?;
            if durable {
                active.log.sync()?;
            }
            self.tip = Some(tip);
            return Ok(());
        }
        // A new segment. If this fails half-way, only an opening can tell what is there.
        self.poisoned = true;
        let previous = self.seal()?;
        let first = tip.height.get();
        self.active = Some(Active::create(&self.dir, &self.kind, first, &previous, payload)?);
        self.tip = Some(tip);
        self.roll = false;
        self.poisoned = false;
        Ok(())
    }

    /// Turns the active segment into a sealed one; returns its last checksum.
    fn seal(&mut self) -> Result<[u8; 32], BlockLogError> {
        let Some(mut active) = self.active.take() else { return Ok([0; 32]) };
        active.log.sync()?;
        let path = segment::index_path(&self.dir, active.first);
        let index = Index::write(&path, &self.kind, active.first, &active.log)?;
        let last = index.last;
        self.sealed.push(Sealed { path: active.log.path().to_path_buf(), index });
        Ok(last)
    }

    /// The block at `height`; `None` for heights that are not held: not decided yet, or pruned.
    pub fn get(&self, height: Height) -> Result<Option<DecidedBlock>, BlockLogError> {
        let Some((path, payload)) = self.payload(height)? else { return Ok(None) };
        let wrong = |what: String| {
            BlockLogError::inconsistent(path, format!("its record of block {height}: {what}"))
        };
        let (stated, body) = segment::split(&payload).ok_or_else(|| wrong("too short".into()))?;
        let block: DecidedBlock = codec::decode(body).map_err(|e| wrong(e.to_string()))?;
        let certificate = &block.certificate;
        if certificate.height != height
            || stated.height != height
            || certificate.block != stated.block
        {
            return Err(wrong("its certificate is for another block".to_string()));
        }
        Ok(Some(block))
    }

    /// Header and certificate of the block at `height`; `None` as in [`Self::get`].
    pub fn header(
        &self,
        height: Height,
    ) -> Result<Option<(Header, CommitCertificate)>, BlockLogError> {
        Ok(self.get(height)?.map(|decided| decided.header_and_certificate()).transpose()?)
    }

    /// The hash of the block at `height`; `None` as in [`Self::get`].
    pub fn hash_at(&self, height: Height) -> Result<Option<BlockHash>, BlockLogError> {
        match self.tip {
            Some(tip) if tip.height == height => Ok(Some(tip.block)),
            Some(_) | None => Ok(self
                .payload(height)?
                .and_then(|(_, payload)| segment::split(&payload).map(|(tip, _)| tip.block))),
        }
    }

    /// The last block.
    pub const fn tip(&self) -> Option<Tip> {
        self.tip
    }

    /// Height of the first block held: 1, unless the log was pruned or began from a snapshot.
    pub fn first(&self) -> Option<Height> {
        let sealed = self.sealed.first().map(|sealed| sealed.index.first);
        sealed.or(self.active.as_ref().map(|active| active.first)).map(Height::new)
    }

    /// Blocks from height `from` on, at most `limit`, each read when the iterator reaches it.
    /// Begins at the first block held.
    pub fn range(
        &self,
        from: Height,
        limit: u64,
    ) -> impl Iterator<Item = Result<DecidedBlock, BlockLogError>> + '_ {
        let first = from.max(self.first().unwrap_or_default()).get();
        let end = self.next_height().get().min(first.saturating_add(limit));
        (first..end).filter_map(|height| self.get(Height::new(height)).transpose())
    }

    /// Length of all segments in bytes, without indexes.
    pub fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.index.bytes).sum();
        sealed + self.active.as_ref().map_or(0, |active| active.log.bytes())
    }

    /// Number of files that blocks lie in.
    pub fn segments(&self) -> usize {
        self.sealed.len() + usize::from(self.active.is_some())
    }

    /// Reads everything and checks it: every record's checksum, every block's encoding.
    pub fn check(&self) -> Result<(), BlockLogError> {
        for sealed in &self.sealed {
            sealed.check(&self.kind)?;
        }
        for block in self.range(Height::ZERO, u64::MAX) {
            block?;
        }
        Ok(())
    }

    /// Deletes the segments that hold only blocks below `keep_from`; returns how many. The last
    /// segment is always kept.
    pub(crate) fn prune(&mut self, keep_from: Height) -> Result<usize, BlockLogError> {
        let mut removed = 0;
        while let Some(oldest) = self.sealed.first() {
            if oldest.index.last_height() >= keep_from.get() {
                break;
            }
            // The segment first: an index without a segment is removed by the next opening.
            let index_path = segment::index_path(&self.dir, oldest.index.first);
            fs::remove_file(&oldest.path).map_err(at("remove", &oldest.path))?;
            durable::sync_dir(&self.dir)?;
            durable::remove_if_present(&index_path)?;
            self.sealed.remove(0);
            removed += 1;
        }
        if removed > 0 {
            durable::sync_dir(&self.dir)?;
        }
        Ok(removed)
    }

    fn next_height(&self) -> Height {
        self.tip.map_or(Height::ZERO, |tip| tip.height).plus(1)
    }

    fn payload(&self, height: Height) -> Result<Option<(&Path, Vec<u8>)>, BlockLogError> {
        let height = height.get();
        let Some(active) = &self.active else { return Ok(None) };
        if height >= active.first {
            let payload = active.log.read(height - active.first + 1)?;
            return Ok(payload.map(|payload| (active.log.path(), payload)));
        }
        let after = self.sealed.partition_point(|sealed| sealed.index.first <= height);
        let Some(sealed) = after.checked_sub(1).and_then(|i| self.sealed.get(i)) else {
            return Ok(None);
        };
        Ok(Some((sealed.path.as_path(), sealed.read(&self.kind, height)?)))
    }

    /// Whether a segment follows the ones read so far.
    fn check_follows(
        &self,
        path: &Path,
        first: u64,
        previous: &[u8; 32],
    ) -> Result<(), BlockLogError> {
        let Some(before) = self.sealed.last().map(|sealed| &sealed.index) else { return Ok(()) };
        if before.last_height().checked_add(1) != Some(first) {
            let what = format!(
                "it begins at height {first}, the segment before ends at {}: a segment is missing",
                before.last_height()
            );
            return Err(BlockLogError::inconsistent(path, what));
        }
        if before.last != *previous {
            let what = "it continues another log than the segment before".to_string();
            return Err(BlockLogError::inconsistent(path, what));
        }
        Ok(())
    }
}
