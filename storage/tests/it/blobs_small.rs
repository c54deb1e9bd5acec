//! Small blobs, many to a file: batches, torn and damaged segments, and holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ayni_storage::blobs::{
    BlobError, BlobLimits, BlobStore, Verification, VerifiedBlob, VerifiedPart, decode_part,
    encode_part,
};
use protocol::blobs::{GroupRange, all_groups, groups_of};
use protocol::ids::ContentHash;

use crate::support::Draw;

const GROUP: usize = 16_384;
const MAX: u64 = 100_000_000;

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut draw = Draw(seed);
    (0..size).map(|_| draw.next() as u8).collect()
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

    fn reopen(&mut self) {
        self.store = BlobStore::open(self.dir.path()).unwrap();
    }

    fn segment(&self, number: u32, extension: &str) -> PathBuf {
        self.dir.path().join(format!("blobs/small/{number:08}.{extension}"))
    }

    fn segments(&self) -> usize {
        fs::read_dir(self.dir.path().join("blobs/small")).unwrap().count() / 2
    }

    fn put(&self, blobs: &[Vec<u8>]) -> Vec<ContentHash> {
        let blobs: Vec<VerifiedBlob> = blobs.iter().cloned().map(VerifiedBlob::of).collect();
        self.store.put_batch(&blobs).unwrap();
        blobs.iter().map(VerifiedBlob::hash).collect()
    }

    /// Everything that can be read, by hash.
    fn contents(&self) -> BTreeMap<ContentHash, Vec<u8>> {
        let all = self.store.list().into_iter();
        all.map(|(hash, _)| (hash, self.store.read_all(&hash, MAX).unwrap())).collect()
    }
}

#[test]
fn a_batch_of_all_sizes_is_there_and_there_again() {
    let mut fixture = Fixture::new();
    let sizes = [0, 1, 100, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP, 100_000, 100];
    let blobs: Vec<Vec<u8>> = sizes.iter().map(|size| bytes(*size as u64, *size)).collect();
    let hashes = fixture.put(&blobs);
    for _ in 0..2 {
        assert_eq!(fixture.store.list().len(), sizes.len() - 1, "two are the same");
        for (hash, blob) in hashes.iter().zip(&blobs) {
            assert_eq!(*hash, ContentHash::of(blob));
            assert_eq!(&fixture.store.read_all(hash, MAX).unwrap(), blob);
            assert_eq!(fixture.store.verify(hash).unwrap(), Verification::Intact);
            let served = fixture.store.open_for_serving(hash).unwrap();
            let (mut frame, all) = (Vec::new(), all_groups(served.size()));
            encode_part(&served, all, &mut frame).unwrap();
            let part = decode_part(*hash, served.size(), all, frame).unwrap();
            assert_eq!(&part.slices().collect::<Vec<_>>().concat(), blob);
            let copy = fixture.dir.path().join("copy");
            fixture.store.copy_to(hash, &copy).unwrap();
            assert_eq!(&fs::read(&copy).unwrap(), blob);
            fs::remove_file(&copy).unwrap();
        }
        let sum: usize = sizes[..8].iter().sum();
        assert_eq!(fixture.store.total_bytes(), sum as u64);
        fixture.reopen();
    }
    // Nothing is written twice.
    let before = fs::metadata(fixture.segment(0, "data")).unwrap().len();
    fixture.put(&blobs);
    assert_eq!(fs::metadata(fixture.segment(0, "data")).unwrap().len(), before);
    // A file for who needs one.
    let path = fixture.store.data_path(&hashes[2]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), blobs[2]);
    assert!(fixture.store.open_data(&hashes[2]).is_ok());
    fixture.reopen();
    assert!(fixture.store.delete(&hashes[2]).unwrap());
    assert!(!path.exists());
    fixture.reopen();
    assert!(!fixture.store.contains(&hashes[2]));
}

#[test]
fn deleted_blobs_stay_away_and_may_come_again() {
    let mut fixture = Fixture::new();
    let blobs: Vec<Vec<u8>> = (0..20).map(|seed| bytes(seed, 500)).collect();
    let hashes = fixture.put(&blobs);
    for hash in &hashes[..10] {
        assert!(fixture.store.delete(hash).unwrap());
        assert!(matches!(fixture.store.read_all(hash, MAX), Err(BlobError::NotFound(_))));
    }
    fixture.put(&blobs[..5]);
    for _ in 0..2 {
        let expected: Vec<_> = hashes[..5].iter().chain(&hashes[10..]).copied().collect();
        let found = fixture.contents();
        assert_eq!(found.len(), expected.len());
        assert!(expected.iter().all(|hash| found.contains_key(hash)));
        fixture.reopen();
    }
}

/// Blobs of 50 bytes in the order in which a batch is written: that of their hashes.
fn in_order(count: u64) -> Vec<Vec<u8>> {
    let mut blobs: Vec<Vec<u8>> = (0..count).map(|seed| bytes(seed, 50)).collect();
    blobs.sort_by_key(|blob| ContentHash::of(blob));
    blobs
}

#[test]
fn the_index_can_be_lost_at_any_byte() {
    let mut fixture = Fixture::new();
    let blobs: Vec<Vec<u8>> = (0..6).map(|seed| bytes(seed, 100)).collect();
    fixture.put(&blobs);
    let whole = fixture.contents();
    let index = fs::read(fixture.segment(0, "index")).unwrap();
    for cut in 0..index.len() {
        fs::write(fixture.segment(0, "index"), &index[..cut]).unwrap();
        fixture.reopen();
        assert_eq!(fixture.contents(), whole, "cut at {cut}");
        assert_eq!(fs::read(fixture.segment(0, "index")).unwrap(), index, "mended");
    }
    for at in 0..index.len() {
        let mut damaged = index.clone();
        damaged[at] ^= 0x10;
        fs::write(fixture.segment(0, "index"), damaged).unwrap();
        fixture.reopen();
        assert_eq!(fixture.contents(), whole, "flipped at {at}");
    }
    fs::remove_file(fixture.segment(0, "index")).unwrap();
    fixture.reopen();
    assert_eq!(fixture.contents(), whole);
}

#[test]
fn torn_data_loses_only_what_was_torn() {
    let mut fixture = Fixture::new();
    let blobs = in_order(4);
    let hashes = fixture.put(&blobs);
    let data = fs::read(fixture.segment(0, "data")).unwrap();
    let (record, next) = (86, bytes(9, 70));
    for cut in 0..data.len() {
        fs::remove_dir_all(fixture.dir.path().join("blobs/small")).unwrap();
        fs::create_dir(fixture.dir.path().join("blobs/small")).unwrap();
        fs::write(fixture.segment(0, "data"), &data[..cut]).unwrap();
        fixture.reopen();
        let kept = cut.saturating_sub(8) / record;
        let mut found = fixture.contents();
        assert_eq!(found.len(), kept, "cut at {cut}");
        // It goes on, and what it takes now is there again.
        let added = fixture.put(std::slice::from_ref(&next));
        fixture.reopen();
        found.insert(added[0], next.clone());
        assert_eq!(fixture.contents(), found, "cut at {cut}");
    }
    // One flipped bit: that blob is lost and no other, with and without the index.
    for at in 8..data.len() {
        let mut damaged = data.clone();
        damaged[at] ^= 1;
        let (number, offset) = ((at - 8) / record, (at - 8) % record);
        fs::write(fixture.segment(0, "data"), damaged).unwrap();
        let _ = fs::remove_file(fixture.segment(0, "index"));
        fs::write(fixture.segment(1, "data"), []).unwrap();
        let _ = fs::remove_file(fixture.segment(1, "index"));
        fixture.reopen();
        let found = fixture.contents();
        for (index, hash) in hashes.iter().enumerate() {
            // A length that lies hides what comes behind it.
            let may_be_lost = index == number || (offset < 4 && index > number);
            assert!(may_be_lost || found[hash] == blobs[index], "flipped at {at}");
        }
        assert!(found.values().all(|found| blobs.contains(found)));
    }
}

#[test]
fn damage_behind_an_index_is_found_when_it_is_read() {
    let mut fixture = Fixture::new();
    let blobs = in_order(4);
    let hashes = fixture.put(&blobs);
    let mut data = fs::read(fixture.segment(0, "data")).unwrap();
    data[8 + 86 + 40] ^= 1;
    fs::write(fixture.segment(0, "data"), data).unwrap();
    fixture.reopen();
    assert_eq!(fixture.store.list().len(), 4);
    let refused = fixture.store.read_all(&hashes[1], MAX).unwrap_err();
    assert!(matches!(refused, BlobError::Damaged(hash) if hash == hashes[1]), "{refused}");
    assert_eq!(fixture.store.verify(&hashes[1]).unwrap(), Verification::Damaged);
    assert!(fixture.store.open_for_serving(&hashes[1]).is_err());
    assert_eq!(fixture.store.verify(&hashes[2]).unwrap(), Verification::Intact);
}

#[test]
fn segments_end_and_begin() {
    let mut fixture = Fixture::new();
    // 72 MiB of records: more than one segment takes.
    let blobs: Vec<Vec<u8>> = (0..4_600).map(|seed| bytes(seed, GROUP)).collect();
    let hashes = fixture.put(&blobs);
    assert_eq!(fixture.segments(), 2);
    fixture.reopen();
    for (hash, blob) in hashes.iter().zip(&blobs).step_by(97) {
        assert_eq!(&fixture.store.read_all(hash, MAX).unwrap(), blob);
    }
    assert_eq!(fixture.store.list().len(), blobs.len());
}

fn parts(data: &[u8], cuts: &[GroupRange]) -> Vec<VerifiedPart<Vec<u8>>> {
    let fixture = Fixture::new();
    let hash = fixture.store.put_bytes(data).unwrap();
    let served = fixture.store.open_for_serving(&hash).unwrap();
    let decode = |range: &GroupRange| {
        let mut frame = Vec::new();
        encode_part(&served, *range, &mut frame).unwrap();
        decode_part(hash, served.size(), *range, frame).unwrap()
    };
    cuts.iter().map(decode).collect()
}

fn range(start: u64, end: u64) -> GroupRange {
    GroupRange::new(start, end).unwrap()
}

#[test]
fn blobs_are_made_of_their_parts_without_hashing_again() {
    let fixture = Fixture::new();
    for size in [0, 10, GROUP, GROUP + 1, 70 * GROUP + 5] {
        let (data, groups) = (bytes(1, size), groups_of(size as u64));
        // The last group first, then the others.
        let mut cuts = vec![range(groups - 1, groups)];
        cuts.extend(
            (0..groups - 1).step_by(32).map(|start| range(start, (groups - 1).min(start + 32))),
        );
        let blob = VerifiedBlob::from_parts(parts(&data, &cuts)).unwrap();
        assert_eq!((blob.hash(), blob.size()), (ContentHash::of(&data), size as u64));
        assert!(blob.bytes() == data);
        fixture.store.put_batch(&[blob]).unwrap();
        let hash = ContentHash::of(&data);
        assert!(fixture.store.read_all(&hash, MAX).unwrap() == data);
        assert_eq!(fixture.store.verify(&hash).unwrap(), Verification::Intact);
    }
    let data = bytes(2, 70 * GROUP);
    let overlapping = [range(0, 40), range(10, 20), range(30, 70), range(69, 70)];
    let blob = VerifiedBlob::from_parts(parts(&data, &overlapping)).unwrap();
    assert!(blob.bytes() == data);
    for missing in [&[][..], &[range(0, 32)], &[range(1, 70)], &[range(0, 32), range(33, 70)]] {
        let refused = VerifiedBlob::from_parts(parts(&data, missing)).unwrap_err();
        assert!(matches!(refused, BlobError::Incomplete { .. }), "{missing:?}: {refused}");
    }
    let mut mixed = parts(&data, &[range(0, 32)]);
    mixed.extend(parts(&bytes(3, 70 * GROUP), &[range(32, 70)]));
    let refused = VerifiedBlob::from_parts(mixed).unwrap_err();
    assert!(matches!(refused, BlobError::OtherBlob { .. }), "{refused}");
}

#[test]
fn a_batch_over_the_quota_is_refused_as_a_whole() {
    let fixture = Fixture::new();
    fixture.store.set_limits(BlobLimits { bytes_max: 1_000 });
    let blobs: Vec<VerifiedBlob> = (0..11).map(|seed| VerifiedBlob::of(bytes(seed, 100))).collect();
    let refused = fixture.store.put_batch(&blobs).unwrap_err();
    assert!(
        matches!(refused, BlobError::QuotaExceeded { used: 0, wanted: 1_100, max: 1_000 }),
        "{refused}"
    );
    assert!(fixture.store.list().is_empty());
    fixture.store.put_batch(&blobs[..10]).unwrap();
    // What is there already costs nothing.
    fixture.store.put_batch(&blobs[..10]).unwrap();
}

#[test]
fn many_threads_store_the_same_and_other_blobs() {
    let mut fixture = Fixture::new();
    let store = fixture.store.clone();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = store.clone();
            scope.spawn(move || {
                for seed in 0..30 {
                    let own = VerifiedBlob::of(bytes(1_000 + thread * 100 + seed, 300));
                    let shared = VerifiedBlob::of(bytes(seed, 300));
                    store.put_batch(&[own, shared]).unwrap();
                }
            });
        }
    });
    assert_eq!(fixture.contents().len(), 4 * 30 + 30);
    fixture.reopen();
    assert_eq!(fixture.contents().len(), 4 * 30 + 30);
}
