//! One function per route: parse, ask the backend, answer. Those of the ledger are in
//! [`ledger`], those of data in [`data`].

pub(super) mod data;
pub(super) mod ledger;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use protocol::api::{
    ApiError, CompareRequest, Contribution, Contributions, CreateModelRequest, EvaluateRequest,
    ExportRequest, GenerateRequest, JobId, JobStarted, JobStatus, JoinStringReply, Model, ModelRef,
    Models, OpenRoundsRequest, Peers, ReviewsQuery, Rounds, RoundsOpened, RoundsQuery, Status,
    Stopping, SubmitTransactions, Submitted, TrainJoinRequest, TrainStatus, TransactionState,
};
use protocol::codec;
use protocol::ids::{ContributionId, TransactionHash};
use protocol::limits::{GENERATE_BYTES_MAX, PROMPT_BYTES_MAX};

use super::extract::{Body, Failure, Params, Segment, body_bytes};
use super::server::Shared;
use super::{Backend, stream};

type Node<B> = State<Arc<Shared<B>>>;
type Reply<T> = Result<Json<T>, Failure>;

fn reply<T>(value: T) -> Reply<T> {
    Ok(Json(value))
}

pub(super) async fn status<B: Backend>(State(node): Node<B>) -> Reply<Status> {
    reply(node.backend.status().await?)
}

pub(super) async fn peers<B: Backend>(State(node): Node<B>) -> Reply<Peers> {
    reply(node.backend.peers().await?)
}

pub(super) async fn join_string<B: Backend>(State(node): Node<B>) -> Reply<JoinStringReply> {
    reply(JoinStringReply { join_string: node.backend.join_string().await? })
}

pub(super) async fn stop<B: Backend>(State(node): Node<B>) -> Reply<Stopping> {
    tracing::info!("asked to stop through the local interface");
    node.backend.stop().await?;
    reply(Stopping { pid: std::process::id() })
}

pub(super) async fn events<B: Backend>(State(node): Node<B>) -> Result<Response, Failure> {
    let receiver = node.backend.events().await?;
    Ok(stream::node_events(receiver, node.shutdown.clone()))
}

pub(super) async fn submit<B: Backend>(State(node): Node<B>, request: Request) -> Reply<Submitted> {
    let bytes = body_bytes(request, &node).await?;
    let request: SubmitTransactions = codec::decode(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not a list of transactions: {error}"))
            .with_hint("it is the canonical encoding of SubmitTransactions, see the interface")
    })?;
    reply(node.backend.submit(request).await?)
}

pub(super) async fn transaction<B: Backend>(
    State(node): Node<B>,
    Segment(hash): Segment<TransactionHash>,
) -> Reply<TransactionState> {
    reply(node.backend.transaction(hash).await?)
}

pub(super) async fn models<B: Backend>(State(node): Node<B>) -> Reply<Models> {
    reply(node.backend.models().await?)
}

pub(super) async fn create_model<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<CreateModelRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.create_model(request).await? })
}

pub(super) async fn model<B: Backend>(
    State(node): Node<B>,
    Segment(model): Segment<ModelRef>,
) -> Reply<Model> {
    reply(node.backend.model(model).await?)
}

pub(super) async fn generate<B: Backend>(
    State(node): Node<B>,
    Segment(model): Segment<ModelRef>,
    Body(request): Body<GenerateRequest>,
) -> Result<Response, Failure> {
    if request.prompt.len() > PROMPT_BYTES_MAX {
        let message = format!("the prompt has more than {PROMPT_BYTES_MAX} bytes");
        return Err(ApiError::bad_request(message).into());
    }
    if !(1..=GENERATE_BYTES_MAX).contains(&request.bytes) {
        let message = format!("bytes must be 1 to {GENERATE_BYTES_MAX}");
        return Err(ApiError::bad_request(message).into());
    }
    let receiver = node.backend.generate(model, request).await?;
    Ok(stream::generate_events(receiver, node.shutdown.clone()))
}

pub(super) async fn evaluate<B: Backend>(
    State(node): Node<B>,
    Segment(model): Segment<ModelRef>,
    Body(request): Body<EvaluateRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.evaluate(model, request).await? })
}

pub(super) async fn export<B: Backend>(
    State(node): Node<B>,
    Segment(model): Segment<ModelRef>,
    Body(request): Body<ExportRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.export(model, request).await? })
}

pub(super) async fn compare<B: Backend>(
    State(node): Node<B>,
    Segment(model): Segment<ModelRef>,
    Body(request): Body<CompareRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.compare(model, request).await? })
}

pub(super) async fn open_rounds<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<OpenRoundsRequest>,
) -> Reply<RoundsOpened> {
    reply(node.backend.open_rounds(request).await?)
}

pub(super) async fn rounds<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<RoundsQuery>,
) -> Reply<Rounds> {
    reply(node.backend.rounds(query).await?)
}

pub(super) async fn train_join<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<TrainJoinRequest>,
) -> Reply<TrainStatus> {
    reply(node.backend.train_join(request).await?)
}

pub(super) async fn train_leave<B: Backend>(State(node): Node<B>) -> Reply<TrainStatus> {
    reply(node.backend.train_leave().await?)
}

pub(super) async fn train_status<B: Backend>(State(node): Node<B>) -> Reply<TrainStatus> {
    reply(node.backend.train_status().await?)
}

pub(super) async fn reviews<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<ReviewsQuery>,
) -> Reply<Contributions> {
    reply(node.backend.reviews(query).await?)
}

pub(super) async fn review<B: Backend>(
    State(node): Node<B>,
    Segment(contribution): Segment<ContributionId>,
) -> Reply<Contribution> {
    reply(node.backend.review(contribution).await?)
}

pub(super) async fn job<B: Backend>(
    State(node): Node<B>,
    Segment(job): Segment<JobId>,
) -> Reply<JobStatus> {
    reply(node.backend.jobs().status(job)?)
}

pub(super) async fn cancel_job<B: Backend>(
    State(node): Node<B>,
    Segment(job): Segment<JobId>,
) -> Reply<JobStatus> {
    reply(node.backend.jobs().cancel(job).await?)
}

pub(super) async fn job_events<B: Backend>(
    State(node): Node<B>,
    Segment(job): Segment<JobId>,
) -> Result<Response, Failure> {
    let receiver = node.backend.jobs().watch(job)?;
    Ok(stream::job_events(receiver, node.shutdown.clone()))
}
