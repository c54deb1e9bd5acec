//! Routes of the ledger: the chain, credits, governance.

use axum::extract::State;
use axum::response::Response;
use protocol::api::{
    Accounts, Audit, Balance, BalanceProof, BalanceQuery, BallotRequest, BlockDetail, BlockRef,
    Blocks, BlocksQuery, ChainParameters, HistoryPage, HistoryQuery, ProofQuery, ProposalDetail,
    ProposalQuery, Proposals, ProposalsQuery, ProposeRequest, Proposed, SendRequest, StakeRequest,
    Stakes, StakesQuery, TransactionDetail, TransactionReceipt, Validators, ValidatorsQuery,
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

pub(in crate::api) async fn find_transaction<B: Backend>(
    State(node): Node<B>,
    Segment(hash): Segment<TransactionHash>,
) -> Reply<TransactionDetail> {
    reply(node.backend.find_transaction(hash).await?)
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

pub(in crate::api) async fn stake<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<StakeRequest>,
) -> Reply<TransactionReceipt> {
    reply(node.backend.act_on_stake(request).await?)
}

pub(in crate::api) async fn stakes<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<StakesQuery>,
) -> Reply<Stakes> {
    reply(node.backend.stakes(query).await?)
}

pub(in crate::api) async fn proof<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<ProofQuery>,
) -> Reply<BalanceProof> {
    reply(node.backend.proof(query).await?)
}

pub(in crate::api) async fn propose<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<ProposeRequest>,
) -> Reply<Proposed> {
    reply(node.backend.propose(request).await?)
}

pub(in crate::api) async fn ballot<B: Backend>(
    State(node): Node<B>,
    Body(request): Body<BallotRequest>,
) -> Reply<TransactionReceipt> {
    reply(node.backend.ballot(request).await?)
}

pub(in crate::api) async fn proposals<B: Backend>(
    State(node): Node<B>,
    Params(query): Params<ProposalsQuery>,
) -> Reply<Proposals> {
    reply(node.backend.proposals(query).await?)
}

pub(in crate::api) async fn proposal<B: Backend>(
    State(node): Node<B>,
    Segment(id): Segment<u64>,
    Params(query): Params<ProposalQuery>,
) -> Reply<ProposalDetail> {
    reply(node.backend.proposal(id, query).await?)
}
