//! `bench blobs`: how fast a blob moves from one node to another, and from several at once.
//!
//! One file of random bytes goes over loopback from a process on the first core to a process on
//! the last: between two nodes of Ayni with their stores, between two iroh-blobs with theirs, and
//! as bare bytes over libp2p. The programs take turns, so that what else the machine does falls on
//! all of them, and are compared within the run. Then providers that may each give so many bytes a
//! second are asked alone, two and four at a time.
//!
//! **Invariant.** A figure is given only if the blob that was asked for is there, whole and under
//! its hash (bare libp2p has none). Ayni's is also durable by then; iroh-blobs syncs nothing.
//! Deliberately absent: real networks with delay and loss.

mod aims;
mod ours;
mod peers;
mod report;
mod scaling;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::blobs::{MIB, SIZE_MIB_MAX, conclude, files, site};
use crate::network::stop_asked;
use crate::workspace::Workspace;
use ours::Ours;
use peers::{Peer, Program};
use report::{Figures, Report, Sample};

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Runs of each program.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Size of the blob in MiB.
    #[arg(long, default_value_t = 1_024)]
    pub size_mib: u64,
    /// A quarter of the size and three runs at most: an impression in a minute.
    #[arg(long)]
    pub short: bool,
    /// Only several providers at once, without other programs.
    #[arg(long)]
    pub scaling_only: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn validate(mut self) -> Result<Self> {
        ensure!((1..=100).contains(&self.runs), "--runs must be 1 to 100, not {}", self.runs);
        ensure!(
            (64..=SIZE_MIB_MAX).contains(&self.size_mib),
            "--size-mib must be 64 to {SIZE_MIB_MAX}, not {}",
            self.size_mib
        );
        if self.short {
            self.runs = self.runs.min(3);
            self.size_mib = (self.size_mib / 4).max(64);
        }
        Ok(self)
    }
}

/// Where the two ends run. On a machine with one core they share it.
#[derive(Clone, Copy, Debug)]
struct Cores {
    provider: usize,
    client: usize,
}

/// Runs the benchmark; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let options = options.clone().validate()?;
    if !options.scaling_only {
        peers::build(workspace)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = measure(workspace, &options) => report,
            // Dropping what runs kills its processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })?;
    let missed = aims::missed(&report);
    conclude(options.json, &report, missed, || report::print(&report))
}

async fn measure(workspace: &Workspace, options: &Options) -> Result<Report> {
    let count = std::thread::available_parallelism()?.get();
    let cores = Cores { provider: 0, client: count - 1 };
    let programs =
        if options.scaling_only { Vec::new() } else { compare(workspace, options, cores).await? };
    let scaling = scaling::measure(workspace, options).await?;
    Ok(Report::new(options, count, programs, scaling))
}

/// All programs in turn, on the same file.
async fn compare(workspace: &Workspace, options: &Options, cores: Cores) -> Result<Vec<Figures>> {
    eprintln!("bench blobs: {} MiB, {} runs of each program", options.size_mib, options.runs);
    let mut ours = Ours::start(workspace, cores).await?;
    let compared = in_turn(workspace, options, cores, &mut ours).await;
    let stopped = ours.stop().await;
    let figures = compared?;
    stopped?;
    Ok(figures)
}

async fn in_turn(
    workspace: &Workspace,
    options: &Options,
    cores: Cores,
    ours: &mut Ours,
) -> Result<Vec<Figures>> {
    let bytes = options.size_mib * MIB;
    let file = ours.folder().join("blob.bin");
    files::random_file(&file, bytes, 1)?;
    ours.provide(&file).await?;
    let mut peers = Vec::new();
    for program in Program::ALL {
        let peer = Peer::provide(workspace, program, cores, ours.folder(), &file).await;
        peers.push(peer.with_context(|| format!("{} provides", program.name()))?);
    }
    let mut taken: Vec<Vec<Sample>> = vec![Vec::new(); 1 + peers.len()];
    for run in 1..=options.runs {
        site::settle_disk();
        taken[0].push(ours.fetch(bytes).await.context("ayni")?);
        for (peer, taken) in peers.iter_mut().zip(&mut taken[1..]) {
            site::settle_disk();
            taken.push(peer.fetch(bytes).await.with_context(|| peer.name())?);
        }
        let speeds = taken.iter().filter_map(|samples| samples.last());
        let speeds: Vec<_> = speeds.map(|s| format!("{:.0}", s.mib_per_s())).collect();
        eprintln!("  run {run} of {}: {} MiB/s", options.runs, speeds.join(", "));
    }
    let names = std::iter::once("ayni").chain(Program::ALL.map(Program::name));
    let figures = names.zip(&taken).map(|(name, samples)| Figures::of(name, samples));
    let figures = figures.collect::<Result<_>>()?;
    for peer in peers {
        peer.stop().await?;
    }
    Ok(figures)
}
