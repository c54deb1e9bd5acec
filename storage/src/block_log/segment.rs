//! One file of the block log.
//!
//! ```text
//! blocks/<first height, 20 digits>.blocks    a record log; its first record is the segment's head
//! blocks/<first height, 20 digits>.index     beside every segment but the last
//! head = first height u64 LE | last checksum of the segment before (32; zeros for the first)
//! block = height u64 LE | block hash (32) | canonical DecidedBlock
//! ```
//!
//! Invariant: a segment never exists without its head and its first block.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::codec::{self, Canonical};
use protocol::ids::{BlockHash, ChainId};

use super::index::Index;
use super::{BlockLogError, Tip};
use crate::durable::at;
use crate::record::{self, LogKind, PREAMBLE_BYTES, Place, RecordLog, TornTail};

const PREFIX_BYTES: usize = 40;
const SUFFIX: &str = ".blocks";

/// Version of the format: 1 was one file for the whole log.
pub const SCHEMA: u8 = 2;

pub(super) fn kind(chain: &ChainId) -> LogKind {
    LogKind {
        name: "block log",
        schema: SCHEMA,
        end_mark: false,
        chain: *chain,
        payload_bytes_max: (DecidedBlock::BYTES_MAX + PREFIX_BYTES) as u32,
    }
}

pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}{SUFFIX}"))
}

pub(super) fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.index"))
}

/// First heights of the segments in `dir`, ascending. Removes what a crash left unfinished.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, BlockLogError> {
    let mut firsts = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let entry = entry.map_err(at("list", dir))?;
        let name = entry.file_name();
        let first = name
            .to_str()
            .and_then(|name| name.strip_suffix(SUFFIX))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse().ok());
        match first {
            Some(first) => firsts.push(first),
            None => others.push(entry.path()),
        }
    }
    firsts.sort_unstable();
    for other in others {
        let kept = firsts.iter().any(|first| index_path(dir, *first) == other);
        let ours = other.extension().is_some_and(|e| e == "index" || e == "tmp");
        if ours && !kept {
            fs::remove_file(&other).map_err(at("remove", &other))?;
        }
    }
    Ok(firsts)
}

/// The record of a block.
pub(super) fn encode(block: &DecidedBlock) -> Result<Vec<u8>, BlockLogError> {
    let body = codec::encode_checked(block)?;
    let mut payload = Vec::with_capacity(PREFIX_BYTES + body.len());
    payload.extend_from_slice(&block.certificate.height.get().to_le_bytes());
    payload.extend_from_slice(block.certificate.block.as_bytes());
    payload.extend_from_slice(&body);
    Ok(payload)
}

/// The record at the head of a segment.
pub(super) fn head(first: u64, previous: &[u8; 32]) -> Vec<u8> {
    [first.to_le_bytes().as_slice(), previous].concat()
}

/// A block's record, in parts.
pub(super) fn split(payload: &[u8]) -> Option<(Tip, &[u8])> {
    let (height, rest) = payload.split_first_chunk::<8>()?;
    let (block, body) = rest.split_first_chunk::<32>()?;
    let height = Height::new(u64::from_le_bytes(*height));
    Some((Tip { height, block: BlockHash::from_bytes(*block) }, body))
}

/// Follows the records of a segment in order and remembers the first that is out of place.
pub(super) struct Reader {
    first: u64,
    pub(super) previous: [u8; 32],
    pub(super) tip: Option<Tip>,
    pub(super) wrong: Option<u64>,
}

impl Reader {
    pub(super) const fn new(first: u64) -> Self {
        Self { first, previous: [0; 32], tip: None, wrong: None }
    }

    pub(super) fn visit(&mut self, index: u64, payload: &[u8]) {
        let expected = self.first.saturating_add(index).saturating_sub(1);
        let fits = match (index, split(payload)) {
            (0, _) => match parse_head(payload) {
                Some((first, previous)) => {
                    self.previous = previous;
                    first == self.first
                }
                None => false,
            },
            (_, Some((tip, _))) if tip.height.get() == expected => {
                self.tip = Some(tip);
                true
            }
            (_, _) => false,
        };
        if !fits {
            self.wrong = self.wrong.or(Some(index));
        }
    }

    /// The last block, if every record was in its place.
    pub(super) fn finish(&self, path: &Path) -> Result<Tip, BlockLogError> {
        match (self.wrong, self.tip) {
            (Some(index), _) => {
                Err(BlockLogError::inconsistent(path, format!("record {index} is out of place")))
            }
            (None, None) => Err(BlockLogError::inconsistent(path, "it holds no block".to_string())),
            (None, Some(tip)) => Ok(tip),
        }
    }
}

fn parse_head(payload: &[u8]) -> Option<(u64, [u8; 32])> {
    let (first, previous) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*first), previous.try_into().ok()?))
}

/// A segment that takes no more blocks.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    pub(super) index: Index,
}

impl Sealed {
    /// Opens the segment, by its index or, if that is lost, by reading all of it. Returns what its
    /// head says of the segment before.
    pub(super) fn open(
        dir: &Path,
        kind: &LogKind,
        first: u64,
    ) -> Result<(Self, [u8; 32]), BlockLogError> {
        let (path, index_path) = (path(dir, first), index_path(dir, first));
        let index = match Index::read(&index_path, kind)? {
            Some(index) if index.first == first => index,
            Some(_) | None => rebuild(&path, &index_path, kind, first)?,
        };
        let file = File::open(&path).map_err(at("open", &path))?;
        record::check_file(&file, &path, kind)?;
        let length = file.metadata().map_err(at("read", &path))?.len();
        if length != index.bytes {
            let what = format!("it has {length} bytes, it was sealed with {}", index.bytes);
            return Err(BlockLogError::inconsistent(&path, what));
        }
        let place = Place { index: 0, offset: PREAMBLE_BYTES, before: None };
        let head = record::read_at(&file, &path, kind, &place)?;
        match parse_head(&head) {
            Some((stated, previous)) if stated == first => Ok((Self { path, index }, previous)),
            Some(_) | None => {
                Err(BlockLogError::inconsistent(&path, "its head is another's".to_string()))
            }
        }
    }

    /// Reads the record of a block. If the record is not where the index says, and the index is
    /// damaged, the index is made again.
    pub(super) fn read(&self, kind: &LogKind, height: u64) -> Result<Vec<u8>, BlockLogError> {
        let record = height - self.index.first + 1;
        let file = File::open(&self.path).map_err(at("open", &self.path))?;
        let attempt = |index: &Index| -> Result<Vec<u8>, BlockLogError> {
            let (before, offset) = index.offsets(record)?;
            let place = Place { index: record, offset, before: Some(before) };
            Ok(record::read_at(&file, &self.path, kind, &place)?)
        };
        match attempt(&self.index) {
            Ok(payload) if split(&payload).is_some_and(|(tip, _)| tip.height.get() == height) => {
                Ok(payload)
            }
            first_try => {
                if self.index.offsets_intact()? {
                    return first_try.and_then(|_| {
                        let what = format!("its record {record} is not block {height}");
                        Err(BlockLogError::inconsistent(&self.path, what))
                    });
                }
                let dir = self.path.parent().unwrap_or(Path::new("."));
                let index_path = index_path(dir, self.index.first);
                attempt(&rebuild(&self.path, &index_path, kind, self.index.first)?)
            }
        }
    }

    /// Reads all of it and checks every block's record.
    pub(super) fn check(&self, kind: &LogKind) -> Result<(), BlockLogError> {
        let mut reader = Reader::new(self.index.first);
        let log = RecordLog::open_whole(&self.path, *kind, |i, p| reader.visit(i, p))?;
        reader.finish(&self.path)?;
        if log.last_checksum() != self.index.last || log.count() != self.index.records {
            let what = "its index speaks of other blocks".to_string();
            return Err(BlockLogError::inconsistent(&self.path, what));
        }
        Ok(())
    }
}

fn rebuild(
    path: &Path,
    index_path: &Path,
    kind: &LogKind,
    first: u64,
) -> Result<Index, BlockLogError> {
    tracing::warn!(path = %index_path.display(), "the index of a segment is lost or damaged: made again");
    let mut reader = Reader::new(first);
    let log = RecordLog::open_whole(path, *kind, |i, p| reader.visit(i, p))?;
    reader.finish(path)?;
    Ok(Index::write(index_path, kind, first, &log)?)
}

/// The segment that takes blocks.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) log: RecordLog,
    pub(super) first: u64,
}

impl Active {
    /// Opens the last segment, checking all of it. Returns what its head says of the segment
    /// before, and its last block.
    pub(super) fn open(
        dir: &Path,
        kind: &LogKind,
        first: u64,
    ) -> Result<(Self, [u8; 32], Tip, Option<TornTail>), BlockLogError> {
        let path = path(dir, first);
        let mut reader = Reader::new(first);
        let (log, torn) = RecordLog::open(&path, *kind, |i, p| reader.visit(i, p))?;
        let tip = reader.finish(&path)?;
        Ok((Self { log, first }, reader.previous, tip, torn))
    }

    /// Makes a segment with its first block; both are durable when this returns.
    pub(super) fn create(
        dir: &Path,
        kind: &LogKind,
        first: u64,
        previous: &[u8; 32],
        block: &[u8],
    ) -> Result<Self, BlockLogError> {
        let head = head(first, previous);
        let records = [head.as_slice(), block];
        let log = RecordLog::write_new(&path(dir, first), *kind, records)?;
        Ok(Self { log, first })
    }
}
