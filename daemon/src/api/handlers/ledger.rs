//! Routes of the ledger: the chain and credits.

use axum::extract::State;
use axum::response::Response;
use protocol::api::{
    Accounts, Audit, Balance, BalanceQuery, BlockDetail, BlockRef, Blocks, BlocksQuery,
    ChainParameters, HistoryPage, HistoryQuery, SendRequest, TransactionDetail, TransactionReceipt,
    Validators, ValidatorsQuery,
};
use protocol::ids::TransactionHash;

use super::{Node, Reply, reply};
use crate::api::Backend;
use crate::api::extract::{Body, Failure, Params, Segment, json_bytes};

pub(in crate::api) async fn blocks<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<BlocksQuery>,
) -> Reply<Blocks> {
    reply(node.backend.blocks(query).await?)
}

pub(in crate::api) async fn block<B: Backend>(
    State(node): Node<B>,
    Segment(block): Segment<BlockRef>,
) -> Reply<BlockDetail> {
    reply(node.backend.block(block).await?)
}

pub(in crate::api) async fn transaction<B: Backend>(
    State(node): Node<B>,
    Segment(hash): Segment<TransactionHash>,
) -> Reply<TransactionDetail> {
    reply(node.backend.transaction(hash).await?)
}

pub(in crate::api) async fn validators<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<ValidatorsQuery>,
) -> Reply<Validators> {
    reply(node.backend.validators(query).await?)
}

pub(in crate::api) async fn parameters<B: Backend>(State(node): Node<B>) -> Reply<ChainParameters> {
    reply(node.backend.parameters().await?)
}

pub(in crate::api) async fn audit<B: Backend>(State(node): Node<B>) -> Reply<Audit> {
    reply(node.backend.audit().await?)
}

pub(in crate::api) async fn genesis<B: Backend>(State(node): Node<B>) -> Result<Response, Failure> {
    Ok(json_bytes(node.backend.genesis().await?))
}

pub(in crate::api) async fn balance<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<BalanceQuery>,
) -> Reply<Balance> {
    reply(node.backend.balance(query.account).await?)
}

pub(in crate::api) async fn accounts<B: Backend>(State(node): Node<B>) -> Reply<Accounts> {
    reply(node.backend.accounts().await?)
}

pub(in crate::api) async fn send<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<SendRequest>,
) -> Reply<TransactionReceipt> {
    reply(node.backend.send(request).await?)
}

pub(in crate::api) async fn history<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<HistoryQuery>,
) -> Reply<HistoryPage> {
    reply(node.backend.history(query).await?)
}
