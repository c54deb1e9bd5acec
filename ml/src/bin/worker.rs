//! `ayni-worker`: a child of the daemon that trains, evaluates, merges and generates.
//!
//! Frames go over standard input and output (`protocol::worker`), tensors through files in the
//! job directory. It works on one job at a time and leaves when its input ends or nobody reads
//! its output; a job is cancelled by killing it.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context;
use ayni_ml::arithmetic::check_floats;
use ayni_ml::files::JobDirectory;
use ayni_ml::jobs::{Settings, Worker};
use clap::{Parser, ValueEnum};

/// Trains, evaluates, merges and generates for an Ayni node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory for the files of jobs.
    #[arg(long)]
    dir: PathBuf,
    /// Threads for arithmetic. Results of training depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How much to yield to other programs, 0 to 19.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=19))]
    nice: u8,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
}

/// Devices this program can use.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Device {
    /// The processor.
    Cpu,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
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
    check_floats()?;
    if let Err(errno) = rustix::process::nice(i32::from(arguments.nice)) {
        tracing::warn!(%errno, "could not lower the priority");
    }
    let Device::Cpu = arguments.device;
    let directory = JobDirectory::open(&arguments.dir).context("opening the job directory")?;
    let mut worker = Worker::new(directory, Settings { threads: arguments.threads });
    let mut input = std::io::stdin().lock();
    let mut output = BufWriter::new(File::from(frames));
    tracing::info!(threads = arguments.threads, "ready");
    worker.serve(&mut input, &mut output).context("speaking with the daemon")?;
    tracing::info!("input ended");
    Ok(())
}
