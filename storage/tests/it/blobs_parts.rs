//! Parts of blobs: the same bytes and the same verdicts as bao-tree's own encoder and decoder.

use std::fs;

use ayni_storage::BlobStore;
use ayni_storage::blobs::{
    BLOCK_SIZE, EncodeError, PartError, ServedBlob, bao_hash, decode_part, encode_part, part_bytes,
};
use bao_tree::io::BaoContentItem;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, ChunkNum, ChunkRanges};
use bytes::Bytes;
use proptest::prelude::*;
use protocol::blobs::{GroupRange, bytes_of, groups_of};
use protocol::ids::ContentHash;

use crate::support::Draw;

const GROUP: usize = 16_384;

fn bytes(size: usize) -> Vec<u8> {
    let mut draw = Draw(size as u64);
    (0..size).map(|_| draw.next() as u8).collect()
}

fn chunks(range: GroupRange) -> ChunkRanges {
    ChunkRanges::from(ChunkNum(range.start() * 16)..ChunkNum(range.end() * 16))
}

/// As bao-tree encodes it.
fn theirs(blob: &ServedBlob, range: GroupRange) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_ranges_validated(blob.data(), blob.outboard(), &chunks(range), &mut encoded).unwrap();
    encoded
}

/// The groups as bao-tree decodes them; `None` when it refuses any, or anything is left over.
fn decoded(
    hash: ContentHash,
    size: u64,
    range: GroupRange,
    mut frame: &[u8],
) -> Option<Vec<Vec<u8>>> {
    let (tree, ranges) = (BaoTree::new(size, BLOCK_SIZE), chunks(range));
    let mut groups = Vec::new();
    for item in DecodeResponseIter::new(bao_hash(&hash), tree, &mut frame, &ranges) {
        if let BaoContentItem::Leaf(leaf) = item.ok()? {
            groups.push(leaf.data.to_vec());
        }
    }
    frame.is_empty().then_some(groups)
}

fn ours(hash: ContentHash, size: u64, range: GroupRange, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let part = decode_part(hash, size, range, Bytes::copy_from_slice(frame)).ok()?;
    Some(part.slices().map(<[u8]>::to_vec).collect())
}

fn range(start: u64, end: u64) -> GroupRange {
    GroupRange::new(start, end).unwrap()
}

struct Fixture {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn put(&self, size: usize) -> ServedBlob {
        let hash = self.store.put_bytes(&bytes(size)).unwrap();
        self.store.open_for_serving(&hash).unwrap()
    }
}

#[test]
fn every_part_is_as_bao_tree_would_have_it() {
    let fixture = Fixture::new();
    let mut frame = Vec::new();
    for groups in [0, 1, 2, 3, 5, 31, 32, 33, 63, 64, 65, 100] {
        for size in [groups * GROUP, groups * GROUP + 1, (groups * GROUP).saturating_sub(1)] {
            let (data, blob) = (bytes(size), fixture.put(size));
            let (hash, size, all) = (blob.hash(), size as u64, groups_of(size as u64));
            let single = (0..all).map(|group| range(group, group + 1));
            let windows = (0..all).step_by(32).map(|start| range(start, all.min(start + 32)));
            let odd = (0..all.saturating_sub(4)).step_by(7).map(|start| range(start, start + 3));
            for range in single.chain(windows).chain(odd).chain([range(0, all)]) {
                encode_part(&blob, range, &mut frame).unwrap();
                assert!(frame == theirs(&blob, range), "{size} bytes, {range:?}");
                assert_eq!(part_bytes(size, range), Some(frame.len()));
                let groups = ours(hash, size, range, &frame).unwrap();
                let at = bytes_of(range, size);
                assert!(groups.concat() == data[at.start as usize..at.end as usize]);
                assert_eq!(groups.len() as u64, range.groups());
            }
            let beyond = range(all - 1, all + 1);
            let refused = encode_part(&blob, beyond, &mut frame).unwrap_err();
            assert!(matches!(refused, EncodeError::OutOfBounds { .. }), "{refused}");
            let refused = decode_part(hash, size, beyond, frame.clone()).unwrap_err();
            assert!(matches!(refused, PartError::OutOfBounds { .. }), "{refused}");
        }
    }
}

#[test]
fn a_liar_and_a_broken_frame_are_told_apart() {
    let fixture = Fixture::new();
    let blob = fixture.put(40 * GROUP + 5);
    let (hash, size) = (blob.hash(), blob.size());
    let mut frame = Vec::new();
    encode_part(&blob, range(32, 41), &mut frame).unwrap();
    for length in [0, 1, 63, 64, frame.len() - 1] {
        let refused = decode_part(hash, size, range(32, 41), frame[..length].to_vec()).unwrap_err();
        let expected = PartError::Malformed { found: length, expected: frame.len() };
        assert_eq!(refused, expected);
    }
    let longer = [&frame[..], &[0]].concat();
    let refused = decode_part(hash, size, range(32, 41), longer).unwrap_err();
    assert!(matches!(refused, PartError::Malformed { .. }), "{refused}");
    // Good bytes of other groups, and of another blob, are lies.
    let mut other = Vec::new();
    encode_part(&blob, range(0, 8), &mut frame).unwrap();
    encode_part(&blob, range(8, 16), &mut other).unwrap();
    assert_eq!(other.len(), frame.len());
    let refused = decode_part(hash, size, range(0, 8), other.clone()).unwrap_err();
    assert_eq!(refused, PartError::Lied { group: 0 });
    let refused = decode_part(ContentHash::of(b"other"), size, range(8, 16), other).unwrap_err();
    assert_eq!(refused, PartError::Lied { group: 0 });
}

/// Every size but the true one is refused with the last group that an honest or a lying provider
/// can send for it.
#[test]
fn a_false_size_is_never_proved() {
    let fixture = Fixture::new();
    for size in [0, 1, GROUP, GROUP + 1, 5 * GROUP - 100, 33 * GROUP] {
        let blob = fixture.put(size);
        let (hash, size) = (blob.hash(), size as u64);
        let last = range(groups_of(size) - 1, groups_of(size));
        let mut frame = Vec::new();
        encode_part(&blob, last, &mut frame).unwrap();
        assert!(decode_part(hash, size, last, frame.clone()).unwrap().proves_size());
        let group = GROUP as u64;
        for claim in [0, 1, size + 1, size.saturating_sub(1), size + group, 2 * size, 1 << 40] {
            if claim == size {
                continue;
            }
            let last = range(groups_of(claim) - 1, groups_of(claim));
            let length = part_bytes(claim, last).unwrap();
            let mut padded = frame.clone();
            padded.resize(length, 0);
            for frame in [frame.clone(), padded] {
                assert!(decode_part(hash, claim, last, frame).is_err(), "{size} as {claim}");
            }
        }
    }
}

#[test]
fn damage_on_disk_is_not_sent() {
    let fixture = Fixture::new();
    let blob = fixture.put(70 * GROUP);
    let name = blob.hash().to_string();
    let file = |extension: &str| {
        fixture.dir.path().join("blobs").join(&name[..2]).join(format!("{name}.{extension}"))
    };
    let mut frame = Vec::new();
    for (extension, at, bad) in
        [("data", 40 * GROUP + 7, range(40, 41)), ("obao4", 100, range(3, 4))]
    {
        let whole = fs::read(file(extension)).unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        for contents in [damaged, whole[..at].to_vec()] {
            fs::write(file(extension), contents).unwrap();
            let refused = encode_part(&blob, bad, &mut frame).unwrap_err();
            assert!(matches!(refused, EncodeError::Damaged { .. }), "{extension}: {refused}");
        }
        fs::write(file(extension), whole).unwrap();
        encode_part(&blob, bad, &mut frame).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// One flipped bit, or a cut, or bytes of another place: refused by both or by neither.
    #[test]
    fn verdicts_are_those_of_bao_tree(
        size in 0..40 * GROUP,
        start in any::<prop::sample::Index>(),
        length in 1..33_u64,
        position in any::<prop::sample::Index>(),
        harm in 0..4_u8,
        bit in 0..8_u8,
    ) {
        let fixture = Fixture::new();
        let blob = fixture.put(size);
        let (hash, size) = (blob.hash(), size as u64);
        let start = start.index(groups_of(size) as usize) as u64;
        let range = range(start, groups_of(size).min(start + length));
        let mut frame = Vec::new();
        encode_part(&blob, range, &mut frame).unwrap();
        let at = position.index(frame.len().max(1));
        match harm {
            1 => frame.truncate(at),
            2 => frame.extend([bit]),
            3 if at < frame.len() => frame[at] ^= 1 << bit,
            _ => {}
        }
        let (ours, theirs) = (ours(hash, size, range, &frame), decoded(hash, size, range, &frame));
        prop_assert_eq!(ours, theirs);
    }
}
