//! `lab loss`: how well members learn together, and with how many bytes, by one way of telling
//! each other what they learned.
//!
//! One process stands for all members and steps them one after the other through the jobs that a
//! node's worker runs ([`crate::jobs`]): train, compress, merge, evaluate, with the same files and
//! the same arithmetic. A loss does not depend on the time that passes meanwhile. Bytes are counted
//! as a network would carry them: each member gives its payload to every other one.
//!
//! The baseline, data-parallel AdamW, averages the gradients of all members in every step; its
//! bytes are those of a ring all-reduce (Patarasuk and Yuan 2009): 2 (n - 1) / n values per
//! parameter and step, each way.
//!
//! All arms may begin at one head that was trained data-parallel for some steps
//! (`--warm-steps`), as DiLoCo's authors begin at a pretrained model (arXiv 2311.08105, section
//! 3); what that took is counted for none of them.

mod members;
mod parallel;
pub mod payload;
mod site;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use protocol::model::{Compression, RoundParameters};
use serde::Serialize;

use super::faults::Faults;
use crate::figures::{CommandError, Figures};
use site::Site;

/// Learning rate of the steps before the first round, in ppm, and over how many it rises.
const WARM_RATE_PPM: u32 = 2_000;
const WARM_RISE_STEPS: u32 = 40;
/// The rate rises over this part of the run's steps and then falls along a cosine, in every arm.
const WARMUP_PART: u32 = 20;
/// Outer learning rate and Nesterov momentum of DiLoCo (arXiv 2311.08105, section 3), in ppm.
const DILOCO_OUTER_PPM: (u32, u32) = (700_000, 900_000);

/// Outer learning rate and Nesterov momentum of SparseLoCo, in ppm. Of few values kept, each comes
/// from one member mostly, and merging divides by the number of members (design 7.4): twice the
/// rate and half of momentum give it back. In trials on one seed this was worth 0.12 nats per byte
/// over a rate of 1 without momentum; a momentum of 0.8 diverged.
const SPARSE_OUTER_PPM: (u32, u32) = (2_000_000, 500_000);

/// One cell: an arm, a seed, a learning rate.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How the members learn together.
    #[arg(long, value_enum)]
    pub arm: Arm,
    /// Folder with a folder of text for every member, `node-0` and so on, and `suite.txt`.
    #[arg(long)]
    pub data: PathBuf,
    /// Members.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Outer rounds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Inner steps of a member in a round.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub steps: u32,
    /// Data-parallel steps before the first round, the same in every arm.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub warm_steps: u32,
    /// Where this first head is kept, for other cells of the same seed and sizes.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
    /// Windows of a member in a step.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub batch: u32,
    /// Inner learning rate in ppm.
    #[arg(long, default_value_t = 2_000)]
    pub learning_rate_ppm: u32,
    /// Outer learning rate in ppm, if not the arm's own.
    #[arg(long)]
    pub outer_learning_rate_ppm: Option<u32>,
    /// Outer Nesterov momentum in ppm, if not the arm's own.
    #[arg(long)]
    pub outer_momentum_ppm: Option<u32>,
    /// Seed of weights, windows and faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Windows of the held-out suite on which every head is measured.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=4_096))]
    pub windows: u32,
    /// Shape of the byte-level GPT.
    #[command(flatten)]
    pub shape: Shape,
    /// What goes wrong.
    #[command(flatten)]
    pub faults: Faults,
}

/// Shape of the byte-level GPT.
#[derive(Args, Clone, Copy, Debug)]
pub struct Shape {
    /// Transformer blocks.
    #[arg(long, default_value_t = 3)]
    pub layers: u32,
    /// Residual width.
    #[arg(long, default_value_t = 160)]
    pub width: u32,
    /// Attention heads.
    #[arg(long, default_value_t = 4)]
    pub heads: u32,
    /// Context in bytes.
    #[arg(long, default_value_t = 128)]
    pub context: u32,
}

/// How members learn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// Gradients averaged in every step.
    Dp,
    /// Dense deltas and outer Nesterov momentum.
    Diloco,
    /// 64 of every 4,096 values, two bits each, with error feedback.
    Sparse64,
    /// 256 of every 4,096 values.
    Sparse256,
}

impl Arm {
    /// The round parameters of this arm.
    pub(super) fn parameters(self, options: &Options) -> RoundParameters {
        let run = options.rounds.saturating_mul(options.steps);
        let base = RoundParameters {
            inner_steps: options.steps,
            batch: options.batch,
            learning_rate_ppm: options.learning_rate_ppm,
            warmup_steps: run / WARMUP_PART,
            decay_steps: run,
            ..RoundParameters::default()
        };
        let mut own = self.own_parameters(base);
        if let Some(ppm) = options.outer_learning_rate_ppm {
            own.outer_learning_rate_ppm = ppm;
        }
        if let Some(ppm) = options.outer_momentum_ppm {
            own.outer_momentum_ppm = ppm;
        }
        own
    }

    fn own_parameters(self, base: RoundParameters) -> RoundParameters {
        match self {
            Self::Dp => base,
            Self::Diloco => {
                let (outer_learning_rate_ppm, outer_momentum_ppm) = DILOCO_OUTER_PPM;
                let compression = Compression::Dense;
                RoundParameters { compression, outer_learning_rate_ppm, outer_momentum_ppm, ..base }
            }
            Self::Sparse64 | Self::Sparse256 => {
                let (outer_learning_rate_ppm, outer_momentum_ppm) = SPARSE_OUTER_PPM;
                let keep_per_chunk = if self == Self::Sparse64 { 64 } else { 256 };
                RoundParameters {
                    keep_per_chunk,
                    outer_learning_rate_ppm,
                    outer_momentum_ppm,
                    ..base
                }
            }
        }
    }
}

/// What a cell gives.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The arm.
    pub arm: Arm,
    /// Its seed.
    pub seed: u64,
    /// Its inner learning rate in ppm.
    pub learning_rate_ppm: u32,
    /// Members.
    pub workers: u32,
    /// Inner steps of a round.
    pub steps: u32,
    /// Parameters of the model.
    pub parameters: u64,
    /// Bits of a payload over the parameters, the mean of all; none where none is sent.
    pub bits_per_parameter: Option<f64>,
    /// Bytes sent by one member, and as many received, had it been data-parallel in f32. In bf16
    /// it is half of that.
    pub ring_f32_bytes: u64,
    /// The heads in order, from the initial one on.
    pub curve: Vec<Point>,
    /// How long the cell took.
    pub seconds: f64,
}

/// A head, and what it took to come there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Held-out loss in nats per byte.
    pub loss: f64,
    /// Bytes of text that members trained on, all together.
    pub computed: u64,
    /// Of these, what is in a delta that was merged.
    pub integrated: u64,
    /// Of the rest, what is in a delta that was lost on its way,
    pub dropped: u64,
    /// and what members had in hand when they died.
    pub died: u64,
    /// Bytes that a member sent, the mean of all. They received as many.
    pub sent_bytes: f64,
}

/// Runs a cell.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let started = Instant::now();
    let mut site = Site::new(options, options.arm.parameters(options))?;
    parallel::warm(&mut site, options)?;
    let (curve, payload_bits) = match options.arm {
        Arm::Dp => (parallel::run(&mut site, options)?, None),
        _ => {
            let (curve, payload_bytes) = members::run(&mut site, options)?;
            (curve, Some(8.0 * payload_bytes))
        }
    };
    let parameters = site.spec.parameters();
    let steps = u64::from(options.rounds) * u64::from(options.steps);
    let outcome = Outcome {
        arm: options.arm,
        seed: options.seed,
        learning_rate_ppm: options.learning_rate_ppm,
        workers: options.workers,
        steps: options.steps,
        parameters,
        bits_per_parameter: payload_bits.map(|bits| bits / parameters as f64),
        ring_f32_bytes: ring_bytes(options.workers, parameters, 4) * steps,
        curve,
        seconds: started.elapsed().as_secs_f64(),
    };
    let json = serde_json::to_value(&outcome)
        .map_err(|error| CommandError::Failed(format!("the figures: {error}")))?;
    Ok(Figures { table: table(&outcome), json, missed: Vec::new() })
}

/// Bytes that one member sends in a ring all-reduce, and receives.
fn ring_bytes(members: u32, values: u64, value_bytes: u64) -> u64 {
    let members = u64::from(members);
    2 * (members - 1) * values * value_bytes / members
}

fn table(outcome: &Outcome) -> String {
    let mut rows = vec![
        ["round", "loss", "text trained on", "of it merged", "sent by a member"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(outcome.curve.iter().enumerate().map(|(round, point)| {
        vec![
            round.to_string(),
            format!("{:.4}", point.loss),
            format!("{} B", point.computed),
            format!("{} B", point.integrated),
            format!("{:.0} B", point.sent_bytes),
        ]
    }));
    let bits = outcome.bits_per_parameter.map_or("-".to_owned(), |bits| format!("{bits:.4}"));
    format!(
        "{}\n{} parameters, {bits} bits of a payload per parameter, {:.0} s",
        Figures::align(&rows),
        outcome.parameters,
        outcome.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_carries_each_value_almost_twice() {
        assert_eq!(ring_bytes(4, 1_000, 4), 6_000);
        assert_eq!(ring_bytes(1, 1_000, 4), 0);
    }
}
