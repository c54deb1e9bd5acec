//! What every command needs: where the node is, how to ask it, how to print, which job to cancel.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ayni_cli::client::{Client, TIMEOUT_DEFAULT};
use ayni_cli::home;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::api::{JobId, JobResult, JobStatus};
use protocol::home::Home;

use crate::arguments::Global;
use crate::failure::{Failure, TIMED_OUT};
use crate::output::{Output, clean, progress_is_watched};

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
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        let bar = self.progress_bar();
        let waiting = client.wait_job(job, |status| show_progress(&bar, status));
        let result = match self.limit() {
            None => Ok(waiting.await),
            Some(limit) => tokio::time::timeout(limit, waiting).await,
        };
        bar.finish_and_clear();
        let Ok(result) = result else {
            self.cancel_job().await;
            return Err(Failure::new(TIMED_OUT, format!("job {job} took too long; cancelled"))
                .with_hint("allow more with --timeout"));
        };
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(result?)
    }

    /// Cancels the job that is being waited for, if there is one.
    pub(crate) async fn cancel_job(&self) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(job), Ok(client)) = (job, self.client()) {
            // The program ends with a failure anyway; this one would only hide its reason.
            let _ = client.with_timeout(CANCEL_MAX).cancel_job(job).await;
        }
    }

    /// A progress bar on standard error; hidden where nobody watches.
    fn progress_bar(&self) -> ProgressBar {
        if self.output.is_json() || !progress_is_watched() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {percent}% {msg}");
        let bar = ProgressBar::new(0);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

fn show_progress(bar: &ProgressBar, status: &JobStatus) {
    bar.set_length(status.progress.total);
    bar.set_position(status.progress.done);
    bar.set_message(clean(&status.progress.message));
}
