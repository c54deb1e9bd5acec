//! Two bits per value: SparseLoCo's quantizer (arXiv 2508.15706; Covenant's settings).
//!
//! With m the mean and d the standard deviation of a tensor's kept values and s = 6d/4, a value x
//! falls into bin clamp(round((x - m)/s + 2), 0, 3); each bin is sent as the mean of its values,
//! rounded to bfloat16. Sums run in `f64` in index order.

use crate::arithmetic::{count, from_bfloat16, narrow, to_bfloat16};

use super::LEVELS;

/// The codebook of a tensor's kept values and the level of each. Unused levels are zero.
pub(super) fn quantize(kept: &[f32]) -> ([f32; LEVELS], Vec<u8>) {
    let total = count(kept.len().max(1));
    let mean = kept.iter().map(|x| f64::from(*x)).sum::<f64>() / total;
    let variance = kept
        .iter()
        .map(|x| {
            let off = f64::from(*x) - mean;
            off * off
        })
        .sum::<f64>()
        / total;
    let step = 6.0 * variance.sqrt() / 4.0;
    let codes: Vec<u8> = kept.iter().map(|x| bin(f64::from(*x) - mean, step)).collect();

    let mut sums = [0.0f64; LEVELS];
    let mut counts = [0usize; LEVELS];
    for (value, code) in kept.iter().zip(&codes) {
        sums[usize::from(*code)] += f64::from(*value);
        counts[usize::from(*code)] += 1;
    }
    let mut codebook = [0.0f32; LEVELS];
    for ((level, sum), used) in codebook.iter_mut().zip(sums).zip(counts) {
        if used > 0 {
            *level = from_bfloat16(to_bfloat16(narrow(sum / count(used))));
        }
    }
    (codebook, codes)
}

/// round(off/step + 2) clamped to 0..=3, as comparisons. Values that are all alike have step 0
/// and share one bin.
fn bin(off: f64, step: f64) -> u8 {
    if off < -1.5 * step {
        0
    } else if off < -0.5 * step {
        1
    } else if off < 0.5 * step || step == 0.0 {
        2
    } else {
        3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_and_their_means() {
        let (codebook, codes) = quantize(&[-4.0, -1.0, 0.0, 1.0, 4.0]);
        // Standard deviation 2.608, step 3.912: the borders are -5.87, -1.96 and 1.96.
        assert_eq!(codes, [1, 2, 2, 2, 3]);
        assert_eq!(codebook, [0.0, -4.0, 0.0, 4.0]);
        // 1 + 2^-9 lies between two bfloat16 numbers, nearer to 1.
        assert_eq!(quantize(&[1.001_953_1]).0, [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn degenerate_tensors() {
        assert_eq!(quantize(&[]), ([0.0; LEVELS], vec![]));
        assert_eq!(quantize(&[2.5, 2.5]), ([0.0, 0.0, 2.5, 0.0], vec![2, 2]));
        let (codebook, _) = quantize(&[f32::MAX, f32::MAX, -f32::MAX]);
        assert!(codebook.iter().all(|level| level.is_finite()));
    }
}
