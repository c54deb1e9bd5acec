//! `bench faults`: what lost deltas and dying members cost.
//!
//! The members of `bench loss`, with DiLoCo and with SparseLoCo (k = 64), once undisturbed, once
//! with half of the deltas lost on their way, once with one member dying at a random moment of
//! every round and coming back for the next. A lost delta stays in its author's error feedback
//! where there is one; who dies loses what it trained in that round and nothing else.
//!
//! With `--network` instead real nodes are killed, see `network`.

mod network;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::bench::loss::{self, Plan};
use crate::blobs::conclude;
use crate::cells::Grid;
use crate::corpus;
use crate::network::stop_asked;
use crate::workspace::Workspace;

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Seeds of weights, windows and faults.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// A tiny model, two rounds, one seed: whether it runs, in seconds.
    #[arg(long)]
    pub short: bool,
    /// Folder of text [default: the sources of the crates that Ayni is built from].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Instead: kill real nodes of a network that trains.
    #[arg(long, conflicts_with_all = ["seeds", "short"])]
    pub network: bool,
    /// How many nodes are killed, one after the other.
    #[arg(long, default_value_t = 8, requires = "network")]
    pub kills: usize,
    /// Seed of texts, weights, victims and moments.
    #[arg(long, default_value_t = 1, requires = "network")]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the benchmark; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    ensure!((1..=100).contains(&options.seeds), "--seeds must be 1 to 100, not {}", options.seeds);
    ensure!((1..=1_000).contains(&options.kills), "--kills must be 1 to 1,000");
    options.data.as_deref().map_or(Ok(()), corpus::check_folder)?;
    if options.network {
        return on_network(workspace, options);
    }
    // The undisturbed cells are those of `bench loss`.
    let grid = Grid::open(workspace, if options.short { "loss-short" } else { "loss" }, false)?;
    let plan = Plan::new(options.seeds, loss::STEPS, false, options.short);
    let data = loss::texts(workspace, &grid, plan.workers, options.data.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(report::measure(&grid, &plan, &data))?;
    conclude(options.json, &report, report.missed(), || report.print())
}

fn on_network(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    // One thread: what watches must not compete with what is watched.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = network::measure(workspace, options) => report,
            // Dropping the network kills its processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })?;
    conclude(options.json, &report, report.missed(), || report.print())
}

#[cfg(test)]
mod tests {
    use crate::arguments::Arguments;

    #[test]
    fn kills_are_of_a_network_and_seeds_of_a_simulation() {
        let parses = |line: &str| {
            let words = ["ayni-testnet", "bench", "faults"].into_iter().chain(line.split(' '));
            Arguments::from_line(words.filter(|word| !word.is_empty()).map(Into::into)).is_ok()
        };
        for line in ["", "--seeds 2 --json", "--network", "--network --kills 9 --seed 2"] {
            assert!(parses(line), "{line}");
        }
        for line in ["--kills 9", "--seed 2", "--network --seeds 2", "--network --short"] {
            assert!(!parses(line), "{line}");
        }
    }
}
