//! The routes of data: blobs, datasets, the private folder.

use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use futures::StreamExt as _;
use protocol::api::{
    AddRequest, ApiError, BlobDetail, BlobList, BlobQuery, BlobReceipt, BlobsQuery, DataList,
    GcRequest, GetRequest, JobStarted, PinRequest, PinSummary, PrivateRequest, PrivateSummary,
    Providers, PublishRequest, RemoveRequest, Removed, UnpinRequest, Unpinned, UploadQuery,
    VerifyRequest,
};
use protocol::ids::ContentHash;
use tokio::sync::mpsc;

use super::{Node, Reply, reply};
use crate::api::access::Caller;
use crate::api::extract::{Body, Params, Segment, body_bytes};
use crate::api::server::Shared;
use crate::api::{Backend, Piece};

/// A client that sends nothing for this long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Pieces of an upload that wait for the disk; a piece is what one read of the socket gave.
const PIECES_WAITING: usize = 16;

fn check_path<B>(node: &Shared<B>, caller: Caller, path: &str) -> Result<(), ApiError> {
    node.access.check_path(caller)?;
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    Err(ApiError::bad_request("the path must be absolute: the node has another working folder"))
}

pub(in crate::api) async fn store_blob<B: Backend>(
    State(node): Node<B>,
    request: Request,
) -> Reply<BlobReceipt> {
    let _permit = node
        .uploads
        .acquire()
        .await
        .map_err(|_| ApiError::unavailable("the node is shutting down"))?;
    let bytes = body_bytes(request, &node).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("the body is empty, and an empty blob is useless").into());
    }
    reply(node.backend.store_blob(bytes).await?)
}

pub(in crate::api) async fn upload<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<UploadQuery>,
    request: Request,
) -> Reply<BlobReceipt> {
    let _permit = node.streams.try_acquire().map_err(|_| {
        ApiError::unavailable("too many uploads are under way").with_hint("try again later")
    })?;
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    let feed = async move {
        let mut body = request.into_body().into_data_stream();
        loop {
            let piece = match tokio::time::timeout(SILENCE_MAX, body.next()).await {
                Ok(Some(Ok(bytes))) => Piece::Bytes(bytes),
                Ok(None) => Piece::End,
                // Closing the channel without an end says that it was cut off.
                Ok(Some(Err(_))) | Err(_) => return,
            };
            let is_last = piece == Piece::End;
            // A receiver that has gone has said why in its own answer.
            if sender.send(piece).await.is_err() || is_last {
                return;
            }
        }
    };
    let (receipt, ()) = tokio::join!(node.backend.upload(query, pieces), feed);
    reply(receipt?)
}

pub(in crate::api) async fn add<B: Backend>(
    State(node): Node<B>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<AddRequest>,
) -> Reply<JobStarted> {
    check_path(&node, caller, &request.path)?;
    reply(JobStarted { job: node.backend.add_data(request).await? })
}

pub(in crate::api) async fn get<B: Backend>(
    State(node): Node<B>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<GetRequest>,
) -> Reply<JobStarted> {
    if let Some(target) = &request.target {
        check_path(&node, caller, target)?;
    }
    reply(JobStarted { job: node.backend.get_data(request).await? })
}

pub(in crate::api) async fn blobs<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<BlobsQuery>,
) -> Reply<BlobList> {
    reply(node.backend.list_blobs(query).await?)
}

pub(in crate::api) async fn blob<B: Backend>(
    State(node): Node<B>,
    Segment(hash): Segment<ContentHash>,
    Params(query): Params<BlobQuery>,
) -> Reply<BlobDetail> {
    reply(node.backend.blob(hash, query).await?)
}

pub(in crate::api) async fn pin<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<PinRequest>,
) -> Reply<PinSummary> {
    reply(node.backend.pin(request).await?)
}

pub(in crate::api) async fn unpin<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<UnpinRequest>,
) -> Reply<Unpinned> {
    reply(node.backend.unpin(request).await?)
}

pub(in crate::api) async fn remove<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<RemoveRequest>,
) -> Reply<Removed> {
    reply(node.backend.remove_blob(request).await?)
}

pub(in crate::api) async fn collect_garbage<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<GcRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.collect_garbage(request).await? })
}

pub(in crate::api) async fn verify<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<VerifyRequest>,
) -> Reply<JobStarted> {
    reply(JobStarted { job: node.backend.verify_data(request).await? })
}

pub(in crate::api) async fn providers<B: Backend>(
    State(node): Node<B>,
    Segment(hash): Segment<ContentHash>,
) -> Reply<Providers> {
    reply(node.backend.providers(hash).await?)
}

pub(in crate::api) async fn data<B: Backend>(State(node): Node<B>) -> Reply<DataList> {
    reply(node.backend.data().await?)
}

pub(in crate::api) async fn publish<B: Backend>(
    State(node): Node<B>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<PublishRequest>,
) -> Reply<JobStarted> {
    check_path(&node, caller, &request.path)?;
    reply(JobStarted { job: node.backend.publish(request).await? })
}

pub(in crate::api) async fn set_private<B: Backend>(
    State(node): Node<B>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<PrivateRequest>,
) -> Reply<PrivateSummary> {
    check_path(&node, caller, &request.path)?;
    reply(node.backend.set_private(request).await?)
}
