//! Evidence of equivocation: checked, then acted on.
//!
//! Whoever signed two blocks for one place is out for ever. The bonded stake is cut once; later
//! evidence of an earlier misdeed reaches further back among those who left, so that nobody can
//! cover a misdeed by confessing to a later one.

use crate::amount::Height;
use crate::block::Evidence;
use crate::codec::{self, Canonical};
use crate::consensus::{Proposal, Vote};
use crate::ids::{ChainId, ValidatorId};
use crate::keys::{Namespace, Signature};
use crate::ledger::BlockError;
use crate::ledger::entries::Node;
use crate::ledger::entries::staking::Slash;
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::slashing;
use crate::ledger::state::State;
use crate::store::StateReader;

/// Whether evidence would be accepted on top of `base`.
pub fn check_evidence(
    base: &dyn StateReader,
    chain: &ChainId,
    evidence: &Evidence,
) -> Result<(), BlockError> {
    apply(&mut State::new(base), chain, evidence)
}

fn require(holds: bool, text: &'static str) -> Result<(), BlockError> {
    if holds { Ok(()) } else { Err(BlockError::Evidence(text)) }
}

/// Checks evidence and punishes the culprit.
pub(in crate::ledger) fn apply(
    state: &mut State<'_>,
    chain: &ChainId,
    evidence: &Evidence,
) -> Result<(), BlockError> {
    let (node, height) = match evidence {
        Evidence::DoubleVote { first, second } => {
            let slot = |v: &Vote| (v.validator, v.height, v.round, v.kind);
            require(slot(&first.0) == slot(&second.0), "the votes are not of one place")?;
            require(first.0.block != second.0.block, "the votes do not contradict each other")?;
            require(first.0.block < second.0.block, "the votes are not in ascending order")?;
            let height = first.0.height;
            require_age(state, height)?;
            let signed = (Namespace::Vote, chain, &first.0.validator);
            (prove(state, signed, [first, second])?, height)
        }
        Evidence::DoubleProposal { first, second } => {
            let slot = |p: &Proposal| (p.proposer, p.height, p.round);
            require(slot(&first.0) == slot(&second.0), "the proposals are not of one place")?;
            require(first.0.block != second.0.block, "the proposals do not contradict each other")?;
            require(first.0.block < second.0.block, "the proposals are not in ascending order")?;
            let height = first.0.height;
            require_age(state, height)?;
            let signed = (Namespace::Proposal, chain, &first.0.proposer);
            (prove(state, signed, [first, second])?, height)
        }
    };
    let stake = Stake::load(state, &node.keys.node.node_id()).map_err(BlockError::End)?;
    punish(state, stake, height)
}

fn require_age(state: &State<'_>, height: Height) -> Result<(), BlockError> {
    let now = state.clock().height;
    require(height <= now.plus(1), "it is of a height that has not begun")?;
    let age = now.get().saturating_sub(height.get());
    require(age <= state.parameters().evidence_blocks_max, "it is too old")
}

/// The culprit, if both are signed with its key. It need not be in charge now: what it had at
/// stake then still answers.
fn prove<T: Canonical>(
    state: &State<'_>,
    (namespace, chain, validator): (Namespace, &ChainId, &ValidatorId),
    signed: [&(T, Signature); 2],
) -> Result<Node, BlockError> {
    let node = state
        .node_of_validator(validator)
        .ok_or(BlockError::Evidence("the signer is not a registered node"))?;
    for (message, signature) in signed {
        node.keys
            .consensus
            .verify(namespace, chain, &codec::encode(message), signature)
            .map_err(|_| BlockError::Evidence("a signature does not verify"))?;
    }
    Ok(node)
}

fn punish(state: &mut State<'_>, mut stake: Stake, height: Height) -> Result<(), BlockError> {
    stake.pool.tombstone = match stake.pool.tombstone {
        None => {
            let ppm = state.parameters().double_vote_slash_ppm;
            slashing::burn_bonded(state, &mut stake, ppm).map_err(BlockError::End)?;
            Some(slashing::record(state, height, ppm))
        }
        Some(known) => {
            require(height < known.infraction, "the culprit is known")?;
            Some(Slash { infraction: height, ..known })
        }
    };
    stake.save(state).map_err(BlockError::End)?;
    let mut registry = state.registry();
    registry.double_signs = registry.double_signs.saturating_add(1);
    state.put_registry(&registry);
    Ok(())
}
