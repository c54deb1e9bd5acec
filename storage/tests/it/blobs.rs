//! Blobs: verified in, verified out, hostile files refused, liars caught at their first bad group.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use ayni_storage::blobs::{BLOCK_SIZE, BlobError, BlobStore, ServedBlob, Verification, bao_hash};
use bao_tree::io::BaoContentItem;
use bao_tree::io::fsm::{
    ResponseDecoder, ResponseDecoderNext, encode_ranges_validated as encode_async,
};
use bao_tree::io::round_up_to_chunks;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, ByteRanges, ChunkRanges};
use iroh_io::{TokioStreamReader, TokioStreamWriter};
use proptest::prelude::*;
use protocol::ids::ContentHash;

use crate::support::Draw;

const MAX: u64 = 10_000_000;

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

    fn file(&self, hash: &ContentHash, extension: &str) -> PathBuf {
        let name = hash.to_string();
        self.dir.path().join("blobs").join(&name[..2]).join(format!("{name}.{extension}"))
    }

    fn temporary_files(&self) -> usize {
        fs::read_dir(self.dir.path().join("blobs/tmp")).unwrap().count()
    }
}

fn bytes(size: usize) -> Vec<u8> {
    let mut draw = Draw(size as u64);
    (0..size).map(|_| draw.next() as u8).collect()
}

fn encode(blob: &ServedBlob, ranges: &ChunkRanges) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_ranges_validated(blob.data(), blob.outboard(), ranges, &mut encoded).unwrap();
    encoded
}

/// Receives an encoding; the bytes that were written before it ended, and how it ended.
fn decode(
    store: &BlobStore,
    hash: ContentHash,
    size: u64,
    encoded: &[u8],
) -> (u64, Result<u64, String>) {
    let mut partial = store.create_partial(hash, size, MAX).unwrap();
    let (tree, ranges) = (BaoTree::new(size, BLOCK_SIZE), ChunkRanges::all());
    let mut written = 0;
    for item in DecodeResponseIter::new(bao_hash(&hash), tree, Cursor::new(encoded), &ranges) {
        match item {
            Ok(BaoContentItem::Leaf(leaf)) => {
                partial.write_verified(leaf.offset, &leaf.data).unwrap();
                written += leaf.data.len() as u64;
            }
            Ok(BaoContentItem::Parent(_)) => {}
            Err(error) => return (written, Err(error.to_string())),
        }
    }
    (written, partial.finish().map_err(|error| error.to_string()))
}

const SIZES: [usize; 9] = [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 100_000, 300_001];

#[test]
fn what_goes_in_comes_out() {
    let fixture = Fixture::new();
    let mut total = 0;
    for size in SIZES {
        let data = bytes(size);
        let hash = fixture.store.put_bytes(&data).unwrap();
        assert_eq!(hash, ContentHash::of(&data));
        assert_eq!(fixture.store.put_bytes(&data).unwrap(), hash);
        assert_eq!(fixture.store.read_all(&hash, MAX).unwrap(), data);
        assert_eq!(fixture.store.size(&hash), Some(size as u64));
        assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Intact);
        assert_eq!(fixture.file(&hash, "obao4").exists(), size > 16_384);
        let copy = fixture.dir.path().join(format!("copy-{size}"));
        assert_eq!(fixture.store.copy_to(&hash, &copy).unwrap(), size as u64);
        assert_eq!(fs::read(&copy).unwrap(), data);
        total += size as u64;
    }
    assert_eq!(fixture.store.total_bytes(), total);
    let listed = fixture.store.list();
    assert_eq!(BlobStore::open(fixture.dir.path()).unwrap().list(), listed);
    let (hash, _) = listed[3];
    assert!(fixture.store.delete(&hash).unwrap());
    assert!(!fixture.store.delete(&hash).unwrap());
    assert!(!fixture.store.contains(&hash));
    assert!(matches!(fixture.store.read_all(&hash, MAX), Err(BlobError::NotFound(_))));
    assert_eq!(BlobStore::open(fixture.dir.path()).unwrap().list().len(), SIZES.len() - 1);
}

#[test]
fn blobs_travel_and_arrive() {
    let (from, to) = (Fixture::new(), Fixture::new());
    for size in SIZES {
        let hash = from.store.put_bytes(&bytes(size)).unwrap();
        let blob = from.store.open_for_serving(&hash).unwrap();
        let encoded = encode(&blob, &ChunkRanges::all());
        let (_, result) = decode(&to.store, hash, size as u64, &encoded);
        assert_eq!(result, Ok(size as u64));
        assert_eq!(to.store.read_all(&hash, MAX).unwrap(), bytes(size));
        assert_eq!(to.store.verify(&hash).unwrap(), Verification::Intact);
        // What arrived can be served in turn, with the same bytes.
        let again = to.store.open_for_serving(&hash).unwrap();
        assert_eq!(encode(&again, &ChunkRanges::all()), encoded);
    }
}

#[test]
fn async_and_blocking_encodings_are_equal() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for size in SIZES {
        let data = bytes(size);
        let hash = fixture.store.put_bytes(&data).unwrap();
        let blob = fixture.store.open_for_serving(&hash).unwrap();
        let part = round_up_to_chunks(&ByteRanges::from(20_000..50_000));
        for ranges in [ChunkRanges::all(), part] {
            let blocking = encode(&blob, &ranges);
            let mut encoded = Vec::new();
            let writer = TokioStreamWriter(&mut encoded);
            runtime.block_on(encode_async(blob.data(), blob.outboard(), &ranges, writer)).unwrap();
            assert_eq!(encoded, blocking);
            let tree = BaoTree::new(blob.size(), BLOCK_SIZE);
            let reader = TokioStreamReader::new(Cursor::new(encoded));
            let mut decoder = ResponseDecoder::new(bao_hash(&hash), ranges, tree, reader);
            runtime.block_on(async {
                while let ResponseDecoderNext::More((next, item)) = decoder.next().await {
                    if let BaoContentItem::Leaf(leaf) = item.unwrap() {
                        let at = leaf.offset as usize;
                        assert_eq!(leaf.data, data[at..at + leaf.data.len()]);
                    }
                    decoder = next;
                }
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One flipped bit in the stream: an error, and every byte written before it was right.
    #[test]
    fn a_flipped_bit_is_caught_at_its_group(
        size in 1..120_000_usize,
        position in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let (from, to) = (Fixture::new(), Fixture::new());
        let hash = from.store.put_bytes(&bytes(size)).unwrap();
        let mut encoded =
            encode(&from.store.open_for_serving(&hash).unwrap(), &ChunkRanges::all());
        let at = position.index(encoded.len());
        encoded[at] ^= 1 << bit;
        let (written, result) = decode(&to.store, hash, size as u64, &encoded);
        prop_assert!(result.is_err());
        prop_assert!(written <= at as u64, "{written} bytes before the flip at {at}");
        // The group that holds the flip is the first one that is missing.
        prop_assert!(at as u64 <= written + 16_384 + 64 * 64);
        prop_assert!(!to.store.contains(&hash));
        prop_assert_eq!(to.temporary_files(), 0);
    }

    /// A stream that ends early leaves nothing behind.
    #[test]
    fn a_short_stream_leaves_nothing(
        size in 1..120_000_usize,
        position in any::<prop::sample::Index>(),
    ) {
        let (from, to) = (Fixture::new(), Fixture::new());
        let hash = from.store.put_bytes(&bytes(size)).unwrap();
        let encoded = encode(&from.store.open_for_serving(&hash).unwrap(), &ChunkRanges::all());
        let cut = position.index(encoded.len());
        let (_, result) = decode(&to.store, hash, size as u64, &encoded[..cut]);
        prop_assert!(result.is_err());
        prop_assert_eq!((to.store.list().len(), to.temporary_files()), (0, 0));
    }
}

#[test]
fn a_wrong_size_never_becomes_a_blob() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let hash = from.store.put_bytes(&bytes(50_000)).unwrap();
    let encoded = encode(&from.store.open_for_serving(&hash).unwrap(), &ChunkRanges::all());
    for size in [0, 1, 16_384, 49_999, 50_001, 65_536, 1_000_000] {
        let (_, result) = decode(&to.store, hash, size, &encoded);
        assert!(result.is_err(), "announced {size} bytes");
        assert!(!to.store.contains(&hash));
    }
    let refused = to.store.create_partial(hash, MAX + 1, MAX).unwrap_err();
    assert!(matches!(refused, BlobError::TooLarge { .. }), "{refused}");
}

#[test]
fn a_partial_blob_is_held_to_its_hash_and_size() {
    let fixture = Fixture::new();
    let data = bytes(40_000);
    let hash = ContentHash::of(&data);
    let mut partial = fixture.store.create_partial(hash, 40_000, MAX).unwrap();
    for (offset, length) in [(40_000, 1), (u64::MAX, 1), (39_999, 2)] {
        let refused = partial.write_verified(offset, &vec![0; length]).unwrap_err();
        assert!(matches!(refused, BlobError::OutOfBounds { .. }), "{refused}");
    }
    partial.write_verified(0, &data[..20_000]).unwrap();
    let refused = partial.finish().unwrap_err();
    assert!(matches!(refused, BlobError::Incomplete { have: 20_000, .. }), "{refused}");

    // A caller that skipped verification, or a hole in the middle.
    let mut partial = fixture.store.create_partial(hash, 40_000, MAX).unwrap();
    partial.write_verified(20_000, &data[20_000..]).unwrap();
    let refused = partial.finish().unwrap_err();
    assert!(matches!(refused, BlobError::WrongHash { .. }), "{refused}");
    assert_eq!((fixture.store.list().len(), fixture.temporary_files()), (0, 0));
}

#[test]
fn damaged_files_are_found_and_not_sent() {
    let fixture = Fixture::new();
    let data = bytes(100_000);
    let hash = fixture.store.put_bytes(&data).unwrap();
    for (extension, at) in [("data", 70_000), ("obao4", 100)] {
        let path = fixture.file(&hash, extension);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Damaged);
        let blob = fixture.store.open_for_serving(&hash).unwrap();
        let mut encoded = Vec::new();
        let sent = encode_ranges_validated(
            blob.data(),
            blob.outboard(),
            &ChunkRanges::all(),
            &mut encoded,
        );
        assert!(sent.is_err(), "sent a damaged {extension}");
        if extension == "data" {
            assert!(matches!(fixture.store.read_all(&hash, MAX), Err(BlobError::WrongHash { .. })));
            let copy = fixture.dir.path().join("copy");
            assert!(fixture.store.copy_to(&hash, &copy).is_err());
            assert!(!copy.exists());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Intact);
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Damaged);
        fs::write(&path, &whole).unwrap();
    }
    fs::remove_file(fixture.file(&hash, "obao4")).unwrap();
    assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Damaged);
}

#[test]
fn hostile_files_are_refused() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path();
    let good = dir.join("good");
    fs::write(&good, bytes(30_000)).unwrap();
    let hash = fixture.store.put_file(&good, 30_000).unwrap();
    assert_eq!(hash, ContentHash::of(&bytes(30_000)));
    let large = fixture.store.put_file(&good, 29_999).unwrap_err();
    assert!(matches!(large, BlobError::TooLarge { .. }), "{large}");

    let link = dir.join("link");
    symlink("/etc/passwd", &link).unwrap();
    let pipe = dir.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let socket = dir.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [link, pipe, socket, dir.to_path_buf(), PathBuf::from("/dev/zero")] {
        let refused = fixture.store.put_file(&path, MAX).unwrap_err();
        assert!(matches!(refused, BlobError::NotRegular { .. }), "{}: {refused}", path.display());
    }
    assert!(matches!(fixture.store.put_file(&dir.join("missing"), MAX), Err(BlobError::File(_))));
    assert_eq!(fixture.temporary_files(), 0);
}

#[test]
fn opening_removes_what_was_unfinished() {
    let fixture = Fixture::new();
    let hash = fixture.store.put_bytes(&bytes(40_000)).unwrap();
    let lost = ContentHash::of(b"lost");
    let orphan = fixture.file(&lost, "obao4");
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    fs::write(&orphan, b"tree without data").unwrap();
    fs::write(fixture.dir.path().join("blobs/tmp/7.data"), b"half").unwrap();
    let store = BlobStore::open(fixture.dir.path()).unwrap();
    assert_eq!(store.list(), [(hash, 40_000)]);
    assert!(!orphan.exists());
    assert_eq!(fixture.temporary_files(), 0);
}
