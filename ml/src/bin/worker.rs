//! `ayni-worker`: a child of the daemon that trains, evaluates, merges and generates; on its own,
//! `bench` measures it and `lab` runs experiments.
//!
//! Frames go over standard input and output (`protocol::worker`), tensors through files in the
//! job directory. It works on one job at a time and leaves when its input ends or nobody reads
//! its output; a job is cancelled by killing it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use ayni_ml::allocator::keep_freed;
use ayni_ml::arithmetic::check_floats;
use ayni_ml::bench::{self, Bench};
use ayni_ml::files::JobDirectory;
use ayni_ml::jobs::{DeviceChoice, Settings, Worker};
use ayni_ml::lab::{self, Lab};
use ayni_ml::memory::Memory;
use ayni_ml::sandbox::confine;
use clap::{Parser, Subcommand};

/// Trains, evaluates, merges and generates for an Ayni node. Without a command it serves the
/// daemon that started it.
#[derive(Debug, Parser)]
#[command(version, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Directory for the files of jobs.
    #[arg(long, required = true)]
    dir: Option<PathBuf>,
    /// Threads for arithmetic. Results of training depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How much to yield to other programs, 0 to 19.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=19))]
    nice: u8,
    /// Where to compute: auto, cpu or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
enum Command {
    /// Measures this program beside others.
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    /// Runs experiments without a network.
    Lab {
        #[command(subcommand)]
        lab: Lab,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    check_floats()?;
    keep_freed();
    let figures = match &arguments.command {
        None => return serve(&arguments).map(|()| ExitCode::SUCCESS),
        Some(Command::Bench { bench }) => bench::run(bench)?,
        Some(Command::Lab { lab }) => lab::run(lab)?,
    };
    let text = if arguments.json { figures.json.to_string() } else { figures.table };
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("printing the figures")?;
    for aim in &figures.missed {
        eprintln!("missed: {aim}");
    }
    Ok(if figures.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    // First of all: whatever prints to standard output from now on, in any language, must not
    // get between the frames.
    let frames = rustix::io::dup(rustix::stdio::stdout()).context("keeping the frame pipe")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("redirecting prints")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    if let Err(errno) = rustix::process::nice(i32::from(arguments.nice)) {
        tracing::warn!(%errno, "could not lower the priority");
    }
    let directory = arguments.dir.as_deref().context("no job directory: give --dir")?;
    // Opened while files outside the job directory can be.
    let memory = Memory::open();
    // Before anything of a stranger is read, and before there is a second thread.
    let sandbox = confine(directory, arguments.device != DeviceChoice::Cpu);
    let directory = JobDirectory::open(directory).context("opening the job directory")?;
    let settings = Settings { threads: arguments.threads, device: arguments.device, sandbox };
    let mut worker = Worker::new(directory, memory, settings).context("setting up the worker")?;
    let mut input = std::io::stdin().lock();
    let mut output = BufWriter::new(File::from(frames));
    tracing::info!(threads = arguments.threads, "ready");
    worker.serve(&mut input, &mut output).context("speaking with the daemon")?;
    tracing::info!("input ended");
    Ok(())
}
