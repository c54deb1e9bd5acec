//! Each attack first wins with its defence at zero.

use super::*;

/// Equivocates at the next height after having asked for the stake back; what it gets in the end.
fn unbond_then_equivocate(slash_ppm: u64) -> Credits {
    let mut genesis = quick_genesis(4);
    genesis.parameters.double_vote_slash_ppm = slash_ppm;
    let mut chain = TestChain::of(genesis);
    chain.steps(2);
    let start = chain.view().account(&account(&chain, 3)).balance;
    act(&mut chain, 3, |c| unbond(c, 3, credits(1_000)));
    let fee = start.checked_sub(chain.view().account(&account(&chain, 3)).balance).expect("paid");
    let height = chain.host.tip().height.get() + 1;
    chain.steps(15);
    let evidence = double_vote(&chain, 3, height);
    chain.host.add_evidence(&chain.state, evidence);
    chain.steps(40);
    let end = chain.view().account(&account(&chain, 3)).balance;
    end.checked_add(fee).and_then(|sum| sum.checked_sub(start)).expect("not less than before")
}

#[test]
fn leaving_before_the_evidence_saves_nothing() {
    assert_eq!(unbond_then_equivocate(0), credits(1_000), "without the defence");
    assert_eq!(unbond_then_equivocate(50_000), credits(950));
    assert_eq!(unbond_then_equivocate(1_000_000), Credits::ZERO);
}

/// Moves the stake away after an equivocation, hops on if it can, and leaves; what it keeps.
fn run_by_redelegation(slash_ppm: u64) -> Credits {
    let mut genesis = quick_genesis(4);
    genesis.parameters.double_vote_slash_ppm = slash_ppm;
    let mut chain = TestChain::of(genesis);
    chain.steps(2);
    let height = chain.host.tip().height.get();
    act(&mut chain, 3, |c| redelegate(c, 3, 0, credits(1_000)));
    assert!(chain.try_now(3, redelegate(&chain, 0, 1, credits(1))).is_err(), "no hopping");
    assert!(chain.try_now(3, unbond(&chain, 0, credits(1))).is_err(), "no leaving");
    let evidence = double_vote(&chain, 3, height);
    chain.host.add_evidence(&chain.state, evidence);
    chain.steps(40);
    worth(&chain, 3, 0)
}

#[test]
fn redelegating_before_the_evidence_saves_nothing() {
    assert_eq!(run_by_redelegation(0), credits(1_000), "without the defence");
    assert_eq!(run_by_redelegation(50_000), credits(950));
    assert_eq!(run_by_redelegation(1_000_000), Credits::ZERO);
}

/// A quarter of the proposers leave one victim out of their blocks; whether it is jailed. `most`
/// is the share of a window that may be missed, written past the check of its range.
fn left_out_by_a_quarter(most: u64) -> bool {
    let mut chain = chain(4);
    let parameters =
        LedgerParameters { absence_window_blocks: 12, absence_missed_ppm: most, ..quick() };
    force(&mut chain, prefix::PARAMETERS, &parameters);
    for height in 0..60 {
        chain.silent = if height % 4 == 0 { vec![3] } else { Vec::new() };
        chain.step();
    }
    chain.view().pool(&node(&chain, 3)).expect("a pool").jailed_until.is_some()
}

#[test]
fn proposers_of_less_than_a_third_cannot_jail_anybody() {
    assert!(left_out_by_a_quarter(100_000), "without the least of the parameter");
    assert!(!left_out_by_a_quarter(334_000));
    let refused = LedgerParameters { absence_missed_ppm: 333_333, ..quick() }.validate();
    assert!(refused.is_err());
}
