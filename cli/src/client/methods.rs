//! One method per operation of the interface, see the table in [`protocol::api`].

use bytes::Bytes;
use protocol::api::{
    ApiError, CompareRequest, Contribution, Contributions, CreateModelRequest, EvaluateRequest,
    ExportRequest, GenerateEvent, GenerateRequest, JobId, JobResult, JobStarted, JobState,
    JobStatus, JoinStringReply, Model, ModelRef, Models, NodeEvent, OpenRoundsRequest, Peers,
    ReviewsQuery, Rounds, RoundsOpened, RoundsQuery, Status, Stopping, SubmitTransactions,
    Submitted, TrainJoinRequest, TrainStatus, TransactionState,
};
use protocol::codec;
use protocol::ids::{ContributionId, TransactionHash};
use protocol::join::JoinString;

use super::{Client, ClientError, EventStream};

pub(super) type Answer<T> = Result<T, ClientError>;

/// A path with those of the parameters that have a value. Ids, names and numbers need no
/// escaping.
pub(super) fn query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (key, value) in parameters {
        if let Some(value) = value {
            text.push(separator);
            text.push_str(key);
            text.push('=');
            text.push_str(value);
            separator = '&';
        }
    }
    text
}

pub(super) fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

impl Client {
    /// What the node is and how it is doing.
    pub async fn status(&self) -> Answer<Status> {
        self.get("/v1/status").await
    }

    /// Connected peers.
    pub async fn peers(&self) -> Answer<Peers> {
        self.get("/v1/peers").await
    }

    /// What another node needs to join through this one.
    pub async fn join_string(&self) -> Answer<JoinString> {
        let reply: JoinStringReply = self.get("/v1/join-string").await?;
        Ok(reply.join_string)
    }

    /// Begins the shutdown.
    pub async fn stop(&self) -> Answer<Stopping> {
        self.post_bytes("/v1/node/stop", Bytes::new()).await
    }

    /// What happens on the node from now on.
    pub async fn events(&self) -> Answer<EventStream<NodeEvent>> {
        self.follow("/v1/events").await
    }

    /// Submits signed transactions, each in its canonical bytes; says what became of each.
    pub async fn submit(&self, request: &SubmitTransactions) -> Answer<Submitted> {
        self.post_bytes("/v1/transactions", codec::encode(request).into()).await
    }

    /// Where a transaction stands, as the node knows.
    pub async fn transaction(&self, hash: TransactionHash) -> Answer<TransactionState> {
        self.get(&format!("/v1/transactions/{hash}")).await
    }

    /// Makes initial weights and registers a model.
    pub async fn create_model(&self, request: &CreateModelRequest) -> Answer<JobId> {
        self.start("/v1/models", request).await
    }

    /// All models.
    pub async fn models(&self) -> Answer<Models> {
        self.get("/v1/models").await
    }

    /// One model.
    pub async fn model(&self, model: &ModelRef) -> Answer<Model> {
        self.get(&format!("/v1/models/{model}")).await
    }

    /// Generates text.
    pub async fn generate(
        &self,
        model: &ModelRef,
        request: &GenerateRequest,
    ) -> Answer<EventStream<GenerateEvent>> {
        self.post_follow(&format!("/v1/models/{model}/generate"), request).await
    }

    /// Measures the loss of a head.
    pub async fn evaluate(&self, model: &ModelRef, request: &EvaluateRequest) -> Answer<JobId> {
        self.start(&format!("/v1/models/{model}/evaluate"), request).await
    }

    /// Writes a head in Hugging Face's format.
    pub async fn export_model(&self, model: &ModelRef, request: &ExportRequest) -> Answer<JobId> {
        self.start(&format!("/v1/models/{model}/export"), request).await
    }

    /// Measures how two heads differ.
    pub async fn compare_heads(&self, model: &ModelRef, request: &CompareRequest) -> Answer<JobId> {
        self.start(&format!("/v1/models/{model}/compare"), request).await
    }

    /// Opens training rounds; returns when the opening is final.
    pub async fn open_rounds(&self, request: &OpenRoundsRequest) -> Answer<RoundsOpened> {
        self.post("/v1/rounds", request).await
    }

    /// Training rounds of a model.
    pub async fn rounds(&self, range: &RoundsQuery) -> Answer<Rounds> {
        let parameters = [
            ("model", text(Some(&range.model))),
            ("from", text(range.from)),
            ("limit", text(range.limit)),
        ];
        self.get(&query("/v1/rounds", &parameters)).await
    }

    /// Joins this and later rounds of a model.
    pub async fn train_join(&self, request: &TrainJoinRequest) -> Answer<TrainStatus> {
        self.post("/v1/train/join", request).await
    }

    /// Joins no further rounds.
    pub async fn train_leave(&self) -> Answer<TrainStatus> {
        self.post_bytes("/v1/train/leave", Bytes::new()).await
    }

    /// What the node does in training.
    pub async fn train_status(&self) -> Answer<TrainStatus> {
        self.get("/v1/train/status").await
    }

    /// Contributions and their panels.
    pub async fn reviews(&self, filter: &ReviewsQuery) -> Answer<Contributions> {
        let parameters = [("model", text(filter.model.as_ref())), ("limit", text(filter.limit))];
        self.get(&query("/v1/reviews", &parameters)).await
    }

    /// One contribution and its panel.
    pub async fn review(&self, contribution: ContributionId) -> Answer<Contribution> {
        self.get(&format!("/v1/reviews/{contribution}")).await
    }

    /// Where a job stands.
    pub async fn job(&self, job: JobId) -> Answer<JobStatus> {
        self.get(&format!("/v1/jobs/{job}")).await
    }

    /// Stops a job and waits until it has stopped.
    pub async fn cancel_job(&self, job: JobId) -> Answer<JobStatus> {
        self.delete(&format!("/v1/jobs/{job}")).await
    }

    /// Follows a job.
    pub async fn job_events(&self, job: JobId) -> Answer<EventStream<JobStatus>> {
        self.follow(&format!("/v1/jobs/{job}/events")).await
    }

    /// Follows a job to its end, telling `report` each status, and gives its result.
    pub async fn wait_job(
        &self,
        job: JobId,
        mut report: impl FnMut(&JobStatus),
    ) -> Answer<JobResult> {
        let mut events = self.job_events(job).await?;
        while let Some(status) = events.next().await {
            let status = status?;
            report(&status);
            match status.state {
                JobState::Running => {}
                JobState::Done => {
                    return status.result.ok_or_else(|| {
                        ClientError::Malformed("a job is done without a result".to_owned())
                    });
                }
                JobState::Failed => {
                    let unknown = || ApiError::internal("the job failed without saying why");
                    return Err(status.error.unwrap_or_else(unknown).into());
                }
                JobState::Cancelled => {
                    return Err(ApiError::conflict(format!("job {job} was cancelled")).into());
                }
            }
        }
        Err(ClientError::Broken("the stream of job events ended early".into()))
    }

    pub(super) async fn start(&self, path: &str, request: &impl serde::Serialize) -> Answer<JobId> {
        let started: JobStarted = self.post(path, request).await?;
        Ok(started.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_given_parameters_are_sent() {
        assert_eq!(query("/p", &[("a", None)]), "/p");
        let both = [("a", None), ("b", text(Some(1))), ("c", text(Some("x")))];
        assert_eq!(query("/p", &both), "/p?b=1&c=x");
    }
}
