//! The operations on data of a node's interface, as these commands use them.
//!
//! Deliberately absent: events. A job is looked at again and again, [`LOOK`] apart, so that what
//! is asked between two looks is known.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cli::client::{Client, ClientError};
use protocol::api::{
    AddMode, AddRequest, BlobQuery, ErrorCode, FetchPriority, GcRequest, GetRequest, JobId,
    JobResult, JobState, JobStatus, SourceBytes, UnpinRequest,
};
use protocol::ids::{ContentHash, NodeId};
use tokio::time::{Instant, sleep};

/// How often a job is looked at: a hundredth of the time that a measured fetch takes, and far
/// too seldom to cost anything.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// A job comes to its end within this.
const JOB_MAX: Duration = Duration::from_secs(600);

/// The interface of one node.
#[derive(Clone, Debug)]
pub(crate) struct Api(Client);

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// With this result.
    Done(JobResult),
    /// With this message, hint included.
    Failed(String),
}

/// What was added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Its size.
    pub(crate) bytes: u64,
}

/// What was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Its size.
    pub(crate) bytes: u64,
    /// Bytes that came over the network.
    pub(crate) bytes_fetched: u64,
    /// Bytes that were there before.
    pub(crate) bytes_had: u64,
    /// Who gave how much.
    pub(crate) sources: Vec<SourceBytes>,
}

/// What is fetched, and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Who has it.
    pub(crate) providers: Vec<NodeId>,
    /// More than this is refused.
    pub(crate) bytes_max: u64,
    /// File or folder to write, or none: then it stays in the store.
    pub(crate) target: Option<&'a Path>,
}

/// How a job ended, if it has.
pub(crate) fn ending(job: &JobStatus) -> Option<Ending> {
    let failed = |why: &str| Some(Ending::Failed(why.to_owned()));
    match (job.state, &job.result, &job.error) {
        (JobState::Running, ..) => None,
        (JobState::Done, Some(result), _) => Some(Ending::Done(result.clone())),
        (JobState::Done, None, _) => failed("it is done without a result"),
        (JobState::Cancelled, ..) => failed("it was cancelled"),
        (JobState::Failed, _, Some(error)) => {
            let hint = error.hint.as_deref().unwrap_or("no hint");
            failed(&format!("{}; {hint}", error.message))
        }
        (JobState::Failed, _, None) => failed("it failed without saying why"),
    }
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

impl Api {
    /// Of the node with this client.
    pub(crate) const fn of(client: Client) -> Self {
        Self(client)
    }

    /// Puts a file or folder into the store by copying it, whole files as one blob each.
    pub(crate) async fn add(&self, path: &Path) -> Result<Added> {
        let request = AddRequest {
            path: text(path)?,
            mode: AddMode::Copy,
            name: None,
            chunked: false,
            announce: true,
        };
        let added = self.done(self.0.add_data(&request).await?).await;
        match added.with_context(|| format!("{} is added", path.display()))? {
            JobResult::AddData { hash, bytes, .. } => Ok(Added { hash, bytes }),
            other => bail!("not the result of adding: {other:?}"),
        }
    }

    /// Starts a fetch.
    pub(crate) async fn start_get(&self, wanted: &Wanted<'_>) -> Result<JobId> {
        let request = GetRequest {
            hash: wanted.hash,
            providers: wanted.providers.iter().map(NodeId::to_string).collect(),
            bytes_max: Some(wanted.bytes_max),
            target: wanted.target.map(text).transpose()?,
            force: false,
            pin: None,
            priority: FetchPriority::Normal,
        };
        Ok(self.0.get_data(&request).await?)
    }

    /// Fetches, and waits until all of it is there.
    pub(crate) async fn get(&self, wanted: &Wanted<'_>) -> Result<Fetched> {
        self.fetched(self.start_get(wanted).await?).await
    }

    /// Waits for a fetch that was started.
    pub(crate) async fn fetched(&self, job: JobId) -> Result<Fetched> {
        match self.done(job).await.context("a blob is fetched")? {
            JobResult::GetData { hash, bytes, bytes_fetched, bytes_had, sources, .. } => {
                Ok(Fetched { hash, bytes, bytes_fetched, bytes_had, sources })
            }
            other => bail!("not the result of fetching: {other:?}"),
        }
    }

    /// Collects garbage.
    pub(crate) async fn collect_garbage(&self) -> Result<()> {
        let job = self.0.collect_garbage(&GcRequest { dry_run: false }).await?;
        self.done(job).await.context("garbage is collected")?;
        Ok(())
    }

    /// Removes all pins of a blob.
    pub(crate) async fn unpin(&self, hash: ContentHash) -> Result<()> {
        self.0.unpin(&UnpinRequest { pin: hash.into() }).await?;
        Ok(())
    }

    /// A job as it is now.
    pub(crate) async fn job(&self, job: JobId) -> Result<JobStatus> {
        Ok(self.0.job(job).await?)
    }

    /// Waits until a job ends.
    pub(crate) async fn end(&self, job: JobId) -> Result<Ending> {
        let deadline = Instant::now() + JOB_MAX;
        loop {
            let seen = self.job(job).await?;
            if let Some(ending) = ending(&seen) {
                return Ok(ending);
            }
            ensure!(
                Instant::now() < deadline,
                "the job has not ended in {} s: {:?}",
                JOB_MAX.as_secs(),
                seen.progress
            );
            sleep(LOOK).await;
        }
    }

    async fn done(&self, job: JobId) -> Result<JobResult> {
        match self.end(job).await? {
            Ending::Done(result) => Ok(result),
            Ending::Failed(why) => bail!("{why}"),
        }
    }

    /// Whether the node has the whole blob.
    pub(crate) async fn has(&self, hash: ContentHash) -> Result<bool> {
        match self.0.show_blob(hash, BlobQuery::default()).await {
            Ok(blob) => Ok(blob.bytes_here == blob.bytes),
            Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::api::{ApiError, JobKind, JobProgress};

    use super::*;

    #[test]
    fn failures_speak() {
        let mut job = JobStatus {
            id: JobId::new(1),
            kind: JobKind::GetData,
            state: JobState::Running,
            progress: JobProgress::default(),
            result: None,
            error: None,
        };
        assert!(ending(&job).is_none());
        job.state = JobState::Failed;
        job.error = Some(ApiError {
            hint: Some("free some".to_owned()),
            ..ApiError::internal("the disk is full")
        });
        let Some(Ending::Failed(why)) = ending(&job) else { panic!("it failed") };
        assert_eq!(why, "the disk is full; free some");
    }
}
