//! Long work that outlives the request that started it.
//!
//! A job is a future on the node's task tracker. Its latest status can be read or watched;
//! watchers that are slow see the newest status, never a queue. Running jobs and the history of
//! finished ones are bounded. Cancelling drops the future at its next await, so a job must be
//! cancel-safe: files that it writes are removed by guards or were moved into place before.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use protocol::api::{ApiError, JobId, JobKind, JobProgress, JobResult, JobState, JobStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Jobs that run at once: each may hold the worker, memory and a connection.
pub const JOBS_RUNNING_MAX: usize = 16;
/// Finished jobs that are remembered.
pub const JOBS_FINISHED_MAX: usize = 256;

/// The registry; clones share it.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    jobs: BTreeMap<JobId, Entry>,
}

struct Entry {
    status: watch::Sender<JobStatus>,
    cancel: CancellationToken,
}

/// What a job sees of itself.
#[derive(Clone)]
pub struct JobHandle {
    id: JobId,
    status: watch::Sender<JobStatus>,
    cancel: CancellationToken,
}

impl JobHandle {
    /// The job's id.
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// Says how far the job is; `total` 0 means unknown.
    pub fn progress(&self, done: u64, total: u64, message: impl Into<String>) {
        self.report(JobProgress { done, total, message: message.into(), sources: Vec::new() });
    }

    /// Says how far the job is.
    pub fn report(&self, progress: JobProgress) {
        self.status.send_if_modified(|status| {
            let changed = !status.state.is_finished() && status.progress != progress;
            if changed {
                status.progress = progress;
            }
            changed
        });
    }

    /// Cancelled when the job is; for work on other threads, which must look at it.
    pub const fn token(&self) -> &CancellationToken {
        &self.cancel
    }
}

impl Jobs {
    /// No jobs yet. Jobs run on `tracker` and are cancelled with `shutdown`.
    pub fn new(tracker: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { tracker, shutdown, table: Mutex::default() }) }
    }

    /// Starts a job. Refused while [`JOBS_RUNNING_MAX`] run.
    pub fn start<F, W>(&self, kind: JobKind, work: W) -> Result<JobId, ApiError>
    where
        W: FnOnce(JobHandle) -> F,
        F: Future<Output = Result<JobResult, ApiError>> + Send + 'static,
    {
        let handle = self.register(kind)?;
        let id = handle.id;
        let future = work(handle.clone());
        self.inner.tracker.spawn(async move {
            let outcome = tokio::select! {
                biased;
                () = handle.cancel.cancelled() => None,
                outcome = AssertUnwindSafe(future).catch_unwind() => Some(outcome),
            };
            handle.status.send_modify(|status| match outcome {
                None => status.state = JobState::Cancelled,
                Some(Ok(Ok(result))) => {
                    status.state = JobState::Done;
                    status.result = Some(result);
                }
                Some(Ok(Err(error))) => {
                    status.state = JobState::Failed;
                    status.error = Some(error);
                }
                Some(Err(_)) => {
                    status.state = JobState::Failed;
                    status.error = Some(
                        ApiError::internal("the job ended through a fault of the node")
                            .with_hint("see the log: `ayni node logs`"),
                    );
                }
            });
        });
        Ok(id)
    }

    fn register(&self, kind: JobKind) -> Result<JobHandle, ApiError> {
        if self.inner.shutdown.is_cancelled() {
            return Err(ApiError::unavailable("the node is shutting down"));
        }
        let mut table = self.table();
        let finished = |entry: &Entry| entry.status.borrow().state.is_finished();
        let running = table.jobs.values().filter(|entry| !finished(entry)).count();
        if running >= JOBS_RUNNING_MAX {
            return Err(ApiError::unavailable(format!("{running} jobs are running already"))
                .with_hint("wait until one is done, or cancel one"));
        }
        let done: Vec<JobId> =
            table.jobs.iter().filter(|(_, entry)| finished(entry)).map(|(id, _)| *id).collect();
        let surplus = (done.len() + 1).saturating_sub(JOBS_FINISHED_MAX);
        for id in done.into_iter().take(surplus) {
            table.jobs.remove(&id);
        }
        table.next += 1;
        let id = JobId::new(table.next);
        let (status, _) = watch::channel(JobStatus {
            id,
            kind,
            state: JobState::Running,
            progress: JobProgress::default(),
            result: None,
            error: None,
        });
        let cancel = self.inner.shutdown.child_token();
        table.jobs.insert(id, Entry { status: status.clone(), cancel: cancel.clone() });
        Ok(JobHandle { id, status, cancel })
    }

    /// The latest status of a job.
    pub fn status(&self, id: JobId) -> Result<JobStatus, ApiError> {
        self.with(id, |entry| entry.status.borrow().clone())
    }

    /// Follows a job; the receiver's first value is the status now.
    pub fn watch(&self, id: JobId) -> Result<watch::Receiver<JobStatus>, ApiError> {
        self.with(id, |entry| entry.status.subscribe())
    }

    /// Asks a job to stop and waits until it has. A finished job stays as it is. Cancel-safe.
    pub async fn cancel(&self, id: JobId) -> Result<JobStatus, ApiError> {
        let mut status = self.with(id, |entry| {
            entry.cancel.cancel();
            entry.status.subscribe()
        })?;
        let finished = status.wait_for(|status| status.state.is_finished()).await;
        finished.map(|status| status.clone()).map_err(|_| no_such_job(id))
    }

    /// Ids and states of all remembered jobs, oldest first.
    pub fn list(&self) -> Vec<JobStatus> {
        self.table().jobs.values().map(|entry| entry.status.borrow().clone()).collect()
    }

    fn with<T>(&self, id: JobId, read: impl FnOnce(&Entry) -> T) -> Result<T, ApiError> {
        self.table().jobs.get(&id).map(read).ok_or_else(|| no_such_job(id))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Every change of the table is one insert or remove, so a poisoned one is still whole.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_such_job(id: JobId) -> ApiError {
    ApiError::not_found(format!("there is no job {id}"))
        .with_hint("jobs are forgotten when the node restarts, and old ones after many newer ones")
}

#[cfg(test)]
mod tests {
    use protocol::ids::{HeadId, ModelId};
    use tokio::sync::oneshot;

    use super::*;

    fn jobs() -> Jobs {
        Jobs::new(TaskTracker::new(), CancellationToken::new())
    }

    fn result() -> JobResult {
        JobResult::Evaluate {
            model: ModelId::default(),
            head: HeadId::default(),
            loss_nanonats: 1,
            windows: 1,
            bytes: 1,
        }
    }

    async fn finished(jobs: &Jobs, id: JobId) -> JobStatus {
        let mut watch = jobs.watch(id).expect("known");
        let status = watch.wait_for(|s| s.state.is_finished()).await.expect("kept");
        status.clone()
    }

    #[tokio::test]
    async fn a_job_reports_progress_and_gives_a_result() {
        let jobs = jobs();
        let (go, wait) = oneshot::channel::<()>();
        let id = jobs
            .start(JobKind::Evaluate, |handle| async move {
                handle.progress(1, 2, "half");
                wait.await.map_err(|_| ApiError::internal("never told"))?;
                Ok(result())
            })
            .expect("room");
        let mut watch = jobs.watch(id).expect("known");
        watch.wait_for(|s| s.progress.done == 1).await.expect("kept");
        assert_eq!(jobs.status(id).expect("known").state, JobState::Running);
        go.send(()).expect("still waiting");
        let status = finished(&jobs, id).await;
        assert_eq!((status.state, status.result), (JobState::Done, Some(result())));
    }

    #[tokio::test]
    async fn failures_and_panics_are_told_apart_from_results() {
        let jobs = jobs();
        let failed = jobs
            .start(JobKind::Evaluate, |_| async { Err(ApiError::conflict("no")) })
            .expect("room");
        let status = finished(&jobs, failed).await;
        assert_eq!(
            (status.state, status.error),
            (JobState::Failed, Some(ApiError::conflict("no")))
        );
        let panicked =
            jobs.start(JobKind::Evaluate, |_| async { panic!("a bug in a job") }).expect("room");
        assert_eq!(finished(&jobs, panicked).await.state, JobState::Failed);
    }

    #[tokio::test]
    async fn cancelling_drops_the_work() {
        let jobs = jobs();
        let (held, dropped) = oneshot::channel::<()>();
        let id = jobs
            .start(JobKind::Evaluate, |_| async move {
                let _held = held;
                std::future::pending().await
            })
            .expect("room");
        assert_eq!(jobs.cancel(id).await.expect("known").state, JobState::Cancelled);
        assert!(dropped.await.is_err(), "the future must be gone");
        assert!(jobs.status(JobId::new(99)).is_err());
    }

    #[tokio::test]
    async fn running_and_finished_jobs_are_bounded() {
        let jobs = jobs();
        let pending = || jobs.start(JobKind::Evaluate, |_| std::future::pending());
        let first = pending().expect("room");
        for _ in 1..JOBS_RUNNING_MAX {
            pending().expect("room");
        }
        assert_eq!(pending().expect_err("full").code, protocol::api::ErrorCode::Unavailable);
        jobs.cancel(first).await.expect("known");
        for _ in 0..JOBS_FINISHED_MAX + 10 {
            let id = jobs.start(JobKind::Evaluate, |_| async { Ok(result()) }).expect("room");
            finished(&jobs, id).await;
        }
        assert!(jobs.list().len() <= JOBS_FINISHED_MAX + JOBS_RUNNING_MAX);
        assert!(jobs.status(first).is_err(), "the oldest finished one is forgotten");
    }
}
