//! What each accepted delta weighs in a merge: whole, or discounted for being late or for what
//! nobody can replay (design 10), and bounded per account (design 7.4). Integers only; attestors and reviewers read the same.

use std::collections::BTreeMap;

use crate::amount::PPM;
use crate::ids::{AccountId, ContributionId};
use crate::ledger::entries::{Contribution, Round};
use crate::ledger::rounds::submitted;
use crate::ledger::state::State;
use crate::model::{DeltaManifest, RoundParameters};
use crate::review::Verdict;

/// Weight of a delta for itself, in ppm: what reviewers measure it with.
pub fn own_weight(round: &Round, contribution: &Contribution) -> u32 {
    let replayable = contribution.manifest.as_ref().is_none_or(DeltaManifest::is_replayable);
    weight(&round.parameters, replayable, contribution.is_late())
}

fn weight(parameters: &RoundParameters, replayable: bool, late: bool) -> u32 {
    let of_class = if replayable { WHOLE } else { parameters.unreplayable_ppm };
    if !late {
        return of_class;
    }
    let product = u64::from(of_class).saturating_mul(u64::from(parameters.late_ppm));
    u32::try_from(product.checked_div(PPM).unwrap_or(0)).unwrap_or(WHOLE)
}

/// A whole delta.
const WHOLE: u32 = 1_000_000;
const _: () = assert!(WHOLE as u64 == PPM);

/// The accepted deltas of a round in its order, each with its weight in ppm. The divisor of the
/// merge is their number n, so that one account's part of it is at most
/// max(1 / n, `weight_cap_ppm`).
pub fn merge_weights(state: &State<'_>, round: &Round) -> Vec<(ContributionId, u32)> {
    let mut accepted = submitted(state, round);
    accepted.retain(|(_, c)| c.verdict == Some(Verdict::Accept));
    let rows: Vec<(AccountId, u32)> =
        accepted.iter().map(|(m, c)| (m.account, own_weight(round, c))).collect();
    let weights = capped(&rows, round.parameters.weight_cap_ppm);
    accepted.iter().map(|(_, c)| c.id()).zip(weights).collect()
}

/// Scales the weights of every account whose sum is above its bound down to it.
fn capped(rows: &[(AccountId, u32)], cap_ppm: u32) -> Vec<u32> {
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    let bound = count.saturating_mul(u64::from(cap_ppm)).max(PPM);
    let mut sums: BTreeMap<AccountId, u64> = BTreeMap::new();
    for (account, weight) in rows {
        let sum = sums.entry(*account).or_default();
        *sum = sum.saturating_add(u64::from(*weight));
    }
    rows.iter()
        .map(|(account, weight)| {
            let sum = sums.get(account).copied().unwrap_or(0).max(bound);
            let scaled = u128::from(*weight).saturating_mul(u128::from(bound));
            let part = scaled.checked_div(u128::from(sum)).unwrap_or(0);
            u32::try_from(part).unwrap_or(WHOLE)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(tag: u8) -> AccountId {
        AccountId::from_bytes([tag; 32])
    }

    #[test]
    fn what_nobody_can_replay_weighs_less_than_what_all_can() {
        let parameters = RoundParameters {
            late_ppm: 400_000,
            unreplayable_ppm: 250_000,
            ..RoundParameters::default()
        };
        for (replayable, late, expect) in [
            (true, false, 1_000_000),
            (true, true, 400_000),
            (false, false, 250_000),
            (false, true, 100_000),
        ] {
            assert_eq!(weight(&parameters, replayable, late), expect);
        }
    }

    #[test]
    fn accounts_are_bounded_and_single_deltas_are_not() {
        let check = |rows: &[(u8, u32)], cap_ppm: u32, expect: &[u32]| {
            let rows: Vec<_> = rows.iter().map(|(tag, weight)| (account(*tag), *weight)).collect();
            assert_eq!(capped(&rows, cap_ppm), expect, "{rows:?} at {cap_ppm}");
        };
        check(&[], 250_000, &[]);
        check(&[(1, WHOLE)], 1, &[WHOLE]);
        check(&[(1, WHOLE), (2, WHOLE), (3, 500_000)], 1, &[WHOLE, WHOLE, 500_000]);
        // Three of four, bound to one of four, then to two of four.
        let three = [(1, WHOLE), (1, WHOLE), (1, WHOLE), (2, WHOLE)];
        check(&three, 250_000, &[333_333, 333_333, 333_333, WHOLE]);
        check(&three, 500_000, &[666_666, 666_666, 666_666, WHOLE]);
        // One in time and one late of the same account.
        check(&[(1, WHOLE), (1, 500_000), (2, WHOLE)], 1, &[666_666, 333_333, WHOLE]);
    }
}
