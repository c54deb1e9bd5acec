//! How votes end: exact boundaries, deposits, ballots, convictions, and when they are too late.

use ayni_protocol::amount::Credits;
use ayni_protocol::ledger::Rejection;
use ayni_protocol::ledger::entries::{Failure, ProposalStatus};
use ayni_protocol::ledger::governance::locked_until;
use ayni_protocol::transaction::{Change, Choice, Payload, StakingAction};

use super::{
    account, adopt, decide, deposit, finish, parameter, proposal, propose, quick_genesis, reject,
    staked, status, text, voting,
};
use crate::chain::{TestChain, replay, root};

const YES: Option<Choice> = Some(Choice::Yes);
const NO: Option<Choice> = Some(Choice::No);
const VETO: Option<Choice> = Some(Choice::Veto);

/// Micro-credits of whole credits and some more or less.
const fn micro(whole: u64, more: i64) -> u64 {
    (whole * 1_000_000).saturating_add_signed(more)
}

/// What the author's balance and the burned credits lost by a vote, without fees: the deposit is
/// either back or burned.
fn check(stakes: [u64; 4], choices: [Option<Choice>; 4], passes: bool, burns: bool) {
    let mut chain = staked(&stakes);
    let before = chain.view().account(&account(&chain, 0)).balance;
    let ended = decide(&mut chain, text(1), &choices);
    let is_executed = matches!(ended, ProposalStatus::Executed { .. });
    assert_eq!(is_executed, passes, "{stakes:?} {choices:?}: {ended:?}");
    let lost = before.micro() - chain.view().account(&account(&chain, 0)).balance.micro();
    assert_eq!(lost >= deposit().micro(), burns, "{stakes:?} {choices:?}: lost {lost}");
    let supply = chain.view().supply();
    assert_eq!(supply.burned >= deposit(), burns);
    assert_eq!(chain.view().adopted_texts().len(), usize::from(passes));
}

#[test]
fn the_quorum_is_reached_at_its_share_and_missed_a_micro_credit_below() {
    let exact = [micro(334, 0), micro(166, 0), micro(250, 0), micro(250, 0)];
    check(exact, [YES, None, None, None], true, false);
    let below = [micro(334, -1), micro(166, 1), micro(250, 0), micro(250, 0)];
    check(below, [YES, None, None, None], false, true);
    check(below, [None, None, None, None], false, true);
}

#[test]
fn the_threshold_must_be_exceeded() {
    let half = [micro(250, 0), micro(250, 0), micro(250, 0), micro(250, 0)];
    check(half, [YES, YES, NO, NO], false, false);
    let more = [micro(250, 1), micro(250, 0), micro(250, 0), micro(250, -1)];
    check(more, [YES, YES, NO, NO], true, false);
    // Abstentions count for the quorum only.
    check(half, [YES, Some(Choice::Abstain), Some(Choice::Abstain), None], true, false);
}

#[test]
fn a_veto_at_its_share_burns_the_deposit() {
    let exact = [micro(333, 0), micro(333, 0), micro(334, 0), micro(0, 0) + 1_000_000];
    check(exact, [YES, YES, VETO, None], false, true);
    let below = [micro(333, 1), micro(333, 0), micro(334, -1), micro(1, 0)];
    check(below, [YES, YES, VETO, None], true, false);
}

#[test]
fn the_last_ballot_of_an_account_counts() {
    let mut chain = staked(&[micro(600, 0), micro(200, 0), micro(200, 0)]);
    let id = propose(&mut chain, 0, text(1));
    chain.send(0, voting(id, Choice::Yes, 3));
    chain.send(1, voting(id, Choice::No, 0));
    chain.step();
    let tally = proposal(&chain, id).tally;
    assert_eq!((tally.yes, tally.no), (micro(2_400, 0), micro(200, 0)));
    assert_eq!(tally.turnout, Credits::from_micro(micro(800, 0)));
    chain.send(0, voting(id, Choice::No, 1));
    chain.step();
    let tally = proposal(&chain, id).tally;
    assert_eq!((tally.yes, tally.no, tally.veto), (0, micro(1_400, 0), 0));
    assert_eq!(tally.turnout, Credits::from_micro(micro(800, 0)), "nobody counts twice");
    assert_eq!(chain.view().ballots(id, 0, 10).len(), 2);
    assert_eq!(chain.view().ballots(id, 1, 10).len(), 1);
    assert_eq!(finish(&mut chain, id), ProposalStatus::Rejected);
    assert!(chain.view().ballots(id, 0, 10).is_empty(), "ballots of closed votes go");
    assert_eq!(proposal(&chain, id).tally, tally, "the tally stays");
}

#[test]
fn conviction_decides_and_locks() {
    let stakes = [micro(400, 0), micro(500, 0), micro(100, 0)];
    let mut chain = staked(&stakes);
    assert_eq!(decide(&mut chain, text(1), &[YES, NO, None]), ProposalStatus::Rejected);
    let id = propose(&mut chain, 0, text(2));
    chain.send(0, voting(id, Choice::Yes, 1));
    chain.send(1, voting(id, Choice::No, 0));
    chain.step();
    let (voter, other) = (account(&chain, 0), account(&chain, 1));
    let until = proposal(&chain, id).ends.plus(60_000);
    assert_eq!(locked_until(&chain.view(), &voter), Some(until));
    assert_eq!(locked_until(&chain.view(), &other), None, "no conviction, no lock");
    // A later ballot without conviction does not end the lock.
    chain.send(0, voting(id, Choice::Yes, 2));
    chain.step();
    chain.send(0, voting(id, Choice::Yes, 1));
    chain.step();
    let longest = until.plus(60_000);
    assert_eq!(locked_until(&chain.view(), &voter), Some(longest));
    assert!(matches!(finish(&mut chain, id), ProposalStatus::Executed { .. }));
    while chain.view().clock().time < longest {
        assert_eq!(locked_until(&chain.view(), &voter), Some(longest));
        chain.step();
    }
    assert_eq!(locked_until(&chain.view(), &voter), None);
}

#[test]
fn ballots_are_refused_that_the_rules_do_not_allow() {
    let mut chain = TestChain::of(quick_genesis(4));
    let id = propose(&mut chain, 0, text(1));
    let refused = |chain: &TestChain, id, conviction| {
        chain.try_now(1, voting(id, Choice::Yes, conviction)).expect_err("refused")
    };
    let high = Rejection::Mismatch("the conviction (the rules allow less)");
    assert_eq!(refused(&chain, id, 4), high);
    assert_eq!(refused(&chain, id, 255), high);
    assert_eq!(refused(&chain, id + 1, 0), Rejection::Unknown("proposal"));
    assert_eq!(refused(&chain, 0, 0), Rejection::Unknown("proposal"));
    assert_eq!(chain.try_now(1, voting(id, Choice::Yes, 3)), Ok(()), "control");
    finish(&mut chain, id);
    assert_eq!(refused(&chain, id, 0), Rejection::WrongPhase("the vote is over"));
}

#[test]
fn a_vote_is_not_over_before_its_time_nor_before_its_blocks() {
    let check = |voting_ms: u64, blocks: u64| {
        let mut genesis = quick_genesis(4);
        genesis.parameters.voting_ms = voting_ms;
        genesis.parameters.voting_blocks_min = blocks;
        let mut chain = TestChain::of(genesis);
        let id = propose(&mut chain, 0, text(1));
        let ends = proposal(&chain, id);
        while status(&chain, id) == ProposalStatus::Voting {
            let clock = chain.view().clock();
            assert!(clock.time < ends.ends || clock.height < ends.ends_height);
            chain.step();
        }
        let clock = chain.view().clock();
        assert!(clock.time >= ends.ends && clock.height >= ends.ends_height);
    };
    check(20_000, 1);
    check(1_000, 30);
}

#[test]
fn what_cannot_take_effect_when_its_time_comes_changes_nothing() {
    let mut chain = TestChain::of(quick_genesis(4));
    // Each is possible today, the second not after the first.
    let first = propose(&mut chain, 0, parameter("unbonding_ms", 10_000));
    let second = propose(&mut chain, 1, parameter("voting_ms", 9_000));
    for id in [first, second] {
        (0..4).for_each(|node| chain.send(node, voting(id, Choice::Yes, 0)));
    }
    assert!(matches!(finish(&mut chain, first), ProposalStatus::Executed { .. }));
    let failed = ProposalStatus::Failed { reason: Failure::Parameters };
    assert_eq!(finish(&mut chain, second), failed);
    let now = chain.view().parameters();
    assert_eq!((now.unbonding_ms, now.voting_ms), (10_000, 5_000));
    let author = chain.view().account(&account(&chain, 1)).balance;
    assert!(author > Credits::from_micro(micro(999, 0)), "the deposit is back");
    // The same change after the chain has made it already.
    let again = Change::Parameters(vec![("unbonding_ms".to_owned(), 10_000)]);
    let refused = chain.try_now(0, super::proposing(again));
    assert_eq!(refused, Err(Rejection::Change(Failure::Already)));
}

#[test]
fn a_passed_change_waits_for_the_timelock() {
    let mut chain = TestChain::of(quick_genesis(4));
    let id = propose(&mut chain, 0, parameter("conviction_max", 6));
    (0..4).for_each(|node| chain.send(node, voting(id, Choice::Yes, 0)));
    while status(&chain, id) == ProposalStatus::Voting {
        chain.step();
    }
    let ProposalStatus::Passed { execute_at } = status(&chain, id) else { panic!("not passed") };
    assert_eq!(execute_at, chain.view().clock().time.plus(3_000));
    while status(&chain, id).is_active() {
        assert_eq!(chain.view().parameters().conviction_max, 3);
        chain.step();
    }
    assert!(chain.view().clock().time >= execute_at);
    assert_eq!(chain.view().parameters().conviction_max, 6);
}

#[test]
fn a_shorter_unbonding_delay_ends_longer_votes_with_it() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.voting_ms = 50_000;
    genesis.parameters.timelock_ms = 15_000;
    genesis.parameters.unbonding_ms = 70_000;
    genesis.parameters.evidence_blocks_max = 10;
    genesis.parameters.unbonding_blocks_min = 10;
    let mut chain = TestChain::of(genesis);
    let shorter = [("voting_ms", 5_000), ("timelock_ms", 3_000), ("unbonding_ms", 10_000)];
    let shorter = shorter.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let first = propose(&mut chain, 0, Change::Parameters(shorter));
    (0..4).for_each(|node| chain.send(node, voting(first, Choice::Yes, 0)));
    while status(&chain, first) == ProposalStatus::Voting {
        chain.step();
    }
    // Votes on another, and leaves while the first waits for its time.
    let second = propose(&mut chain, 1, text(1));
    chain.send(0, voting(second, Choice::Yes, 0));
    chain.step();
    let amount = Credits::from_micro(micro(900, 0));
    chain.send(0, stake(&chain, 0, amount, true));
    chain.step();
    let before = proposal(&chain, second);
    assert_eq!(before.ends, before.submitted.plus(50_000));
    finish(&mut chain, first);
    assert_eq!(proposal(&chain, second).ends, before.submitted.plus(10_000));
    // The stake is free at once, and the vote is over for everybody.
    assert!(chain.view().account(&account(&chain, 0)).balance > amount);
    let refused = chain.try_now(1, voting(second, Choice::Yes, 0));
    assert_eq!(refused, Err(Rejection::WrongPhase("the vote is over")));
    chain.step();
    assert!(status(&chain, second) != ProposalStatus::Voting);
    assert_eq!(proposal(&chain, second).tally, before.tally);
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn the_outcome_of_one_vote_does_not_touch_another() {
    let mut chain = TestChain::of(quick_genesis(4));
    adopt(&mut chain, text(1));
    reject(&mut chain, text(2));
    adopt(&mut chain, text(3));
    let adopted: Vec<_> = chain.view().adopted_texts().iter().map(|t| t.proposal).collect();
    assert_eq!(adopted, [1, 3]);
    let listed: Vec<_> = chain.view().proposals(None, 2).iter().map(|p| p.id).collect();
    assert_eq!(listed, [3, 2], "newest first");
    let listed: Vec<_> = chain.view().proposals(Some(2), 9).iter().map(|p| p.id).collect();
    assert_eq!(listed, [1]);
}

fn stake(chain: &TestChain, node: usize, amount: Credits, leaves: bool) -> Payload {
    let node = chain.nodes[node].node.public().node_id();
    Payload::Staking(if leaves {
        StakingAction::Unbond { node, amount }
    } else {
        StakingAction::Bond { node, amount }
    })
}

#[test]
fn stake_that_voted_cannot_vote_again_from_another_account() {
    let mut genesis = quick_genesis(3);
    genesis.parameters.unbonding_ms = 8_000;
    genesis.parameters.evidence_blocks_max = 10;
    genesis.parameters.unbonding_blocks_min = 10;
    let mut chain = TestChain::of(genesis);
    let amount = Credits::from_micro(micro(900, 0));
    let rich = |chain: &TestChain| chain.view().account(&account(chain, 0)).balance > amount;
    let spend =
        Payload::Transfer { to: account(&chain, 1), amount: Credits::from_micro(micro(900, 0)) };
    chain.send(0, spend);
    let id = propose(&mut chain, 0, text(1));
    assert!(!rich(&chain));
    chain.send(0, voting(id, Choice::Yes, 0));
    chain.step();
    // Without conviction it may leave at once; it is there when the vote is over.
    chain.send(0, stake(&chain, 0, amount, true));
    chain.step();
    while !rich(&chain) {
        chain.step();
    }
    let over = proposal(&chain, id);
    assert!(over.status != ProposalStatus::Voting, "{over:?}");
    assert_eq!(over.tally.turnout, Credits::from_micro(micro(1_000, 0)));
    assert_eq!(over.stake_total, Credits::from_micro(micro(3_000, 0)), "of all who were there");
}

#[test]
fn what_was_bonded_since_weighs_in_the_next_ballot() {
    let mut chain = staked(&[micro(400, 0), micro(400, 0), micro(200, 0)]);
    let id = propose(&mut chain, 0, text(2));
    chain.send(1, voting(id, Choice::No, 0));
    chain.step();
    chain.send(1, stake(&chain, 2, Credits::from_micro(micro(50, 0)), false));
    chain.step();
    assert_eq!(proposal(&chain, id).tally.no, micro(400, 0));
    chain.send(1, voting(id, Choice::No, 0));
    chain.step();
    assert_eq!(proposal(&chain, id).tally.no, micro(450, 0), "its own and the delegated");
}

#[test]
fn conviction_keeps_the_stake_on_its_node() {
    let mut chain = staked(&[micro(400, 0), micro(500, 0), micro(100, 0)]);
    let id = propose(&mut chain, 0, text(1));
    chain.send(0, voting(id, Choice::Yes, 1));
    chain.step();
    let until = proposal(&chain, id).ends.plus(60_000);
    let some = Credits::from_micro(micro(1, 0));
    let (from, to) =
        (chain.nodes[0].node.public().node_id(), chain.nodes[1].node.public().node_id());
    let moving = || Payload::Staking(StakingAction::Redelegate { from, to, amount: some });
    while chain.view().clock().time < until {
        let leaving = chain.try_now(0, stake(&chain, 0, some, true));
        assert_eq!(leaving, Err(Rejection::StakeLocked { until }));
        assert_eq!(chain.try_now(0, moving()), Err(Rejection::StakeLocked { until }));
        chain.step();
    }
    assert_eq!(chain.try_now(0, stake(&chain, 0, some, true)), Ok(()));
    assert_eq!(chain.try_now(0, moving()), Ok(()));
}
