//! Parts of a blob on their way: the transfer's inner loop.
//!
//! A part is a run of groups with the pairs that lead from the root to them, in the order of a
//! bao encoding of these groups (pre order). The sender checks every group and pair that it sends
//! against the hash, so that a damaged disk never makes it a liar; the receiver checks all of it
//! before anything is kept.
//!
//! **Invariant.** A [`VerifiedPart`] can only be made by [`decode_part`]: whoever holds one holds
//! bytes whose hashes lead up to the root of a blob of that size.
//!
//! The decoder is not bao-tree's: that allocates and copies every group. Here groups stay where
//! they arrived, and are written from there. Tests hold both to the same answers.
//!
//! Deliberately absent: streams, and parts that are verified piece by piece: a part is small
//! enough (32 groups) to be judged as a whole.

use std::io;

use bytes::Bytes;
use protocol::blobs::{GroupRange, all_groups, bytes_of};
use protocol::ids::ContentHash;
use thiserror::Error;

use super::ServedBlob;
use super::file::BlobFile;
use super::tree::{Cv, PAIR_BYTES, Subtree, group_hash, merged, values};

/// Pairs that are read together: those below the smallest node that holds a part.
const PAIRS_TOGETHER: u64 = 63;

/// Why a part could not be encoded.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// A partial blob that has not all of these groups.
    #[error("groups {0:?} are not all here")]
    Absent(GroupRange),
    /// Groups that the blob does not have.
    #[error("groups {range:?} of a blob of {size} bytes")]
    OutOfBounds {
        /// What was asked for.
        range: GroupRange,
        /// The blob's size.
        size: u64,
    },
    /// What is on disk is not what the hash says.
    #[error(
        "blob {hash} is damaged at group {group}: run a check of the store, then fetch it again"
    )]
    Damaged {
        /// The blob.
        hash: ContentHash,
        /// The first group of the node that does not fit.
        group: u64,
    },
    /// The file could not be read.
    #[error("cannot read blob {hash}")]
    Read {
        /// The blob.
        hash: ContentHash,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a received part.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PartError {
    /// Its hashes do not lead to the root: the sender's bytes, or its size, are false.
    #[error("a part whose hashes are wrong at group {group}")]
    Lied {
        /// The first group of the node that does not fit.
        group: u64,
    },
    /// It has not the length of such a part.
    #[error("a part of {found} bytes where {expected} were asked for")]
    Malformed {
        /// Bytes that arrived.
        found: usize,
        /// Bytes that such a part has.
        expected: usize,
    },
    /// Groups that the blob does not have were asked for: our own mistake.
    #[error("groups {range:?} of a blob of {size} bytes")]
    OutOfBounds {
        /// What was asked for.
        range: GroupRange,
        /// The blob's size.
        size: u64,
    },
}

/// Bytes of the encoding of these groups; `None` when the blob does not have them.
pub fn part_bytes(size: u64, range: GroupRange) -> Option<usize> {
    fn pairs(tree: Subtree, range: GroupRange) -> u64 {
        match tree.halves() {
            _ if !tree.meets(range) => 0,
            None => 0,
            // Every node below is in the part.
            _ if range.start() <= tree.start && tree.end() <= range.end() => tree.pairs(),
            Some((left, right)) => 1 + pairs(left, range) + pairs(right, range),
        }
    }
    if range.end() > all_groups(size).end() {
        return None;
    }
    let data = bytes_of(range, size);
    let pairs = pairs(Subtree::of(size), range);
    usize::try_from(pairs * PAIR_BYTES as u64 + (data.end - data.start)).ok()
}

/// Encodes a part of a blob into `frame`, whose contents are replaced; a buffer that is used
/// again costs neither an allocation nor clearing. Everything is checked against the hash.
pub fn encode_part(
    blob: &ServedBlob,
    range: GroupRange,
    frame: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let (hash, size) = (blob.hash(), blob.size());
    let Some(length) = part_bytes(size, range) else {
        return Err(EncodeError::OutOfBounds { range, size });
    };
    if !blob.has(range) {
        return Err(EncodeError::Absent(range));
    }
    frame.resize(length, 0);
    let (data, pairs) = (blob.data_ref(), PairReader::new(blob.pairs_ref()));
    let mut encoder = Encoder { hash, size, range, data, pairs, frame, at: 0 };
    encoder.node(Subtree::of(size), hash.as_bytes(), true)
}

struct Encoder<'a> {
    hash: ContentHash,
    size: u64,
    range: GroupRange,
    data: &'a BlobFile,
    pairs: PairReader<'a>,
    frame: &'a mut [u8],
    /// Where the next item goes.
    at: usize,
}

impl Encoder<'_> {
    fn node(&mut self, tree: Subtree, expected: &Cv, is_root: bool) -> Result<(), EncodeError> {
        if !tree.meets(self.range) {
            return Ok(());
        }
        let Some((left, right)) = tree.halves() else {
            return self.group(tree.start, expected, is_root);
        };
        let pair = self.pairs.read(tree).map_err(|source| self.unreadable(source))?;
        let (left_cv, right_cv) = values(&pair);
        if merged(&left_cv, &right_cv, is_root) != *expected {
            return Err(EncodeError::Damaged { hash: self.hash, group: tree.start });
        }
        self.frame[self.at..self.at + PAIR_BYTES].copy_from_slice(&pair);
        self.at += PAIR_BYTES;
        self.node(left, &left_cv, false)?;
        self.node(right, &right_cv, false)
    }

    fn group(&mut self, group: u64, expected: &Cv, is_root: bool) -> Result<(), EncodeError> {
        let bytes = bytes_of(GroupRange::one(group), self.size);
        let end = self.at + (bytes.end - bytes.start) as usize;
        let target = &mut self.frame[self.at..end];
        match self.data.read_exact_at(target, bytes.start) {
            Ok(()) if group_hash(group, target, is_root) == *expected => {
                self.at = end;
                Ok(())
            }
            // Too short is damaged, too.
            Err(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                Err(self.unreadable(source))
            }
            _ => Err(EncodeError::Damaged { hash: self.hash, group }),
        }
    }

    fn unreadable(&self, source: io::Error) -> EncodeError {
        EncodeError::Read { hash: self.hash, source }
    }
}

/// Reads pairs, those of a small subtree at once.
struct PairReader<'a> {
    file: &'a BlobFile,
    first: u64,
    together: Vec<u8>,
}

impl<'a> PairReader<'a> {
    const fn new(file: &'a BlobFile) -> Self {
        Self { file, first: 0, together: Vec::new() }
    }

    /// The pair of a node. One that the file does not reach is zeros, which fit no hash.
    fn read(&mut self, tree: Subtree) -> io::Result<[u8; PAIR_BYTES]> {
        let mut pair = [0; PAIR_BYTES];
        let own = tree.own_pair();
        if self.known(own).is_none() && tree.pairs() <= PAIRS_TOGETHER {
            self.first = tree.first_pair;
            self.together.resize(tree.pairs() as usize * PAIR_BYTES, 0);
            let offset = self.first * PAIR_BYTES as u64;
            let read = self.file.read_exact_at(&mut self.together, offset);
            read.or_else(|error| missing(error, &mut self.together))?;
        }
        if let Some(known) = self.known(own) {
            pair.copy_from_slice(known);
            return Ok(pair);
        }
        let read = self.file.read_exact_at(&mut pair, own * PAIR_BYTES as u64);
        read.or_else(|error| missing(error, &mut pair))?;
        Ok(pair)
    }

    fn known(&self, pair: u64) -> Option<&[u8]> {
        let at = usize::try_from(pair.checked_sub(self.first)?).ok()?.checked_mul(PAIR_BYTES)?;
        self.together.get(at..at.checked_add(PAIR_BYTES)?)
    }
}

fn missing(error: io::Error, bytes: &mut [u8]) -> io::Result<()> {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return Err(error);
    }
    bytes.fill(0);
    Ok(())
}

mod sealed {
    pub trait Frame: AsRef<[u8]> {
        fn into_bytes(self) -> bytes::Bytes;
    }

    impl Frame for Vec<u8> {
        fn into_bytes(self) -> bytes::Bytes {
            self.into()
        }
    }

    impl Frame for bytes::Bytes {
        fn into_bytes(self) -> bytes::Bytes {
            self
        }
    }
}

/// What a received frame may be held in: bytes that stay the same between two looks.
pub trait Frame: sealed::Frame {}
impl<F: sealed::Frame> Frame for F {}

/// A part whose bytes were verified, still in the frame in which it arrived.
#[derive(Debug)]
pub struct VerifiedPart<F = Bytes> {
    hash: ContentHash,
    size: u64,
    range: GroupRange,
    frame: F,
    /// Where each group begins in the frame.
    groups: Vec<u32>,
    /// Place in post order of each pair, and where it begins in the frame.
    pairs: Vec<(u64, u32)>,
}

impl<F: Frame> VerifiedPart<F> {
    /// The blob of which this is a part.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The size of that blob: proved if this part has the last group, else only claimed.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Which groups.
    pub const fn range(&self) -> GroupRange {
        self.range
    }

    /// Bytes of the blob in this part.
    pub const fn bytes(&self) -> u64 {
        let bytes = bytes_of(self.range, self.size);
        bytes.end - bytes.start
    }

    /// Whether this part proves the blob's size.
    pub const fn proves_size(&self) -> bool {
        self.range.end() == all_groups(self.size).end()
    }

    /// The groups' bytes, in order.
    pub fn slices(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        let frame = self.frame.as_ref();
        self.groups.iter().enumerate().map(move |(index, at)| {
            let group = self.range.start() + index as u64;
            let bytes = bytes_of(GroupRange::one(group), self.size);
            let at = *at as usize;
            frame.get(at..at + (bytes.end - bytes.start) as usize).unwrap_or_default()
        })
    }

    /// The pairs with their places in post order, in pre order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        let frame = self.frame.as_ref();
        self.pairs.iter().map(move |(place, at)| {
            let at = *at as usize;
            (*place, frame.get(at..at + PAIR_BYTES).unwrap_or_default())
        })
    }

    pub(super) fn with_bytes(self) -> VerifiedPart<Bytes> {
        let Self { hash, size, range, frame, groups, pairs } = self;
        VerifiedPart { hash, size, range, frame: frame.into_bytes(), groups, pairs }
    }

    /// The frame: of a blob of one group, its bytes.
    pub(super) const fn frame(&self) -> &F {
        &self.frame
    }

    /// The frame, to be used again.
    pub fn into_frame(self) -> F {
        self.frame
    }
}

/// Verifies a received part: what was asked of blob `hash`, said to be of `size` bytes.
pub fn decode_part<F: Frame>(
    hash: ContentHash,
    size: u64,
    range: GroupRange,
    frame: F,
) -> Result<VerifiedPart<F>, PartError> {
    let expected = part_bytes(size, range).filter(|bytes| u32::try_from(*bytes).is_ok());
    let Some(expected) = expected else { return Err(PartError::OutOfBounds { range, size }) };
    let bytes = frame.as_ref();
    if bytes.len() != expected {
        return Err(PartError::Malformed { found: bytes.len(), expected });
    }
    let (groups, pairs) = (Vec::with_capacity(range.groups() as usize), Vec::with_capacity(64));
    let mut decoder = Decoder { size, range, bytes, at: 0, groups, pairs };
    decoder.node(Subtree::of(size), hash.as_bytes(), true)?;
    let Decoder { groups, pairs, .. } = decoder;
    Ok(VerifiedPart { hash, size, range, frame, groups, pairs })
}

struct Decoder<'a> {
    size: u64,
    range: GroupRange,
    bytes: &'a [u8],
    /// Where the next item is; the whole length was checked before.
    at: usize,
    groups: Vec<u32>,
    pairs: Vec<(u64, u32)>,
}

impl<'a> Decoder<'a> {
    fn node(&mut self, tree: Subtree, expected: &Cv, is_root: bool) -> Result<(), PartError> {
        if !tree.meets(self.range) {
            return Ok(());
        }
        let lied = PartError::Lied { group: tree.start };
        let at = self.at as u32;
        let Some((left, right)) = tree.halves() else {
            let bytes = bytes_of(GroupRange::one(tree.start), self.size);
            let group = self.take((bytes.end - bytes.start) as usize);
            self.groups.push(at);
            let fits = group_hash(tree.start, group, is_root) == *expected;
            return if fits { Ok(()) } else { Err(lied) };
        };
        let mut pair = [0; PAIR_BYTES];
        pair.copy_from_slice(self.take(PAIR_BYTES));
        let (left_cv, right_cv) = values(&pair);
        if merged(&left_cv, &right_cv, is_root) != *expected {
            return Err(lied);
        }
        self.pairs.push((tree.own_pair(), at));
        self.node(left, &left_cv, false)?;
        self.node(right, &right_cv, false)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let bytes: &'a [u8] = self.bytes;
        let from = self.at;
        self.at += length;
        &bytes[from..self.at]
    }
}
