//! Roots: equal on disk and in memory, and a function of the contents alone.

use std::collections::BTreeMap;

use ayni_storage::state::{CommitError, LedgerState, VALUE_BYTES_MAX};
use ayni_storage::{MemoryStateStore, empty_root, integrity};
use proptest::prelude::*;
use protocol::amount::Height;
use protocol::ids::BlockHash;
use protocol::store::{StateChanges, StateReader};

use crate::support::{open_raw, open_state};

/// Few keys, so that changes meet; short ones, so that prefixes nest.
fn block() -> impl Strategy<Value = StateChanges> {
    let key = prop::collection::vec(0..3_u8, 0..4);
    let value = prop::option::weighted(0.6, prop::collection::vec(any::<u8>(), 0..4));
    prop::collection::btree_map(key, value, 0..12)
}

fn commit_all<S: LedgerState>(state: &mut S, blocks: &[StateChanges]) {
    for (height, changes) in blocks.iter().enumerate() {
        let height = Height::new(height as u64);
        state.commit(height, changes, BlockHash::default()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_root_depends_only_on_contents(
        blocks in prop::collection::vec(block(), 1..12),
        split in any::<prop::sample::Index>(),
    ) {
        let mut state = MemoryStateStore::new();
        commit_all(&mut state, &blocks);
        let contents = state.values().entries().clone();
        prop_assert_eq!(state.root(), integrity::root_of(&contents));

        // The same contents, written in two blocks.
        let middle = split.index(contents.len() + 1);
        let write = |entry: (&Vec<u8>, &Vec<u8>)| (entry.0.clone(), Some(entry.1.clone()));
        let first: StateChanges = contents.iter().take(middle).map(write).collect();
        let second: StateChanges = contents.iter().skip(middle).map(write).collect();
        let mut direct = MemoryStateStore::new();
        commit_all(&mut direct, &[first, second]);
        prop_assert_eq!(state.root(), direct.root());
        // Nothing of the longer history is kept.
        prop_assert_eq!(state.node_count(), direct.node_count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn disk_and_memory_agree(
        blocks in prop::collection::vec(block(), 1..16),
        restart in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = MemoryStateStore::new();
        let mut disk = open_state(dir.path());
        let restart = restart.index(blocks.len());
        for (height, changes) in blocks.iter().enumerate() {
            if height == restart {
                disk.flush().unwrap();
                drop(disk);
                disk = open_state(dir.path());
                prop_assert_eq!(disk.tip(), memory.tip());
            }
            let block = BlockHash::from_bytes([height as u8; 32]);
            let height = Height::new(height as u64);
            let root = memory.commit(height, changes, block).unwrap();
            prop_assert_eq!(disk.commit(height, changes, block).unwrap(), root);
            prop_assert_eq!(disk.root(), root);
            prop_assert_eq!(disk.tip(), memory.tip());
            prop_assert_eq!(disk.node_count(), memory.node_count());
            disk.check_integrity().unwrap();
            for key in [&[][..], &[0], &[1, 2], &[2, 2, 2, 2]] {
                let (value, path) = memory.prove(key).unwrap();
                prop_assert_eq!(&value, &memory.get(key));
                path.verify(&root, key, value.as_deref()).unwrap();
                let other = Some(b"other".as_slice()).filter(|_| value.is_none());
                prop_assert!(path.verify(&root, key, other).is_err());
                let proven = disk.view().read(|state| state.prove(key)).unwrap();
                prop_assert_eq!(proven, (value, path));
            }
            for prefix in [&[][..], &[0], &[1, 2]] {
                for limit in [0, 2, usize::MAX] {
                    prop_assert_eq!(disk.scan(prefix, limit), memory.scan(prefix, limit));
                }
            }
        }
    }
}

#[test]
fn empty_states_have_the_empty_root() {
    let mut state = MemoryStateStore::new();
    assert_eq!(state.root(), empty_root());
    assert_eq!(integrity::root_of(Vec::<(Vec<u8>, Vec<u8>)>::new()), empty_root());
    let write = BTreeMap::from([(b"a".to_vec(), Some(b"1".to_vec()))]);
    let delete = BTreeMap::from([(b"a".to_vec(), None), (b"b".to_vec(), None)]);
    commit_all(&mut state, &[BTreeMap::new(), delete.clone(), write, delete, BTreeMap::new()]);
    assert_eq!(state.root(), empty_root());
    assert_eq!(state.node_count(), 1);
}

/// Pins the root: a change of hash function, leaf form or key form would change every chain.
#[test]
fn golden_root() {
    let entries: Vec<(Vec<u8>, Vec<u8>)> =
        (0..100_u32).map(|i| (format!("key/{i}").into_bytes(), i.to_le_bytes().to_vec())).collect();
    let mut state = MemoryStateStore::new();
    let block = entries.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    commit_all(&mut state, &[block]);
    assert_eq!(state.root(), integrity::root_of(entries));
    assert_eq!(
        state.root().to_string(),
        "5efcadb8861701d10cf755899e91271922f9fa43132e511cf7e413d0db6a93d7"
    );
}

#[test]
fn heights_and_sizes_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open_state(dir.path());
    let none = BTreeMap::new();
    let early = state.commit(Height::new(1), &none, BlockHash::default()).unwrap_err();
    assert_eq!(early.to_string(), "height 1 does not follow: the state expects 0");
    state.commit(Height::ZERO, &none, BlockHash::default()).unwrap();
    assert!(state.commit(Height::ZERO, &none, BlockHash::default()).is_err());
    let large = BTreeMap::from([(b"k".to_vec(), Some(vec![0; VALUE_BYTES_MAX + 1]))]);
    let refused = state.commit(Height::new(1), &large, BlockHash::default()).unwrap_err();
    assert!(matches!(refused, CommitError::TooLarge { .. }), "{refused}");
    assert_eq!(state.height(), Some(Height::ZERO));
}

/// The check notices a value that changed without its root.
#[test]
fn integrity_check_finds_a_changed_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = open_state(dir.path());
    let block = BTreeMap::from([(b"a".to_vec(), Some(b"1".to_vec()))]);
    state.commit(Height::ZERO, &block, BlockHash::default()).unwrap();
    state.flush().unwrap();
    drop(state);
    let raw = open_raw(dir.path());
    raw.insert(b"va", b"2").unwrap();
    raw.flush().unwrap();
    drop(raw);
    let state = open_state(dir.path());
    assert!(state.check_integrity().is_err());
}
