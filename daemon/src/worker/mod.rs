//! Supervision of the `ayni-worker` child, the only process that computes with tensors.
//!
//! One task owns the child. It starts it, asks who it is, hands it one job at a time and kills it
//! when it is late, sends nonsense or is no longer wanted; then it starts another, after a pause
//! that grows while nothing succeeds. Jobs queue in two lanes ([`Lane`]). A [`Job`] is exclusive
//! use of the worker and of an empty directory, for one step or several.
//!
//! **Architecture invariants.** The worker is hostile: every frame is bounded and decoded
//! canonically, every answer is checked against its question, and its files are opened without
//! following links. The directory of a job is not handed to the next job before the process that
//! could write to it has answered or is dead. Nothing here decides what to compute.
//!
//! Deliberately absent: a sandbox. The child runs as the daemon's user, with resource limits, a
//! reduced environment and a process group of its own.

mod answer;
mod error;
mod job;
mod lanes;
mod process;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

use protocol::worker::{Progress, WorkerDescription, WorkerOutcome, WorkerRequest};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{JobFileError, WorkerError};
pub use job::Job;
pub use lanes::Lane;

use lanes::Lanes;
use supervisor::{Order, Supervisor};

/// How the worker is run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Program and leading arguments; `--dir`, `--threads` and `--nice` follow.
    pub command: Vec<String>,
    /// Emptied at the start; job files lie in `job` inside it.
    pub directory: PathBuf,
    /// Threads for arithmetic.
    pub threads: u32,
    /// Added to its niceness, 0 to 19.
    pub nice: u8,
    /// Writable memory it may have in MiB (`RLIMIT_DATA`); 0 for no limit.
    pub memory_max_mib: u32,
    /// How long it may take to start and describe itself.
    pub start_max: Duration,
    /// Pause after the first failure in a row; doubles with each further one.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How long it may take to leave when its input is closed.
    pub leave_max: Duration,
}

impl WorkerConfig {
    /// One thread, niceness 10, no memory limit, and the pauses of a running node.
    pub fn new(command: Vec<String>, directory: PathBuf) -> Self {
        Self {
            command,
            directory,
            threads: 1,
            nice: 10,
            memory_max_mib: 0,
            // The description includes a short training run, on a machine that may be busy.
            start_max: Duration::from_secs(120),
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
            leave_max: Duration::from_secs(2),
        }
    }
}

/// What the worker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// The node is configured without one.
    Disabled,
    /// A process has been started and has not yet described itself.
    Starting,
    /// Waits for a job.
    Idle,
    /// Does a job of this kind.
    Busy(&'static str),
    /// No process runs; another will be started after a pause.
    Failed(String),
    /// Ended with the node.
    Stopped,
}

/// The worker as people and duties see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// What it is doing.
    pub state: WorkerState,
    /// What it said about itself when it last started.
    pub description: Option<WorkerDescription>,
    /// Processes started after the first one.
    pub restarts: u64,
    /// Why the last process was lost, if one was.
    pub last_error: Option<String>,
}

impl WorkerStatus {
    const fn new(state: WorkerState) -> Self {
        Self { state, description: None, restarts: 0, last_error: None }
    }
}

/// Entry point.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Starts the supervisor on `tracker`; it ends, and the child with it, when `token` is
    /// cancelled or all handles are gone. A worker that does not start is a status, not an error:
    /// it is tried again.
    pub fn start(
        config: WorkerConfig,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> WorkerHandle {
        let (orders, receiver) = mpsc::channel(1);
        let (sender, status) = watch::channel(WorkerStatus::new(WorkerState::Starting));
        let directory = config.directory.join("job");
        let (lanes, permit) = Lanes::held();
        let supervisor = Supervisor::new(
            config,
            directory.clone(),
            tracker.clone(),
            token,
            receiver,
            sender,
            (lanes.clone(), permit),
        );
        tracker.spawn(supervisor.run());
        let access = Access { orders, directory, lanes, tracker: tracker.clone() };
        WorkerHandle { access: Some(access), status }
    }

    /// A handle without a worker: every job is refused.
    pub fn disabled() -> WorkerHandle {
        let (_, status) = watch::channel(WorkerStatus::new(WorkerState::Disabled));
        WorkerHandle { access: None, status }
    }
}

/// What a job needs of the supervisor.
#[derive(Clone)]
struct Access {
    orders: mpsc::Sender<Order>,
    directory: PathBuf,
    lanes: Lanes,
    tracker: TaskTracker,
}

/// Access to the worker. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {
    access: Option<Access>,
    status: watch::Receiver<WorkerStatus>,
}

impl std::fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").field("status", &*self.status.borrow()).finish()
    }
}

impl WorkerHandle {
    /// Waits for its turn and gives exclusive use of the worker and of an empty job directory.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` when there is no worker or too many jobs wait; `File` when the directory
    /// cannot be emptied.
    pub async fn job(&self, lane: Lane) -> Result<Job, WorkerError> {
        let Some(access) = &self.access else {
            return Err(WorkerError::Unavailable("it is disabled in [worker]".to_owned()));
        };
        Job::begin(access.clone(), lane).await
    }

    /// One step in a job of its own, see [`Job::run`].
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn run(
        &self,
        lane: Lane,
        request: WorkerRequest,
        deadline: Duration,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Result<WorkerOutcome, WorkerError> {
        self.job(lane).await?.run(request, deadline, progress).await
    }

    /// Follows the status.
    pub fn status(&self) -> watch::Receiver<WorkerStatus> {
        self.status.clone()
    }
}

#[cfg(test)]
mod tests;
