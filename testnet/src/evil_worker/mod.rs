//! `ayni-testnet evil-worker`: a different worker program, for the demo's attack and, with
//! `--play`, for the members of `attack --network`.
//!
//! It starts the real worker as its child and relays frames both ways, changed only where
//! [`tamper`] or [`play`] says so. The production code knows nothing of it: to a daemon this is a worker.
//! Standard output belongs to the frames; nothing else is printed there.

pub mod play;
pub(crate) mod poison;
pub mod tamper;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tamper::{Inversion, Tamper};
use tokio::io::{stdin, stdout};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::frames;

/// Frames waiting between two halves of the relay. The conversation is one job at a time, so
/// only progress reports queue.
const QUEUE_FRAMES: usize = 16;
/// Time for an idle worker to end after its input was closed.
const GRACE: Duration = Duration::from_secs(1);

/// How the evil worker is started.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The real worker program.
    #[arg(long, value_name = "PROGRAM")]
    pub worker: PathBuf,
    /// Job directory that the daemon and the worker share.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// File that remembers the rounds across restarts of this process.
    #[arg(long, value_name = "FILE")]
    pub memory: PathBuf,
    /// Which round trained for is poisoned, counted from 1.
    #[arg(long, default_value_t = 2)]
    pub poison_round: u32,
    /// Play the scenes that models name instead, as a member of `attack --network`.
    #[arg(long, value_enum)]
    pub play: Option<play::Role>,
    /// Further arguments of the real worker, which is always given `--dir`. A daemon appends them
    /// as they are; `--` before them is allowed.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// Relays until the daemon, the child or a signal ends it; exits as the child did.
pub fn run(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(relay(options))?;
    // The read of standard input that may still wait in its thread is not waited for.
    runtime.shutdown_background();
    Ok(exit_code(status))
}

/// A child killed by a signal counts as 128 + signal, as in a shell.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Starts the real worker behind a relay, with both its pipes.
pub(crate) fn spawn(
    worker: &Path,
    dir: &Path,
    arguments: &[String],
) -> Result<(Child, ChildStdin, ChildStdout)> {
    let mut child = Command::new(worker)
        .arg("--dir")
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} could not be started", worker.display()))?;
    let (Some(to_child), Some(from_child)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the real worker's pipes are missing");
    };
    Ok((child, to_child, from_child))
}

async fn relay(options: Options) -> Result<ExitStatus> {
    let (mut child, to_child, from_child) =
        spawn(&options.worker, &options.dir, &options.arguments)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        ended = pump(&options, to_child, from_child) => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    match ended {
        Some(Ok(End::Child)) => Ok(child.wait().await?),
        Some(Ok(End::Daemon)) | None => stop(child).await,
        Some(Err(error)) => {
            child.kill().await?;
            Err(error)
        }
    }
}

/// The daemon is gone or wants us to end, and the child's input is closed: an idle worker ends by
/// itself, and a job in progress is for nobody.
async fn stop(mut child: Child) -> Result<ExitStatus> {
    if let Ok(status) = timeout(GRACE, child.wait()).await {
        return Ok(status?);
    }
    child.kill().await?;
    Ok(child.wait().await?)
}

/// Which side closed first.
enum End {
    Daemon,
    Child,
}

async fn pump(options: &Options, mut to_child: ChildStdin, from_child: ChildStdout) -> Result<End> {
    if let Some(role) = options.play {
        let (folder, memory) = (&options.dir, &options.memory);
        let (from_daemon, to_daemon) = (stdin(), stdout());
        let relay =
            play::Play { role, folder, memory, to_child, from_child, from_daemon, to_daemon };
        return relay.run().await;
    }
    let seeds = match fs::read(&options.memory) {
        Ok(text) => serde_json::from_slice(&text).context("the memory is damaged")?,
        Err(_) => Vec::new(),
    };
    let mut tamper = Tamper::new(options.poison_round, seeds);
    let mut requests = reading(stdin());
    let mut replies = reading(from_child);
    let mut to_daemon = stdout();
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(request) = request.transpose()? else { return Ok(End::Daemon) };
                let known = tamper.seeds().len();
                let (request, inversions) = tamper.request(request);
                if tamper.seeds().len() > known {
                    fs::write(&options.memory, serde_json::to_vec(tamper.seeds())?)?;
                }
                for inversion in &inversions {
                    invert(&options.dir, inversion)?;
                }
                if frames::write(&mut to_child, &request).await.is_err() {
                    return Ok(End::Child);
                }
            }
            reply = replies.recv() => {
                let Some(reply) = reply.transpose()? else { return Ok(End::Child) };
                if frames::write(&mut to_daemon, &tamper.reply(reply)).await.is_err() {
                    return Ok(End::Daemon);
                }
            }
        }
    }
}

/// Reads frames in a task of its own, because reading one is not cancel-safe.
pub(crate) fn reading<R>(mut reader: R) -> mpsc::Receiver<Result<Vec<u8>>>
where
    R: tokio::io::AsyncRead + Unpin + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE_FRAMES);
    tokio::spawn(async move {
        while let Some(frame) = frames::read(&mut reader).await.transpose() {
            let failed = frame.is_err();
            if sender.send(frame).await.is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// Writes the poisoned copy of a training text.
fn invert(folder: &Path, inversion: &Inversion) -> Result<()> {
    let from = folder.join(inversion.from.as_str());
    let mut text = fs::read(&from).with_context(|| format!("{} cannot be read", from.display()))?;
    tamper::invert_bytes(&mut text);
    let to = folder.join(inversion.to.as_str());
    fs::write(&to, text).with_context(|| format!("{} cannot be written", to.display()))
}
