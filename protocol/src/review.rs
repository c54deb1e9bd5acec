//! Judging a delta: from paired losses to a verdict, in integers.
//!
//! Reviewers measure the loss of the head and of the head with one delta at admission strength on
//! the same windows, so differences are paired and most of the noise cancels (design 8).

use serde::{Deserialize, Serialize};

use crate::amount::PPM;
use crate::codec::Canonical;
use crate::model::RoundParameters;

/// What a reviewer says of a contribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Merge it; the reviewer pins it until the round is final.
    Accept,
    /// Do not merge it; the bond goes back.
    Decline,
    /// It breaks the rules or does harm; the bond is burned.
    Fault,
    /// It could not be fetched.
    Unavailable,
}

/// A measured improvement: positive is better. All in ppm of the base loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gain {
    /// Mean over the windows.
    pub mean_ppm: i64,
    /// Standard error of the mean.
    pub error_ppm: u64,
}

impl Gain {
    /// Two standard errors below the mean: about 97.7 % one-sided confidence.
    pub const fn lower_ppm(&self) -> i64 {
        self.mean_ppm.saturating_sub_unsigned(self.error_ppm.saturating_mul(2))
    }

    /// Two standard errors above the mean.
    pub const fn upper_ppm(&self) -> i64 {
        self.mean_ppm.saturating_add_unsigned(self.error_ppm.saturating_mul(2))
    }
}

/// A review: the verdict and the measurement behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The verdict.
    pub verdict: Verdict,
    /// The measured gain; zero when nothing could be measured.
    pub gain: Gain,
}

impl Canonical for Review {
    const BYTES_MAX: usize = 64;
}

/// The paired gain of `variant` over `base`, losses in nano-nats per byte and window.
/// `None` when the rows differ in length, are empty, or the base loss is zero.
pub fn gain(base: &[u64], variant: &[u64]) -> Option<Gain> {
    let count = i128::try_from(base.len()).ok().filter(|n| *n > 0)?;
    if base.len() != variant.len() {
        return None;
    }
    let differences: Vec<i128> = base
        .iter()
        .zip(variant)
        .map(|(b, v)| i128::from(*b).saturating_sub(i128::from(*v)))
        .collect();
    let total: i128 = differences.iter().fold(0, |sum, d| sum.saturating_add(*d));
    let base_total: i128 = base.iter().fold(0, |sum, b| sum.saturating_add(i128::from(*b)));
    if base_total == 0 {
        return None;
    }
    let ppm = i128::from(PPM);
    let mean_ppm = total.saturating_mul(ppm).checked_div(base_total)?;
    // Standard error: sqrt(Σ(d - mean)² / (n (n-1))), with n·d - Σd to stay in integers.
    let squares: u128 = differences.iter().fold(0, |sum, d| {
        let deviation = d.saturating_mul(count).saturating_sub(total).unsigned_abs();
        // Bounded: losses are below 2^40 in practice; saturation only widens the error.
        sum.saturating_add(deviation.saturating_mul(deviation))
    });
    let n = count.unsigned_abs();
    let divisor = n.saturating_mul(n).saturating_mul(n).saturating_mul(n.saturating_sub(1).max(1));
    let error = squares.checked_div(divisor)?.isqrt();
    let base_mean = base_total.unsigned_abs().checked_div(n)?.max(1);
    let error_ppm = error.saturating_mul(ppm.unsigned_abs()).checked_div(base_mean)?;
    Some(Gain {
        mean_ppm: i64::try_from(mean_ppm).unwrap_or(if mean_ppm < 0 { i64::MIN } else { i64::MAX }),
        error_ppm: u64::try_from(error_ppm).unwrap_or(u64::MAX),
    })
}

/// Admission of a delta whose gain was measured (design 8): accepted when the lower bound is
/// above minus the dead zone, a fault when even the upper bound is below minus the fault
/// threshold, declined between.
pub fn judge(gain: Gain, parameters: &RoundParameters) -> Review {
    let harm = |ppm: u32| 0_i64.saturating_sub(i64::from(ppm));
    let verdict = if gain.lower_ppm() > harm(parameters.dead_zone_ppm) {
        Verdict::Accept
    } else if gain.upper_ppm() < harm(parameters.fault_ppm) {
        Verdict::Fault
    } else {
        Verdict::Decline
    };
    Review { verdict, gain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paired_gain_by_hand() {
        // Differences 10, 20, 30 on a base of 1000 each: mean 20 = 20,000 ppm;
        // deviations -10, 0, 10: variance of the mean 200/(3*2) = 33.3, error 5 (floor).
        let measured = gain(&[1_000; 3], &[990, 980, 970]).expect("well formed");
        assert_eq!(measured, Gain { mean_ppm: 20_000, error_ppm: 5_000 });
        assert_eq!(measured.lower_ppm(), 10_000);
        assert_eq!(gain(&[], &[]), None);
        assert_eq!(gain(&[1], &[1, 2]), None);
        assert_eq!(gain(&[0], &[1]), None);
    }

    #[test]
    fn verdicts() {
        let parameters = RoundParameters::default();
        let verdict =
            |mean_ppm, error_ppm| judge(Gain { mean_ppm, error_ppm }, &parameters).verdict;
        assert_eq!(verdict(500, 100), Verdict::Accept);
        assert_eq!(verdict(0, 400), Verdict::Accept);
        assert_eq!(verdict(0, 600), Verdict::Decline);
        assert_eq!(verdict(-20_000, 1_000), Verdict::Fault);
        assert_eq!(verdict(-20_000, 10_000), Verdict::Decline);
    }
}
