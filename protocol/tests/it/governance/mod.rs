//! Governance: every kind of change does what it says, votes end as the shares say, and nothing
//! that anybody proposes breaks the ledger.

mod any;
mod bounds;
mod effects;
mod votes;

use ayni_protocol::amount::Credits;
use ayni_protocol::ids::{AccountId, ContentHash};
use ayni_protocol::ledger::entries::{Proposal, ProposalStatus};
use ayni_protocol::ledger::genesis::Genesis;
use ayni_protocol::ledger::parameters::LedgerParameters;
use ayni_protocol::transaction::{Change, Choice, GovernanceAction, Payload, ProposalId};

use crate::chain::{TestChain, credits, genesis};

/// Votes of seconds rather than days.
fn quick() -> LedgerParameters {
    LedgerParameters {
        voting_ms: 5_000,
        emergency_voting_ms: 2_000,
        voting_blocks_min: 3,
        timelock_ms: 3_000,
        unbonding_ms: 60_000,
        ..LedgerParameters::default()
    }
}

fn quick_genesis(count: u8) -> Genesis {
    Genesis { parameters: quick(), ..genesis(count) }
}

/// A chain of nodes with these stakes in micro-credits.
fn staked(stakes: &[u64]) -> TestChain {
    let mut genesis = quick_genesis(u8::try_from(stakes.len()).expect("few"));
    for (node, stake) in genesis.nodes.iter_mut().zip(stakes) {
        node.stake = Credits::from_micro(*stake);
    }
    TestChain::of(genesis)
}

fn account(chain: &TestChain, node: usize) -> AccountId {
    chain.nodes[node].account.public().account_id()
}

fn proposing(change: Change) -> Payload {
    Payload::Governance(GovernanceAction::Propose { title: "A change".to_owned(), change })
}

fn voting(proposal: ProposalId, choice: Choice, conviction: u8) -> Payload {
    Payload::Governance(GovernanceAction::Ballot { proposal, choice, conviction })
}

/// A change that is always possible.
fn text(tag: u8) -> Change {
    Change::Text { content: ContentHash::of(&[tag]) }
}

fn parameter(name: &str, value: u64) -> Change {
    Change::Parameters(vec![(name.to_owned(), value)])
}

/// Proposes in a block of its own.
fn propose(chain: &mut TestChain, node: usize, change: Change) -> ProposalId {
    let before = chain.view().agenda().proposals;
    chain.send(node, proposing(change));
    chain.step();
    let id = chain.view().agenda().proposals;
    assert_eq!(id, before + 1, "the proposal was taken");
    id
}

fn proposal(chain: &TestChain, id: ProposalId) -> Proposal {
    chain.view().proposal(id).expect("kept")
}

fn status(chain: &TestChain, id: ProposalId) -> ProposalStatus {
    proposal(chain, id).status
}

/// Steps until the proposal is over.
fn finish(chain: &mut TestChain, id: ProposalId) -> ProposalStatus {
    for _ in 0..200 {
        let status = status(chain, id);
        if !status.is_active() {
            return status;
        }
        chain.step();
    }
    panic!("the vote does not end: {:?}", proposal(chain, id));
}

/// Votes of the nodes in order, without conviction, and how it ends.
fn decide(chain: &mut TestChain, change: Change, choices: &[Option<Choice>]) -> ProposalStatus {
    let id = propose(chain, 0, change);
    for (node, choice) in choices.iter().enumerate() {
        if let Some(choice) = choice {
            chain.send(node, voting(id, *choice, 0));
        }
    }
    finish(chain, id)
}

/// Has everybody vote yes.
fn adopt(chain: &mut TestChain, change: Change) {
    let everybody = vec![Some(Choice::Yes); chain.nodes.len()];
    let status = decide(chain, change.clone(), &everybody);
    assert!(matches!(status, ProposalStatus::Executed { .. }), "{change:?}: {status:?}");
}

/// Has everybody vote no, so that the same blocks pass without the change.
fn reject(chain: &mut TestChain, change: Change) {
    let everybody = vec![Some(Choice::No); chain.nodes.len()];
    assert_eq!(decide(chain, change, &everybody), ProposalStatus::Rejected);
}

fn deposit() -> Credits {
    credits(10)
}
