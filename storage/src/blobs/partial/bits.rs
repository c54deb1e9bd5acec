//! The file that remembers which groups of a partial blob were verified and synced.
//!
//! ```text
//! magic "AYNIBITS" (8) | version 1 (1) | blob (32) | size u64 LE | runs u32 LE
//! | runs × (start u64 LE, end u64 LE) | BLAKE3 of all before (32)
//! ```
//!
//! Invariant: decoding gives back exactly what was encoded, or nothing: a file that was damaged,
//! cut, or is of another version is not believed at all.

use protocol::blobs::{GroupRange, GroupRanges, groups_of};
use protocol::ids::ContentHash;
use protocol::limits::BLOB_BYTES_MAX;

const MAGIC: [u8; 8] = *b"AYNIBITS";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;

/// What such a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The blob.
    pub hash: ContentHash,
    /// Its size.
    pub size: u64,
    /// What was verified and synced.
    pub verified: GroupRanges,
}

impl Bits {
    /// Bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let runs = self.verified.runs();
        let mut bytes = Vec::with_capacity(85 + runs.len() * 16);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.extend(self.hash.as_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((runs.len() as u32).to_le_bytes());
        for run in runs {
            bytes.extend(run.start().to_le_bytes());
            bytes.extend(run.end().to_le_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// `None` when these are not the bytes of such a file, all of them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if blake3::hash(body).as_bytes() != checksum {
            return None;
        }
        let rest = body.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (hash, rest) = rest.split_first_chunk::<32>()?;
        let (size, rest) = u64_of(rest)?;
        let (runs, mut rest) = rest.split_first_chunk::<4>()?;
        if size > BLOB_BYTES_MAX || rest.len() / 16 != u32::from_le_bytes(*runs) as usize {
            return None;
        }
        let mut ranges = Vec::with_capacity(rest.len() / 16);
        while !rest.is_empty() {
            let (start, after) = u64_of(rest)?;
            let (end, after) = u64_of(after)?;
            ranges.push(GroupRange::new(start, end)?);
            rest = after;
        }
        let verified = GroupRanges::from_runs(ranges).ok()?;
        let is_inside = verified.end() <= groups_of(size);
        is_inside.then_some(Self { hash: ContentHash::from_bytes(*hash), size, verified })
    }
}

fn u64_of(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_or_nothing() {
        let runs = [(0, 3), (7, 8), (60, 62)];
        let verified = runs.iter().filter_map(|(start, end)| GroupRange::new(*start, *end));
        let hash = ContentHash::of(b"a blob");
        let bits = Bits { hash, size: 1_000_000, verified: verified.collect() };
        let bytes = bits.encode();
        assert_eq!(Bits::decode(&bytes), Some(bits.clone()));
        let golden = "a8a1bd90542efebf742801c8dcb602e0bfc447e7759ec883551b332416c479d9";
        assert_eq!(blake3::hash(&bytes).to_string(), golden);
        for at in 0..bytes.len() {
            assert_eq!(Bits::decode(&bytes[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(Bits::decode(&damaged), None, "bit {bit} of byte {at}");
            }
        }
        // A good checksum over groups that the blob does not have.
        assert_eq!(Bits::decode(&Bits { size: 61 * 16_384, ..bits }.encode()), None);
    }
}
