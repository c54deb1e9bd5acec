//! Local differential privacy of one member's change, if it asks for it: clip, noise, and only
//! then error feedback.
//!
//! The whole change Δ is cut to the norm C and every value gets Gaussian noise of standard
//! deviation zC. All that follows (feedback, positions, levels, sending) sees only that, so the
//! guarantee holds for the payload and for the feedback files alike. Two members' data, or one
//! member's before and after whatever replacement, give changes at most 2C apart: that is the
//! sensitivity counted here, twice that of adding or removing a record, because there is no
//! trusted collector. No amplification by sampling is claimed: whoever assigns the shards knows
//! who takes part.
//!
//! The accountant is Mironov's ("Rényi differential privacy", arXiv 1702.07476): a Gaussian
//! mechanism of sensitivity s and deviation σ is (α, α s²/(2σ²))-RDP (Corollary 3), rounds add up
//! (Proposition 1), and (α, ρ)-RDP is (ρ + ln(1/δ)/(α-1), δ)-DP (Proposition 3).
//!
//! Deliberately absent: noise that is exact to the last bit. Values are sums of floats, whose
//! lowest bits may tell something (Mironov, CCS 2012) where all values are sent as f32; at two
//! bits a value little of them is left.

use protocol::ids::{ContentHash, derive};
use protocol::model::Compression;
use protocol::worker::{PrivacyOutcome, PrivacyParameters};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::arithmetic::{narrow, ratio, to_ppm_up};
use crate::checkpoint::Checkpoint;
use crate::error::JobError;

/// Orders of the accountant.
const ORDERS: std::ops::RangeInclusive<u32> = 2..=256;
/// Largest ε that is called a guarantee: beyond, whoever knows all but one bit of the data can
/// tell that bit nearly always.
const USEFUL_EPSILON: f64 = 10.0;

/// Checks what was asked for.
pub fn check(privacy: &PrivacyParameters, compression: Compression) -> Result<(), JobError> {
    let bad = |what: &str| Err(JobError::Request(what.to_owned()));
    if compression == Compression::Sparse {
        return bad(
            "private data needs rounds that send all values or positions drawn by lot: the \
             largest of a noised change are mostly noise",
        );
    }
    if privacy.clip_norm_ppm == 0 || privacy.noise_multiplier_ppm == 0 {
        return bad("private data needs a clipping norm and a noise above zero");
    }
    if !(1..1_000_000_000).contains(&privacy.delta_ppb) {
        return bad("the delta of differential privacy lies between 0 and 1");
    }
    Ok(())
}

/// Clips the change and adds noise. `trained` is the hash of the trained weights: a round that is
/// trained again gives another change and must get other noise, or their difference would show
/// both bare.
pub fn protect(
    change: &mut Checkpoint,
    privacy: &PrivacyParameters,
    round: u32,
    trained: ContentHash,
) -> Result<(), JobError> {
    let clip = ratio(privacy.clip_norm_ppm);
    let norm = norm(change);
    if !norm.is_finite() {
        return Err(JobError::Diverged("the change is not finite"));
    }
    let scale = if norm > clip { clip / norm } else { 1.0 };
    let deviation = ratio(privacy.noise_multiplier_ppm) * clip;
    let parts: [&[u8]; 3] = [&privacy.noise_seed, &round.to_le_bytes(), trained.as_bytes()];
    let mut noise = Noise::new(derive("ayni 2026 privacy noise v1", &parts));
    for value in change.tensors.iter_mut().flat_map(|tensor| &mut tensor.values) {
        *value = narrow(scale * f64::from(*value) + deviation * noise.draw());
    }
    Ok(())
}

/// Euclidean norm of all values together.
fn norm(change: &Checkpoint) -> f64 {
    let values = change.tensors.iter().flat_map(|tensor| &tensor.values);
    values.fold(0.0, |sum, x| sum + f64::from(*x) * f64::from(*x)).sqrt()
}

/// What this round and those before it amount to.
pub fn outcome(privacy: &PrivacyParameters) -> PrivacyOutcome {
    let rounds = f64::from(privacy.rounds_before) + 1.0;
    let delta = f64::from(privacy.delta_ppb) / 1e9;
    let epsilon = epsilon(ratio(privacy.noise_multiplier_ppm), rounds, delta);
    PrivacyOutcome { epsilon_ppm: to_ppm_up(epsilon), useful: epsilon <= USEFUL_EPSILON }
}

/// ε of so many rounds at δ with noise of `multiplier` clipping norms.
pub fn epsilon(multiplier: f64, rounds: f64, delta: f64) -> f64 {
    let per_order = rounds * 2.0 / (multiplier * multiplier);
    ORDERS
        .map(f64::from)
        .map(|order| per_order * order - delta.ln() / (order - 1.0))
        .fold(f64::INFINITY, f64::min)
}

/// Standard normal numbers by Marsaglia's polar method.
struct Noise {
    stream: ChaCha20Rng,
    /// The second of a pair.
    spare: Option<f64>,
}

impl Noise {
    fn new(key: [u8; 32]) -> Self {
        Self { stream: ChaCha20Rng::from_seed(key), spare: None }
    }

    fn draw(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (self.uniform(), self.uniform());
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let scale = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(scale * y);
                return scale * x;
            }
        }
    }

    /// Between -1 and 1.
    fn uniform(&mut self) -> f64 {
        let bits = self.stream.next_u64();
        let high = u32::try_from(bits >> 32).expect("32 bits");
        let low = u32::try_from(bits & 0xffff_ffff).expect("32 bits");
        (f64::from(high) + f64::from(low) / 4_294_967_296.0) / 2_147_483_648.0 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::count;

    #[test]
    fn the_accountant_gives_closed_forms() {
        // With r = 2T/z² and L = ln(1/δ), ε(α) = rα + L/(α-1) is least at α = 1 + sqrt(L/r), where
        // it is r + 2 sqrt(rL). Where that order is whole the two agree: for r = L/100, α = 11,
        // ε = 0.01 L + 0.2 L.
        let l = 1e5f64.ln();
        for rounds in [1.0, 40.0] {
            let multiplier = (200.0 * rounds / l).sqrt();
            let epsilon = epsilon(multiplier, rounds, 1e-5);
            assert!((epsilon - 0.21 * l).abs() < 1e-9, "{epsilon}");
        }
        // σ = s (z = 2 as s = 2C), δ = 1e-5: α = 6 gives 6/2 + 11.5129/5 = 5.3026, as the
        // accountants of other libraries say for this conversion.
        assert!((epsilon(2.0, 1.0, 1e-5) - 5.302_585).abs() < 1e-6);
        // So much noise that the largest order wins: 256 r + L/255.
        let expect = 256.0 * 2.0 / 1e8 + l / 255.0;
        assert!((epsilon(1e4, 1.0, 1e-5) - expect).abs() < 1e-12);
    }

    #[test]
    fn what_is_useful() {
        let privacy = |noise_multiplier_ppm, rounds_before| {
            outcome(&PrivacyParameters {
                clip_norm_ppm: 1_000_000,
                noise_multiplier_ppm,
                delta_ppb: 10_000,
                rounds_before,
                noise_seed: [0; 32],
            })
        };
        let strong = privacy(2_000_000, 0);
        assert_eq!((strong.epsilon_ppm, strong.useful), (5_302_586, true));
        assert!(!privacy(2_000_000, 9).useful, "ten rounds are ten times the loss");
        assert!(privacy(20_000_000, 9).useful);
        let next = privacy(2_000_000, 1).epsilon_ppm;
        assert!(next > strong.epsilon_ppm && next < 2 * strong.epsilon_ppm);
        assert!(!privacy(1, u32::MAX).useful);
    }

    #[test]
    fn noise_is_normal() {
        let mut noise = Noise::new([7; 32]);
        let draws: Vec<f64> = (0..100_000).map(|_| noise.draw()).collect();
        let n = count(draws.len());
        let mean = draws.iter().sum::<f64>() / n;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / n;
        let within = |z: f64| count(draws.iter().filter(|x| x.abs() < z).count()) / n;
        // Standard errors: 0.003, 0.0045; 0.0015 of the shares.
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((within(1.0) - 0.6827).abs() < 0.008 && (within(2.0) - 0.9545).abs() < 0.004);
    }
}
