//! One token out of its logits.

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use crate::arithmetic::{count, ratio};
use crate::error::JobError;

/// The next token. Temperature 0 takes the likeliest, of equal ones the first.
pub fn choose(
    logits: &[f32],
    temperature_ppm: u32,
    top_p_ppm: u32,
    stream: &mut ChaCha20Rng,
) -> Result<u32, JobError> {
    if logits.is_empty() || !logits.iter().all(|logit| logit.is_finite()) {
        return Err(JobError::Diverged("the model's output is not finite"));
    }
    let best = logits
        .iter()
        .enumerate()
        .max_by(|(i, x), (j, y)| x.total_cmp(y).then(j.cmp(i)))
        .map_or(0, |(index, _)| index);
    if temperature_ppm == 0 {
        return Ok(symbol(best));
    }
    let (top, scale) = (f64::from(logits[best]), ratio(temperature_ppm));
    let mut weights: Vec<f64> =
        logits.iter().map(|logit| ((f64::from(*logit) - top) / scale).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= sum;
    }
    let kept = nucleus(&weights, ratio(top_p_ppm));
    let mass: f64 = kept.iter().map(|index| weights[*index]).sum();
    // Uniform in [0, 1) from 32 bits, then the first token whose cumulated weight exceeds it.
    let mut left = f64::from(stream.next_u32()) / 4_294_967_296.0 * mass;
    let mut chosen = best;
    for index in kept {
        if weights[index] > 0.0 {
            chosen = index;
            if left < weights[index] {
                break;
            }
            left -= weights[index];
        }
    }
    Ok(symbol(chosen))
}

/// Indices of the likeliest tokens that together reach `mass` (Holtzman et al., arXiv
/// 1904.09751), the fewest that do, likeliest first; with all mass, every index in order.
pub fn nucleus(weights: &[f64], mass: f64) -> Vec<usize> {
    if mass >= 1.0 {
        return (0..weights.len()).collect();
    }
    // Tokens below this weigh less than 1 - mass all together, so none is needed.
    let floor = (1.0 - mass) / count(weights.len());
    let mut kept: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] >= floor).collect();
    kept.sort_by(|i, j| weights[*j].total_cmp(&weights[*i]).then(i.cmp(j)));
    let mut sum = 0.0;
    let needed = kept.iter().position(|index| {
        sum += weights[*index];
        sum >= mass
    });
    kept.truncate(needed.map_or(kept.len(), |last| last + 1));
    kept
}

fn symbol(index: usize) -> u32 {
    u32::try_from(index).expect("an index into a vocabulary")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    use super::*;

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    proptest! {
        /// The nucleus by its definition: sorted, cut, nothing left out.
        #[test]
        fn the_nucleus_is_the_fewest_that_reach_the_mass(
            logits in prop::collection::vec(-6.0f32..6.0, 1..200),
            ppm in 1u32..1_000_000,
        ) {
            let (weights, mass) = (softmax(&logits), ratio(ppm));
            let kept = nucleus(&weights, mass);
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|i, j| weights[*j].total_cmp(&weights[*i]).then(i.cmp(j)));
            prop_assert_eq!(&kept[..], &order[..kept.len()]);
            let sum = |kept: &[usize]| kept.iter().map(|i| weights[*i]).sum::<f64>();
            prop_assert!(sum(&kept) >= mass - 1e-12);
            prop_assert!(sum(&kept[..kept.len() - 1]) < mass);
        }

        /// Whatever is drawn lies in the nucleus; the same seed draws the same.
        #[test]
        fn draws_stay_inside(
            logits in prop::collection::vec(-6.0f32..6.0, 1..60),
            ppm in 1u32..=1_000_000,
            seed in any::<[u8; 32]>(),
        ) {
            let draw = || choose(&logits, 1_000_000, ppm, &mut ChaCha20Rng::from_seed(seed));
            let token = draw().expect("finite");
            let kept = nucleus(&softmax(&logits), ratio(ppm));
            prop_assert!(kept.contains(&usize::try_from(token).expect("small")));
            prop_assert_eq!(draw().expect("finite"), token);
        }
    }

    #[test]
    fn frequencies_follow_the_weights() {
        let logits = [2.0f32.ln(), 0.0, 5.0f32.ln()];
        let mut stream = ChaCha20Rng::from_seed([1; 32]);
        let mut counts = [0u32; 3];
        for _ in 0..8_000 {
            let token = choose(&logits, 1_000_000, 1_000_000, &mut stream).expect("finite");
            counts[usize::try_from(token).expect("small")] += 1;
        }
        // 2000, 1000, 5000; five standard deviations are below 225.
        for (count, expected) in counts.into_iter().zip([2_000u32, 1_000, 5_000]) {
            assert!(count.abs_diff(expected) < 225, "{counts:?}");
        }
        assert_eq!(choose(&[1.0, 3.0, 3.0], 0, 1, &mut stream).expect("finite"), 1);
        assert!(choose(&[1.0, f32::NAN], 0, 1, &mut stream).is_err());
    }
}
