//! A proposal from its deposit to its outcome.

use crate::amount::Credits;
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::entries::{Clock, Failure, Proposal, ProposalStatus, Tally};
use crate::ledger::governance::outcome::{self, Outcome};
use crate::ledger::governance::{changes, store, weight};
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::Change;
use crate::transaction::governance::check_title;

/// Opens a vote and locks the deposit.
pub(super) fn propose(
    state: &mut State<'_>,
    author: &AccountId,
    title: &str,
    change: &Change,
) -> Result<(), Rejection> {
    check_title(title)?;
    let mut agenda = state.agenda();
    if agenda.active.len() >= limits::PROPOSALS_ACTIVE_MAX
        || agenda.emptying.len() >= limits::PROPOSALS_ACTIVE_MAX
    {
        return Err(Rejection::Full("proposals until some are over"));
    }
    let open = agenda.active.iter().filter_map(|id| state.proposal(*id));
    if open.filter(|p| p.author == *author).count() >= limits::PROPOSALS_PER_AUTHOR_MAX {
        return Err(Rejection::Full("proposals of one author until some are over"));
    }
    changes::check(state, change)?;
    let parameters = state.parameters();
    let deposit = Credits::from_micro(parameters.proposal_deposit_micro);
    state.debit(author, deposit)?;
    let voting_ms =
        if change.is_emergency() { parameters.emergency_voting_ms } else { parameters.voting_ms };
    let clock = state.clock();
    let id = agenda.proposals.checked_add(1).ok_or(Rejection::Overflow)?;
    let stake_total = weight::total_stake(state);
    agenda.proposals = id;
    agenda.active.push(id);
    state.put_agenda(&agenda);
    state.put_proposal(&Proposal {
        id,
        author: *author,
        title: title.to_owned(),
        change: change.clone(),
        deposit,
        submitted: clock.time,
        submitted_height: clock.height,
        ends: clock.time.plus(voting_ms),
        ends_height: clock.height.plus(parameters.voting_blocks_min),
        tally: Tally::default(),
        stake_total,
        status: ProposalStatus::Voting,
    });
    Ok(())
}

/// Whether a vote is over: its time has passed, and its blocks have.
pub(super) fn is_over(clock: &Clock, proposal: &Proposal) -> bool {
    clock.time >= proposal.ends && clock.height >= proposal.ends_height
}

/// Open votes, in the order of their numbers.
pub(super) fn voting(state: &State<'_>) -> Vec<Proposal> {
    let open = |p: &Proposal| p.status == ProposalStatus::Voting;
    state.agenda().active.iter().filter_map(|id| state.proposal(*id)).filter(open).collect()
}

/// Decides the votes that are over, and the fate of their deposits.
pub(super) fn close_due(state: &mut State<'_>) -> Result<(), Rejection> {
    let clock = state.clock();
    let mut due = voting(state);
    due.retain(|p| is_over(&clock, p));
    if due.is_empty() {
        return Ok(());
    }
    let (parameters, stake_total) = (state.parameters(), weight::total_stake(state));
    for mut proposal in due {
        let is_emergency = proposal.change.is_emergency();
        proposal.stake_total = proposal.stake_total.max(stake_total);
        let Proposal { tally, stake_total, .. } = &proposal;
        let outcome = outcome::decide(tally, *stake_total, &parameters, is_emergency);
        if outcome.burns_deposit() {
            state.burn(proposal.deposit)?;
        } else {
            state.credit(&proposal.author, proposal.deposit)?;
        }
        proposal.deposit = Credits::ZERO;
        let timelock_ms = if is_emergency { 0 } else { parameters.timelock_ms };
        proposal.status = match outcome {
            Outcome::NoQuorum => ProposalStatus::NoQuorum,
            Outcome::Vetoed => ProposalStatus::Vetoed,
            Outcome::Rejected => ProposalStatus::Rejected,
            Outcome::Passed => ProposalStatus::Passed { execute_at: clock.time.plus(timelock_ms) },
        };
        state.put_proposal(&proposal);
        if !proposal.status.is_active() {
            store::retire(state, proposal.id);
        }
    }
    Ok(())
}

/// Executes what is due, in the order of the numbers; what fails changes nothing but its status.
pub(super) fn execute_due(state: &mut State<'_>) {
    let clock = state.clock();
    let is_due = |p: &Proposal| match p.status {
        ProposalStatus::Passed { execute_at } => execute_at <= clock.time,
        _ => false,
    };
    let due: Vec<Proposal> = state
        .agenda()
        .active
        .iter()
        .filter_map(|id| state.proposal(*id))
        .filter(is_due)
        .take(limits::EXECUTIONS_PER_BLOCK_MAX)
        .collect();
    for Proposal { id, change, .. } in due {
        let mut child = state.child();
        let done = changes::check(&child, &change)
            .and_then(|()| changes::execute(&mut child, id, &change))
            .map(|()| child.into_changes());
        let status = match done {
            Ok(changes) => {
                state.absorb(changes);
                ProposalStatus::Executed { height: clock.height }
            }
            Err(refused) => ProposalStatus::Failed { reason: reason(&refused) },
        };
        // Read again: the change may have touched other proposals, and this one.
        if let Some(mut proposal) = state.proposal(id) {
            proposal.status = status;
            state.put_proposal(&proposal);
        }
        store::retire(state, id);
    }
}

const fn reason(refused: &Rejection) -> Failure {
    match refused {
        Rejection::Change(failure) => *failure,
        Rejection::Parameters(_) => Failure::Parameters,
        _ => Failure::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::{Height, PPM, TimestampMs};
    use crate::ids::ContentHash;
    use crate::keys::SecretKey;
    use crate::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
    use crate::ledger::governance::ballots;
    use crate::ledger::parameters::LedgerParameters;
    use crate::transaction::{Capabilities, Choice, NodeKeys};

    /// Nodes with these stakes in credits, each with an account of its own.
    fn genesis(stakes: &[u64]) -> Genesis {
        let mut seeds = 0..u8::MAX;
        let mut key = || SecretKey::from_seed(&[seeds.next().expect("few"); 32]).public();
        let node = |stake: &u64| GenesisNode {
            account: key(),
            keys: NodeKeys { node: key(), consensus: key(), vrf: key(), duty: key() },
            capabilities: Capabilities { validates: true, ..Capabilities::default() },
            stake: Credits::from_micro(*stake * PPM),
            allowance: Credits::ZERO,
        };
        let nodes: Vec<_> = stakes.iter().map(node).collect();
        let balance = Credits::from_micro(100 * PPM);
        Genesis {
            network: "test".to_owned(),
            time: TimestampMs::new(1),
            rules_version: RULES_VERSION,
            parameters: LedgerParameters::default(),
            accounts: nodes.iter().map(|n| GenesisAccount { key: n.account, balance }).collect(),
            nodes,
        }
    }

    #[test]
    fn stake_that_leaves_during_a_vote_does_not_make_the_quorum_smaller() {
        let check = |stakes: [u64; 2], left: u64, expect: ProposalStatus| {
            let genesis = genesis(&stakes);
            let (memory, _) = genesis.build().expect("valid");
            let mut state = State::new(&memory);
            let author = genesis.nodes[0].account.account_id();
            let text = Change::Text { content: ContentHash::default() };
            propose(&mut state, &author, "A text", &text).expect("taken");
            ballots::cast(&mut state, &author, 1, Choice::Yes, 0).expect("counted");
            let other = genesis.nodes[1].keys.node.node_id();
            let mut node = state.node(&other).expect("registered");
            node.stake = Credits::from_micro(left * PPM);
            state.put_node(&node);
            let ends = state.proposal(1).expect("open").ends;
            state.put_clock(&Clock { time: ends, height: Height::new(99), ..state.clock() });
            close_due(&mut state).expect("closes");
            assert_eq!(state.proposal(1).expect("closed").status, expect, "{stakes:?} {left}");
        };
        let passed = ProposalStatus::Passed { execute_at: TimestampMs::new(345_600_001) };
        check([300, 700], 300, ProposalStatus::NoQuorum);
        check([334, 666], 666, passed);
        // Stake that comes counts as well.
        check([334, 666], 700, ProposalStatus::NoQuorum);
    }
}
