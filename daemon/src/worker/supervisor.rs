//! The task that owns the worker process.
//!
//! Invariant: an order is answered once, after the process that worked on it has answered or is
//! dead; its permit is held until then. Every wait also watches the token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::worker::{
    Progress, WORKER_PROTOCOL_VERSION, WorkerDescription, WorkerOutcome, WorkerReply, WorkerRequest,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer;
use super::lanes::{Lane, Lanes, Permit};
use super::process::{Fault, Process};
use super::{WorkerConfig, WorkerError, WorkerState, WorkerStatus, job};

/// An order that arrives when the next start is at most this far away waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One step for the worker.
pub(super) struct Order {
    pub(super) request: WorkerRequest,
    pub(super) deadline: Duration,
    pub(super) progress: Option<mpsc::Sender<Progress>>,
    pub(super) reply: oneshot::Sender<Result<WorkerOutcome, WorkerError>>,
    /// Keeps the next job out of the directory while the process may write to it.
    pub(super) _permit: Arc<Permit>,
}

/// How a step ended.
enum End {
    Outcome(WorkerOutcome),
    /// The worker says so, and is fit.
    Failure(WorkerError),
    Fault(Fault),
    Late,
    /// Nobody waits for the answer.
    Abandoned,
    Stopping,
}

/// Whether the supervisor goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    Restart,
    Stop,
}

pub(super) struct Supervisor {
    config: WorkerConfig,
    directory: PathBuf,
    tracker: TaskTracker,
    token: CancellationToken,
    orders: mpsc::Receiver<Order>,
    status: watch::Sender<WorkerStatus>,
    lanes: Lanes,
    /// Keeps jobs out of the directory while it is made.
    permit: Option<Permit>,
    started: bool,
    /// Losses of a process since the last job that it finished.
    failures: u32,
}

impl Supervisor {
    pub(super) fn new(
        config: WorkerConfig,
        directory: PathBuf,
        tracker: TaskTracker,
        token: CancellationToken,
        orders: mpsc::Receiver<Order>,
        status: watch::Sender<WorkerStatus>,
        (lanes, permit): (Lanes, Permit),
    ) -> Self {
        let permit = Some(permit);
        Self {
            config,
            directory,
            tracker,
            token,
            orders,
            status,
            lanes,
            permit,
            started: false,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let token = self.token.clone();
        let mut fresh = false;
        loop {
            if !fresh {
                // A worker that outlived an earlier daemon keeps a directory that is gone.
                fresh = tokio::select! {
                    () = token.cancelled() => break,
                    made = self.prepare() => made,
                };
            }
            let started = tokio::select! {
                () = token.cancelled() => break,
                started = self.start(fresh) => started,
            };
            let flow = match started {
                Ok(process) => self.serve(process).await,
                Err(reason) => {
                    self.lost(&reason);
                    Flow::Restart
                }
            };
            if flow == Flow::Stop || self.pause().await == Flow::Stop {
                break;
            }
        }
        self.set(WorkerState::Stopped);
    }

    /// Makes the directory anew; whether that worked.
    async fn prepare(&mut self) -> bool {
        let permit = match self.permit.take() {
            Some(permit) => Some(permit),
            None => self.lanes.acquire(Lane::Duty).await,
        };
        let (parent, directory) = (self.config.directory.clone(), self.directory.clone());
        let made = self.tracker.spawn_blocking(move || {
            job::empty(&parent)?;
            std::fs::create_dir_all(&directory)
        });
        let made = made.await.unwrap_or_else(|error| Err(error.into()));
        drop(permit);
        match made {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "cannot make the worker's directory");
                false
            }
        }
    }

    /// Starts a process and asks who it is.
    async fn start(&mut self, directory_is_ready: bool) -> Result<Process, String> {
        if !directory_is_ready {
            return Err("its directory cannot be made".to_owned());
        }
        let again = std::mem::replace(&mut self.started, true);
        self.status.send_modify(|status| {
            status.state = WorkerState::Starting;
            status.restarts = status.restarts.saturating_add(u64::from(again));
        });
        let mut process = Process::spawn(&self.config, &self.directory, &self.tracker)?;
        match timeout(self.config.start_max, describe(&mut process)).await {
            Ok(Ok(description)) => {
                tracing::info!(
                    version = %description.version,
                    device = %description.device,
                    "worker is ready"
                );
                if let Some(missing) = description.sandbox.missing() {
                    tracing::warn!("the worker is not fully confined: {missing}");
                }
                self.status.send_modify(|status| status.description = Some(description));
                Ok(process)
            }
            Ok(Err(Fault::Ended)) => Err(format!("it ended at once: {}", process.kill().await)),
            Ok(Err(Fault::Nonsense(what))) => {
                process.kill().await;
                Err(what)
            }
            Err(_) => {
                process.kill().await;
                Err(format!("no description within {} s", self.config.start_max.as_secs_f64()))
            }
        }
    }

    /// Hands orders to a process until it is lost or the node stops.
    async fn serve(&mut self, mut process: Process) -> Flow {
        loop {
            self.set(WorkerState::Idle);
            let order = tokio::select! {
                biased;
                () = self.token.cancelled() => None,
                order = self.orders.recv() => order,
                fault = process.idle() => {
                    let status = process.kill().await;
                    self.lost(&match fault {
                        Fault::Ended => format!("it ended: {status}"),
                        Fault::Nonsense(what) => what,
                    });
                    return Flow::Restart;
                }
            };
            let Some(order) = order else {
                process.close(self.config.leave_max).await;
                return Flow::Stop;
            };
            self.set(WorkerState::Busy(answer::name(&order.request)));
            match self.work(process, order).await {
                Ok(fit) => process = fit,
                Err(flow) => return flow,
            }
        }
    }

    /// Does one order; gives the process back if it is still fit.
    async fn work(&mut self, mut process: Process, order: Order) -> Result<Process, Flow> {
        let Order { request, deadline, progress, mut reply, _permit } = order;
        let end = tokio::select! {
            biased;
            () = self.token.cancelled() => End::Stopping,
            () = reply.closed() => End::Abandoned,
            end = timeout(deadline, converse(&mut process, &request, progress)) => {
                end.unwrap_or(End::Late)
            }
        };
        // A failed send means that the caller left just now.
        let error = match end {
            End::Outcome(outcome) => {
                self.failures = 0;
                let _ = reply.send(Ok(outcome));
                return Ok(process);
            }
            End::Failure(error) => {
                self.failures = 0;
                let _ = reply.send(Err(error));
                return Ok(process);
            }
            End::Stopping => {
                process.kill().await;
                let _ = reply.send(Err(WorkerError::Cancelled));
                return Err(Flow::Stop);
            }
            End::Abandoned => {
                process.kill().await;
                tracing::debug!(job = answer::name(&request), "job was cancelled");
                return Err(Flow::Restart);
            }
            End::Late => {
                process.kill().await;
                WorkerError::TimedOut { after: deadline }
            }
            End::Fault(Fault::Ended) => WorkerError::Died { status: process.kill().await },
            End::Fault(Fault::Nonsense(what)) => {
                process.kill().await;
                WorkerError::Nonsense(what)
            }
        };
        self.lost(&error.to_string());
        let _ = reply.send(Err(error));
        Err(Flow::Restart)
    }

    /// Waits before the next start. Orders wait too if it is near, and are refused otherwise.
    async fn pause(&mut self) -> Flow {
        if self.failures == 0 {
            return if self.token.is_cancelled() { Flow::Stop } else { Flow::Restart };
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = self.config.pause_min.saturating_mul(1 << doublings).min(self.config.pause_max);
        let reason = match &self.status.borrow().state {
            WorkerState::Failed(reason) => reason.clone(),
            _ => "it is being started again".to_owned(),
        };
        let next = Instant::now() + pause;
        loop {
            let patient = next.saturating_duration_since(Instant::now()) <= PATIENCE;
            let change = if patient { next } else { next - PATIENCE };
            let order = tokio::select! {
                () = self.token.cancelled() => return Flow::Stop,
                () = tokio::time::sleep_until(change) => {
                    if patient { return Flow::Restart } else { continue }
                }
                order = self.orders.recv(), if !patient => order,
            };
            let Some(order) = order else { return Flow::Stop };
            let _ = order.reply.send(Err(WorkerError::Unavailable(reason.clone())));
        }
    }

    /// Notes the loss of a process and refuses what waits for it.
    fn lost(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(reason, failures = self.failures, "worker was lost");
        self.status.send_modify(|status| {
            status.state = WorkerState::Failed(reason.to_owned());
            status.last_error = Some(reason.to_owned());
        });
        while let Ok(order) = self.orders.try_recv() {
            let _ = order.reply.send(Err(WorkerError::Unavailable(reason.to_owned())));
        }
    }

    fn set(&self, state: WorkerState) {
        self.status.send_modify(|status| status.state = state);
    }
}

async fn describe(process: &mut Process) -> Result<WorkerDescription, Fault> {
    let request = WorkerRequest::Describe;
    let description = match converse(process, &request, None).await {
        End::Outcome(WorkerOutcome::Described(description)) => description,
        End::Fault(fault) => return Err(fault),
        End::Failure(error) => return Err(Fault::Nonsense(error.to_string())),
        _ => return Err(Fault::Nonsense("no description".to_owned())),
    };
    if description.protocol_version != WORKER_PROTOCOL_VERSION {
        return Err(Fault::Nonsense(format!(
            "the worker speaks version {} of the protocol and the node version {}; install \
             programs of one release",
            description.protocol_version, WORKER_PROTOCOL_VERSION
        )));
    }
    Ok(description)
}

/// Asks, passes progress on, and checks the answer.
async fn converse(
    process: &mut Process,
    request: &WorkerRequest,
    progress: Option<mpsc::Sender<Progress>>,
) -> End {
    if let Err(fault) = process.send(request).await {
        return End::Fault(fault);
    }
    loop {
        match process.receive().await {
            Err(fault) => return End::Fault(fault),
            Ok(WorkerReply::Progress(report)) => {
                if let Some(progress) = &progress {
                    // A receiver that has gone does not end the job.
                    let _ = progress.send(report).await;
                }
            }
            Ok(WorkerReply::Failed(failure)) => {
                return End::Failure(WorkerError::Failed(answer::bounded(failure)));
            }
            Ok(WorkerReply::Done(outcome)) => {
                return match answer::check(request, &outcome) {
                    Ok(()) => End::Outcome(outcome),
                    Err(what) => End::Fault(Fault::Nonsense(what)),
                };
            }
        }
    }
}
