//! Blobs: which bytes there are, how peers speak about them, and who is asked for what.
//!
//! A blob is verified in *groups* of 16 KiB, numbered from 0. It travels in *parts*: at most 32
//! groups that lie in one aligned window of 32, each part an encoding of its own from the root,
//! so that every part is checked before anything of it is kept.
//!
//! - [`ranges`]: sets of groups.
//! - [`wire`]: the messages, and how a request falls into parts.
//! - [`schedule`]: the fetch of one blob from many providers.
//! - [`collection`]: folders as lists of blobs.
//!
//! **Architecture invariant.** The empty blob has one group, of no bytes, so that a size is proved
//! in one way only: by the verified last group.
//!
//! Deliberately absent: hashing, files and streams. What is called verified here was verified by
//! the caller.

pub mod collection;
pub mod ranges;
pub mod schedule;
pub mod wire;

use std::ops::Range;

use crate::limits::{BLOB_BYTES_MAX, GROUP_BYTES};

pub use self::ranges::{GroupRange, GroupRanges};

/// Groups of the largest blob.
pub const BLOB_GROUPS_MAX: u64 = groups_of(BLOB_BYTES_MAX);

/// How many groups a blob of `size` bytes has: at least one.
pub const fn groups_of(size: u64) -> u64 {
    let groups = size.div_ceil(GROUP_BYTES);
    if groups == 0 { 1 } else { groups }
}

/// All groups of a blob of `size` bytes.
pub const fn all_groups(size: u64) -> GroupRange {
    GroupRange::first(groups_of(size))
}

/// The last group of a blob of `size` bytes: the one that proves the size.
pub const fn last_group(size: u64) -> GroupRange {
    GroupRange::one(groups_of(size).saturating_sub(1))
}

/// The bytes of these groups in a blob of `size` bytes: empty where the blob has ended.
pub const fn bytes_of(range: GroupRange, size: u64) -> Range<u64> {
    let start = range.start().saturating_mul(GROUP_BYTES);
    let end = range.end().saturating_mul(GROUP_BYTES);
    Range {
        start: if start < size { start } else { size },
        end: if end < size { end } else { size },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_every_byte_once() {
        for (size, groups) in
            [(0, 1), (1, 1), (16_383, 1), (16_384, 1), (16_385, 2), (BLOB_BYTES_MAX, 4_194_304)]
        {
            assert_eq!(groups_of(size), groups, "{size} bytes");
            assert_eq!(bytes_of(all_groups(size), size), 0..size);
            assert_eq!(last_group(size).end(), groups);
            assert_eq!(bytes_of(last_group(size), size), (groups - 1) * GROUP_BYTES..size);
        }
        assert_eq!(bytes_of(GroupRange::one(7), 100), 100..100);
        assert_eq!(bytes_of(GroupRange::one(u64::MAX - 1), 100), 100..100);
    }
}
