//! One worker process: its pipes, its limits and its end.
//!
//! Invariant: at most one frame and one line of its prints are in memory, both bounded. When
//! [`Process::kill`] returns, nothing of its process group runs any more that the signal reached.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::codec;
use protocol::limits;
use protocol::worker::{WorkerReply, WorkerRequest};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::WorkerConfig;

/// Longest line of prints that is logged; the rest of a longer one is dropped.
const LINE_BYTES_MAX: usize = 1024;
/// How long the prints of a dead process are waited for; somebody it started may hold the pipe.
const PRINTS_MAX: Duration = Duration::from_millis(500);
/// Environment that the worker inherits; nothing else of the daemon's does it get to see.
const ENVIRONMENT: [&str; 9] = [
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
];

/// How a conversation with a process broke.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its pipes are closed.
    Ended,
    /// It broke the protocol.
    Nonsense(String),
}

/// The line of prints that best says why the process ended: the last alarming one since it was
/// asked something, or else the last one.
#[derive(Default)]
struct LastWords {
    alarming: bool,
    line: String,
}

/// A running child.
pub(super) struct Process {
    child: Child,
    /// Until it is closed.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    last_words: Arc<Mutex<LastWords>>,
    /// Reads the prints.
    prints: AbortOnDropHandle<()>,
}

impl Process {
    /// Starts the program in `directory`; says why it could not.
    pub(super) fn spawn(
        config: &WorkerConfig,
        directory: &Path,
        tracker: &TaskTracker,
    ) -> Result<Self, String> {
        let (program, leading) = config.command.split_first().ok_or("no program is configured")?;
        let kept = ENVIRONMENT.iter().filter_map(|key| Some((key, std::env::var_os(key)?)));
        let mut child = Command::new(program)
            .args(leading)
            .arg("--dir")
            .arg(directory)
            .args(["--threads", &config.threads.to_string(), "--nice", &config.nice.to_string()])
            .env_clear()
            .envs(kept)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group: a terminal's interrupt is for the daemon, which ends the child.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        limit(&child, config.memory_max_mib)
            .map_err(|error| format!("cannot limit the worker's resources: {error}"))?;
        let (Some(input), Some(output), Some(prints)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the worker has no pipes".to_owned());
        };
        let last_words = Arc::new(Mutex::new(LastWords::default()));
        let prints = tracker.spawn(read_prints(prints, Arc::clone(&last_words)));
        Ok(Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
            last_words,
            prints: AbortOnDropHandle::new(prints),
        })
    }

    /// Sends a request in one write. Not cancel-safe: a process of which a send or receive was
    /// dropped half way must be killed.
    pub(super) async fn send(&mut self, request: &WorkerRequest) -> Result<(), Fault> {
        let frame = frame(request).map_err(Fault::Nonsense)?;
        *words(&self.last_words) = LastWords::default();
        let input = self.input.as_mut().ok_or(Fault::Ended)?;
        input.write_all(&frame).await.map_err(|_| Fault::Ended)
    }

    /// Receives one reply. Not cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<WorkerReply, Fault> {
        let ended = |_: io::Error| Fault::Ended;
        let length = self.output.read_u32_le().await.map_err(ended)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limits::WORKER_FRAME_BYTES_MAX {
            return Err(Fault::Nonsense(format!("a frame of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.output.read_exact(&mut bytes).await.map_err(ended)?;
        codec::decode(&bytes).map_err(|error| Fault::Nonsense(error.to_string()))
    }

    /// Returns when a process that was asked nothing ends or says something. Cancel-safe.
    pub(super) async fn idle(&mut self) -> Fault {
        match self.output.fill_buf().await {
            Ok([]) | Err(_) => Fault::Ended,
            Ok(_) => Fault::Nonsense("a frame that nobody asked for".to_owned()),
        }
    }

    /// Kills it, waits for its end and says how it ended.
    pub(super) async fn kill(mut self) -> String {
        // It may have ended by itself, which is then what is reported. Nobody has waited for it
        // yet, so its group cannot be another's.
        self.signal_group();
        let status = self.child.wait().await;
        // Why it died may be its last line.
        let _ = tokio::time::timeout(PRINTS_MAX, &mut self.prints).await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let line = std::mem::take(&mut *words(&self.last_words)).line;
        if line.is_empty() { status } else { format!("{status} ({line})") }
    }

    /// Closes its input, waits for it to leave, and kills it if it does not.
    pub(super) async fn close(mut self, leave_max: Duration) {
        drop(self.input.take());
        let mut rest = [0; 4096];
        let left = tokio::time::timeout(leave_max, async {
            while matches!(self.output.read(&mut rest).await, Ok(read) if read > 0) {}
        });
        if left.await.is_err() {
            tracing::info!("the worker does not leave and is killed");
        }
        self.kill().await;
    }

    fn signal_group(&self) {
        let Some(group) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else {
            return;
        };
        match rustix::process::kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, "cannot kill the worker"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing once somebody has waited for the child.
        self.signal_group();
    }
}

fn frame(request: &WorkerRequest) -> Result<Vec<u8>, String> {
    let body = codec::encode_checked(request).map_err(|error| error.to_string())?;
    let length = u32::try_from(body.len()).map_err(|error| error.to_string())?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Limits what it may take: memory as configured, files no larger than a blob, no core dumps
/// (they would hold private data).
fn limit(child: &Child, memory_max_mib: u32) -> io::Result<()> {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let set = |resource, max| {
        let limit = Rlimit { current: Some(max), maximum: Some(max) };
        rustix::process::prlimit(pid, resource, limit).map(|_| ())
    };
    if pid.is_none() {
        return Ok(());
    }
    set(Resource::Core, 0)?;
    set(Resource::Fsize, limits::WORKER_FILE_BYTES_MAX)?;
    if memory_max_mib > 0 {
        set(Resource::Data, u64::from(memory_max_mib) << 20)?;
    }
    Ok(())
}

/// Logs what the worker prints, line by line, and remembers the last one.
async fn read_prints(prints: ChildStderr, last: Arc<Mutex<LastWords>>) {
    let mut prints = BufReader::new(prints);
    let mut line = Vec::new();
    loop {
        let bytes = match prints.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => break,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend(part.iter().take(room));
        let used = part.len() + usize::from(end.is_some());
        prints.consume(used);
        if end.is_some() {
            log_line(&line, &last);
            line.clear();
        }
    }
    log_line(&line, &last);
}

fn log_line(line: &[u8], last: &Mutex<LastWords>) {
    let text: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    let alarming = ["WARN", "ERROR", "panicked", "memory allocation"];
    let alarming = alarming.iter().any(|word| text.contains(word));
    if alarming {
        tracing::warn!(target: "ayni_worker", "{text}");
    } else {
        tracing::debug!(target: "ayni_worker", "{text}");
    }
    let mut last = words(last);
    if alarming || !last.alarming {
        *last = LastWords { alarming, line: text.to_owned() };
    }
}

fn words(last: &Mutex<LastWords>) -> MutexGuard<'_, LastWords> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}
