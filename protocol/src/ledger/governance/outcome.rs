//! The outcome of a vote: a pure function of what was voted and the governed shares.

use crate::amount::{Credits, PPM};
use crate::consensus::is_quorum;
use crate::ledger::entries::Tally;
use crate::ledger::parameters::LedgerParameters;

/// How a vote ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Too little of the stake took part.
    NoQuorum,
    /// Enough of the votes were vetoes.
    Vetoed,
    /// Not enough yes.
    Rejected,
    /// Adopted.
    Passed,
}

impl Outcome {
    /// Whether the deposit is burned rather than returned.
    pub(super) const fn burns_deposit(self) -> bool {
        matches!(self, Self::NoQuorum | Self::Vetoed)
    }
}

/// Decides. The quorum and the veto are reached at their share, the threshold must be exceeded. An
/// emergency needs more than two thirds of all votes, abstentions counted.
pub(super) fn decide(
    tally: &Tally,
    stake_total: Credits,
    parameters: &LedgerParameters,
    is_emergency: bool,
) -> Outcome {
    let Tally { yes, no, abstain, veto, turnout } = *tally;
    let wide = |parts: &[u64]| parts.iter().fold(0_u128, |sum, p| sum.saturating_add((*p).into()));
    // part >= ppm of the whole, and part > ppm of the whole, exactly.
    let share = |part: u128, whole: u128, ppm: u64| {
        part.saturating_mul(u128::from(PPM)).cmp(&whole.saturating_mul(u128::from(ppm)))
    };
    let all = wide(&[yes, no, abstain, veto]);
    let present = wide(&[turnout.micro()]);
    if present == 0 || share(present, wide(&[stake_total.micro()]), parameters.quorum_ppm).is_lt() {
        return Outcome::NoQuorum;
    }
    if veto > 0 && share(veto.into(), all, parameters.veto_ppm).is_ge() {
        return Outcome::Vetoed;
    }
    let passes = if is_emergency {
        u64::try_from(all).is_ok_and(|all| is_quorum(yes, all))
    } else {
        share(yes.into(), wide(&[yes, no, veto]), parameters.threshold_ppm).is_gt()
    };
    if passes { Outcome::Passed } else { Outcome::Rejected }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Votes without conviction: yes, no, abstain, veto.
    fn check(votes: [u64; 4], total: u64, is_emergency: bool, expect: Outcome) {
        let [yes, no, abstain, veto] = votes;
        let turnout = Credits::from_micro(votes.iter().sum());
        let tally = Tally { yes, no, abstain, veto, turnout };
        let parameters = LedgerParameters::default();
        let got = decide(&tally, Credits::from_micro(total), &parameters, is_emergency);
        assert_eq!(got, expect, "{votes:?} of {total}");
    }

    #[test]
    fn exact_boundaries() {
        check([0, 0, 0, 0], 0, false, Outcome::NoQuorum);
        check([333, 0, 0, 0], 1_000, false, Outcome::NoQuorum);
        check([334, 0, 0, 0], 1_000, false, Outcome::Passed);
        check([1, 0, 333, 0], 1_000, false, Outcome::Passed);
        check([0, 0, 1_000, 0], 1_000, false, Outcome::Rejected);
        check([500, 500, 0, 0], 1_000, false, Outcome::Rejected);
        check([501, 499, 0, 0], 1_000, false, Outcome::Passed);
        check([667, 0, 0, 333], 1_000, false, Outcome::Passed);
        check([666, 0, 0, 334], 1_000, false, Outcome::Vetoed);
        check([0, 0, 666, 334], 1_000, false, Outcome::Vetoed);
        check([0, 0, 0, 333], 1_000, false, Outcome::NoQuorum);
        check([u64::MAX, 0, 0, 0], u64::MAX, false, Outcome::Passed);
    }

    #[test]
    fn an_emergency_needs_more_than_two_thirds() {
        check([600, 300, 0, 0], 900, true, Outcome::Rejected);
        check([601, 299, 0, 0], 900, true, Outcome::Passed);
        check([600, 0, 300, 0], 900, true, Outcome::Rejected);
        check([333, 0, 0, 0], 1_000, true, Outcome::NoQuorum);
    }

    #[test]
    fn conviction_moves_the_threshold_and_never_the_quorum() {
        let parameters = LedgerParameters::default();
        let tally =
            Tally { yes: 400, no: 300, turnout: Credits::from_micro(400), ..Tally::default() };
        let total = |micro| Credits::from_micro(micro);
        assert_eq!(decide(&tally, total(1_000), &parameters, false), Outcome::Passed);
        assert_eq!(decide(&tally, total(1_200), &parameters, false), Outcome::NoQuorum);
    }
}
