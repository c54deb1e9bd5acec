//! `blobs`: transfers of real nodes, under what goes wrong on the way.
//!
//! `kill` kills the node that fetches, `small` moves very many small files, `full-disk` takes its
//! space away, `gc` collects garbage meanwhile. Each prints a table, or one JSON object, and
//! succeeds only if every aim stated for it is met. How fast transfers are is `bench blobs`.
//!
//! Deliberately absent: providers that lie or stall; the tests of the daemon have them.

pub(crate) mod api;
pub(crate) mod files;
mod full_disk;
mod gc;
mod kill;
pub(crate) mod site;
mod small;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::crash::namespace;
use crate::network::stop_asked;
use crate::workspace::Workspace;

/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Largest blob of these commands in MiB: some copies of it must fit on a disk.
pub(crate) const SIZE_MIB_MAX: u64 = 16 << 10;

/// What goes wrong.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Kill the node that fetches, again and again: nothing verified is fetched a second time.
    Kill(KillOptions),
    /// Add, fetch and export very many small files as one collection.
    Small(SmallOptions),
    /// Take the space away from the node that fetches, and give it back. Needs the right to mount.
    FullDisk(FullDiskOptions),
    /// Collect garbage while a blob is fetched.
    Gc(GcOptions),
}

/// Kills.
#[derive(Clone, Debug, Args)]
pub struct KillOptions {
    /// How many fetches are killed.
    #[arg(long, default_value_t = 20)]
    pub kills: u64,
    /// Size of the blob in MiB.
    #[arg(long, default_value_t = 1_024)]
    pub size_mib: u64,
    /// Seed of the moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Small files.
#[derive(Clone, Debug, Args)]
pub struct SmallOptions {
    /// How many files.
    #[arg(long, default_value_t = 10_000)]
    pub files: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 10_240)]
    pub file_bytes: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Space.
#[derive(Clone, Debug, Args)]
pub struct FullDiskOptions {
    /// Size of the blob in MiB; half of it finds room.
    #[arg(long, default_value_t = 256)]
    pub size_mib: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Garbage.
#[derive(Clone, Debug, Args)]
pub struct GcOptions {
    /// Size of the blob in MiB.
    #[arg(long, default_value_t = 1_024)]
    pub size_mib: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The command.
pub fn run(workspace: &Workspace, command: &Command) -> Result<ExitCode> {
    command.validate()?;
    if matches!(command, Command::FullDisk(_)) && !namespace::is_inside() {
        match namespace::enter()? {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            code = command.run(workspace) => code,
            // Dropping the network kills its processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })
}

impl Command {
    fn validate(&self) -> Result<()> {
        let size = |mib: u64, least: u64| {
            ensure!(
                (least..=SIZE_MIB_MAX).contains(&mib),
                "--size-mib must be {least} to {SIZE_MIB_MAX}, not {mib}"
            );
            Ok(())
        };
        match self {
            Self::Kill(options) => {
                ensure!((1..=1_000).contains(&options.kills), "--kills must be 1 to 1,000");
                size(options.size_mib, 64)
            }
            Self::Small(options) => {
                ensure!((1..=100_000).contains(&options.files), "--files must be 1 to 100,000");
                let fits = (1..=1 << 20).contains(&options.file_bytes);
                ensure!(fits, "--file-bytes must be 1 to {}", 1 << 20);
                Ok(())
            }
            // Less than a batch twice over would fit into what is in flight.
            Self::FullDisk(options) => size(options.size_mib, 128),
            Self::Gc(options) => size(options.size_mib, 64),
        }
    }

    async fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        match self {
            Self::Kill(options) => {
                let report = kill::run(workspace, options).await?;
                conclude(options.json, &report, report.missed(), || report.print())
            }
            Self::Small(options) => {
                let report = small::run(workspace, options).await?;
                conclude(options.json, &report, report.missed(), || report.print())
            }
            Self::FullDisk(options) => {
                let report = full_disk::run(workspace, options).await?;
                conclude(options.json, &report, report.missed(), || report.print())
            }
            Self::Gc(options) => {
                let report = gc::run(workspace, options).await?;
                conclude(options.json, &report, report.missed(), || report.print())
            }
        }
    }
}

/// Prints the figures, then the aims that were missed.
pub(crate) fn conclude(
    json: bool,
    figures: &impl Serialize,
    missed: Vec<String>,
    table: impl FnOnce(),
) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(figures)?);
    } else {
        table();
        if missed.is_empty() {
            println!("every aim stated for this command is met");
        }
    }
    for aim in &missed {
        eprintln!("aim missed: {aim}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the figures of a short form, which is too small for any aim.
pub(crate) fn show_unjudged(
    json: bool,
    figures: &impl Serialize,
    table: impl FnOnce(),
) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(figures)?);
    } else {
        table();
        println!("the short form is too small for the aims: none was judged");
    }
    Ok(ExitCode::SUCCESS)
}

/// A size for people.
pub(crate) fn shown_mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}
