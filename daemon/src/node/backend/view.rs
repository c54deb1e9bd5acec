//! From the ledger's entries to what the interface shows.

use std::collections::BTreeMap;

use protocol::amount::{Credits, TimestampMs};
use protocol::api;
use protocol::codec;
use protocol::ids::{AccountId, ContributionId, ModelId};
use protocol::ledger::entries::{Contribution, Model, Phase, Round};
use protocol::ledger::rounds::{contributions as contributions_of, open_rounds_of, panel_quorum};
use protocol::ledger::state::View;
use protocol::review::Verdict;

use crate::node::Node;

/// Accounts, rounds and contributions shown at once.
const LIST_MAX: usize = 4_096;

fn sum(amounts: impl Iterator<Item = Credits>) -> Credits {
    amounts.fold(Credits::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(sum))
}

/// Bonds of members of open rounds.
fn bonds(view: &View<'_>) -> Vec<(AccountId, protocol::ids::NodeId, Credits)> {
    protocol::duties::open_rounds(view)
        .iter()
        .flat_map(|round| {
            let entries = round.members.iter().chain(&round.late);
            entries.map(|m| (m.account, m.node, m.bond)).collect::<Vec<_>>()
        })
        .collect()
}

pub(super) fn balance(view: &View<'_>, account: AccountId) -> api::Balance {
    let bonds = bonds(view);
    let nodes: Vec<_> = view
        .nodes()
        .into_iter()
        .filter(|node| node.account == account)
        .map(|node| {
            let id = node.keys.node.node_id();
            api::NodeBalance {
                node: id,
                allowance_micro: node.allowance,
                bonded_micro: sum(bonds.iter().filter(|(_, n, _)| *n == id).map(|b| b.2)),
            }
        })
        .collect();
    api::Balance {
        account,
        balance_micro: view.account(&account).balance,
        bonded_micro: sum(nodes.iter().map(|n| n.bonded_micro)),
        nodes,
    }
}

pub(super) fn accounts(view: &View<'_>) -> api::Accounts {
    let (nodes, bonds) = (view.nodes(), bonds(view));
    let accounts = view
        .accounts(LIST_MAX)
        .into_iter()
        .map(|(id, account)| {
            let own = || nodes.iter().filter(|n| n.account == id);
            let e = account.earned;
            api::AccountSummary {
                account: id,
                nodes: own().map(|n| n.keys.node.node_id()).collect(),
                balance_micro: account.balance,
                allowance_micro: sum(own().map(|n| n.allowance)),
                bonded_micro: sum(bonds.iter().filter(|b| b.0 == id).map(|b| b.2)),
                earned: api::Earned {
                    contributor_micro: e.contributor,
                    reviewer_micro: e.reviewer,
                    validator_micro: sum([e.validator, e.tips].into_iter()),
                    treasury_micro: Credits::ZERO,
                },
                bonds_burned_micro: account.forfeited,
            }
        })
        .collect();
    api::Accounts { accounts }
}

pub(super) fn model(node: &Node, model: Model) -> api::Model {
    let id = model.spec.id();
    let begun = node.ledger.read(|view| open_rounds_of(view, &id).len());
    let begun = u32::try_from(begun).unwrap_or(u32::MAX);
    let left = model.run.as_ref().map_or(0, |run| run.rounds_left);
    api::Model {
        id,
        parameters: model.spec.parameters(),
        head_id: model.head.id(),
        head_held: node.store.contains(&model.head.checkpoint),
        rounds_done: model.next_round.saturating_sub(1).saturating_sub(begun),
        rounds_open: left.saturating_add(begun),
        weight_ppm: model.weight_ppm,
        head: model.head,
        spec: model.spec,
    }
}

const fn phase(phase: Phase) -> api::RoundPhase {
    match phase {
        Phase::Joining | Phase::Assigning => api::RoundPhase::Join,
        Phase::Training => api::RoundPhase::Train,
        Phase::Submitting | Phase::Drawing => api::RoundPhase::Submit,
        Phase::Reviewing => api::RoundPhase::Review,
        Phase::Revealing => api::RoundPhase::Reveal,
        Phase::Attesting => api::RoundPhase::Attest,
        Phase::Certified => api::RoundPhase::Certified,
        Phase::Unchanged => api::RoundPhase::Failed,
    }
}

fn deadline(round: &Round) -> Option<TimestampMs> {
    let p = &round.parameters;
    // Without one it waits for the round before.
    round.base?;
    let limit = match round.phase {
        Phase::Joining => p.join_ms,
        Phase::Training => p.train_ms,
        Phase::Submitting => p.submit_ms,
        Phase::Reviewing => p.review_ms,
        Phase::Revealing => p.reveal_ms,
        Phase::Attesting => p.attest_ms,
        Phase::Assigning | Phase::Drawing | Phase::Certified | Phase::Unchanged => return None,
    };
    Some(round.phase_since.plus(u64::from(limit)))
}

fn show_round(view: &View<'_>, round: &Round) -> api::Round {
    let weight = view.model(&round.model).map_or(0, |m| m.weight_ppm);
    let emission = view.parameters().emission_per_round().ppm(u64::from(weight));
    let pot =
        if round.phase.is_over() { round.paid } else { sum([round.escrow, emission].into_iter()) };
    let deltas = contributions_of(view, round)
        .into_iter()
        .filter_map(|(_, c)| contribution(view, &c?.id()))
        .collect();
    api::Round {
        round: round.index,
        phase: phase(round.phase),
        deadline_ms: deadline(round),
        opened_height: round.phase_height,
        members: round.members.iter().map(|m| m.node).collect(),
        parent: round.parent.id(),
        head: round.head,
        certified_by_stake_ppm: round.certified_ppm,
        gain: round.phase.is_over().then_some(round.gain),
        deltas,
        pot_micro: pot,
        paid_micro: round.paid,
    }
}

pub(super) fn rounds(view: &View<'_>, model: &ModelId, from: u32, limit: u32) -> Vec<api::Round> {
    (from.max(1)..)
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map_while(|index| view.round(model, index))
        .map(|round| show_round(view, &round))
        .collect()
}

pub(super) fn contribution(view: &View<'_>, id: &ContributionId) -> Option<api::Contribution> {
    let found = view.contribution(id)?;
    let round = view.round(&found.model, found.merged_in)?;
    let account = view.node(&found.author)?.account;
    let parameters = view.model(&found.model)?.spec.parameters().max(1);
    Some(show_contribution(*id, found, &round, account, parameters))
}

fn show_contribution(
    id: ContributionId,
    found: Contribution,
    round: &Round,
    account: AccountId,
    parameters: u64,
) -> api::Contribution {
    let bytes = found.manifest.as_ref().map_or(0, |m| m.payload_bytes);
    let silent = found.manifest.is_none() && round.phase > Phase::Submitting;
    let burned = silent || matches!(found.verdict, Some(Verdict::Fault | Verdict::Unavailable));
    let seats = found.panel.len();
    api::Contribution {
        id,
        model: found.model,
        round: found.round,
        author: found.author,
        account,
        manifest: found.manifest.as_ref().map(codec::hash).unwrap_or_default(),
        payload_bytes: bytes,
        millibits_per_parameter: bytes.saturating_mul(8_000) / parameters,
        verdict: found.verdict,
        score_ppm: found.verdict.map(|_| found.score_ppm),
        quorum: u32::try_from(panel_quorum(seats)).unwrap_or(u32::MAX),
        reviews: found
            .panel
            .iter()
            .map(|seat| api::PanelReview {
                reviewer: seat.node,
                committed: seat.commitment.is_some(),
                verdict: seat.review.map(|r| r.verdict),
                gain: seat.review.map(|r| r.gain),
                paid_micro: seat.paid,
            })
            .collect(),
        bond_micro: round.parameters.bond,
        bond_burned: burned,
        paid_micro: found.paid,
    }
}

pub(super) fn contributions(
    view: &View<'_>,
    only: Option<ModelId>,
    limit: usize,
) -> Vec<api::Contribution> {
    let mut found = Vec::new();
    for model in view.models() {
        let id = model.spec.id();
        if only.is_some_and(|only| only != id) {
            continue;
        }
        let mut rounds = view.rounds(&id, LIST_MAX);
        rounds.reverse();
        for round in rounds {
            for (_, delta) in contributions_of(view, &round) {
                found.extend(delta.and_then(|delta| contribution(view, &delta.id())));
                if found.len() >= limit {
                    return found;
                }
            }
        }
    }
    found
}

/// Deltas of a node that were merged into certified heads, of the rounds that are listed.
pub(super) fn deltas_merged(view: &View<'_>, node: &protocol::ids::NodeId) -> u64 {
    let rounds = view.models().into_iter().flat_map(|m| view.rounds(&m.spec.id(), LIST_MAX));
    let merged = rounds.filter(|round| protocol::duties::was_merged(view, round, node)).count();
    u64::try_from(merged).unwrap_or(u64::MAX)
}

/// What changed in the rounds since the last look. `known` holds the phases of those that were
/// not over then, and of the newest.
pub fn round_events(
    node: &Node,
    known: &mut BTreeMap<(ModelId, u32), api::RoundPhase>,
) -> Vec<api::NodeEvent> {
    let mut events = Vec::new();
    node.ledger.read(|view| {
        for model in view.models() {
            let id = model.spec.id();
            let first = known.range((id, 0)..=(id, u32::MAX)).next().map_or(1, |(key, _)| key.1);
            for round in (first..model.next_round).filter_map(|index| view.round(&id, index)) {
                let (index, now) = (round.index, phase(round.phase));
                if known.insert((id, index), now) == Some(now) {
                    continue;
                }
                events.push(api::NodeEvent::Round { model: id, round: index, phase: now });
                if let Some(head) = round.head {
                    events.push(api::NodeEvent::Head {
                        model: id,
                        round: index,
                        head,
                        certified_by_stake_ppm: round.certified_ppm,
                    });
                }
            }
            let newest = model.next_round.saturating_sub(1);
            known
                .retain(|(of, index), phase| *of != id || *index == newest || !phase.is_finished());
        }
    });
    events
}
