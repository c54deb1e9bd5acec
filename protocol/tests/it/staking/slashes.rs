//! Equivocation and absence: what they cost, whom they reach, and the way back.

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::ledger::{BlockError, Rejection, check_evidence};

use super::*;

fn punish(chain: &mut TestChain, evidence: impl FnOnce(&TestChain) -> Evidence) {
    let evidence = evidence(chain);
    let found = chain.view().registry().double_signs;
    chain.host.add_evidence(&chain.state, evidence);
    chain.step();
    assert_eq!(chain.view().registry().double_signs, found + 1);
}

fn refused(chain: &TestChain, evidence: &Evidence) -> String {
    let refused = check_evidence(&chain.state, chain.host.chain(), evidence);
    match refused {
        Err(error @ BlockError::Evidence(_)) => error.to_string(),
        other => panic!("not refused as evidence: {other:?}"),
    }
}

fn tip(chain: &TestChain) -> u64 {
    chain.host.tip().height.get()
}

#[test]
fn equivocation_costs_stake_and_the_seat_for_ever() {
    let mut chain = chain(4);
    chain.steps(3);
    act(&mut chain, 1, |c| bond(c, 3, credits(200)));
    let height = tip(&chain);
    punish(&mut chain, |c| double_vote(c, 3, height));
    assert_eq!(stake_of(&chain, 3), credits(1_140));
    assert_eq!(worth(&chain, 1, 3), credits(190), "delegators pay their part");
    chain.steps(2);
    assert_eq!(chain.in_charge(), vec![0, 1, 2]);
    assert_eq!(chain.try_now(3, bond(&chain, 3, credits(1))), Err(Rejection::Tombstoned));
    assert_eq!(chain.try_now(3, unjail(&chain, 3)), Err(Rejection::Tombstoned));
    let found = chain.view().node(&node(&chain, 3)).expect("registered");
    assert_eq!(chain.view().eligible_stake(&found), Credits::ZERO);
    // Delegators may go.
    act(&mut chain, 1, |c| unbond(c, 3, credits(190)));
}

#[test]
fn two_proposals_for_one_round_are_equivocation() {
    let mut chain = chain(4);
    chain.steps(3);
    let same = double_proposal(&chain, 2, 2, (1, 1));
    assert!(refused(&chain, &same).contains("do not contradict"));
    let reversed = double_proposal(&chain, 2, 2, (2, 1));
    assert!(refused(&chain, &reversed).contains("ascending"));
    let Evidence::DoubleProposal { first, second } = reversed else { panic!("proposals") };
    punish(&mut chain, |_| Evidence::double_proposal(first, second));
    assert_eq!(stake_of(&chain, 2), credits(950));
    let Evidence::DoubleVote { first, second } = double_vote(&chain, 1, 2) else { panic!("votes") };
    punish(&mut chain, |_| Evidence::double_vote(second, first));
}

#[test]
fn evidence_is_refused_when_old_early_twice_or_forged() {
    let mut chain = chain(4);
    chain.steps(22);
    assert!(refused(&chain, &double_vote(&chain, 3, 1)).contains("too old"));
    let ahead = double_vote(&chain, 3, tip(&chain) + 2);
    assert!(refused(&chain, &ahead).contains("not begun"));
    let Evidence::DoubleVote { first, mut second } = double_vote(&chain, 3, 20) else {
        panic!("a double vote");
    };
    second.1 = first.1;
    assert!(refused(&chain, &Evidence::DoubleVote { first, second }).contains("not verify"));
    let mut stranger = chain.nodes[3].clone();
    stranger.consensus = SecretKey::from_seed(&[200; 32]);
    chain.nodes.push(stranger);
    assert!(refused(&chain, &double_vote(&chain, 4, 20)).contains("not a registered node"));
    chain.nodes.pop();
    punish(&mut chain, |c| double_vote(c, 3, 20));
    assert!(refused(&chain, &double_vote(&chain, 3, 20)).contains("known"));
    assert!(refused(&chain, &double_proposal(&chain, 3, 21, (1, 2))).contains("known"));
    assert_eq!(stake_of(&chain, 3), credits(950));
}

#[test]
fn who_left_the_set_still_answers() {
    let mut chain = chain(4);
    chain.steps(3);
    act(&mut chain, 3, |c| unbond(c, 3, credits(1_000)));
    let left_at = tip(&chain);
    chain.steps(3);
    assert_eq!(chain.in_charge(), vec![0, 1, 2]);
    let before = chain.view().account(&account(&chain, 3)).balance;
    // It was in charge of the height after the one in which it left.
    punish(&mut chain, |c| double_vote(c, 3, left_at + 1));
    assert_eq!(chain.view().unbonding_value(0), credits(950));
    chain.steps(40);
    let after = chain.view().account(&account(&chain, 3)).balance;
    assert_eq!(after, before.checked_add(credits(950)).expect("small"));
}

#[test]
fn a_slash_reaches_exactly_what_backed_the_misdeed() {
    let mut chain = chain(4);
    chain.steps(3);
    for who in [0, 1, 2] {
        act(&mut chain, who, |c| bond(c, 3, credits(100)));
    }
    // 0 leaves two blocks before the misdeed, 1 moves one before it, 2 stays.
    act(&mut chain, 0, |c| unbond(c, 3, credits(100)));
    act(&mut chain, 1, |c| redelegate(c, 3, 0, credits(100)));
    let misdeed = tip(&chain) + 1;
    chain.steps(3);
    punish(&mut chain, |c| double_vote(c, 3, misdeed));
    assert_eq!(chain.view().unbonding_value(0), credits(100));
    assert_eq!(worth(&chain, 2, 3), credits(95));
    assert_eq!(worth(&chain, 1, 0), credits(100), "not yet: when the redelegation ends");
    let burned = chain.view().supply().burned;
    chain.steps(40);
    assert_eq!(worth(&chain, 1, 0), credits(95));
    assert_eq!(stake_of(&chain, 0), credits(1_095));
    let since = chain.view().supply().burned.checked_sub(burned).expect("only grows");
    assert_eq!(since, credits(5));
}

#[test]
fn nobody_covers_a_misdeed_by_confessing_to_a_later_one() {
    let mut chain = chain(4);
    chain.steps(3);
    let misdeed = tip(&chain);
    act(&mut chain, 3, |c| unbond(c, 3, credits(900)));
    chain.steps(4);
    punish(&mut chain, |c| double_vote(c, 3, tip(c)));
    assert_eq!(stake_of(&chain, 3), credits(95));
    assert_eq!(chain.view().unbonding_value(0), credits(900), "it had left by then");
    punish(&mut chain, |c| double_vote(c, 3, misdeed));
    assert_eq!(chain.view().unbonding_value(0), credits(855));
    assert_eq!(stake_of(&chain, 3), credits(95), "what is bonded pays once");
}

#[test]
fn the_absent_are_jailed_and_come_back() {
    let mut chain = chain(4);
    chain.silent = vec![3];
    chain.steps(11);
    let pool = |chain: &TestChain| chain.view().pool(&node(chain, 3)).expect("a pool");
    assert!(pool(&chain).jailed_until.is_some());
    assert_eq!(stake_of(&chain, 3), credits(999));
    assert_eq!(chain.in_charge().len(), 4, "its power ends with the set after the next");
    chain.steps(1);
    assert_eq!(chain.in_charge(), vec![0, 1, 2]);
    let early = chain.try_now(3, unjail(&chain, 3));
    assert_eq!(early, Err(Rejection::TooEarly("the node's time in jail is not over")));
    assert_eq!(chain.try_now(0, unjail(&chain, 3)), Err(Rejection::NotAuthorized));
    chain.silent.clear();
    chain.steps(16);
    act(&mut chain, 3, |c| unjail(c, 3));
    chain.steps(2);
    assert_eq!(chain.in_charge().len(), 4);
    chain.steps(30);
    assert!(pool(&chain).jailed_until.is_none());
    assert_eq!(stake_of(&chain, 3), credits(999));
}

#[test]
fn who_misses_half_of_a_window_is_not_jailed() {
    let mut chain = chain(4);
    for height in 0..40 {
        chain.silent = if height % 2 == 0 { vec![3] } else { Vec::new() };
        chain.step();
    }
    assert_eq!(stake_of(&chain, 3), credits(1_000));
    assert_eq!(chain.in_charge().len(), 4);
}

#[test]
fn absence_reaches_what_left_during_the_window() {
    let mut chain = chain(4);
    chain.silent = vec![3];
    chain.steps(2);
    act(&mut chain, 3, |c| unbond(c, 3, credits(500)));
    chain.steps(8);
    assert_eq!(stake_of(&chain, 3), Credits::from_micro(499_500_000));
    assert_eq!(chain.view().unbonding_value(0), Credits::from_micro(499_500_000));
}

#[test]
fn when_nobody_is_left_those_in_charge_stay() {
    let mut chain = chain(1);
    chain.steps(3);
    punish(&mut chain, |c| double_vote(c, 0, 2));
    chain.steps(30);
    assert_eq!(chain.in_charge(), vec![0]);
    let new = register(&mut chain, 0, 9);
    act(&mut chain, 0, |c| bond(c, new, credits(5)));
    chain.steps(2);
    assert_eq!(chain.in_charge(), vec![new]);
}

#[test]
fn a_node_that_is_absent_again_and_again_has_to_wait() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.jail_ms = 1_000;
    genesis.parameters.unbonding_ms = 2_592_000_000;
    let mut chain = TestChain::of(genesis);
    act(&mut chain, 0, |c| unbond(c, 0, credits(1)));
    chain.silent = vec![3];
    let mut jailed = 0;
    for _ in 0..400 {
        let in_jail = chain.view().pool(&node(&chain, 3)).expect("a pool").jailed_until.is_some();
        if in_jail && chain.try_now(3, unjail(&chain, 3)).is_ok() {
            jailed += 1;
            act(&mut chain, 3, |c| unjail(c, 3));
        } else {
            chain.step();
        }
    }
    assert_eq!(jailed, 15);
    let refused = chain.try_now(3, unjail(&chain, 3));
    assert_eq!(refused, Err(Rejection::TooEarly("the node was absent too often within the delay")));
    assert_eq!(chain.in_charge(), vec![0, 1, 2]);
    assert!(chain.host.tip().height > Height::new(300));
}
