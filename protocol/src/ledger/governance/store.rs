//! Entries of governance: reading them, writing them, and forgetting the old in small steps.

use crate::ids::AccountId;
use crate::ledger::entries::{AdoptedText, Agenda, Ballot, Proposal, Rules, StakeLock};
use crate::ledger::state::{State, key};
use crate::limits;
use crate::transaction::ProposalId;

/// Proposals by number.
pub(in crate::ledger) const PROPOSAL: &[u8] = b"gp/";
/// Ballots by proposal and account.
const BALLOT: &[u8] = b"gb/";
/// Locks by account.
const LOCK: &[u8] = b"gl/";
/// Which proposals there are.
const AGENDA: &[u8] = b"agenda";
/// The versions of the rules.
const RULES: &[u8] = b"rules";

fn proposal_key(id: ProposalId) -> Vec<u8> {
    key(PROPOSAL, &[&id.to_be_bytes()])
}

fn ballot_key(id: ProposalId, account: &AccountId) -> Vec<u8> {
    key(BALLOT, &[&id.to_be_bytes(), account.as_bytes()])
}

impl State<'_> {
    /// Which proposals there are.
    pub fn agenda(&self) -> Agenda {
        self.read(AGENDA).unwrap_or_default()
    }

    pub(super) fn put_agenda(&mut self, agenda: &Agenda) {
        self.write(AGENDA.to_vec(), agenda);
    }

    /// A proposal, if it was made and is still kept.
    pub fn proposal(&self, id: ProposalId) -> Option<Proposal> {
        self.read(&proposal_key(id))
    }

    pub(super) fn put_proposal(&mut self, proposal: &Proposal) {
        self.write(proposal_key(proposal.id), proposal);
    }

    /// Up to `limit` proposals, newest first, with numbers below `before` if it is given.
    pub fn proposals(&self, before: Option<ProposalId>, limit: usize) -> Vec<Proposal> {
        let agenda = self.agenda();
        let end = agenda.proposals.saturating_add(1);
        let end = before.map_or(end, |before| before.min(end));
        let first = agenda.forgotten.saturating_add(1);
        (first..end).rev().filter_map(|id| self.proposal(id)).take(limit).collect()
    }

    /// The ballot of an account on a proposal that is not over.
    pub fn ballot(&self, id: ProposalId, account: &AccountId) -> Option<Ballot> {
        self.read(&ballot_key(id, account))
    }

    pub(super) fn put_ballot(&mut self, ballot: &Ballot) {
        self.write(ballot_key(ballot.proposal, &ballot.account), ballot);
    }

    /// A page of the ballots on a proposal that is not over, in the order of their accounts. Both
    /// numbers are bounded by [`limits::BALLOTS_OFFSET_MAX`] and [`limits::BALLOTS_PAGE_MAX`].
    pub fn ballots(&self, id: ProposalId, offset: usize, limit: usize) -> Vec<Ballot> {
        let offset = offset.min(limits::BALLOTS_OFFSET_MAX);
        let limit = limit.min(limits::BALLOTS_PAGE_MAX);
        let mut found: Vec<Ballot> =
            self.entries(&key(BALLOT, &[&id.to_be_bytes()]), offset.saturating_add(limit));
        found.drain(..offset.min(found.len()));
        found
    }

    pub(super) fn stake_lock(&self, account: &AccountId) -> Option<StakeLock> {
        self.read(&key(LOCK, &[account.as_bytes()]))
    }

    pub(super) fn put_stake_lock(&mut self, account: &AccountId, lock: &StakeLock) {
        self.write(key(LOCK, &[account.as_bytes()]), lock);
    }

    /// The texts adopted last, oldest first.
    pub fn adopted_texts(&self) -> Vec<AdoptedText> {
        self.agenda().texts
    }

    /// The versions of the rules.
    pub fn rules(&self) -> Rules {
        self.read(RULES).expect("the genesis wrote the rules")
    }

    /// Stores the versions of the rules.
    pub fn put_rules(&mut self, rules: &Rules) {
        self.write(RULES.to_vec(), rules);
    }
}

/// Takes a proposal that is over off the agenda; its ballots go by and by.
pub(super) fn retire(state: &mut State<'_>, id: ProposalId) {
    let mut agenda = state.agenda();
    agenda.active.retain(|active| *active != id);
    agenda.emptying.push(id);
    state.put_agenda(&agenda);
}

/// Deletes some ballots of proposals that are over, and some proposals beyond those kept.
pub(super) fn sweep(state: &mut State<'_>) {
    let before = state.agenda();
    let mut agenda = before.clone();
    let mut left = limits::PROPOSALS_SWEPT_MAX;
    while let Some(id) = agenda.emptying.first().copied().filter(|_| left > 0) {
        let ballots = state.ballots(id, 0, left);
        for ballot in &ballots {
            state.remove(ballot_key(id, &ballot.account));
        }
        if ballots.len() < left {
            agenda.emptying.retain(|emptying| *emptying != id);
        }
        left = left.saturating_sub(ballots.len());
    }
    while left > 0 && agenda.proposals.saturating_sub(agenda.forgotten) > limits::PROPOSALS_KEPT_MAX
    {
        let oldest = agenda.forgotten.saturating_add(1);
        // An older one that is not over holds the others back until it is.
        if agenda.active.contains(&oldest) || agenda.emptying.contains(&oldest) {
            break;
        }
        state.remove(proposal_key(oldest));
        agenda.forgotten = oldest;
        left = left.saturating_sub(1);
    }
    if agenda != before {
        state.put_agenda(&agenda);
    }
}
