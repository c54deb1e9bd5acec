//! Governance: proposals and ballots of the node's account, and how votes stand.

use std::sync::Arc;

use protocol::amount::{Credits, PPM};
use protocol::api::{
    ApiError, Ballot, BallotRequest, Needs, Proposal, ProposalDetail, ProposalQuery, Proposals,
    ProposalsQuery, ProposeRequest, Proposed, Tally, TransactionReceipt,
};
use protocol::ledger::entries;
use protocol::ledger::governance;
use protocol::ledger::state::View;
use protocol::limits;
use protocol::transaction::{GovernanceAction, Payload, ProposalId};

use super::NodeBackend;

impl NodeBackend {
    pub(super) async fn make_proposal(
        &self,
        request: ProposeRequest,
    ) -> Result<Proposed, ApiError> {
        let ProposeRequest { title, change } = request;
        let action = GovernanceAction::Propose { title: title.clone(), change: change.clone() };
        let receipt = self.transact(Payload::Governance(action)).await?;
        let author = self.node.account();
        let found = self.node.ledger.read(|view| {
            let recent = view.proposals(None, limits::PROPOSALS_ACTIVE_MAX);
            let is_it = |p: &&entries::Proposal| {
                p.author == author
                    && p.submitted_height == receipt.height
                    && p.title == title
                    && p.change == change
            };
            recent.iter().find(is_it).map(|p| p.id)
        });
        let proposal = found.ok_or_else(|| {
            ApiError::internal("the proposal is final, and yet not among the newest")
                .with_hint("`ayni gov ls --all` lists them")
        })?;
        Ok(Proposed { proposal, receipt })
    }

    pub(super) async fn cast_ballot(
        &self,
        request: BallotRequest,
    ) -> Result<TransactionReceipt, ApiError> {
        let BallotRequest { proposal, choice, conviction } = request;
        let action = GovernanceAction::Ballot { proposal, choice, conviction };
        self.transact(Payload::Governance(action)).await
    }

    pub(super) async fn list_proposals(&self, query: ProposalsQuery) -> Proposals {
        let ledger = Arc::clone(&self.node.ledger);
        ledger.run(move |ledger| ledger.read(|view| proposals(view, query))).await
    }

    pub(super) async fn show_proposal(
        &self,
        id: ProposalId,
        query: ProposalQuery,
    ) -> Result<ProposalDetail, ApiError> {
        let ledger = Arc::clone(&self.node.ledger);
        let found = ledger.run(move |ledger| ledger.read(|view| detail(view, id, query))).await;
        found.ok_or_else(|| {
            ApiError::not_found(format!("there is no proposal {id}"))
                .with_hint("`ayni gov ls --all` lists those that are kept")
        })
    }
}

fn proposals(view: &View<'_>, query: ProposalsQuery) -> Proposals {
    let limit = usize::try_from(query.limit()).unwrap_or(usize::MAX);
    let found = if query.all {
        view.proposals(query.before, limit)
    } else {
        let below = |id: &ProposalId| query.before.is_none_or(|before| *id < before);
        let active = view.agenda().active;
        let newest = active.into_iter().rev().filter(below).take(limit);
        newest.filter_map(|id| view.proposal(id)).collect()
    };
    let clock = view.clock();
    Proposals {
        height: clock.height,
        chain_time_ms: clock.time,
        proposals: found.into_iter().map(|proposal| show(view, proposal)).collect(),
    }
}

fn detail(view: &View<'_>, id: ProposalId, query: ProposalQuery) -> Option<ProposalDetail> {
    let proposal = show(view, view.proposal(id)?);
    let skip = usize::try_from(query.skip.unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = query.limit();
    let ballots = view.ballots(id, skip, limit);
    let next = skip.saturating_add(limit);
    let more = ballots.len() == limit && !view.ballots(id, next, 1).is_empty();
    Some(ProposalDetail {
        chain_time_ms: view.clock().time,
        proposal,
        ballots: ballots.iter().map(ballot).collect(),
        more,
    })
}

fn ballot(ballot: &entries::Ballot) -> Ballot {
    Ballot {
        account: ballot.account,
        choice: ballot.choice,
        conviction: ballot.conviction,
        stake_micro: ballot.stake,
        weight_micro: Credits::from_micro(ballot.weight),
    }
}

fn show(view: &View<'_>, proposal: entries::Proposal) -> Proposal {
    let is_emergency = proposal.change.is_emergency();
    let parameters = view.parameters();
    // Set when the vote was closed; until then it is what there is now.
    let stake = match proposal.stake_total {
        Credits::ZERO => governance::total_stake(view),
        closed => closed,
    };
    Proposal {
        id: proposal.id,
        author: proposal.author,
        title: proposal.title,
        change: proposal.change,
        status: proposal.status,
        deposit_micro: proposal.deposit,
        submitted_height: proposal.submitted_height,
        ends_ms: proposal.ends,
        ends_height: proposal.ends_height,
        is_emergency,
        tally: tally(&proposal.tally, stake, is_emergency),
        needs: Needs {
            quorum_ppm: parameters.quorum_ppm,
            threshold_ppm: if is_emergency { EMERGENCY_PPM } else { parameters.threshold_ppm },
            veto_ppm: parameters.veto_ppm,
        },
    }
}

/// An emergency needs more than two thirds, whatever the parameters say.
const EMERGENCY_PPM: u64 = 2 * PPM / 3;

fn tally(tally: &entries::Tally, stake: Credits, is_emergency: bool) -> Tally {
    let entries::Tally { yes, no, abstain, veto, turnout } = *tally;
    let ppm = |part: u64, whole: u128| {
        let share = (u128::from(part) * u128::from(PPM)).checked_div(whole).unwrap_or(0);
        u32::try_from(share).unwrap_or(u32::MAX)
    };
    let decided = u128::from(yes) + u128::from(no) + u128::from(veto);
    let all = decided + u128::from(abstain);
    Tally {
        yes_micro: Credits::from_micro(yes),
        no_micro: Credits::from_micro(no),
        abstain_micro: Credits::from_micro(abstain),
        veto_micro: Credits::from_micro(veto),
        turnout_micro: turnout,
        stake_micro: stake,
        turnout_ppm: ppm(turnout.micro(), u128::from(stake.micro())),
        yes_ppm: ppm(yes, if is_emergency { all } else { decided }),
        veto_ppm: ppm(veto, all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_they_are_compared_with() {
        let votes = entries::Tally {
            yes: 60,
            no: 20,
            abstain: 100,
            veto: 20,
            turnout: Credits::from_micro(200),
        };
        let shown = tally(&votes, Credits::from_micro(400), false);
        assert_eq!((shown.turnout_ppm, shown.yes_ppm, shown.veto_ppm), (500_000, 600_000, 100_000));
        assert_eq!(tally(&votes, Credits::from_micro(400), true).yes_ppm, 300_000);
        let none = tally(&entries::Tally::default(), Credits::ZERO, false);
        assert_eq!((none.turnout_ppm, none.yes_ppm, none.veto_ppm), (0, 0, 0));
    }
}
