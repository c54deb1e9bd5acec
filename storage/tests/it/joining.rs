//! What a node needs that gives its snapshots to others, or takes one.

use std::fs;

use ayni_storage::blobs::{BlobError, BlobStore, bao_hash};
use ayni_storage::probe::probe;
use ayni_storage::retention::Retention;
use ayni_storage::snapshot;
use bao_tree::io::sync::encode_ranges_validated;
use bao_tree::{BaoTree, ChunkRanges};
use protocol::amount::Height;
use protocol::ids::ContentHash;

use crate::support::{CHAIN, Place, grow, locking, replay};

/// A ledger of real blocks up to `to`, in one segment.
fn ledger(place: &Place, to: u64) -> ayni_storage::LedgerStore {
    let mut opened = place.open();
    replay(&mut opened.store);
    grow(&mut opened.store, to);
    opened.store
}

#[test]
fn an_attached_file_is_served_from_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let (data, tree) = (dir.path().join("s.snapshot"), dir.path().join("s.obao4"));
    for size in [0, 100, 16 * 1024, 300_000] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        let hash = ContentHash::of(&bytes);
        fs::write(&data, &bytes).unwrap();
        assert!(!store.contains(&hash));
        assert_eq!(store.attach(&hash, &data, &tree).unwrap(), u64::from(size));
        assert!(store.contains(&hash));
        assert!(store.list().is_empty() && store.total_bytes() == 0, "it is not the store's");
        let served = store.open_for_serving(&hash).unwrap();
        let mut sent = Vec::new();
        let ranges = ChunkRanges::all();
        encode_ranges_validated(served.data(), served.outboard(), &ranges, &mut sent).unwrap();
        let tree_of = BaoTree::new(u64::from(size), ayni_storage::blobs::BLOCK_SIZE);
        assert_eq!(served.outboard().tree, tree_of);
        assert_eq!(served.outboard().root, bao_hash(&hash));

        assert!(store.detach(&hash) && !store.detach(&hash));
        assert!(!store.contains(&hash));
        assert!(matches!(store.open_for_serving(&hash), Err(BlobError::NotFound(_))));
        assert!(data.exists(), "the file is its owner's");
    }
    fs::write(&data, b"something else").unwrap();
    let wrong = store.attach(&ContentHash::of(b"promised"), &data, &tree).unwrap_err();
    assert!(matches!(wrong, BlobError::WrongHash { .. }), "{wrong}");
    // Deleted by its owner without a word.
    let hash = ContentHash::of(b"something else");
    store.attach(&hash, &data, &tree).unwrap();
    fs::remove_file(&data).unwrap();
    assert!(matches!(store.open_for_serving(&hash), Err(BlobError::NotFound(_))));
}

#[test]
fn a_probe_says_where_a_ledger_stands_and_puts_in_place_what_is_ready() {
    let (old, new) = (Place::new(), Place::new());
    let probe = |place: &Place| locking(|| probe(&place.data(), &CHAIN)).unwrap();
    let empty = probe(&new);
    assert_eq!((empty.tip, empty.last), (Height::ZERO, None));
    let source = ledger(&old, 30);
    let (_, kept) = source.snapshots().take(&source.view()).unwrap();
    let block = source.blocks().get(Height::new(30)).unwrap().unwrap();
    drop(source);
    let found = probe(&old);
    assert_eq!(found.tip, Height::new(30));
    assert_eq!(found.last.unwrap().height, Height::new(30));
    drop(new.open());
    snapshot::stage(&new.data(), &CHAIN, &kept.path, &block).unwrap();
    assert_eq!(probe(&new).tip, Height::new(30));
    assert_eq!(new.open().store.tip().unwrap().height, Height::new(30));
}

#[test]
fn values_are_found_by_their_keys() {
    let place = Place::new();
    let store = ledger(&place, 5);
    let (_, kept) = store.snapshots().take(&store.view()).unwrap();
    let mut reader = snapshot::Reader::new(fs::File::open(&kept.path).unwrap()).unwrap();
    let (key, value) = reader.next_entry().unwrap().unwrap();
    let found = snapshot::values(&kept.path, &[b"no such key", key]).unwrap();
    assert_eq!(found, [None, Some(value.to_vec())]);
}

/// Segments as large as ever: pruning itself makes them end where snapshots are.
#[test]
fn pruned_blocks_go_although_the_segment_is_not_full() {
    let place = Place::new();
    let mut store = ledger(&place, 1);
    let mut firsts = Vec::new();
    for height in (20..=120).step_by(20) {
        grow(&mut store, height);
        store.snapshots().take(&store.view()).unwrap();
        let base = store.prune_base(2).unwrap();
        store.prune(Retention::Snapshots(2)).unwrap();
        let first = store.blocks().first().unwrap();
        assert!(base.is_none_or(|base| first <= base), "{first} is above {base:?}");
        firsts.push(first.get());
    }
    // The block at the oldest snapshot is kept, and with it the segment that it ends.
    assert_eq!(firsts, [1, 1, 1, 21, 41, 61]);
    store.verify().unwrap();
}
