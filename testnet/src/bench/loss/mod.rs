//! `bench loss`: how well members learn together, and with how many bytes.
//!
//! The same model on the same text, as many tokens for everybody: AdamW data-parallel, DiLoCo,
//! SparseLoCo with 64 and with 256 of every 4,096 values. Every cell is a process of
//! `ayni-worker lab loss`, which steps all members one after the other. Each arm's inner learning
//! rate is the best of three on the first seed; the other seeds run with it alone.
//!
//! All begin at one head that was trained data-parallel for eight rounds' steps, as DiLoCo's authors
//! begin at a pretrained model; its bytes and tokens are counted for nobody.
//!
//! Toy scale: about a million parameters, bytes as tokens, thirty inner steps a round. Nothing
//! here says anything about larger models. Deliberately absent: time; that is `bench training`.

mod grid;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use crate::blobs::conclude;
use crate::cells::Grid;
use crate::corpus;
use crate::workspace::Workspace;
pub(crate) use grid::{Arm, Plan, RATE_PPM, STEPS, texts};
#[cfg(test)]
pub(crate) use report::Point;
pub(crate) use report::Run;

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Seeds of weights and windows; the first one is tuned on.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Inner steps of a member in a round.
    #[arg(long, default_value_t = STEPS)]
    pub steps: u32,
    /// Eight members instead of four.
    #[arg(long)]
    pub full: bool,
    /// A tiny model, two rounds, one seed: whether it runs, in seconds. The aims are not judged.
    #[arg(long, conflicts_with = "full")]
    pub short: bool,
    /// Folder of text [default: the sources of the crates that Ayni is built from].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Throw away the cells that an earlier run has done.
    #[arg(long)]
    pub fresh: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn validate(&self) -> Result<()> {
        ensure!((1..=100).contains(&self.seeds), "--seeds must be 1 to 100, not {}", self.seeds);
        ensure!(
            (1..=1_000).contains(&self.steps),
            "--steps must be 1 to 1,000, not {}",
            self.steps
        );
        self.data.as_deref().map_or(Ok(()), corpus::check_folder)
    }
}

/// Runs the benchmark; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    options.validate()?;
    let name = if options.short { "loss-short" } else { "loss" };
    let cells = Grid::open(workspace, name, options.fresh)?;
    let plan = Plan::new(options.seeds, options.steps, options.full, options.short);
    let data = texts(workspace, &cells, plan.workers, options.data.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(report::measure(&cells, &plan, &data))?;
    if options.short {
        return crate::blobs::show_unjudged(options.json, &report, || report.print());
    }
    conclude(options.json, &report, report.missed(), || report.print())
}
