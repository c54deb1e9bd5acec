//! What a segment of small blobs looks like on disk.
//!
//! ```text
//! N.data  = magic "AYNISML1" (8) | records
//! record  = length u32 LE (at most 16,384) | BLAKE3 of the bytes (32) | bytes
//! N.index = magic "AYNISMI1" (8) | entries
//! entry   = kind (1: put, 2: deleted) | zero (3) | length u32 LE | offset of the record u64 LE
//!           | BLAKE3 (32) | check (8): of the segment's number and all before
//! ```
//!
//! The data file describes itself. The index saves reading it when the store is opened, and
//! remembers deletions.

use protocol::ids::ContentHash;
use protocol::limits::GROUP_BYTES;

pub(super) const DATA_MAGIC: [u8; 8] = *b"AYNISML1";
pub(super) const INDEX_MAGIC: [u8; 8] = *b"AYNISMI1";
/// Bytes before the first record or entry.
pub(super) const MAGIC_BYTES: u64 = 8;
/// Bytes of a record before its blob.
pub(super) const RECORD_HEAD_BYTES: usize = 36;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 56;
/// The largest small blob: one group, which has no hash tree.
pub(in crate::blobs) const SMALL_BYTES_MAX: u64 = GROUP_BYTES;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Deleted,
}

/// One entry of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) kind: Kind,
    pub(super) hash: ContentHash,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl IndexEntry {
    /// Where its record ends.
    pub(super) const fn end(&self) -> u64 {
        self.offset.saturating_add(RECORD_HEAD_BYTES as u64 + self.length as u64)
    }

    pub(super) fn encode(&self, segment: u32) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[0] = match self.kind {
            Kind::Put => 1,
            Kind::Deleted => 2,
        };
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..48].copy_from_slice(self.hash.as_bytes());
        let check = check(segment, &bytes);
        bytes[48..].copy_from_slice(&check);
        bytes
    }

    /// `None` when it is not what was written.
    pub(super) fn decode(segment: u32, bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let kind = match bytes[..4] {
            [1, 0, 0, 0] => Kind::Put,
            [2, 0, 0, 0] => Kind::Deleted,
            _ => return None,
        };
        let (length, rest) = bytes[4..].split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (hash, _) = rest.split_first_chunk::<32>()?;
        let length = u32::from_le_bytes(*length);
        let fits = check(segment, bytes) == bytes[48..] && u64::from(length) <= SMALL_BYTES_MAX;
        let offset = u64::from_le_bytes(*offset);
        fits.then_some(Self { kind, hash: ContentHash::from_bytes(*hash), offset, length })
    }
}

fn check(segment: u32, entry: &[u8; ENTRY_BYTES]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&segment.to_le_bytes()).update(&entry[..48]);
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// Appends a record.
pub(super) fn write_record(to: &mut Vec<u8>, hash: &ContentHash, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(hash.as_bytes());
    to.extend_from_slice(bytes);
}

/// The head of a record: its length and hash; `None` when no record begins so.
pub(super) fn read_head(head: &[u8; RECORD_HEAD_BYTES]) -> Option<(u32, ContentHash)> {
    let (length, hash) = head.split_first_chunk::<4>()?;
    let (length, hash) = (u32::from_le_bytes(*length), <[u8; 32]>::try_from(hash).ok()?);
    // A file that was made longer and not written reads as zeros.
    let is_head = u64::from(length) <= SMALL_BYTES_MAX && hash != [0; 32];
    is_head.then(|| (length, ContentHash::from_bytes(hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_was_written_or_nothing() {
        let hash = ContentHash::of(b"a blob");
        let entry = IndexEntry { kind: Kind::Put, hash, offset: 77, length: 6 };
        let bytes = entry.encode(3);
        assert_eq!(IndexEntry::decode(3, &bytes), Some(entry));
        assert_eq!(IndexEntry::decode(4, &bytes), None, "an entry of another segment");
        for at in 0..ENTRY_BYTES {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                assert_eq!(IndexEntry::decode(3, &damaged), None, "bit {bit} of byte {at}");
            }
        }
        let deleted = IndexEntry { kind: Kind::Deleted, ..entry };
        assert_eq!(IndexEntry::decode(3, &deleted.encode(3)), Some(deleted));
        assert_eq!(read_head(&[0; RECORD_HEAD_BYTES]), None);
    }
}
