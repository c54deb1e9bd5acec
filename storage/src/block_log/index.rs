//! What is known of a segment that takes no more blocks, so that opening need not read it.
//!
//! ```text
//! file = magic "AYNIIDX2" (8) | identity (32) | first height u64 | records u64 | bytes u64
//!        | last checksum (32) | offsets hash (32) | check (32) | offset u64 of each record
//! ```
//!
//! Invariant: an index is written after its segment is durable and whole, and is only a shortcut:
//! a lost or damaged one is made again from the segment.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::ids::derive;

use crate::durable::{self, FileError, at};
use crate::record::{LogKind, RecordLog};

const MAGIC: [u8; 8] = *b"AYNIIDX2";
const FIELDS_BYTES: usize = 8 + 32 + 8 + 8 + 8 + 32 + 32;
const HEADER_BYTES: u64 = FIELDS_BYTES as u64 + 32;

/// A sealed segment, without its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    path: PathBuf,
    /// Height of its first block.
    pub(super) first: u64,
    /// Records, the header among them.
    pub(super) records: u64,
    /// Length of the segment's file.
    pub(super) bytes: u64,
    /// Checksum of the last record.
    pub(super) last: [u8; 32],
    offsets_hash: [u8; 32],
}

impl Index {
    /// Height of the last block. A segment has at least one.
    pub(super) const fn last_height(&self) -> u64 {
        self.first.saturating_add(self.records).saturating_sub(2)
    }

    /// Describes a whole segment and writes it down.
    pub(super) fn write(
        path: &Path,
        kind: &LogKind,
        first: u64,
        log: &RecordLog,
    ) -> Result<Self, FileError> {
        let offsets: Vec<u8> = log.offsets().iter().flat_map(|o| o.to_le_bytes()).collect();
        let index = Self {
            path: path.to_path_buf(),
            first,
            records: log.count(),
            bytes: log.bytes(),
            last: log.last_checksum(),
            offsets_hash: *blake3::hash(&offsets).as_bytes(),
        };
        let fields = index.fields(kind);
        durable::replace(path, &[fields.as_slice(), &check(&fields), &offsets].concat())?;
        Ok(index)
    }

    /// Reads all but the offsets; `None` if it is missing or damaged.
    pub(super) fn read(path: &Path, kind: &LogKind) -> Result<Option<Self>, FileError> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => {
                file.take(HEADER_BYTES).read_to_end(&mut bytes).map_err(at("read", path))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("open", path)(e)),
        };
        let Some((fields, stated)) = bytes.split_first_chunk::<FIELDS_BYTES>() else {
            return Ok(None);
        };
        if check(fields) != stated {
            return Ok(None);
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fields[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let hash = |at: usize| {
            let mut bytes = [0; 32];
            bytes.copy_from_slice(&fields[at..at + 32]);
            bytes
        };
        let index = Self {
            path: path.to_path_buf(),
            first: number(40),
            records: number(48),
            bytes: number(56),
            last: hash(64),
            offsets_hash: hash(96),
        };
        let length = std::fs::metadata(path).map_err(at("read", path))?.len();
        let whole = index.records.checked_mul(8).and_then(|n| n.checked_add(HEADER_BYTES));
        let same = index.fields(kind) == *fields && whole == Some(length) && index.records >= 2;
        Ok(same.then_some(index))
    }

    /// Where records `record - 1` and `record` begin. Not checked: the records are.
    pub(super) fn offsets(&self, record: u64) -> Result<(u64, u64), FileError> {
        let mut bytes = [0; 16];
        let file = File::open(&self.path).map_err(at("open", &self.path))?;
        file.read_exact_at(&mut bytes, HEADER_BYTES + (record - 1) * 8)
            .map_err(at("read", &self.path))?;
        let (before, at) = bytes.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        Ok((number(before), number(at)))
    }

    /// Whether the offsets are those that were written.
    pub(super) fn offsets_intact(&self) -> Result<bool, FileError> {
        let bytes = std::fs::read(&self.path).map_err(at("read", &self.path))?;
        let offsets = bytes.get(HEADER_BYTES as usize..).unwrap_or_default();
        Ok(*blake3::hash(offsets).as_bytes() == self.offsets_hash)
    }

    fn fields(&self, kind: &LogKind) -> [u8; FIELDS_BYTES] {
        let parts: [&[u8]; 7] = [
            &MAGIC,
            &kind.identity(),
            &self.first.to_le_bytes(),
            &self.records.to_le_bytes(),
            &self.bytes.to_le_bytes(),
            &self.last,
            &self.offsets_hash,
        ];
        let mut fields = [0; FIELDS_BYTES];
        fields.copy_from_slice(&parts.concat());
        fields
    }
}

fn check(fields: &[u8]) -> [u8; 32] {
    derive("ayni 2026 segment index v1", &[fields])
}
