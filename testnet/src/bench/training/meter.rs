//! `ayni-testnet meter-worker`: a worker program that writes down when each of its jobs began and
//! ended, and the processor time that it took.
//!
//! It starts the real worker as its child and relays frames both ways, unchanged; what it notes
//! goes to a file (`record`). The production code knows nothing of it: to a daemon this
//! is a worker. Standard output belongs to the frames; nothing else is printed there.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use protocol::codec;
use protocol::worker::{WorkerReply, WorkerRequest};
use tokio::io::{stdin, stdout};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::signal::unix::{SignalKind, signal};

use super::record::{Event, Line, Task};
use crate::bench::process;
use crate::evil_worker::{exit_code, reading, spawn};
use crate::frames;

/// How the meter is started.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The real worker program.
    #[arg(long, value_name = "PROGRAM")]
    pub worker: PathBuf,
    /// File to which is written.
    #[arg(long, value_name = "FILE")]
    pub record: PathBuf,
    /// Job directory that the daemon and the worker share.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Further arguments of the real worker, which is always given `--dir`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// Relays until the daemon, the child or a signal ends it; exits as the child did.
pub fn run(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(relay(options))?;
    // The read of standard input that may still wait in its thread is not waited for.
    runtime.shutdown_background();
    Ok(exit_code(status))
}

/// The record, open to append.
struct Record {
    file: File,
    worker: u32,
    /// Whether a job is in progress.
    busy: bool,
}

impl Record {
    fn note(&mut self, event: Event) -> Result<()> {
        let at_ms = now_ms()?;
        let cpu_ms = u64::try_from(process::cpu(self.worker)?.as_millis())?;
        let mut line = serde_json::to_vec(&Line { at_ms, cpu_ms, event })?;
        line.push(b'\n');
        self.busy = !matches!(event, Event::Started | Event::Ended(_));
        // In one write: whoever kills this process leaves whole lines.
        self.file.write_all(&line).context("the record cannot be written")
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(u64::try_from(now.as_millis())?)
}

async fn relay(options: &Options) -> Result<ExitStatus> {
    let (mut child, to_child, from_child) =
        spawn(&options.worker, &options.dir, &options.arguments)?;
    let worker = child.id().context("the real worker has ended")?;
    let file = File::options().create(true).append(true).open(&options.record);
    let file = file.with_context(|| format!("{} cannot be opened", options.record.display()))?;
    let mut record = Record { file, worker, busy: false };
    record.note(Event::Started)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = pump(&mut record, to_child, from_child) => ended,
        _ = terminate.recv() => Ok(End::Daemon),
    };
    if record.busy && !matches!(ended, Ok(End::Child)) {
        // The job in progress is for nobody; an idle worker ends by itself.
        child.kill().await?;
    }
    ended?;
    Ok(child.wait().await?)
}

/// Which side closed first.
enum End {
    Daemon,
    Child,
}

async fn pump(record: &mut Record, mut to: ChildStdin, from: ChildStdout) -> Result<End> {
    let mut requests = reading(stdin());
    let mut replies = reading(from);
    let mut to_daemon = stdout();
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request.transpose()? else { return Ok(End::Daemon) };
                let asked: WorkerRequest = codec::decode(&request).context("a request")?;
                record.note(Event::Began(Task::of(&asked)))?;
                if frames::write(&mut to, &request).await.is_err() {
                    return Ok(End::Child);
                }
            }
            reply = replies.recv() => {
                let Some(reply) = reply.transpose()? else { return Ok(End::Child) };
                let told: WorkerReply = codec::decode(&reply).context("a reply")?;
                record.note(Event::of(&told))?;
                if frames::write(&mut to_daemon, &reply).await.is_err() {
                    return Ok(End::Daemon);
                }
            }
        }
    }
}
