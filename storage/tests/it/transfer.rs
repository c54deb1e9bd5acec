//! Checking, exporting and importing a ledger.

use std::fs;

use ayni_storage::state::{LedgerState, wait_released};
use ayni_storage::transfer::{self, TransferError};
use ayni_storage::{LedgerStore, Retention, check};
use protocol::amount::Height;
use protocol::ids::{ChainId, StateRoot};

use crate::support::{CHAIN, Place, changes, grow, headed_block, open_raw, replay, segments};

fn ledger(place: &Place, to: u64) -> LedgerStore {
    let mut opened = place.open();
    replay(&mut opened.store);
    let mut store = opened.store.with_segment_bytes(2_000);
    grow(&mut store, to);
    store
}

fn close(place: &Place, mut store: LedgerStore) -> StateRoot {
    store.flush().unwrap();
    let root = store.state().root();
    drop(store);
    wait_released(&place.data().join("state")).unwrap();
    root
}

fn problems(place: &Place) -> Vec<String> {
    let found = check::check(&place.data(), &CHAIN).unwrap();
    wait_released(&place.data().join("state")).unwrap();
    found.problems
}

#[test]
fn a_good_ledger_has_no_problems_and_each_damage_is_named() {
    let place = Place::new();
    let mut store = ledger(&place, 20);
    store.snapshots().take(&store.view()).unwrap();
    grow(&mut store, 30);
    let root = close(&place, store);
    let found = check::check(&place.data(), &CHAIN).unwrap();
    wait_released(&place.data().join("state")).unwrap();
    assert_eq!(found.problems, [] as [String; 0]);
    assert_eq!(found.blocks, Some((Height::new(1), Height::new(30))));
    assert_eq!(found.state, Some((Height::new(30), root)));
    assert!(!found.state_committed, "block 31 is not decided");
    assert_eq!(found.snapshots, [Height::new(20)]);

    // A value changed behind the tree's back.
    let raw = open_raw(&place.data().join("state"));
    let height = raw.insert(b"vheight", b"x").unwrap();
    raw.flush().unwrap();
    drop(raw);
    wait_released(&place.data().join("state")).unwrap();
    let found = problems(&place);
    assert!(found[0].starts_with("state: the stored values have root"), "{found:?}");
    let raw = open_raw(&place.data().join("state"));
    raw.insert(b"vheight", height.unwrap()).unwrap();
    raw.flush().unwrap();
    drop(raw);
    wait_released(&place.data().join("state")).unwrap();

    let snapshot = fs::read_dir(place.data().join("snapshots")).unwrap().next().unwrap().unwrap();
    let whole = fs::read(snapshot.path()).unwrap();
    fs::write(snapshot.path(), &whole[..200]).unwrap();
    let found = problems(&place);
    assert!(found[0].starts_with("snapshot of height 20: the snapshot ends"), "{found:?}");
    fs::write(snapshot.path(), whole).unwrap();

    let segment = &segments(&place.data())[1];
    let mut bytes = fs::read(segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(segment, bytes).unwrap();
    let found = problems(&place);
    assert!(found[0].starts_with("block log: ") && found[0].contains("is corrupt"), "{found:?}");
}

/// Records that pass their checksums and are no chain.
#[test]
fn blocks_that_do_not_follow_are_named() {
    let place = Place::new();
    let mut store = ledger(&place, 3);
    let other = headed_block(4, store.state().root(), &Default::default());
    store.append_decided(&other, &changes(4)).unwrap();
    close(&place, store);
    let found = problems(&place);
    assert_eq!(found, ["block log: block 4 does not follow the block before it"]);
}

#[test]
fn a_whole_ledger_is_carried_elsewhere() {
    let (old, new, bag) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
    let root = close(&old, ledger(&old, 25));
    let to = bag.path().join("export");
    let moved = transfer::export(&old.data(), &CHAIN, &to).unwrap();
    assert_eq!((moved.first, moved.last.height), (Height::new(1), Height::new(25)));
    let again = transfer::export(&old.data(), &CHAIN, &to).unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty(_)), "{again}");
    let other = transfer::import(&new.data(), &ChainId::from_bytes([1; 32]), &to).unwrap_err();
    assert!(matches!(other, TransferError::Identity(_)), "{other}");
    transfer::import(&new.data(), &CHAIN, &to).unwrap();
    let twice = transfer::import(&new.data(), &CHAIN, &to).unwrap_err();
    assert!(matches!(twice, TransferError::NotEmpty(_)), "{twice}");
    let mut opened = new.open();
    assert_eq!(replay(&mut opened.store), 25);
    assert_eq!(opened.store.state().root(), root);
}

#[test]
fn a_pruned_ledger_is_carried_with_its_snapshot() {
    let (old, new, bag) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
    let mut store = ledger(&old, 20);
    store.snapshots().take(&store.view()).unwrap();
    grow(&mut store, 40);
    store.prune(Retention::Snapshots(1)).unwrap();
    let root = close(&old, store);
    let to = bag.path().join("export");
    let moved = transfer::export(&old.data(), &CHAIN, &to).unwrap();
    assert!(moved.first > Height::new(1), "nothing was pruned");
    assert_eq!((moved.last.height, moved.snapshot), (Height::new(40), Some(Height::new(20))));
    let moved = transfer::import(&new.data(), &CHAIN, &to).unwrap();
    assert_eq!((moved.first, moved.last.height), (Height::new(20), Height::new(40)));
    let mut opened = new.open();
    assert_eq!(replay(&mut opened.store), 20);
    assert_eq!(opened.store.state().root(), root);

    // What could not be imported is not exported.
    let kept = fs::read_dir(old.data().join("snapshots")).unwrap();
    kept.for_each(|file| fs::write(file.unwrap().path(), b"damaged").unwrap());
    let none = bag.path().join("none");
    let refused = transfer::export(&old.data(), &CHAIN, &none).unwrap_err();
    assert!(matches!(refused, TransferError::NoStart { .. }), "{refused}");
    assert!(!none.exists());
}
