//! The signer guard: one value for each (height, round, step), for ever.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use ayni_storage::signer_guard::{Decision, GuardEntry, GuardError, Refusal, SignerGuard, Step};
use proptest::prelude::*;
use protocol::amount::Height;
use protocol::ids::{BlockHash, ChainId};

use crate::support::{CHAIN, Place, extend, locking, replay};

fn open(path: &Path) -> SignerGuard {
    locking(|| SignerGuard::open(path, &CHAIN)).unwrap().0
}

fn entry(height: u64, round: u32, step: Step, value: Option<u8>) -> GuardEntry {
    let value = value.map(|byte| BlockHash::from_bytes([byte; 32]));
    GuardEntry { height: Height::new(height), round, step, value }
}

#[test]
fn first_value_wins_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signed.log");
    let guard = open(&path);
    for (first, other) in [
        (entry(5, 0, Step::Prevote, Some(1)), Some(2)),
        (entry(5, 0, Step::Precommit, None), Some(1)),
    ] {
        let value = other.map(|byte| BlockHash::from_bytes([byte; 32]));
        let second = GuardEntry { value, ..first };
        assert_eq!(guard.check(&first).unwrap(), Decision::Sign);
        assert_eq!(guard.check(&first).unwrap(), Decision::Sign);
        let refusal = Decision::Refuse(Refusal::Conflict(first.value));
        assert_eq!(guard.check(&second).unwrap(), refusal);
    }
    drop(guard);
    let guard = open(&path);
    let refusal = Decision::Refuse(Refusal::Conflict(Some(BlockHash::from_bytes([1; 32]))));
    assert_eq!(guard.check(&entry(5, 0, Step::Prevote, Some(2))).unwrap(), refusal);
    assert_eq!(guard.check(&entry(5, 0, Step::Prevote, None)).unwrap(), refusal);
    assert_eq!(guard.check(&entry(5, 1, Step::Prevote, Some(2))).unwrap(), Decision::Sign);
    assert_eq!(guard.highest(), Some(Height::new(5)));
}

#[test]
fn the_floor_survives_compaction_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signed.log");
    let guard = open(&path).with_rewrite_bytes_min(4096);
    for height in 1..=200 {
        guard.check(&entry(height, 0, Step::Prevote, Some(1))).unwrap();
        if height % 20 == 0 {
            guard.raise_floor(Height::new(height - 2)).unwrap();
        }
    }
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 8192, "not compacted: {size} bytes");
    guard.raise_floor(Height::new(3)).unwrap();
    drop(guard);
    let guard = open(&path);
    assert_eq!(guard.floor(), Height::new(198));
    let below = Decision::Refuse(Refusal::BelowFloor(Height::new(198)));
    assert_eq!(guard.check(&entry(197, 9, Step::Proposal, Some(1))).unwrap(), below);
    assert_eq!(guard.check(&entry(200, 0, Step::Prevote, Some(1))).unwrap(), Decision::Sign);
    assert!(matches!(
        guard.check(&entry(200, 0, Step::Prevote, Some(2))).unwrap(),
        Decision::Refuse(Refusal::Conflict(_))
    ));
}

#[test]
fn ten_racers_one_value() {
    let dir = tempfile::tempdir().unwrap();
    let guard = Arc::new(open(&dir.path().join("signed.log")));
    for height in 1..=20 {
        let barrier = Arc::new(Barrier::new(10));
        let racers: Vec<_> = (0..10)
            .map(|value| {
                let (guard, barrier) = (Arc::clone(&guard), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    guard.check(&entry(height, 0, Step::Precommit, Some(value))).unwrap()
                })
            })
            .collect();
        let decisions: Vec<Decision> = racers.into_iter().map(|r| r.join().unwrap()).collect();
        let winners: Vec<usize> = (0..10).filter(|i| decisions[*i] == Decision::Sign).collect();
        assert_eq!(winners.len(), 1, "height {height}: {decisions:?}");
        let value = Some(BlockHash::from_bytes([winners[0] as u8; 32]));
        let refusal = Decision::Refuse(Refusal::Conflict(value));
        assert_eq!(decisions.iter().filter(|d| **d == refusal).count(), 9);
    }
}

#[test]
fn one_process_and_one_network_per_guard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signed.log");
    let guard = open(&path);
    let second = SignerGuard::open(&path, &CHAIN).unwrap_err();
    assert!(matches!(second, GuardError::Lock(_)), "{second}");
    drop(guard);
    let other = locking(|| SignerGuard::open(&path, &ChainId::from_bytes([9; 32]))).unwrap_err();
    assert!(matches!(other, GuardError::Record(_)), "{other}");
}

#[derive(Clone, Debug)]
enum Operation {
    Check(u64, u32, u8, Option<u8>),
    Raise(u64),
    Restart,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (0..6_u64, 0..2_u32, 0..3_u8, prop::option::of(0..3_u8))
            .prop_map(|(h, r, s, v)| Operation::Check(h, r, s, v)),
        1 => (0..6_u64).prop_map(Operation::Raise),
        2 => Just(Operation::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens, the guard does what a perfect memory would.
    #[test]
    fn it_remembers_perfectly(operations in prop::collection::vec(operation(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signed.log");
        let reopen = || open(&path).with_rewrite_bytes_min(500);
        let mut guard = Some(reopen());
        let mut signed: BTreeMap<(u64, u32, u8), Option<u8>> = BTreeMap::new();
        let mut floor = 0;
        for operation in operations {
            match operation {
                Operation::Restart => {
                    drop(guard.take());
                    guard = Some(reopen());
                }
                Operation::Raise(height) => {
                    guard.as_ref().unwrap().raise_floor(Height::new(height)).unwrap();
                    floor = floor.max(height);
                }
                Operation::Check(height, round, step, value) => {
                    let kind = [Step::Proposal, Step::Prevote, Step::Precommit][step as usize];
                    let decision =
                        guard.as_ref().unwrap().check(&entry(height, round, kind, value)).unwrap();
                    let allowed = height >= floor
                        && *signed.entry((height, round, step)).or_insert(value) == value;
                    prop_assert_eq!(decision == Decision::Sign, allowed);
                }
            }
        }
    }
}

/// Every cut of the file is noticed, between two records as well.
#[test]
fn every_cut_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signed.log");
    let guard = open(&path);
    for height in 1..4 {
        guard.check(&entry(height, 0, Step::Prevote, Some(1))).unwrap();
    }
    drop(guard);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (guard, torn) = locking(|| SignerGuard::open(&path, &CHAIN)).unwrap();
        assert!(torn.is_some(), "cut to {cut} of {}", whole.len());
        drop(guard);
        // What is left is a whole guard again.
        let (_, torn) = locking(|| SignerGuard::open(&path, &CHAIN)).unwrap();
        assert_eq!(torn, None);
    }
}

/// A node whose guard was cut short signs nothing at the height in progress.
#[test]
fn a_cut_guard_abstains() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 5);
    let first = entry(6, 0, Step::Precommit, Some(1));
    assert_eq!(opened.store.guard().check(&first).unwrap(), Decision::Sign);
    drop(opened);
    let bytes = std::fs::read(place.guard()).unwrap();
    std::fs::write(place.guard(), &bytes[..bytes.len() - 20]).unwrap();
    let mut opened = place.open();
    assert_eq!(opened.recovery.lost_until, Some(Height::new(6)));
    let other = opened.store.guard().check(&entry(6, 0, Step::Precommit, Some(2))).unwrap();
    assert_eq!(other, Decision::Refuse(Refusal::BelowFloor(Height::new(7))));
    extend(&mut opened.store, 6);
    let next = opened.store.guard().check(&entry(7, 0, Step::Precommit, Some(2))).unwrap();
    assert_eq!(next, Decision::Sign);
}

/// An old copy of the data directory under a guard that remembers more.
#[test]
fn a_restored_backup_neither_signs_again_nor_goes_unnoticed() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 9);
    opened.store.guard().check(&entry(10, 0, Step::Prevote, Some(1))).unwrap();
    drop(opened);
    std::fs::remove_dir_all(place.data()).unwrap();
    let mut opened = place.open();
    assert_eq!(opened.recovery.lost_until, Some(Height::new(10)));
    replay(&mut opened.store);
    let again = opened.store.guard().check(&entry(10, 0, Step::Prevote, Some(2))).unwrap();
    assert_eq!(again, Decision::Refuse(Refusal::Conflict(Some(BlockHash::from_bytes([1; 32])))));
}

/// A guard without an end mark, as schema 1 wrote it.
#[test]
fn a_guard_of_schema_1_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signed.log");
    let guard = open(&path);
    guard.check(&entry(3, 1, Step::Prevote, Some(1))).unwrap();
    drop(guard);
    // Schema 1 has another digit and no mark; the identity and the records are the same.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 8);
    bytes[7] = b'1';
    std::fs::write(&path, bytes).unwrap();
    let (guard, torn) = locking(|| SignerGuard::open(&path, &CHAIN)).unwrap();
    assert_eq!(torn, None);
    let other = guard.check(&entry(3, 1, Step::Prevote, None)).unwrap();
    assert!(matches!(other, Decision::Refuse(Refusal::Conflict(_))));
    assert_eq!(std::fs::read(&path).unwrap()[7], b'2');
}
