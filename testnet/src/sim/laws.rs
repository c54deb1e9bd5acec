//! What a block may change about validators and the rules' numbers, restated without the rules' own
//! code and checked on every decided block.

use protocol::amount::{Credits, PPM};
use protocol::codec;
use protocol::consensus::ValidatorSet;
use protocol::ledger::entries::staking::Pool;
use protocol::ledger::entries::{Proposal, ProposalStatus};
use protocol::ledger::parameters::LedgerParameters;
use protocol::ledger::staking::store::prefix as stake;
use protocol::ledger::state::{State, prefix};
use protocol::limits::EXECUTIONS_PER_BLOCK_MAX;
use protocol::store::StateChanges;
use protocol::transaction::Change;

use super::chain::Snapshot;
use super::checkers::Checker;
use super::faults::Counts;

/// What happened in one seed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    set_changes: u64,
    jailed: u64,
    unjailed: u64,
    passed: u64,
    not_passed: u64,
    parameter_changes: u64,
}

impl Seen {
    /// Adds this seed to the figures.
    pub(super) fn count(&self, counts: &mut Counts) {
        counts.set_changes += self.set_changes;
        counts.seeds_with_set_changes += u64::from(self.set_changes > 0);
        counts.jailed += self.jailed;
        counts.unjailed += self.unjailed;
        counts.passed += self.passed;
        counts.not_passed += self.not_passed;
        counts.parameter_changes += self.parameter_changes;
        counts.seeds_with_parameter_changes += u64::from(self.parameter_changes > 0);
    }
}

/// Compares the states around a decided block.
pub(super) fn check(
    before: &Snapshot,
    after: &Snapshot,
    changes: &StateChanges,
    seen: &mut Seen,
    wrong: &mut Vec<(Checker, String)>,
) {
    let height = after.height;
    for text in votes(before, after, seen) {
        wrong.push((Checker::Governance, format!("block {height}: {text}")));
    }
    for text in sets(before, after, changes, seen) {
        wrong.push((Checker::Election, format!("block {height}: {text}")));
    }
}

/// How a vote must end by what was cast, by the numbers in force before its last block.
fn passes(proposal: &Proposal, numbers: &LedgerParameters) -> bool {
    let tally = &proposal.tally;
    let wide = |credits: Credits| u128::from(credits.micro());
    let (yes, no, veto) = (u128::from(tally.yes), u128::from(tally.no), u128::from(tally.veto));
    let all = yes + no + veto + u128::from(tally.abstain);
    let ppm = |of: u128, share: u64| of * u128::from(share);
    let has_quorum = tally.turnout > Credits::ZERO
        && wide(tally.turnout) * u128::from(PPM)
            >= ppm(wide(proposal.stake_total), numbers.quorum_ppm);
    let is_vetoed = veto > 0 && veto * u128::from(PPM) >= ppm(all, numbers.veto_ppm);
    let is_wanted = yes * u128::from(PPM) > ppm(yes + no + veto, numbers.threshold_ppm);
    has_quorum && !is_vetoed && is_wanted
}

fn votes(before: &Snapshot, after: &Snapshot, seen: &mut Seen) -> Vec<String> {
    let (old, new) = (before.state(), after.state());
    let mut numbers = old.parameters();
    let mut wrong = Vec::new();
    let active = old.agenda().active;
    let ends_here = |id: &u64| match new.proposal(*id).map(|proposal| proposal.status) {
        Some(ProposalStatus::Executed { height }) => height == after.height,
        Some(ProposalStatus::Failed { .. }) => true,
        _ => false,
    };
    // Others that are due wait for the next block.
    let is_full = active.iter().filter(|id| ends_here(id)).count() >= EXECUTIONS_PER_BLOCK_MAX;
    for id in active {
        let Some(was) = old.proposal(id) else { continue };
        let Some(is) = new.proposal(id) else {
            wrong.push(format!("proposal {id} is gone before its end"));
            continue;
        };
        wrong.extend(one_vote(&was, &is, &new, &old.parameters(), seen).filter(|_| !is_full));
        if let (ProposalStatus::Executed { height }, Change::Parameters(values)) =
            (is.status, &was.change)
        {
            let values = values.iter().map(|(name, value)| (name.as_str(), *value));
            match numbers.with(values) {
                Ok(changed) if height == after.height => numbers = changed,
                _ => wrong.push(format!("proposal {id} cannot have been executed")),
            }
        }
    }
    let found = new.parameters();
    if found != numbers {
        wrong.push("the rules' numbers are not what was voted".to_owned());
    }
    seen.parameter_changes += u64::from(found != old.parameters());
    wrong
}

/// Follows one proposal over a block.
fn one_vote(
    was: &Proposal,
    is: &Proposal,
    new: &State<'_>,
    numbers: &LedgerParameters,
    seen: &mut Seen,
) -> Option<String> {
    let (id, clock) = (was.id, new.clock());
    let is_over = clock.time >= was.ends && clock.height >= was.ends_height;
    match (was.status, is.status) {
        (ProposalStatus::Voting, ProposalStatus::Voting) => {
            is_over.then(|| format!("the vote on proposal {id} does not end"))
        }
        (ProposalStatus::Voting, ended) => {
            let has_passed = passes(is, numbers);
            seen.passed += u64::from(has_passed);
            seen.not_passed += u64::from(!has_passed);
            let says_so = matches!(
                ended,
                ProposalStatus::Passed { .. }
                    | ProposalStatus::Executed { .. }
                    | ProposalStatus::Failed { .. }
            );
            (has_passed != says_so || !is_over)
                .then(|| format!("proposal {id} ended as {ended:?} with {:?}", is.tally))
        }
        (ProposalStatus::Passed { execute_at }, ProposalStatus::Passed { .. }) => {
            (clock.time >= execute_at).then(|| format!("proposal {id} is not executed"))
        }
        (ProposalStatus::Passed { execute_at }, _) => {
            (clock.time < execute_at).then(|| format!("proposal {id} is executed too early"))
        }
        (ended, _) => Some(format!("proposal {id} is on the agenda as {ended:?}")),
    }
}

fn pool(at: &Snapshot, key: &[u8]) -> Option<Pool> {
    Some(codec::decode(&at.entry(key)?).expect("a stored pool decodes"))
}

fn sets(
    before: &Snapshot,
    after: &Snapshot,
    changes: &StateChanges,
    seen: &mut Seen,
) -> Vec<String> {
    let is_other = changes.contains_key(prefix::VALIDATORS_AFTER)
        && before.entry(prefix::VALIDATORS_AFTER) != after.entry(prefix::VALIDATORS_AFTER);
    seen.set_changes += u64::from(is_other);
    let touched = changes.range(stake::POOL.to_vec()..);
    let touched = touched.map(|(key, _)| key).take_while(|key| key.starts_with(stake::POOL));
    let mut elected: Option<ValidatorSet> = None;
    let mut wrong = Vec::new();
    for key in touched {
        let Some(is) = pool(after, key) else { continue };
        let is_out = |pool: &Pool| pool.jailed_until.is_some() || pool.tombstone.is_some();
        let was_out = pool(before, key).is_some_and(|was| is_out(&was));
        let is_tombstoned = is.tombstone.is_some();
        seen.jailed += u64::from(!was_out && is_out(&is) && !is_tombstoned);
        seen.unjailed += u64::from(was_out && !is_out(&is));
        if !is_out(&is) || !is_other {
            continue;
        }
        let set = elected.get_or_insert_with(|| after.state().validators_after());
        let Ok(id) = <[u8; 32]>::try_from(&key[stake::POOL.len()..]) else { continue };
        let Some(node) = after.state().node_by_key(&id) else { continue };
        if set.get(&node.keys.consensus.validator_id()).is_some() {
            wrong.push(format!("{} has power though it is out", node.keys.node));
        }
    }
    wrong
}
