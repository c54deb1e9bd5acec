//! Snapshots: canonical, refused when malformed, installed whole or not at all, pruned behind.

use std::fs;
use std::path::{Path, PathBuf};

use ayni_storage::ledger::{OpenError, ReplayCause, StateDamage, StateRecovery};
use ayni_storage::retention::{PruneError, Retention};
use ayni_storage::snapshot::{self, Head, SnapshotError, Snapshots, Writer};
use ayni_storage::state::LedgerState;
use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::ids::{BlockHash, ChainId, StateRoot};

use crate::support::{
    CHAIN, Draw, Place, changes, expected_root, grow, headed_block, open_state, replay, segments,
};

/// A ledger of real blocks up to `to`, in small segments.
fn ledger(place: &Place, to: u64) -> ayni_storage::LedgerStore {
    let mut opened = place.open();
    replay(&mut opened.store);
    let mut store = opened.store.with_segment_bytes(2_000);
    grow(&mut store, to);
    store
}

fn take(store: &ayni_storage::LedgerStore) -> (snapshot::Info, PathBuf) {
    let (info, kept) = store.snapshots().take(&store.view()).unwrap();
    (info, kept.path)
}

#[test]
fn equal_states_make_equal_bytes() {
    let (one, two) = (Place::new(), Place::new());
    let (mut first, second) = (ledger(&one, 20), ledger(&two, 20));
    let (a, b) = (take(&first), take(&second));
    assert_eq!(a.0, b.0);
    assert_eq!(fs::read(&a.1).unwrap(), fs::read(&b.1).unwrap());
    assert_eq!(a.0.head.root, expected_root(20));
    assert_eq!(snapshot::verify(&a.1, &CHAIN).unwrap(), a.0);
    grow(&mut first, 21);
    assert_ne!(take(&first).0.hash, a.0.hash);
    assert_eq!(first.snapshots().list().unwrap().len(), 2);
}

#[test]
fn every_changed_byte_and_cut_is_refused() {
    let place = Place::new();
    let store = ledger(&place, 5);
    let (info, path) = take(&store);
    let whole = fs::read(&path).unwrap();
    let bad = place.data().join("bad");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&bad, bytes).unwrap();
        assert!(snapshot::verify_hash(&bad, &CHAIN, &info.hash).is_err(), "byte {at}");
        // Without the hash only height and block hash are not bound: the caller has those.
        if !(40..80).contains(&at) {
            assert!(snapshot::verify(&bad, &CHAIN).is_err(), "byte {at}");
        }
    }
    for length in 0..whole.len() {
        fs::write(&bad, &whole[..length]).unwrap();
        assert!(snapshot::verify(&bad, &CHAIN).is_err(), "cut to {length}");
    }
    fs::write(&bad, [whole.as_slice(), &[0]].concat()).unwrap();
    let trailing = snapshot::verify(&bad, &CHAIN).unwrap_err();
    assert!(matches!(trailing, SnapshotError::Trailing), "{trailing}");
}

/// Writes a snapshot of these entries, whatever they are.
fn forge(path: &Path, root: StateRoot, entries: &[(&[u8], &[u8])]) {
    let head = Head { chain: CHAIN, height: Height::new(3), block: BlockHash::default(), root };
    let mut writer = Writer::new(fs::File::create(path).unwrap(), head).unwrap();
    for (key, value) in entries {
        writer.entry(key, value).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn the_first_thing_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let error = || snapshot::verify(&path, &CHAIN).unwrap_err();
    let entries: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"b", b"2")];
    let root = ayni_storage::integrity::root_of(entries);
    forge(&path, root, &entries);
    assert_eq!(snapshot::verify(&path, &CHAIN).unwrap().entries, 2);
    let other = snapshot::verify(&path, &ChainId::from_bytes([1; 32])).unwrap_err();
    assert!(matches!(other, SnapshotError::OtherChain { .. }), "{other}");
    forge(&path, root, &[(b"b", b"2"), (b"a", b"1")]);
    assert!(matches!(error(), SnapshotError::Unsorted(1)));
    forge(&path, root, &[(b"a", b"1"), (b"a", b"1")]);
    assert!(matches!(error(), SnapshotError::Unsorted(1)));
    forge(&path, root, &[(b"a", b"1")]);
    assert!(matches!(error(), SnapshotError::OtherRoot { .. }));
    fs::write(&path, b"AYNISNP1").unwrap();
    assert!(matches!(error(), SnapshotError::NotASnapshot));
    let mut newer = b"AYNISNP2".to_vec();
    newer.resize(300, 0);
    fs::write(&path, newer).unwrap();
    assert!(matches!(error(), SnapshotError::Newer(2)));
}

/// A huge length costs nothing: it is refused before anything is allocated.
#[test]
fn random_bytes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    forge(&path, StateRoot::default(), &[]);
    let head = fs::read(&path).unwrap()[..112].to_vec();
    let mut draw = Draw(5);
    for _ in 0..2_000 {
        let mut bytes = head.clone();
        bytes.extend((0..draw.below(60)).map(|_| draw.next() as u8));
        fs::write(&path, bytes).unwrap();
        assert!(snapshot::verify(&path, &CHAIN).is_err());
    }
}

#[test]
fn a_new_node_starts_from_a_snapshot() {
    let (old, new) = (Place::new(), Place::new());
    let mut source = ledger(&old, 30);
    let (info, path) = take(&source);
    let block = source.blocks().get(Height::new(30)).unwrap().unwrap();
    drop(new.open());
    snapshot::stage(&new.data(), &CHAIN, &path, &block).unwrap();
    let opened = new.open();
    assert!(opened.recovery.imported);
    assert_eq!(opened.recovery.state, StateRecovery::UpToDate);
    let mut store = opened.store.with_segment_bytes(2_000);
    assert_eq!(store.tip().unwrap().height, Height::new(30));
    assert_eq!(store.blocks().first(), Some(Height::new(30)));
    assert_eq!(store.state().root(), info.head.root);
    grow(&mut source, 45);
    grow(&mut store, 45);
    assert_eq!(store.state().root(), source.state().root());
    store.verify().unwrap();
    drop(store);
    // Without its state the new node begins again at the snapshot.
    fs::remove_dir_all(new.data().join("state")).unwrap();
    let mut opened = new.open();
    let behind =
        StateRecovery::NeedsReplay { from: Some(Height::new(30)), cause: ReplayCause::Behind };
    assert_eq!(opened.recovery.state, behind);
    assert_eq!(replay(&mut opened.store), 15);
    assert_eq!(opened.store.state().root(), source.state().root());
}

/// A node far behind takes a snapshot in place of what it has.
#[test]
fn a_snapshot_replaces_an_old_ledger_whole_or_not_at_all() {
    let (ahead, behind) = (Place::new(), Place::new());
    let source = ledger(&ahead, 40);
    let (_, path) = take(&source);
    let block = source.blocks().get(Height::new(40)).unwrap().unwrap();
    drop(ledger(&behind, 7));
    let import = behind.data().join("import");

    // Cut off before it was ready: the old ledger.
    snapshot::stage(&behind.data(), &CHAIN, &path, &block).unwrap();
    fs::remove_file(import.join("READY")).unwrap();
    let opened = behind.open();
    assert_eq!(opened.store.tip().unwrap().height, Height::new(7));
    assert_eq!(opened.recovery.state, StateRecovery::UpToDate);
    assert!(!opened.recovery.imported && !import.exists());
    drop(opened);

    // Ready, and cut off at each step of putting it in place: the new one.
    type Step = fn(&Path);
    let steps: [Step; 4] = [
        |_| {},
        |data| {
            let kept = Snapshots::new(data, &CHAIN);
            fs::create_dir_all(data.join("snapshots")).unwrap();
            let info = snapshot::verify(&data.join("import/snapshot"), &CHAIN).unwrap();
            let name = format!("{:020}-{}.snapshot", 40, info.hash);
            fs::rename(data.join("import/snapshot"), data.join("snapshots").join(name)).unwrap();
            assert_eq!(kept.list().unwrap().len(), 1);
        },
        |data| fs::rename(data.join("blocks"), data.join("import/blocks.old")).unwrap(),
        |data| fs::rename(data.join("import/blocks"), data.join("blocks")).unwrap(),
    ];
    for cut_after in 1..=steps.len() {
        let place = Place::new();
        drop(ledger(&place, 7));
        snapshot::stage(&place.data(), &CHAIN, &path, &block).unwrap();
        for step in &steps[..cut_after] {
            step(&place.data());
        }
        let opened = place.open();
        assert_eq!(opened.store.tip().unwrap().height, Height::new(40), "step {cut_after}");
        assert_eq!(opened.store.state().root(), expected_root(40), "step {cut_after}");
        assert!(!place.data().join("import").exists());
        opened.store.verify().unwrap();
    }
}

#[test]
fn a_snapshot_of_another_block_or_damaged_since_is_not_installed() {
    let (ahead, behind) = (Place::new(), Place::new());
    let source = ledger(&ahead, 12);
    let (_, path) = take(&source);
    let block = |h| source.blocks().get(Height::new(h)).unwrap().unwrap();
    drop(ledger(&behind, 3));
    let refused = snapshot::stage(&behind.data(), &CHAIN, &path, &block(11)).unwrap_err();
    assert!(refused.to_string().contains("the block given"), "{refused}");
    snapshot::stage(&behind.data(), &CHAIN, &path, &block(12)).unwrap();
    let staged = behind.data().join("import/snapshot");
    let mut bytes = fs::read(&staged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&staged, bytes).unwrap();
    assert_eq!(behind.open().store.tip().unwrap().height, Height::new(3));
}

#[test]
fn blocks_are_pruned_behind_the_oldest_kept_snapshot() {
    let place = Place::new();
    let mut store = ledger(&place, 20);
    let before = segments(&place.data()).len();
    take(&store);
    // Its root is not committed yet.
    assert_eq!(store.prune(Retention::Snapshots(1)).unwrap().segments, 0);
    grow(&mut store, 40);
    take(&store);
    grow(&mut store, 60);
    assert_eq!(store.prune(Retention::Archive).unwrap(), Default::default());
    assert_eq!(store.blocks().first(), Some(Height::new(1)));
    assert!(store.prune(Retention::Snapshots(2)).unwrap().segments > 0);
    let first = store.blocks().first().unwrap();
    assert!(first > Height::new(10) && first <= Height::new(20), "{first}");
    let pruned = store.prune(Retention::Snapshots(1)).unwrap();
    assert_eq!(pruned.snapshots, 1);
    let first = store.blocks().first().unwrap();
    assert!(first > Height::new(30) && first <= Height::new(40), "{first}");
    assert!(segments(&place.data()).len() < before * 3);
    assert_eq!(store.blocks().get(Height::new(5)).unwrap(), None);
    let root = store.state().root();
    store.verify().unwrap();
    drop(store);

    // A damaged state is built again from the snapshot.
    for file in ["db", "conf"] {
        fs::write(place.data().join("state").join(file), b"no database").unwrap();
    }
    let mut opened = place.open();
    let StateRecovery::NeedsReplay { from, cause: ReplayCause::SetAside { damage, .. } } =
        &opened.recovery.state
    else {
        panic!("{:?}", opened.recovery);
    };
    assert_eq!(*from, Some(Height::new(40)));
    assert!(matches!(damage, StateDamage::Unreadable(_)));
    assert_eq!(replay(&mut opened.store), 20);
    assert_eq!(opened.store.state().root(), root);
}

#[test]
fn nothing_is_pruned_behind_a_bad_snapshot() {
    let place = Place::new();
    let mut store = ledger(&place, 20);
    let (_, path) = take(&store);
    grow(&mut store, 30);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = store.prune(Retention::Snapshots(1)).unwrap_err();
    assert!(matches!(refused, PruneError::Snapshot { .. }), "{refused}");
    assert_eq!(store.blocks().first(), Some(Height::new(1)));

    // The state is lost, the log pruned, and the only snapshot damaged: refused, with a way out.
    fs::write(&path, &whole).unwrap();
    store.prune(Retention::Snapshots(1)).unwrap();
    drop(store);
    fs::write(&path, &bytes).unwrap();
    fs::remove_dir_all(place.data().join("state")).unwrap();
    let refused = place.refusal(&CHAIN);
    assert!(matches!(refused, OpenError::NoSnapshot(_)), "{refused}");
}

/// A snapshot whose values are not those that the chain commits.
#[test]
fn nothing_is_pruned_behind_a_snapshot_that_no_header_commits() {
    let place = Place::new();
    let mut store = ledger(&place, 20);
    take(&store);
    // The next header commits another root.
    let other = headed_block(21, StateRoot::default(), &store.tip().unwrap().block);
    store.append_decided(&other, &changes(21)).unwrap();
    grow(&mut store, 30);
    let refused = store.prune(Retention::Snapshots(1)).unwrap_err();
    assert!(matches!(refused, PruneError::OtherRoot { .. }), "{refused}");
    assert_eq!(store.blocks().first(), Some(Height::new(1)));
}

/// More entries than one batch: the tree is built over several versions, or, on a young chain, in
/// fewer and larger ones.
#[test]
fn large_states_are_imported_in_batches() {
    for height in [0, 1, 9] {
        let source = tempfile::tempdir().unwrap();
        let mut state = open_state(&source.path().join("state"));
        for h in 0..=height {
            let many = (0..20_000_u32 / (height as u32 + 1))
                .map(|n| {
                    let key = format!("{h}/{n}").into_bytes();
                    (key, Some(n.to_le_bytes().to_vec()))
                })
                .collect();
            state.commit(Height::new(h), &many, BlockHash::default()).unwrap();
        }
        let kept = Snapshots::new(source.path(), &CHAIN);
        let (info, kept) = kept.take(&state.view()).unwrap();
        let place = Place::new();
        let block = DecidedBlock {
            block: Vec::new(),
            certificate: protocol::consensus::CommitCertificate {
                height: Height::new(height),
                round: 0,
                block: BlockHash::default(),
                signatures: Vec::new(),
            },
        };
        snapshot::stage(&place.data(), &CHAIN, &kept.path, &block).unwrap();
        let path = place.data().join("import/state");
        let imported = open_state(&path);
        assert_eq!(imported.root(), info.head.root);
        assert_eq!(imported.node_count(), state.node_count());
        assert_eq!(imported.height(), Some(Height::new(height)));
        imported.check_integrity().unwrap();
    }
}
