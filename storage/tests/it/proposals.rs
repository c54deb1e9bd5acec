//! The proposal log: bounded, durable, pruned.

use ayni_storage::proposal_log::{Insertion, ProposalLog};
use protocol::amount::Height;

use crate::support::{CHAIN, body};

#[test]
fn bodies_come_back_and_a_round_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = ProposalLog::open(dir.path(), &CHAIN).unwrap();
    let (first, second, third) = (body(7, 0, 1, 9), body(7, 0, 2, 9), body(7, 0, 3, 9));
    let other_round = body(7, 1, 1, 9);
    assert_eq!(log.insert(&first).unwrap(), Insertion::Stored);
    assert_eq!(log.insert(&first).unwrap(), Insertion::Known);
    assert_eq!(log.insert(&second).unwrap(), Insertion::Stored);
    assert_eq!(log.insert(&third).unwrap(), Insertion::Full);
    assert_eq!(log.insert(&other_round).unwrap(), Insertion::Stored);
    drop(log);
    let (log, torn) = ProposalLog::open(dir.path(), &CHAIN).unwrap();
    assert_eq!(torn, None);
    let mut round = log.for_round(Height::new(7), 0).unwrap();
    round.sort_by_key(|body| body.block.clone());
    assert_eq!(round, [first, second.clone()]);
    assert_eq!(log.for_round(Height::new(7), 1).unwrap(), [other_round]);
    assert_eq!(log.for_round(Height::new(8), 0).unwrap(), []);
    let found = log.find(Height::new(7), &second.offer.block).unwrap();
    assert_eq!(found, Some(second.clone()));
    assert_eq!(log.find(Height::new(7), &third.offer.block).unwrap(), None);
    assert_eq!(log.find(Height::new(8), &second.offer.block).unwrap(), None);
}

#[test]
fn pruning_forgets_and_rewrites_a_large_file() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = ProposalLog::open(dir.path(), &CHAIN).unwrap();
    let mut log = log.with_rewrite_bytes_min(20_000);
    for height in 1..=10 {
        log.insert(&body(height, 0, height as u8, 3000)).unwrap();
    }
    assert!(log.bytes() > 20_000);
    log.prune(Height::new(8)).unwrap();
    assert_eq!(log.len(), 2);
    assert!(log.bytes() < 10_000, "not rewritten");
    assert_eq!(log.for_round(Height::new(8), 0).unwrap(), []);
    let kept = body(9, 0, 9, 3000);
    assert_eq!(log.for_round(Height::new(9), 0).unwrap(), [kept]);
    log.insert(&body(11, 0, 11, 3000)).unwrap();
    drop(log);
    let (mut log, _) = ProposalLog::open(dir.path(), &CHAIN).unwrap();
    assert_eq!(log.len(), 3);
    log.prune(Height::new(20)).unwrap();
    assert!(log.is_empty());
}
