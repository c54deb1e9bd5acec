//! What a node owes the ledger now: a pure reading of the state, so that a restarted node finds
//! its duties again and the simulator runs the same code.

use crate::ids::{ContributionId, ModelId, NodeId};
use crate::ledger::entries::{Phase, Round};
use crate::ledger::rounds::{contributions, submitted};
use crate::ledger::state::State;
use crate::review::Verdict;

/// Something a node owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Join the round.
    Join {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
    /// Train and commit to the delta.
    Train {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
    /// Reveal the delta.
    Submit {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
    /// Review a delta and commit to the verdict.
    Review {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
        /// The delta.
        contribution: ContributionId,
    },
    /// Reveal a verdict.
    Reveal {
        /// The delta.
        contribution: ContributionId,
    },
    /// Merge and attest the head.
    Attest {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
}

/// The open rounds of the ledger.
pub fn open_rounds(state: &State<'_>) -> Vec<Round> {
    let open = |id: &ModelId| {
        let run = state.model(id)?.run?;
        state.round(id, run.round).filter(|round| !round.phase.is_over())
    };
    state.registry().active.iter().filter_map(open).collect()
}

/// Everything that `node` owes now. `joins` says for which models it joins rounds.
pub fn owed(state: &State<'_>, node: &NodeId, joins: impl Fn(&ModelId) -> bool) -> Vec<Duty> {
    let Some(registered) = state.node(node) else { return Vec::new() };
    let mut duties = Vec::new();
    for round in open_rounds(state) {
        let (model, index) = (round.model, round.index);
        let member = round.member_index(node).is_some();
        let own = state.contribution(&round.contribution_id(node));
        match round.phase {
            Phase::Joining => {
                let room = u32::try_from(round.members.len()).unwrap_or(u32::MAX)
                    < round.parameters.members_max;
                let affords = registered.allowance >= round.parameters.bond;
                let paused = state.model(&model).is_some_and(|m| m.paused);
                if !member && room && affords && !paused && joins(&model) {
                    duties.push(Duty::Join { model, round: index });
                }
            }
            Phase::Training if member && own.is_none() => {
                duties.push(Duty::Train { model, round: index });
            }
            Phase::Submitting if own.as_ref().is_some_and(|c| c.manifest.is_none()) => {
                duties.push(Duty::Submit { model, round: index });
            }
            Phase::Reviewing | Phase::Revealing => {
                for (member, contribution) in submitted(state, &round) {
                    let id = round.contribution_id(&member.node);
                    let Some(seat) = contribution.panel.iter().find(|s| s.node == *node) else {
                        continue;
                    };
                    if round.phase == Phase::Reviewing && seat.commitment.is_none() {
                        duties.push(Duty::Review { model, round: index, contribution: id });
                    } else if round.phase == Phase::Revealing
                        && seat.commitment.is_some()
                        && seat.review.is_none()
                    {
                        duties.push(Duty::Reveal { contribution: id });
                    }
                }
            }
            Phase::Attesting => {
                let mine = round.attestors.iter().find(|a| a.node == *node);
                if mine.is_some_and(|a| a.attested.is_none()) {
                    duties.push(Duty::Attest { model, round: index });
                }
            }
            _ => {}
        }
    }
    duties
}

/// Whether a member's delta of the round was merged into a certified head.
pub fn was_merged(state: &State<'_>, round: &Round, author: &NodeId) -> bool {
    round.phase == Phase::Certified
        && contributions(state, round).iter().any(|(member, contribution)| {
            member.node == *author
                && contribution.as_ref().is_some_and(|c| c.verdict == Some(Verdict::Accept))
        })
}
