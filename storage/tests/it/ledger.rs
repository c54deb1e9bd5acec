//! Opening: the log is the truth, the state follows.

use std::fs;

use ayni_storage::ledger::{AppendError, OpenError, ReplayCause, StateDamage, StateRecovery};
use ayni_storage::lock::LockError;
use ayni_storage::signer_guard::{Decision, GuardEntry, Refusal, Step};
use ayni_storage::state::LedgerState;
use protocol::amount::Height;
use protocol::ids::ChainId;
use protocol::store::StateReader;

use crate::support::{
    CHAIN, Place, block, body, changes, expected_root, extend, last_segment, replay,
};

#[test]
fn a_life_with_restarts() {
    let place = Place::new();
    let mut opened = place.open();
    assert_eq!(opened.recovery.state, StateRecovery::UpToDate);
    assert_eq!(replay(&mut opened.store), 0);
    extend(&mut opened.store, 30);
    assert_eq!(opened.store.state().root(), expected_root(30));
    drop(opened);
    let mut opened = place.open();
    assert_eq!(opened.recovery.torn, []);
    assert_eq!(opened.recovery.state, StateRecovery::UpToDate);
    extend(&mut opened.store, 35);
    assert_eq!(opened.store.state().root(), expected_root(35));
    opened.store.verify().unwrap();
}

#[test]
fn a_lost_state_is_replayed_from_genesis() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 12);
    drop(opened);
    fs::remove_dir_all(place.data().join("state")).unwrap();
    let mut opened = place.open();
    let behind = StateRecovery::NeedsReplay { from: None, cause: ReplayCause::Behind };
    assert_eq!(opened.recovery.state, behind);
    let refused = opened.store.append_decided(&block(13, 10), &changes(13)).unwrap_err();
    assert!(matches!(refused, AppendError::NotReplayed { .. }), "{refused}");
    assert_eq!(replay(&mut opened.store), 12);
    assert_eq!(opened.store.state().root(), expected_root(12));
}

#[test]
fn an_old_copy_of_the_state_is_brought_forward() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 5);
    drop(opened);
    let (state, copy) = (place.data().join("state"), place.data().join("copy"));
    copy_dir(&state, &copy);
    let mut opened = place.open();
    extend(&mut opened.store, 9);
    drop(opened);
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&copy, &state).unwrap();
    let mut opened = place.open();
    let from = Some(Height::new(5));
    let behind = StateRecovery::NeedsReplay { from, cause: ReplayCause::Behind };
    assert_eq!(opened.recovery.state, behind);
    assert_eq!(replay(&mut opened.store), 4);
    assert_eq!(opened.store.state().root(), expected_root(9));
}

#[test]
fn a_state_ahead_of_the_log_is_not_believed() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 5);
    let shorter = opened.store.blocks().bytes();
    extend(&mut opened.store, 8);
    drop(opened);
    let log = last_segment(&place.data());
    fs::OpenOptions::new().write(true).open(log).unwrap().set_len(shorter).unwrap();
    let mut opened = place.open();
    let StateRecovery::NeedsReplay { cause: ReplayCause::SetAside { damage, .. }, .. } =
        &opened.recovery.state
    else {
        panic!("{:?}", opened.recovery);
    };
    let expected = StateDamage::AheadOfLog { state: Height::new(8), log: Height::new(5) };
    assert_eq!(*damage, expected);
    replay(&mut opened.store);
    assert_eq!(opened.store.state().root(), expected_root(5));
}

#[test]
fn a_state_of_another_history_is_not_believed() {
    let (ours, theirs) = (Place::new(), Place::new());
    for (place, size) in [(&ours, 300), (&theirs, 301)] {
        let mut opened = place.open();
        replay(&mut opened.store);
        for height in 1..=4 {
            opened.store.append_decided(&block(height, size), &changes(height)).unwrap();
        }
    }
    fs::remove_dir_all(ours.data().join("state")).unwrap();
    fs::rename(theirs.data().join("state"), ours.data().join("state")).unwrap();
    let opened = ours.open();
    let StateRecovery::NeedsReplay { cause: ReplayCause::SetAside { damage, .. }, .. } =
        opened.recovery.state
    else {
        panic!("{:?}", opened.recovery);
    };
    assert_eq!(damage, StateDamage::OtherBlock(Height::new(4)));
}

#[test]
fn one_process_and_one_network_per_directory() {
    let place = Place::new();
    let opened = place.open();
    let second = place.refusal(&CHAIN);
    assert!(matches!(second, OpenError::Lock(LockError::InUse { .. })), "{second}");
    drop(opened);
    let other = ChainId::from_bytes([9; 32]);
    let refused = place.refusal(&other);
    assert!(matches!(refused, OpenError::Identity(_)), "{refused}");
}

#[test]
fn deciding_forgets_bodies_and_decided_heights_are_not_signed() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    for height in 1..=3 {
        opened.store.proposals_mut().insert(&body(height, 0, 1, 20)).unwrap();
    }
    extend(&mut opened.store, 2);
    assert_eq!(opened.store.proposals().len(), 1);
    drop(opened);
    let opened = place.open();
    assert_eq!(opened.store.proposals().len(), 1);
    let vote = |height| GuardEntry {
        height: Height::new(height),
        round: 0,
        step: Step::Prevote,
        value: None,
    };
    let guard = opened.store.guard();
    let below = Decision::Refuse(Refusal::BelowFloor(Height::new(3)));
    assert_eq!(guard.check(&vote(2)).unwrap(), below);
    assert_eq!(guard.check(&vote(3)).unwrap(), Decision::Sign);
}

#[test]
fn views_read_while_the_ledger_grows() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    let view = opened.store.view();
    extend(&mut opened.store, 2);
    assert_eq!(view.tip(), opened.store.tip());
    assert_eq!(view.get(b"height"), Some(2_u64.to_le_bytes().to_vec()));
    assert_eq!(view.root(), expected_root(2));
}

/// A state that a view still has open is in use, not damaged.
#[test]
fn an_open_view_does_not_cost_the_state() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    let view = opened.store.view();
    drop(opened);
    let refused = place.refusal(&CHAIN);
    assert!(matches!(refused, OpenError::State(_)), "{refused}");
    drop(view);
    assert_eq!(place.open().recovery.state, StateRecovery::UpToDate);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
