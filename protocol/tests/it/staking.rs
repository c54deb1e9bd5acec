//! Stake on whole chains: delegation and its rewards, who is in charge, slashes and who they reach.

mod attacks;
mod model;
mod slashes;

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::block::Evidence;
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::consensus::{Proposal, Vote, VoteKind};
use ayni_protocol::ids::{AccountId, BlockHash, ContentHash, NodeId};
use ayni_protocol::keys::{Namespace, SecretKey, Signature};
use ayni_protocol::ledger::Rejection;
use ayni_protocol::ledger::genesis::Genesis;
use ayni_protocol::ledger::parameters::LedgerParameters;
use ayni_protocol::ledger::state::prefix;
use ayni_protocol::transaction::{
    Capabilities, Change, Choice, GovernanceAction, Payload, RegisterNode, StakingAction,
};

use crate::chain::{TestChain, credits, genesis, secrets};

/// Short delays and epochs of 20 blocks, so that whole courses fit a test.
fn quick() -> LedgerParameters {
    LedgerParameters {
        epoch_ms: 20_000,
        emission_per_epoch_micro: 70_000_003,
        unbonding_ms: 30_000,
        unbonding_blocks_min: 20,
        evidence_blocks_max: 20,
        voting_ms: 10_000,
        emergency_voting_ms: 10_000,
        timelock_ms: 10_000,
        absence_window_blocks: 10,
        jail_ms: 15_000,
        ..LedgerParameters::default()
    }
}

fn quick_genesis(count: u8) -> Genesis {
    Genesis { parameters: quick(), ..genesis(count) }
}

fn chain(count: u8) -> TestChain {
    TestChain::of(quick_genesis(count))
}

fn node(chain: &TestChain, index: usize) -> NodeId {
    chain.nodes[index].node.public().node_id()
}

fn account(chain: &TestChain, index: usize) -> AccountId {
    chain.nodes[index].account.public().account_id()
}

fn stake_of(chain: &TestChain, index: usize) -> Credits {
    chain.view().node(&node(chain, index)).expect("registered").stake
}

fn worth(chain: &TestChain, who: usize, on: usize) -> Credits {
    let delegation = chain.view().delegation(&account(chain, who), &node(chain, on));
    chain.view().delegated(&delegation)
}

fn bond(chain: &TestChain, on: usize, amount: Credits) -> Payload {
    Payload::Staking(StakingAction::Bond { node: node(chain, on), amount })
}

fn unbond(chain: &TestChain, from: usize, amount: Credits) -> Payload {
    Payload::Staking(StakingAction::Unbond { node: node(chain, from), amount })
}

fn redelegate(chain: &TestChain, from: usize, to: usize, amount: Credits) -> Payload {
    let (from, to) = (node(chain, from), node(chain, to));
    Payload::Staking(StakingAction::Redelegate { from, to, amount })
}

fn claim(chain: &TestChain, on: usize) -> Payload {
    Payload::Staking(StakingAction::ClaimRewards { node: node(chain, on) })
}

fn commission(chain: &TestChain, on: usize, commission_ppm: u32) -> Payload {
    Payload::Staking(StakingAction::SetCommission { node: node(chain, on), commission_ppm })
}

fn unjail(chain: &TestChain, on: usize) -> Payload {
    Payload::Staking(StakingAction::Unjail { node: node(chain, on) })
}

/// Sends a payload and applies it with the next block.
fn act(chain: &mut TestChain, who: usize, payload: impl FnOnce(&TestChain) -> Payload) {
    let payload = payload(chain);
    assert_eq!(chain.try_now(who, payload.clone()), Ok(()), "{payload:?}");
    chain.send(who, payload);
    chain.step();
}

fn sign<T: Canonical>(
    chain: &TestChain,
    key: &SecretKey,
    namespace: Namespace,
    message: T,
) -> (T, Signature) {
    let signature = key.sign(namespace, chain.host.chain(), &codec::encode(&message));
    (message, signature)
}

fn double_vote(chain: &TestChain, who: usize, height: u64) -> Evidence {
    let key = chain.nodes[who].consensus.clone();
    let vote = |tag: u8| {
        let vote = Vote {
            height: Height::new(height),
            round: 0,
            kind: VoteKind::Precommit,
            block: Some(BlockHash::from_bytes([tag; 32])),
            validator: key.public().validator_id(),
        };
        sign(chain, &key, Namespace::Vote, vote)
    };
    Evidence::DoubleVote { first: vote(1), second: vote(2) }
}

fn double_proposal(chain: &TestChain, who: usize, height: u64, tags: (u8, u8)) -> Evidence {
    let key = chain.nodes[who].consensus.clone();
    let proposal = |tag: u8, pol_round| {
        let proposal = Proposal {
            height: Height::new(height),
            round: 2,
            pol_round,
            block: BlockHash::from_bytes([tag; 32]),
            proposer: key.public().validator_id(),
        };
        sign(chain, &key, Namespace::Proposal, proposal)
    };
    Evidence::DoubleProposal { first: proposal(tags.0, None), second: proposal(tags.1, Some(1)) }
}

/// Registers the node `secrets(index)` for the account of node `owner`, offering to validate.
fn register(chain: &mut TestChain, owner: usize, index: u8) -> usize {
    let fresh = secrets(index);
    let id = account(chain, owner);
    let prove =
        |key: &SecretKey| key.sign(Namespace::Possession, chain.host.chain(), id.as_bytes());
    let payload = Payload::RegisterNode(Box::new(RegisterNode {
        keys: fresh.identity().keys,
        node_proof: prove(&fresh.node),
        consensus_proof: prove(&fresh.consensus),
        vrf_proof: prove(&fresh.vrf),
        duty_proof: prove(&fresh.duty),
        capabilities: Capabilities { reviews: true, merges: true, hosts: true, validates: true },
        allowance: Credits::ZERO,
    }));
    act(chain, owner, |_| payload);
    // The account that owns it signs for it.
    let account = chain.nodes[owner].account.clone();
    let mut node = fresh;
    node.account = account;
    chain.nodes.push(node);
    chain.nodes.len() - 1
}

#[test]
fn a_new_stake_counts_at_the_second_height_after_it_and_headers_commit_to_it() {
    let mut chain = chain(4);
    chain.steps(2);
    let new = register(&mut chain, 0, 9);
    act(&mut chain, 0, |c| bond(c, new, credits(500)));
    let bonded_at = chain.host.tip().height;
    // The set of the height in progress is the old one, the header in progress commits to the new.
    assert_eq!(chain.in_charge().len(), 4);
    let block = chain.build();
    assert_eq!(block.header.height, bonded_at.plus(1));
    assert_eq!(block.header.next_validators, chain.host.next_validators().hash());
    assert_eq!(chain.host.next_validators().as_slice().len(), 5);
    chain.decide(&block).expect("valid");
    assert_eq!(chain.host.height(), bonded_at.plus(2));
    assert_eq!(chain.in_charge(), vec![0, 1, 2, 3, new]);
    chain.step();
    // A stake below the least has no power; the owner's own counts, whatever others delegate.
    act(&mut chain, 0, |c| unbond(c, new, Credits::from_micro(499_000_001)));
    act(&mut chain, 1, |c| bond(c, new, credits(300)));
    chain.step();
    assert_eq!(chain.in_charge(), vec![0, 1, 2, 3]);
    chain.steps(2);
}

#[test]
fn only_the_largest_stakes_have_a_seat() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.validators_active_max = 3;
    genesis.nodes[1].stake = credits(999);
    let mut chain = TestChain::of(genesis);
    assert_eq!(chain.in_charge(), vec![0, 2, 3]);
    act(&mut chain, 1, |c| bond(c, 1, credits(2)));
    chain.steps(2);
    let seated = chain.in_charge();
    assert!(seated.contains(&1) && seated.len() == 3, "{seated:?}");
}

#[test]
fn power_is_capped_per_owner() {
    let mut genesis = quick_genesis(4);
    genesis.nodes[0].stake = credits(5_000);
    let chain = TestChain::of(genesis);
    let power = |i: usize| {
        let id = chain.nodes[i].consensus.public().validator_id();
        chain.host.validators().get(&id).expect("in charge").power.get()
    };
    // 30 % of 8,000.
    assert_eq!((power(0), power(1)), (2_400, 1_000));
}

#[test]
fn refusals() {
    let mut chain = chain(4);
    chain.step();
    let check = |chain: &TestChain, who, payload, expect: &str| {
        let refused = chain.try_now(who, payload).expect_err("refused").to_string();
        assert!(refused.contains(expect), "{refused}");
    };
    check(&chain, 0, bond(&chain, 1, Credits::ZERO), "amount is zero");
    check(&chain, 0, bond(&chain, 1, credits(5_000)), "needs 5000.000000 credits");
    check(&chain, 0, unbond(&chain, 1, credits(1)), "needs 1.000000 credits, has 0.000000");
    check(&chain, 0, unbond(&chain, 0, credits(1_001)), "has 1000.000000");
    check(&chain, 0, redelegate(&chain, 0, 0, credits(1)), "it is the same");
    check(&chain, 0, commission(&chain, 1, 0), "may not sign");
    check(&chain, 0, commission(&chain, 0, 500_001), "above the most");
    check(&chain, 0, unjail(&chain, 0), "not jailed");
    check(&chain, 0, claim(&chain, 1), "unknown stake");
    let nobody = NodeId::from_bytes([9; 32]);
    let unknown = Payload::Staking(StakingAction::Bond { node: nobody, amount: credits(1) });
    check(&chain, 0, unknown, "unknown node");
    for _ in 0..16 {
        act(&mut chain, 0, |c| unbond(c, 0, credits(1)));
    }
    check(&chain, 0, unbond(&chain, 0, credits(1)), "wait for one to end");
    act(&mut chain, 0, |c| redelegate(c, 0, 1, credits(10)));
    check(&chain, 0, redelegate(&chain, 1, 2, credits(1)), "has 0.000000");
    check(&chain, 0, unbond(&chain, 1, credits(1)), "has 0.000000");
    // The delays end, and everything is possible again.
    chain.steps(40);
    act(&mut chain, 0, |c| redelegate(c, 1, 2, credits(10)));
    act(&mut chain, 0, |c| unbond(c, 0, credits(1)));
}

#[test]
fn unbonding_takes_its_time_and_its_blocks() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.unbonding_blocks_min = 50;
    let mut chain = TestChain::of(genesis);
    chain.step();
    act(&mut chain, 0, |c| unbond(c, 0, credits(400)));
    let left_at = chain.host.tip().height;
    let before = chain.view().account(&account(&chain, 0)).balance;
    assert_eq!(stake_of(&chain, 0), credits(600));
    // The time is over long before the blocks are: 50, and two for the evidence of the last height
    // that the stake backed.
    while chain.host.tip().height < left_at.plus(51) {
        chain.step();
        assert_eq!(chain.view().account(&account(&chain, 0)).balance, before);
    }
    chain.step();
    let after = chain.view().account(&account(&chain, 0)).balance;
    assert_eq!(after, before.checked_add(credits(400)).expect("small"));
}

#[test]
fn commission_changes_once_an_epoch_and_for_the_next() {
    let mut chain = chain(4);
    chain.steps(20);
    let epoch = chain.view().stake_epoch();
    act(&mut chain, 0, |c| commission(c, 0, 100_000));
    let again = chain.try_now(0, commission(&chain, 0, 0));
    assert_eq!(again, Err(Rejection::TooEarly("the commission was set in this epoch")));
    let of = |chain: &TestChain, epoch| {
        chain.view().pool(&node(chain, 0)).expect("a pool").commission.of_epoch(epoch)
    };
    assert_eq!((of(&chain, epoch), of(&chain, epoch + 1)), (0, 100_000));
}

#[test]
fn stake_is_eligible_after_one_full_epoch() {
    let mut chain = chain(4);
    let eligible = |chain: &TestChain, i: usize| {
        let node = chain.view().node(&node(chain, i)).expect("registered");
        chain.view().eligible_stake(&node)
    };
    assert_eq!(eligible(&chain, 0), credits(1_000), "of the genesis: at once");
    chain.steps(5);
    act(&mut chain, 0, |c| bond(c, 0, credits(100)));
    let bonded_in = chain.view().stake_epoch();
    while chain.view().stake_epoch() <= bonded_in + 1 {
        assert_eq!(eligible(&chain, 0), credits(1_000));
        chain.step();
    }
    assert_eq!(eligible(&chain, 0), credits(1_100));
    act(&mut chain, 0, |c| unbond(c, 0, credits(300)));
    assert_eq!(eligible(&chain, 0), credits(800), "what leaves counts no more at once");
}

/// Writes an entry of the state past the rules.
fn force<T: Canonical>(chain: &mut TestChain, key: &[u8], value: &T) {
    let entry = (key.to_vec(), Some(codec::encode(value)));
    chain.state.apply(&[entry].into());
}

#[test]
fn an_escrow_s_share_waits_for_those_who_sign() {
    let mut chain = chain(4);
    let mut supply = chain.view().supply();
    supply.validators = credits(100);
    supply.genesis = supply.genesis.checked_add(credits(100)).expect("small");
    force(&mut chain, prefix::SUPPLY, &supply);
    let first = chain.view().stake_epoch();
    while chain.view().stake_epoch() == first {
        // One of four misses every third block: a twelfth of the work.
        let away = chain.host.height().get().is_multiple_of(3);
        chain.silent = if away { vec![1] } else { Vec::new() };
        let before = chain.view().attendance();
        chain.step();
        if chain.view().stake_epoch() > first {
            let missed = before.work - before.rows.iter().map(|row| row.work).sum::<u128>();
            assert!(missed > 0);
            let left = u128::from(chain.view().supply().validators.micro());
            let expect = 100_000_000 * missed / before.work;
            assert!((expect..expect + 4).contains(&left), "{left} where {expect} is unearned");
            // And what is minted is the same part of the validators' share.
            let whole =
                u128::from(quick().emission_per_epoch().ppm(quick().validators_ppm).micro());
            let minted = u128::from(chain.view().supply().minted.micro());
            let expect = whole - whole * missed / before.work;
            assert!((expect - 4..=expect).contains(&minted), "{minted} of {expect}");
        }
    }
}

#[test]
fn an_idle_chain_is_paid_for_one_epoch() {
    let mut chain = chain(4);
    chain.steps(5);
    let (before, number) = (chain.view().clock().epoch, chain.view().stake_epoch());
    chain.idle(200_000);
    // Chain time is a median: it follows after half of its window.
    chain.steps(8);
    assert!(chain.view().clock().epoch >= before + 10);
    assert_eq!(chain.view().stake_epoch(), number + 1);
    let share = quick().emission_per_epoch().ppm(quick().validators_ppm);
    assert!(chain.view().supply().minted <= share);
}

#[test]
fn a_vote_lengthens_the_delay_of_those_who_wait_and_shortens_nobody_s() {
    let balance = |chain: &TestChain| chain.view().account(&account(chain, 0)).balance;
    // Blocks that an unbonding takes when the delay changes to this just after it began.
    let blocks = |unbonding_ms| {
        let mut chain = chain(4);
        chain.step();
        act(&mut chain, 0, |c| unbond(c, 0, credits(400)));
        force(&mut chain, prefix::PARAMETERS, &LedgerParameters { unbonding_ms, ..quick() });
        let before = balance(&chain);
        (1..500).find(|_| {
            chain.step();
            balance(&chain) > before
        })
    };
    let unchanged = blocks(30_000).expect("paid");
    assert_eq!(blocks(20_000), Some(unchanged));
    assert_eq!(blocks(60_000), Some(unchanged + 30));
}

#[test]
fn stake_that_votes_with_conviction_stays() {
    let mut chain = chain(4);
    chain.step();
    let change = Change::Text { content: ContentHash::of(b"text") };
    act(&mut chain, 0, |_| {
        Payload::Governance(GovernanceAction::Propose { title: "A text".to_owned(), change })
    });
    act(&mut chain, 1, |_| {
        let (proposal, choice) = (1, Choice::Yes);
        Payload::Governance(GovernanceAction::Ballot { proposal, choice, conviction: 1 })
    });
    assert!(chain.try_now(1, unbond(&chain, 1, credits(1))).is_err());
    assert!(chain.try_now(1, redelegate(&chain, 1, 2, credits(1))).is_err());
    assert_eq!(chain.try_now(0, unbond(&chain, 0, credits(1))), Ok(()));
}
