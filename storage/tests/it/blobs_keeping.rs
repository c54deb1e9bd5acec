//! What is kept and what is not: pins, names, holds, garbage, and checks of the whole store.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use ayni_storage::blobs::{
    BlobError, BlobStore, FsckReport, GcReport, Name, PartialBlob, Retention, VerifiedBlob,
    decode_part, encode_part,
};
use protocol::blobs::collection::{Chunk, Collection, CollectionFile, MediaType, RelativePath};
use protocol::blobs::{GroupRange, all_groups};
use protocol::ids::ContentHash;

use crate::support::Draw;

const GROUP: usize = 16_384;
const MAX: u64 = 100_000_000;
const NOW: u64 = 1_000_000;

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

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("blobs").join(below)
    }

    fn file(&self, hash: &ContentHash, extension: &str) -> PathBuf {
        let name = hash.to_string();
        self.path(&name[..2]).join(format!("{name}.{extension}"))
    }

    fn put(&self, seed: u64, size: usize) -> ContentHash {
        self.store.put_bytes(&bytes(seed, size)).unwrap()
    }

    fn gc(&self) -> GcReport {
        self.store.gc(NOW, []).unwrap()
    }

    fn fsck(&self, repair: bool) -> FsckReport {
        self.store.fsck(repair, &mut |_, _| true).unwrap()
    }

    fn stored(&self) -> BTreeSet<ContentHash> {
        self.store.list().into_iter().map(|(hash, _)| hash).collect()
    }

    /// Stores a collection of blobs that need not be stored.
    fn collection(&self, chunks: &[(ContentHash, u64)]) -> ContentHash {
        let files = chunks.iter().enumerate().map(|(number, (hash, bytes))| CollectionFile {
            path: RelativePath::new(&format!("file-{number}")).unwrap(),
            bytes: *bytes,
            media_type: MediaType::default(),
            chunks: vec![Chunk { hash: *hash, bytes: *bytes }],
        });
        let bytes = Collection::new(files.collect()).unwrap().to_bytes().unwrap();
        self.store.put_bytes(&bytes).unwrap()
    }

    fn partial(&self, seed: u64) -> PartialBlob {
        let from = Fixture::new();
        let hash = from.put(seed, 70 * GROUP);
        let served = from.store.open_for_serving(&hash).unwrap();
        let mut partial = self.store.partial(hash, served.size()).unwrap();
        let (mut frame, range) = (Vec::new(), GroupRange::new(0, 40).unwrap());
        encode_part(&served, range, &mut frame).unwrap();
        let part = decode_part(hash, served.size(), range, frame).unwrap();
        partial.write_part(&part).unwrap();
        partial.checkpoint().run().unwrap();
        partial
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn names_and_pins_are_there_again() {
    let mut fixture = Fixture::new();
    let [a, b, c] = ["a", "b", "c"].map(|text| ContentHash::of(text.as_bytes()));
    fixture.store.pin(&[(a, Retention::Forever), (b, Retention::Until(7))]).unwrap();
    fixture.store.pin(&[(a, Retention::Until(9)), (b, Retention::Until(5))]).unwrap();
    fixture.store.set_name(name("data/x"), a).unwrap();
    fixture.store.set_name(name("data/x"), c).unwrap();
    fixture.store.set_name(name("data/y"), b).unwrap();
    assert_eq!(fixture.store.remove_name(&name("data/y")).unwrap(), Some(b));
    assert_eq!(fixture.store.remove_name(&name("data/y")).unwrap(), None);
    fixture.reopen();
    let pins = fixture.store.pins().unwrap();
    assert_eq!(pins.pins, [(a, Retention::Forever), (b, Retention::Until(7))].into());
    assert_eq!(pins.names, [(name("data/x"), c)].into());
    assert!(fixture.store.unpin(&a).unwrap() && !fixture.store.unpin(&a).unwrap());
    fixture.reopen();
    assert_eq!(fixture.store.pins().unwrap().pins, [(b, Retention::Until(7))].into());
    for bad in ["", "a\nb", "\u{7f}", &"x".repeat(256)] {
        assert_eq!(Name::new(bad), None, "{bad:?}");
    }
}

#[test]
fn garbage_is_what_nobody_keeps() {
    let fixture = Fixture::new();
    let sizes = [100, 100_000];
    let put = |seed: u64| sizes.map(|size| fixture.put(seed, size));
    let (pinned, leased, ended, named, held, extra, lost) =
        (put(1), put(2), put(3), put(4), put(5), put(6), put(7));
    for hash in pinned {
        fixture.store.pin(&[(hash, Retention::Forever)]).unwrap();
    }
    for (hashes, until) in [(leased, NOW + 1), (ended, NOW)] {
        fixture.store.pin(&hashes.map(|hash| (hash, Retention::Until(until)))).unwrap();
    }
    fixture.store.set_name(name("small"), named[0]).unwrap();
    fixture.store.set_name(name("large"), named[1]).unwrap();
    let holds = held.map(|hash| fixture.store.hold(hash));
    let report = fixture.store.gc(NOW, extra).unwrap();
    let kept: BTreeSet<ContentHash> =
        [pinned, leased, named, held, extra].concat().into_iter().collect();
    assert_eq!(fixture.stored(), kept);
    assert_eq!((report.blobs, report.removed, report.pins_ended), (14, 4, 2));
    assert_eq!(report.removed_bytes, 2 * 100_100);
    for hash in ended.iter().chain(&lost) {
        assert!(!fixture.file(hash, "data").exists() && !fixture.file(hash, "obao4").exists());
    }
    drop(holds);
    fixture.gc();
    let kept: BTreeSet<ContentHash> = [pinned, leased, named].concat().into_iter().collect();
    assert_eq!(fixture.stored(), kept);
    assert!(fixture.fsck(false).is_clean());
}

#[test]
fn a_collection_keeps_its_chunks_and_is_never_half_collected() {
    let fixture = Fixture::new();
    let chunks = [fixture.put(1, 100), fixture.put(2, 50_000)];
    let missing = ContentHash::of(b"not here yet");
    let other = fixture.put(3, 10);
    let list = [(chunks[0], 100), (chunks[1], 50_000), (missing, 5)];
    let collection = fixture.collection(&list);
    // A manifest that nobody keeps keeps nothing.
    let unkept = fixture.collection(&[(other, 10)]);
    fixture.store.pin(&[(collection, Retention::Forever)]).unwrap();
    let report = fixture.gc();
    assert_eq!(report.removed, 2);
    assert!(!fixture.store.contains(&other) && !fixture.store.contains(&unkept));
    assert!(chunks.iter().all(|chunk| fixture.store.contains(chunk)));

    // A damaged manifest: its chunks are not known, so nothing goes.
    let large: Vec<(ContentHash, u64)> =
        (0..800_u64).map(|seed| (ContentHash::of(&seed.to_le_bytes()), 5)).collect();
    let manifest = fixture.collection(&large);
    fixture.store.pin(&[(manifest, Retention::Forever)]).unwrap();
    let stray = fixture.put(9, 100_000);
    let whole = fs::read(fixture.file(&manifest, "data")).unwrap();
    for at in [0, 5, 20, 20_000] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(fixture.file(&manifest, "data"), damaged).unwrap();
        let refused = fixture.store.gc(NOW, []).unwrap_err();
        assert!(
            matches!(refused, BlobError::Damaged(_) | BlobError::WrongHash { .. }),
            "byte {at}: {refused}"
        );
        assert!(fixture.store.contains(&stray));
    }
    fs::write(fixture.file(&manifest, "data"), whole).unwrap();
    fixture.gc();
    assert!(!fixture.store.contains(&stray));
}

#[test]
fn partial_blobs_are_collected_unless_somebody_wants_them() {
    let fixture = Fixture::new();
    let (writing, pinned, lost) = (fixture.partial(1), fixture.partial(2), fixture.partial(3));
    let (writing_hash, pinned_hash, lost_hash) = (writing.hash(), pinned.hash(), lost.hash());
    drop((pinned, lost));
    fixture.store.pin(&[(pinned_hash, Retention::Forever)]).unwrap();
    let report = fixture.gc();
    assert_eq!(report.partials_removed, 1);
    let left: Vec<ContentHash> =
        fixture.store.partials().iter().map(|partial| partial.hash).collect();
    assert!(left.contains(&writing_hash) && left.contains(&pinned_hash));
    assert!(!left.contains(&lost_hash));
    assert!(!fixture.path("partial").join(format!("{lost_hash}.data")).exists());
}

#[test]
fn mostly_dead_segments_are_rewritten() {
    let mut fixture = Fixture::new();
    let blobs: Vec<VerifiedBlob> =
        (0..300).map(|seed| VerifiedBlob::of(bytes(seed, 1_000))).collect();
    fixture.store.put_batch(&blobs).unwrap();
    let kept: Vec<ContentHash> = blobs.iter().step_by(10).map(VerifiedBlob::hash).collect();
    let before = fs::metadata(fixture.path("small/00000000.data")).unwrap().len();
    let report = fixture.store.gc(NOW, kept.iter().copied()).unwrap();
    assert_eq!((report.removed, report.segments_rewritten), (270, 1));
    assert!(!fixture.path("small/00000000.data").exists());
    let after = fs::metadata(fixture.path("small/00000001.data")).unwrap().len();
    assert!(after * 9 < before, "{after} of {before}");
    for _ in 0..2 {
        assert_eq!(fixture.stored(), kept.iter().copied().collect());
        for hash in &kept {
            fixture.store.read_all(hash, MAX).unwrap();
        }
        fixture.reopen();
    }
    let report = fixture.store.gc(NOW, kept.iter().copied()).unwrap();
    assert_eq!((report.removed, report.segments_rewritten), (0, 0));
    fixture.gc();
    assert_eq!(fixture.store.list().len(), 0);
    assert!(fixture.fsck(false).is_clean());
}

/// Stores, reads and receives while garbage is collected over and over: nothing that somebody
/// wants is ever missing.
#[test]
fn collecting_beside_everything_else() {
    let fixture = Fixture::new();
    let (store, stop) = (&fixture.store, &AtomicBool::new(false));
    let collections = std::thread::scope(|scope| {
        let collector = scope.spawn(move || {
            let mut runs = 0;
            while !stop.load(Ordering::Relaxed) || runs < 3 {
                store.gc(NOW, []).unwrap();
                runs += 1;
            }
            runs
        });
        let workers: Vec<_> = (0..3_u64)
            .map(|worker| {
                scope.spawn(move || {
                    for round in 0..40 {
                        let seed = worker * 1_000 + round;
                        let data = bytes(seed % 7, if seed % 2 == 0 { 900 } else { 40_000 });
                        let hash = ContentHash::of(&data);
                        let hold = store.hold(hash);
                        if seed % 3 == 0 {
                            store.put_bytes(&data).unwrap();
                        } else {
                            store.put_batch(&[VerifiedBlob::of(data.clone())]).unwrap();
                        }
                        // Held: it stays, whatever the collector does.
                        for _ in 0..5 {
                            assert_eq!(store.read_all(&hash, MAX).unwrap(), data);
                        }
                        if seed % 5 == 0 {
                            store.pin(&[(hash, Retention::Forever)]).unwrap();
                        }
                        drop(hold);
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        collector.join().unwrap()
    });
    assert!(collections >= 3);
    for hash in store.pins().unwrap().pins.keys() {
        store.read_all(hash, MAX).unwrap();
    }
    fixture.gc();
    assert_eq!(fixture.stored(), store.pins().unwrap().pins.keys().copied().collect());
    assert!(fixture.fsck(false).is_clean());
}

#[test]
fn damaged_pins_stop_collecting_until_they_are_mended() {
    let mut fixture = Fixture::new();
    let hashes: Vec<ContentHash> = (0..5).map(|seed| fixture.put(seed, 100)).collect();
    let pins: Vec<_> = hashes.iter().map(|hash| (*hash, Retention::Forever)).collect();
    fixture.store.pin(&pins).unwrap();
    let path = fixture.path("pins");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[9 + 51 * 3 + 12] ^= 1;
    fs::write(&path, &damaged).unwrap();
    fixture.reopen();
    let more = fixture.put(77, 100);
    let refused = fixture.store.gc(NOW, []).unwrap_err();
    assert!(matches!(refused, BlobError::PinsDamaged { .. }), "{refused}");
    for refused in [
        fixture.store.pins().unwrap_err(),
        fixture.store.pin(&[(more, Retention::Forever)]).unwrap_err(),
        fixture.store.unpin(&more).unwrap_err(),
    ] {
        assert!(matches!(refused, BlobError::PinsDamaged { .. }), "{refused}");
    }
    assert!(fixture.fsck(false).pins_damaged);
    assert_eq!(fs::read(&path).unwrap(), damaged, "a check changes nothing");
    let report = fixture.fsck(true);
    assert!(report.pins_damaged);
    assert_eq!(report.pins_kept, 3);
    assert_eq!(fs::read(fixture.path("pins.damaged")).unwrap(), damaged);
    assert!(fixture.fsck(false).is_clean());
    fixture.reopen();
    assert_eq!(fixture.store.pins().unwrap().pins.len(), 3);
}

fn flip(path: &PathBuf, at: usize) {
    let mut contents = fs::read(path).unwrap();
    contents[at] ^= 1;
    fs::write(path, contents).unwrap();
}

#[test]
fn a_check_finds_all_kinds_of_damage_and_repair_leaves_none() {
    let mut fixture = Fixture::new();
    let [good, data, tree, gone, no_tree] = [1, 2, 3, 4, 5].map(|seed| fixture.put(seed, 200_000));
    let small: Vec<ContentHash> = (0..3).map(|seed| fixture.put(seed, 60)).collect();
    let partial = fixture.partial(9);
    let partial_hash = partial.hash();
    drop(partial);
    assert!(fixture.fsck(true).is_clean());

    flip(&fixture.file(&data, "data"), 100_000);
    flip(&fixture.file(&tree, "obao4"), 70);
    fs::remove_file(fixture.file(&gone, "data")).unwrap();
    fs::remove_file(fixture.file(&no_tree, "obao4")).unwrap();
    flip(&fixture.path("small/00000000.data"), 8 + 96 + 50);
    flip(&fixture.path(&format!("partial/{partial_hash}.data")), 35 * GROUP);
    fs::write(fixture.path("stray"), b"x").unwrap();
    let name = good.to_string();
    fs::write(fixture.path(&name[..2]).join("note.txt"), b"x").unwrap();
    fs::write(fixture.path("partial/note"), b"x").unwrap();

    let expect = |report: &FsckReport| {
        let damaged: BTreeSet<ContentHash> = [data, small[1]].into();
        assert_eq!(report.damaged.iter().copied().collect::<BTreeSet<_>>(), damaged);
        assert_eq!(report.missing, [gone]);
        let trees: BTreeSet<ContentHash> = [tree, no_tree].into();
        assert_eq!(report.damaged_trees.iter().copied().collect::<BTreeSet<_>>(), trees);
        assert_eq!(report.wrong_claims, [partial_hash]);
        assert_eq!(report.strays.len(), 3);
    };
    expect(&fixture.fsck(false));
    expect(&fixture.fsck(true));
    for _ in 0..2 {
        let report = fixture.fsck(false);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(fixture.stored(), [good, tree, no_tree, small[0], small[2]].into());
        let [partial] = &fixture.store.partials()[..] else { panic!("one partial blob") };
        let right = partial.verified.clone();
        assert!(!right.contains(35) && right.groups() == 39, "{right:?}");
        fixture.reopen();
    }
    // Cancelled.
    let refused = fixture.store.fsck(false, &mut |_, _| false).unwrap_err();
    assert!(matches!(refused, BlobError::Cancelled), "{refused}");
}

#[test]
fn everything_of_a_mended_tree_is_served() {
    let fixture = Fixture::new();
    let hash = fixture.put(1, 40 * GROUP + 1);
    flip(&fixture.file(&hash, "obao4"), 39 * 64);
    let served = fixture.store.open_for_serving(&hash).unwrap();
    let mut frame = Vec::new();
    assert!(encode_part(&served, all_groups(served.size()), &mut frame).is_err());
    fixture.fsck(true);
    let served = fixture.store.open_for_serving(&hash).unwrap();
    encode_part(&served, all_groups(served.size()), &mut frame).unwrap();
}
