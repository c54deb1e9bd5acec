//! `crash`: four real validators, killed with SIGKILL again and again while blocks flow; or, with
//! `--store`, a process that only writes the stores ([`crate::crash_store`]); or, with
//! `--full-disk`, one of the validators runs out of space.
//!
//! Everything that a node says is written down while it lives: every block, every transaction that
//! it accepted or called final. After each kill the dead node's own block log must hold what it
//! said, before any peer can give it back; it is started again and must catch up. Every signature
//! is collected from the guards, the proposal logs and the certificates of all nodes: no validator
//! may have signed two values for one (height, round, step), nor anything that its guard had not
//! written down first. At the end all nodes must agree, and all of this is held against their
//! block logs once more, read offline.
//!
//! **Invariant.** Where and when is drawn from the seed; a run ends with success only if every aim
//! is met. Deliberately absent: lost writes of a power cut (the kernel keeps what was written;
//! `sim` and the tests of `storage` lose it), and Byzantine nodes (`sim` has them).

mod check;
mod clients;
mod full_disk;
pub(crate) mod namespace;
mod report;
mod signatures;
mod storm;
mod strike;
mod told;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::task::LocalSet;

use crate::crash_store;
use crate::network::stop_asked;
use crate::workspace::Workspace;
use full_disk::FullDisk;
use report::Report;
use storm::Storm;

/// Failures told in words; the figures count all of them.
const FAILURES_SHOWN: usize = 20;
/// Most kills of one run: some hours.
const KILLS_MAX: u64 = 10_000;

/// What is killed, and how often.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How many processes of a network of validators are killed.
    #[arg(long, default_value_t = 200, conflicts_with = "store")]
    pub kills: u64,
    /// Instead of the network: how often a process is killed that only writes the stores.
    #[arg(long, value_name = "KILLS")]
    pub store: Option<u64>,
    /// Instead of killing: fill the disk of one validator, again and again. Needs the right to mount.
    #[arg(long, conflicts_with_all = ["store", "kills"])]
    pub full_disk: bool,
    /// Seed of victims and moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if let Some(kills) = options.store {
        return crash_store::run(kills, options.seed, options.json);
    }
    ensure!(
        (1..=KILLS_MAX).contains(&options.kills),
        "--kills must be 1 to {KILLS_MAX}, not {}",
        options.kills
    );
    if options.full_disk {
        if !namespace::is_inside() {
            match namespace::enter()? {}
        }
        let mut fillings = Vec::new();
        let network = on_network(workspace, options, async |storm| {
            fillings = full_disk::run(storm, options.seed).await?;
            Ok(())
        })?;
        let found = FullDisk { fillings, network };
        let missed = found.missed();
        show(options, &found, || found.print(missed.is_empty()))?;
        return Ok(conclude(&found.network.failures, &missed));
    }
    let report =
        on_network(workspace, options, async |storm| storm.kill_many(options.kills).await)?;
    let missed = report.missed();
    show(options, &report, || report.print("crash", missed.is_empty()))?;
    Ok(conclude(&report.failures, &missed))
}

fn show(options: &Options, figures: &impl Serialize, table: impl FnOnce()) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string(figures)?);
    } else {
        table();
    }
    Ok(())
}

fn conclude(failures: &[String], missed: &[String]) -> ExitCode {
    for failure in failures.iter().take(FAILURES_SHOWN) {
        eprintln!("failed: {failure}");
    }
    for aim in missed {
        eprintln!("aim missed: {aim}");
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A network with clients, what is done to it, and the judgement; on one thread: the nodes are what
/// needs the cores.
fn on_network(
    workspace: &Workspace,
    options: &Options,
    work: impl AsyncFnOnce(&mut Storm) -> Result<()>,
) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut storm = tokio::select! {
            storm = Storm::begin(workspace, options) => storm?,
            // Dropping the network kills its processes.
            _ = stop_asked() => bail!("interrupted"),
        };
        let whole = async {
            work(&mut storm).await?;
            storm.settle().await
        };
        let outcome = tokio::select! {
            outcome = whole => Some(outcome),
            _ = stop_asked() => None,
        };
        let Some(outcome) = outcome else {
            eprintln!("crash: interrupted; stopping the nodes");
            storm.stop().await?;
            bail!("interrupted");
        };
        let stopped = storm.stop().await;
        let homes = storm.folder();
        let described = || format!("seed {}; homes and logs are in {}", options.seed, homes);
        outcome.with_context(described)?;
        stopped.with_context(described)?;
        storm.judge().with_context(described)
    })
}
