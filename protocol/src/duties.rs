//! What a node owes the ledger now: a pure reading of the state, so that a restarted node finds
//! its duties again and the simulator runs the same code.

use crate::ids::{ContributionId, ModelId, NodeId};
use crate::ledger::entries::{Contribution, Phase, Round};
use crate::ledger::rounds::{contributions, late_home, open_rounds_of, submitted};
use crate::ledger::state::State;
use crate::replay::Replayed;
use crate::review::Verdict;

/// Something a node owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Show the states around the drawn slice of one's own training to the reviewers.
    Show {
        /// The model.
        model: ModelId,
        /// The round for which was trained.
        round: u32,
        /// The delta.
        contribution: ContributionId,
    },
    /// Join the round.
    Join {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
    },
    /// Review a delta and commit to the verdict.
    Review {
        /// The model.
        model: ModelId,
        /// The round in whose course it is reviewed.
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
    /// Take the inner steps. They need nothing of the round before, which may still be open.
    Train {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
        /// Whether the round has left training: the delta, if it is made, comes late.
        late: bool,
    },
    /// Compress what was trained and commit to it. Owed when the verdict on the node's delta of
    /// the round before is known, because error feedback depends on it.
    Commit {
        /// The model.
        model: ModelId,
        /// The round for which was trained.
        round: u32,
        /// See [`Duty::Train`].
        late: bool,
    },
    /// Reveal the delta.
    Submit {
        /// The model.
        model: ModelId,
        /// The round for which it was trained.
        round: u32,
    },
}

/// The open rounds of the ledger, of each model the oldest first.
pub fn open_rounds(state: &State<'_>) -> Vec<Round> {
    state.registry().active.iter().flat_map(|id| open_rounds_of(state, id)).collect()
}

/// Everything that `node` owes now. `joins` says for which models it joins rounds.
pub fn owed(state: &State<'_>, node: &NodeId, joins: impl Fn(&ModelId) -> bool) -> Vec<Duty> {
    let Some(registered) = state.node(node) else { return Vec::new() };
    let mut duties = Vec::new();
    for round in open_rounds(state) {
        let (model, index) = (round.model, round.index);
        let affords = registered.allowance >= round.parameters.bond;
        match round.phase {
            Phase::Joining => {
                let room = u32::try_from(round.members.len()).unwrap_or(u32::MAX)
                    < round.parameters.members_max;
                let member = round.member_index(node).is_some();
                let paused = state.model(&model).is_some_and(|m| m.paused);
                if !member && room && affords && !paused && joins(&model) {
                    duties.push(Duty::Join { model, round: index });
                }
            }
            Phase::Training => training(state, &round, node, false, &mut duties),
            Phase::Submitting => {
                let own = submissions(state, &round, node);
                duties.extend(own.map(|trained| Duty::Submit { model, round: trained }));
            }
            Phase::Reviewing | Phase::Revealing => {
                shows(state, &round, node, &mut duties);
                reviews(state, &round, node, &mut duties);
            }
            Phase::Attesting => {
                let mine = round.attestors.iter().find(|a| a.node == *node);
                if mine.is_some_and(|a| a.attested.is_none()) {
                    duties.push(Duty::Attest { model, round: index });
                }
            }
            _ => {}
        }
        // What this round would still take of the one before.
        let before = index.checked_sub(1).and_then(|before| state.round(&model, before));
        if let Some(before) = before
            && affords
            && late_home(state, &before).is_some_and(|home| home.index == index)
        {
            training(state, &before, node, true, &mut duties);
        }
    }
    duties
}

/// Training and committing to what was trained, unless the node is no member or has committed.
fn training(state: &State<'_>, round: &Round, node: &NodeId, late: bool, duties: &mut Vec<Duty>) {
    let committed = state.contribution(&round.contribution_id(node)).is_some();
    if round.member_index(node).is_none() || committed {
        return;
    }
    let (model, round, is_ready) = (round.model, round.index, round.base.is_some());
    duties.push(Duty::Train { model, round, late });
    if is_ready {
        duties.push(Duty::Commit { model, round, late });
    }
}

/// Rounds for which were trained the deltas that the node has yet to reveal in this one.
fn submissions<'a>(
    state: &'a State<'_>,
    round: &'a Round,
    node: &'a NodeId,
) -> impl Iterator<Item = u32> + 'a {
    contributions(state, round)
        .into_iter()
        .filter_map(|(_, contribution)| contribution)
        .filter(|c| c.author == *node && c.manifest.is_none())
        .map(|c| c.round)
}

/// Deltas of the node that reviewers may replay now.
fn shows(state: &State<'_>, round: &Round, node: &NodeId, duties: &mut Vec<Duty>) {
    let own = |c: &Contribution| c.author == *node && round.phase == Phase::Reviewing;
    for (_, contribution) in submitted(state, round).into_iter().filter(|(_, c)| own(c)) {
        let Some(manifest) = &contribution.manifest else { continue };
        if Replayed::hindrance(manifest, &manifest.fingerprint).is_none() {
            let (model, trained) = (round.model, contribution.round);
            duties.push(Duty::Show { model, round: trained, contribution: contribution.id() });
        }
    }
}

fn reviews(state: &State<'_>, round: &Round, node: &NodeId, duties: &mut Vec<Duty>) {
    for (_, contribution) in submitted(state, round) {
        let id = contribution.id();
        let Some(seat) = contribution.panel.iter().find(|s| s.node == *node) else { continue };
        if round.phase == Phase::Reviewing && seat.commitment.is_none() {
            duties.push(Duty::Review { model: round.model, round: round.index, contribution: id });
        } else if round.phase == Phase::Revealing
            && seat.commitment.is_some()
            && seat.review.is_none()
        {
            duties.push(Duty::Reveal { contribution: id });
        }
    }
}

/// Whether the delta that a member trained for the round was merged into a certified head: the
/// round's own, or the next one's if it came late.
pub fn was_merged(state: &State<'_>, round: &Round, author: &NodeId) -> bool {
    state.contribution(&round.contribution_id(author)).is_some_and(|contribution| {
        contribution.verdict == Some(Verdict::Accept)
            && state
                .round(&round.model, contribution.merged_in)
                .is_some_and(|home| home.phase == Phase::Certified)
    })
}
