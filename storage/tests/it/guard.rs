//! The signer guard: one value for each (height, round, step), for ever.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;

use ayni_storage::signer_guard::{Decision, GuardEntry, GuardError, Refusal, SignerGuard, Step};
use proptest::prelude::*;
use protocol::amount::Height;
use protocol::ids::{BlockHash, ChainId};

use crate::support::{CHAIN, locking};

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
