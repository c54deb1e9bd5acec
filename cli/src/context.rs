//! What every command needs: where the node is, how to ask it, how to print, which job to cancel.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ayni_cli::client::{Client, ClientError, TIMEOUT_DEFAULT};
use ayni_cli::home;
use protocol::api::{JobId, JobResult};
use protocol::home::Home;

use crate::arguments::Global;
use crate::failure::{DOWN, Failure, TIMED_OUT};
use crate::output::Output;
use crate::progress::Progress;

/// How long a cancelled job gets to end before the program does.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Context {
    global: Global,
    /// How to print.
    pub(crate) output: Output,
    /// The job that Ctrl-C should cancel.
    job: Mutex<Option<JobId>>,
}

impl Context {
    pub(crate) const fn new(global: Global) -> Self {
        let output = Output::new(global.json);
        Self { global, output, job: Mutex::new(None) }
    }

    /// The node's home, which may not exist.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        Ok(home::locate(self.global.home.clone())?)
    }

    /// The limit that the user set.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.global.timeout.map(|seconds| Duration::from_secs(u64::from(seconds)))
    }

    /// A client of the node; does not connect yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let socket = match &self.global.socket {
            Some(path) => path.clone(),
            None => home::find_socket(&self.home()?)?,
        };
        Ok(Client::new(socket).with_timeout(self.limit().unwrap_or(TIMEOUT_DEFAULT)))
    }

    /// Follows a job to its end with a progress bar; Ctrl-C and `--timeout` cancel it.
    pub(crate) async fn wait(&self, client: &Client, job: JobId) -> Result<JobResult, Failure> {
        let progress = Progress::new(self.output.is_json(), false);
        Ok(self.follow(client, job, progress).await??)
    }

    /// As [`Context::wait`] for a transfer: with lines where there are no bars, and with what to
    /// do when the node goes away in the middle.
    pub(crate) async fn wait_transfer(
        &self,
        client: &Client,
        job: JobId,
    ) -> Result<JobResult, Failure> {
        let progress = Progress::new(self.output.is_json(), true);
        let result = self.follow(client, job, progress).await?;
        result.map_err(|error| match error {
            ClientError::Broken(_) | ClientError::Down { .. } => {
                let what =
                    format!("the connection to the node was lost while job {job} was under way");
                Failure::new(DOWN, what).with_hint(
                    "what has arrived is kept: run the same command again, after `ayni node \
                     start` if the node has stopped, and it goes on from there",
                )
            }
            other => other.into(),
        })
    }

    async fn follow(
        &self,
        client: &Client,
        job: JobId,
        mut progress: Progress,
    ) -> Result<Result<JobResult, ClientError>, Failure> {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        let waiting = client.wait_job(job, |status| progress.show(status));
        let result = match self.limit() {
            None => Ok(waiting.await),
            Some(limit) => tokio::time::timeout(limit, waiting).await,
        };
        progress.finish();
        let Ok(result) = result else {
            self.cancel_job().await;
            return Err(Failure::new(TIMED_OUT, format!("job {job} took too long; cancelled"))
                .with_hint("allow more with --timeout"));
        };
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(result)
    }

    /// Cancels the job that is being waited for, if there is one.
    pub(crate) async fn cancel_job(&self) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(job), Ok(client)) = (job, self.client()) {
            // The program ends with a failure anyway; this one would only hide its reason.
            let _ = client.with_timeout(CANCEL_MAX).cancel_job(job).await;
        }
    }
}
