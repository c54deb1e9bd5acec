//! `bench ledger`: how fast transfers become final on a network of real validators.
//!
//! Three networks are run one after another, each from its genesis: one without transactions,
//! whose blocks follow one another as fast as the engine makes them (the floor that the
//! application stands on); one under a steady rate; one that is kept saturated. Transfers are
//! signed before the clock starts and sent to all nodes through their interfaces. Finality is
//! measured as a client sees it: from the moment before the request is sent to the moment at
//! which the same node tells of the block that holds the transfer. On the saturated chain it is
//! then measured whether a node that is behind catches up faster than that chain grew.
//!
//! **Invariant.** A figure is given only if every transfer sent became final, all nodes hold the
//! same state and the credits on it are conserved.

mod aims;
mod load;
mod measure;
mod replay;
mod report;
mod unit;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use protocol::config::Config;
use protocol::ledger::parameters::LedgerParameters;

use crate::network::accounts::Accounts;
use crate::network::{Plan, Validators, stop_asked};
use crate::workspace::Workspace;
use load::Shape;
use replay::CatchingUp;
use report::{Figures, Report};

/// Fewest validators: one fault is tolerated.
const VALIDATORS_MIN: usize = 4;
/// Most validators: each is a process on this machine.
const VALIDATORS_MAX: usize = 32;
/// Most signing accounts that a genesis file holds beside the validators.
const ACCOUNTS_MAX: usize = 4_096;
/// The target above which the base fee rises, at its largest: fees that grow during the run would
/// measure the fee market and not the ledger.
const BLOCK_BYTES_TARGET: u64 = 524_288;
/// Transfers signed for a second of saturation: more than any machine so far has taken.
const SATURATION_PER_S: usize = 10_000;

/// What is measured, and how long.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Validators, each a process.
    #[arg(long, default_value_t = 4)]
    pub validators: usize,
    /// Accounts that sign.
    #[arg(long, default_value_t = 2_048)]
    pub accounts: usize,
    /// Seconds measured in each of the three runs.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    /// Transfers a second in the steady run.
    #[arg(long, default_value_t = 1_000)]
    pub rate: u64,
    /// Transfers that wait for finality at one time in the saturated run.
    #[arg(long, default_value_t = 6_000)]
    pub window: usize,
    /// One JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Refuses what cannot be run.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            (VALIDATORS_MIN..=VALIDATORS_MAX).contains(&self.validators),
            "--validators must be {VALIDATORS_MIN} to {VALIDATORS_MAX}, not {}",
            self.validators
        );
        ensure!(
            (self.validators..=ACCOUNTS_MAX).contains(&self.accounts),
            "--accounts must be from the number of validators to {ACCOUNTS_MAX}, not {}",
            self.accounts
        );
        ensure!((3..=600).contains(&self.seconds), "--seconds must be 3 to 600");
        ensure!((1..=50_000).contains(&self.rate), "--rate must be 1 to 50,000 a second");
        ensure!((1..=60_000).contains(&self.window), "--window must be 1 to 60,000");
        Ok(())
    }
}

/// Runs the benchmark; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    options.validate()?;
    // One thread: the load generator must not compete with what it measures more than it must.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = measure_all(workspace, options) => report,
            // Dropping the networks kills their processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })?;
    let missed = aims::missed(&report);
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report::print(&report, &missed);
    }
    for aim in &missed {
        eprintln!("aim missed: {aim}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Blocks as a node makes them by itself: when there is something to put in.
fn on_demand(_: usize, _: &mut Config) {}

/// Blocks one after another, empty ones too.
fn unthrottled(_: usize, config: &mut Config) {
    config.chain.block_wait_ms = 1;
}

async fn measure_all(workspace: &Workspace, options: &Options) -> Result<Report> {
    let length = Duration::from_secs(options.seconds);
    // Before anything else runs here.
    let verification_us = unit::verification_us();
    let (empty, _) = run_one(workspace, options, unthrottled, Shape::Nothing, length, 0).await?;
    let sending_s = (length + load::WARM_UP).as_secs();
    let total = usize::try_from(options.rate * sending_s)?;
    let shape = Shape::Rate { per_s: options.rate };
    let (steady, _) = run_one(workspace, options, on_demand, shape, length, total).await?;
    let total = SATURATION_PER_S * usize::try_from(sending_s)?;
    let shape = Shape::Window { transfers: options.window };
    let (saturated, behind) = run_one(workspace, options, on_demand, shape, length, total).await?;
    let (replay, sync) = behind.context("the saturated run measures catching up")?;
    Ok(Report::new(options, verification_us, [empty, steady, saturated], replay, sync))
}

/// One network from its genesis to its end.
async fn run_one(
    workspace: &Workspace,
    options: &Options,
    configure: fn(usize, &mut Config),
    shape: Shape,
    length: Duration,
    transfers: usize,
) -> Result<(Figures, Option<(CatchingUp, CatchingUp)>)> {
    eprintln!("bench ledger: {}", shape.name());
    let plan = Plan {
        folder: workspace.target().join("bench").join("ledger"),
        name: "ayni-bench",
        validators: options.validators,
        signers: options.accounts,
        parameters: LedgerParameters {
            block_bytes_target: BLOCK_BYTES_TARGET,
            ..LedgerParameters::default()
        },
        configure,
    };
    let mut network = Validators::start(workspace, &plan).await?;
    let outcome = async {
        let accounts =
            Accounts::sign(&network.genesis, options.validators, options.accounts, transfers)?;
        let observed = load::run(&network, accounts, shape, length).await?;
        network.check_agreement().await?;
        let figures = measure::figures(&network, observed).await?;
        let behind = match shape {
            Shape::Window { .. } => Some(replay::measure(&mut network, figures.tx_per_s).await?),
            Shape::Nothing | Shape::Rate { .. } => None,
        };
        Ok((figures, behind))
    };
    let outcome: Result<_> = outcome.await;
    let stopped = network.stop().await;
    let figures = outcome?;
    stopped?;
    Ok(figures)
}
