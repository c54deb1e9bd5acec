//! Who is in charge: the largest stakes, capped per owner.
//!
//! The cap is a part of what all the elected have at stake, before it is applied. It is no defence
//! against an owner who splits over several accounts (minimum stakes and the time that stake needs
//! to count make that dear); and it is measured *before* capping on purpose: measured on the
//! outcome, a few small stakes would push the large ones down to their own size, and whoever
//! registers many small ones would take the chain over. What the cap takes from some adds to the
//! weight of all others: with everything on one owner, `power_cap_ppm` of the stake in the hands of
//! strangers is half of the power. A network of few owners should set it to 1,000,000.

use std::collections::BTreeMap;

use crate::amount::{Credits, VotingPower};
use crate::consensus::{Validator, ValidatorSet, ValidatorSetError};
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::entries::staking::Candidate;
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::store::prefix as stored;
use crate::ledger::state::{State, prefix};
use crate::limits;

/// The set of candidates that are in the order of the index.
pub(in crate::ledger) fn choose(
    candidates: &[Candidate],
    parameters: &LedgerParameters,
) -> Result<ValidatorSet, ValidatorSetError> {
    let elected = candidates.iter().take(seats(parameters));
    let mut by_owner: BTreeMap<AccountId, u64> = BTreeMap::new();
    let mut total = 0_u64;
    for candidate in elected.clone() {
        let sum = by_owner.entry(candidate.account).or_default();
        *sum = sum.saturating_add(candidate.power);
        total = total.saturating_add(candidate.power);
    }
    let owners = u64::try_from(by_owner.len()).unwrap_or(u64::MAX).max(1);
    let equal = total.checked_div(owners).unwrap_or(0);
    let cap = Credits::from_micro(total).ppm(parameters.power_cap_ppm).micro().max(equal);
    let validators = elected
        .map(|candidate| {
            let sum = by_owner.get(&candidate.account).copied().unwrap_or(0);
            let power = Credits::from_micro(candidate.power);
            let capped = if sum > cap { power.scaled(cap, sum) } else { power };
            Validator { key: candidate.key, power: VotingPower::new(capped.micro()) }
        })
        .filter(|v| v.power.get() > 0)
        .collect();
    ValidatorSet::new(validators)
}

fn seats(parameters: &LedgerParameters) -> usize {
    let seats = usize::try_from(parameters.validators_active_max).unwrap_or(usize::MAX);
    seats.min(limits::VALIDATORS_MAX)
}

/// The validators that follow from the stakes as they are; none if that would be nobody, so that
/// those in charge stay. A block that changes no candidate costs nothing.
pub fn elect(state: &State<'_>) -> Option<ValidatorSet> {
    let changed =
        state.has_changes_under(stored::CANDIDATE) || state.has_changes_under(prefix::PARAMETERS);
    if !changed {
        return Some(state.validators_after());
    }
    let parameters = state.parameters();
    choose(&state.candidates(seats(&parameters)), &parameters).ok()
}

/// Lists every node again when a vote changed what a candidate needs.
pub(super) fn follow_parameters(state: &mut State<'_>) -> Result<(), Rejection> {
    if state.has_changes_under(prefix::PARAMETERS) {
        for node in state.nodes() {
            Stake::load(state, &node.keys.node.node_id())?.save(state)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    /// Candidates of (owner, power), in order.
    fn powers(candidates: &[(u8, u64)], cap_ppm: u64, seats: u64) -> Vec<u64> {
        let candidates: Vec<Candidate> = candidates
            .iter()
            .zip(1_u8..)
            .map(|(&(owner, power), seed)| Candidate {
                key: SecretKey::from_seed(&[seed; 32]).public(),
                account: AccountId::from_bytes([owner; 32]),
                power,
            })
            .collect();
        let parameters = LedgerParameters {
            power_cap_ppm: cap_ppm,
            validators_active_max: seats,
            ..LedgerParameters::default()
        };
        let set = choose(&candidates, &parameters).expect("a set");
        set.as_slice().iter().map(|v| v.power.get()).collect()
    }

    #[test]
    fn power_is_capped_per_owner() {
        assert_eq!(
            powers(&[(1, 500), (2, 300), (3, 100), (4, 100)], 300_000, 100),
            [300, 300, 100, 100]
        );
        // Two nodes of one owner share its cap in proportion.
        let split = [(1, 400), (1, 200), (2, 200), (3, 100), (4, 100)];
        assert_eq!(powers(&split, 300_000, 100), [200, 200, 100, 100, 100]);
        // An equal share where that is more.
        assert_eq!(powers(&[(1, 900), (2, 100)], 300_000, 100), [500, 100]);
        assert_eq!(powers(&[(1, 7)], 300_000, 100), [7]);
        // Those without a seat do not count.
        assert_eq!(powers(&[(1, 40), (2, 40), (3, 40), (4, 30)], 300_000, 3), [40, 40, 40]);
    }

    #[test]
    fn many_small_stakes_do_not_outweigh_a_large_one() {
        let mut candidates = vec![(1, 10_000)];
        candidates.extend((2..42).map(|owner| (owner, 1)));
        let powers = powers(&candidates, 300_000, 100);
        assert_eq!((powers[0], powers.iter().sum::<u64>()), (3_012, 3_052));
    }
}
