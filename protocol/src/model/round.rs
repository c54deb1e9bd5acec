//! How a training round is run.

use serde::{Deserialize, Serialize};

use super::{DocumentError, require};
use crate::amount::{Credits, PPM};
use crate::codec::{self, Canonical};
use crate::ids::ContentHash;
use crate::limits;

/// Inner steps of a whole run.
const STEPS_MAX: u32 = 100_000_000;

/// Header and codebooks of a delta: no model has a thousand tensors.
const DELTA_OVERHEAD_BYTES: u64 = 64 * 1024;

/// What takes the inner steps. Its state lives for one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InnerOptimizer {
    /// AdamW with decoupled decay (Loshchilov and Hutter, arXiv 1711.05101).
    #[default]
    AdamW,
    /// Muon for the matrices inside the blocks, AdamW for the rest (MuLoCo, arXiv 2505.23725).
    Muon,
}

/// How the inner steps compute. Weights and optimizer are f32 in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Everything in f32.
    #[default]
    F32,
    /// Matrix products in bfloat16.
    Bf16,
}

/// How deltas are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// SparseLoCo (arXiv 2508.15706): the largest of each chunk, two bits each.
    #[default]
    Sparse,
    /// DiLoCo (arXiv 2311.08105): every value as f32. The oracle for the others.
    Dense,
    /// For private data: values at positions drawn from the delta's seed, not chosen by size,
    /// two bits each. Positions are not sent.
    RandomK,
}

/// How the accepted deltas of a round become one. Every rule clips per tensor to the median norm
/// first (design 7.4); a robust one is used only where it is sound, see [`MergeRule::is_sound`],
/// and the mean takes its place elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeRule {
    /// The weighted mean.
    #[default]
    Mean,
    /// Per coordinate, the mean without the f largest and the f smallest (Yin et al. 2018).
    TrimmedMean {
        /// Share of faulty members that is tolerated, in ppm; f is that of n, rounded down.
        faulty_ppm: u32,
    },
    /// The mean of the `keep` deltas nearest to their n - f - 2 nearest neighbours (Blanchard et
    /// al. 2017); 1 is Krum.
    MultiKrum {
        /// See [`MergeRule::TrimmedMean`].
        faulty_ppm: u32,
        /// Deltas that are averaged.
        keep: u32,
    },
    /// The smoothed geometric median (RFA, Pillutla et al., arXiv 1912.13445) of means of
    /// buckets.
    GeometricMedian {
        /// See [`MergeRule::TrimmedMean`].
        faulty_ppm: u32,
        /// Deltas in a bucket (Karimireddy et al., arXiv 2006.09365); 1 for none.
        bucket: u32,
        /// Weiszfeld iterations.
        iterations: u32,
    },
    /// Centred clipping (Karimireddy et al., arXiv 2012.10333) of means of buckets around the
    /// last aggregate.
    CentredClip {
        /// See [`MergeRule::TrimmedMean`].
        faulty_ppm: u32,
        /// Deltas in a bucket; 1 for none.
        bucket: u32,
        /// Iterations.
        iterations: u32,
        /// Radius τ, ppm of the median norm of the deltas.
        radius_ppm: u32,
    },
}

/// Fewest deltas for a robust rule: below, every rule can be beaten by one or two (design 7.4).
pub const ROBUST_DELTAS_MIN: u32 = 10;

impl MergeRule {
    /// The share of faulty members that the rule tolerates, in ppm; none for the mean.
    pub const fn faulty_ppm(&self) -> Option<u32> {
        match *self {
            Self::Mean => None,
            Self::TrimmedMean { faulty_ppm }
            | Self::MultiKrum { faulty_ppm, .. }
            | Self::GeometricMedian { faulty_ppm, .. }
            | Self::CentredClip { faulty_ppm, .. } => Some(faulty_ppm),
        }
    }

    /// Faulty deltas tolerated among `deltas`.
    pub fn faulty(&self, deltas: u32) -> u32 {
        let faulty = u64::from(self.faulty_ppm().unwrap_or(0))
            .saturating_mul(u64::from(deltas))
            .checked_div(PPM)
            .unwrap_or(0);
        u32::try_from(faulty).unwrap_or(u32::MAX)
    }

    /// Whether the rule holds what it promises for so many deltas: at least
    /// [`ROBUST_DELTAS_MIN`], and more buckets than twice the faulty deltas (for Krum, n > 2f + 2).
    pub fn is_sound(&self, deltas: u32) -> bool {
        let bucket = match *self {
            Self::Mean => return true,
            Self::GeometricMedian { bucket, .. } | Self::CentredClip { bucket, .. } => bucket,
            Self::TrimmedMean { .. } | Self::MultiKrum { .. } => 1,
        };
        let twice = self.faulty(deltas).saturating_mul(2);
        let margin = if matches!(self, Self::MultiKrum { .. }) { 2 } else { 0 };
        let buckets = deltas.checked_div(bucket).unwrap_or(0);
        deltas >= ROBUST_DELTAS_MIN && buckets > twice.saturating_add(margin)
    }

    fn validate(&self) -> Result<(), DocumentError> {
        if let Some(faulty_ppm) = self.faulty_ppm() {
            require(faulty_ppm < 500_000, "merge.faulty_ppm", "below 500,000")?;
        }
        if let Self::MultiKrum { keep, .. } = *self {
            require((1..=100).contains(&keep), "merge.keep", "1 to 100")?;
        }
        if let Self::GeometricMedian { bucket, iterations, .. }
        | Self::CentredClip { bucket, iterations, .. } = *self
        {
            require((1..=10).contains(&bucket), "merge.bucket", "1 to 10")?;
            require((1..=100).contains(&iterations), "merge.iterations", "1 to 100")?;
        }
        if let Self::CentredClip { radius_ppm, .. } = *self {
            require(
                (1..=100_000_000).contains(&radius_ppm),
                "merge.radius_ppm",
                "1 to 100,000,000",
            )?;
        }
        Ok(())
    }
}

/// How a training round is run. Agreed when rounds are opened, hashed into every head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundParameters {
    /// Inner steps per member (H).
    pub inner_steps: u32,
    /// Windows, or records, per inner step.
    pub batch: u32,
    /// How many of them go through the model at once; gradients are accumulated. 0 for all.
    pub micro_batch: u32,
    /// The inner optimizer.
    pub optimizer: InnerOptimizer,
    /// How the inner steps compute.
    pub precision: Precision,
    /// Inner learning rate in ppm (2e-3 = 2,000).
    pub learning_rate_ppm: u32,
    /// Inner steps of the run over which the rate rises from zero; 0 for a tenth of each round.
    pub warmup_steps: u32,
    /// Inner steps of the run after which the rate has fallen to a tenth, along a cosine; 0 for
    /// a constant rate.
    pub decay_steps: u32,
    /// Inner decoupled weight decay in ppm.
    pub weight_decay_ppm: u32,
    /// Shards of published data given to each member.
    pub shards_per_member: u32,
    /// How deltas are sent.
    pub compression: Compression,
    /// Values kept of every chunk of 4,096 (k), if they are sent sparse.
    pub keep_per_chunk: u32,
    /// Error-feedback decay β in ppm.
    pub feedback_decay_ppm: u32,
    /// Parts of the model of which one is sent in each round, in turn; 1 sends all.
    pub fragments: u32,
    /// Outer learning rate α in ppm.
    pub outer_learning_rate_ppm: u32,
    /// Outer Nesterov momentum μ in ppm; 0 for none.
    pub outer_momentum_ppm: u32,
    /// How deltas are merged.
    pub merge: MergeRule,
    /// Largest weight of one account's deltas in a merge, ppm of all, or an equal share if that
    /// is more.
    pub weight_cap_ppm: u32,
    /// Weight of a delta that comes a round late, in ppm; 0 refuses it.
    pub late_ppm: u32,
    /// Whether members train the next round while one is reviewed and merged.
    pub overlap: bool,
    /// Fewest members that make a round.
    pub members_min: u32,
    /// With this many members joining closes at once; more are not admitted.
    pub members_max: u32,
    /// Bond on each delta, from the node's allowance; burned for a fault.
    pub bond: Credits,
    /// Evaluation windows per review.
    pub review_windows: u32,
    /// A delta may worsen the loss by this much (ppm of the base loss) and still be admitted.
    pub dead_zone_ppm: u32,
    /// A delta that surely worsens the loss by more than this (ppm) is a fault.
    pub fault_ppm: u32,
    /// Chance, in ppm, that a delta's panel replays a slice of its training. A replay costs each
    /// reviewer a state, twelve bytes for every parameter.
    pub replay_ppm: u32,
    /// Longest time for joining.
    pub join_ms: u32,
    /// Longest time for training and committing.
    pub train_ms: u32,
    /// Longest time for revealing deltas; with `overlap` also for committing to them once the
    /// round before is over.
    pub submit_ms: u32,
    /// Longest time for reviews to be committed.
    pub review_ms: u32,
    /// Longest time for reviews to be revealed.
    pub reveal_ms: u32,
    /// Longest time for attesting the new head.
    pub attest_ms: u32,
    /// A deadline is due only when this many blocks have passed too.
    pub deadline_blocks_min: u32,
}

impl Canonical for RoundParameters {
    const BYTES_MAX: usize = 512;
}

impl Default for RoundParameters {
    /// The probe of `training.md`: H=30, batch 16, AdamW 2e-3, k=256 of 4,096.
    fn default() -> Self {
        Self {
            inner_steps: 30,
            batch: 16,
            micro_batch: 0,
            optimizer: InnerOptimizer::AdamW,
            precision: Precision::F32,
            learning_rate_ppm: 2_000,
            warmup_steps: 0,
            decay_steps: 0,
            weight_decay_ppm: 10_000,
            shards_per_member: 8,
            compression: Compression::Sparse,
            keep_per_chunk: 256,
            feedback_decay_ppm: 950_000,
            fragments: 1,
            outer_learning_rate_ppm: 1_000_000,
            outer_momentum_ppm: 0,
            merge: MergeRule::Mean,
            weight_cap_ppm: 1_000_000,
            late_ppm: 500_000,
            overlap: false,
            members_min: 3,
            members_max: 4,
            bond: Credits::from_micro(5_000_000),
            review_windows: 128,
            dead_zone_ppm: 1_000,
            fault_ppm: 2_000,
            replay_ppm: 125_000,
            join_ms: 20_000,
            train_ms: 120_000,
            submit_ms: 20_000,
            review_ms: 90_000,
            reveal_ms: 20_000,
            attest_ms: 60_000,
            deadline_blocks_min: 3,
        }
    }
}

impl RoundParameters {
    /// Hash that heads carry.
    pub fn hash(&self) -> ContentHash {
        codec::hash(self)
    }

    /// Most bytes of a delta of a model with so many parameters: two bits for each value, above
    /// which positions are not worth sending, with a quarter more for codebooks and headers; of a
    /// dense one four bytes.
    pub fn delta_bytes_max(&self, parameters: u64) -> u64 {
        let values = match self.compression {
            Compression::Dense => parameters.saturating_mul(4),
            Compression::Sparse | Compression::RandomK => {
                parameters.saturating_mul(5).checked_div(16).unwrap_or(0)
            }
        };
        values.saturating_add(DELTA_OVERHEAD_BYTES).min(limits::DELTA_BYTES_MAX)
    }

    /// Checks every field against its range.
    pub fn validate(&self) -> Result<(), DocumentError> {
        let ppm = u32::try_from(PPM).unwrap_or(u32::MAX);
        require((1..=10_000).contains(&self.inner_steps), "inner_steps", "1 to 10,000")?;
        require((1..=1_024).contains(&self.batch), "batch", "1 to 1,024")?;
        require(self.micro_batch <= self.batch, "micro_batch", "at most batch")?;
        require(self.warmup_steps <= STEPS_MAX, "warmup_steps", "at most 100,000,000")?;
        require(
            self.decay_steps == 0 || (self.warmup_steps..=STEPS_MAX).contains(&self.decay_steps),
            "decay_steps",
            "0, or warmup_steps to 100,000,000",
        )?;
        require(
            (1..=ppm).contains(&self.learning_rate_ppm),
            "learning_rate_ppm",
            "1 to 1,000,000",
        )?;
        require(self.weight_decay_ppm <= ppm, "weight_decay_ppm", "at most 1,000,000")?;
        require((1..=256).contains(&self.shards_per_member), "shards_per_member", "1 to 256")?;
        require((1..=4_096).contains(&self.keep_per_chunk), "keep_per_chunk", "1 to 4,096")?;
        require(self.feedback_decay_ppm < ppm, "feedback_decay_ppm", "below 1,000,000")?;
        require(
            (1..=ppm.saturating_mul(2)).contains(&self.outer_learning_rate_ppm),
            "outer_learning_rate_ppm",
            "1 to 2,000,000",
        )?;
        require((1..=64).contains(&self.fragments), "fragments", "1 to 64")?;
        require(self.outer_momentum_ppm < ppm, "outer_momentum_ppm", "below 1,000,000")?;
        require((1..=ppm).contains(&self.weight_cap_ppm), "weight_cap_ppm", "1 to 1,000,000")?;
        require(self.late_ppm <= ppm, "late_ppm", "at most 1,000,000")?;
        self.merge.validate()?;
        require((1..=100).contains(&self.members_max), "members_max", "1 to 100")?;
        require(
            (1..=self.members_max).contains(&self.members_min),
            "members_min",
            "1 to members_max",
        )?;
        require((16..=4_096).contains(&self.review_windows), "review_windows", "16 to 4,096")?;
        require(self.dead_zone_ppm <= 100_000, "dead_zone_ppm", "at most 100,000")?;
        require(
            self.fault_ppm > self.dead_zone_ppm && self.fault_ppm <= ppm,
            "fault_ppm",
            "above dead_zone_ppm, at most 1,000,000",
        )?;
        require(self.replay_ppm <= ppm, "replay_ppm", "at most 1,000,000")?;
        for (field, value) in [
            ("join_ms", self.join_ms),
            ("train_ms", self.train_ms),
            ("submit_ms", self.submit_ms),
            ("review_ms", self.review_ms),
            ("reveal_ms", self.reveal_ms),
            ("attest_ms", self.attest_ms),
        ] {
            require((1_000..=86_400_000).contains(&value), field, "1 second to 1 day")?;
        }
        require(
            (1..=1_000).contains(&self.deadline_blocks_min),
            "deadline_blocks_min",
            "1 to 1,000",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_parameters_are_valid() {
        assert_eq!(RoundParameters::default().validate(), Ok(()));
    }

    #[test]
    fn robust_rules_need_enough_deltas() {
        let krum = MergeRule::MultiKrum { faulty_ppm: 400_000, keep: 1 };
        let clip = MergeRule::CentredClip {
            faulty_ppm: 200_000,
            bucket: 2,
            iterations: 3,
            radius_ppm: 1_000_000,
        };
        for (rule, deltas, expect) in [
            (MergeRule::Mean, 1, true),
            (clip, 9, false),
            (clip, 10, true),
            (clip, 25, true),
            (krum, 12, true),
            (krum, 10, false),
            (MergeRule::TrimmedMean { faulty_ppm: 499_999 }, 10, true),
        ] {
            assert_eq!(rule.is_sound(deltas), expect, "{rule:?} of {deltas}");
        }
        assert_eq!(clip.faulty(25), 5);
    }
}
