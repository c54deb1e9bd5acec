//! What the server needs of the node: one method per operation of the interface.
//!
//! Callers have been authorised when a method is called, ids and names have been parsed and
//! bodies bounded; ranges of the values inside are the backend's to check. Errors reach people as
//! they are: say what happened, why, and what to do next.
//!
//! Methods may be dropped at any await when a client goes away or a deadline passes; what must
//! not be half done belongs into a job or a task of the node.

use async_trait::async_trait;
use bytes::Bytes;
use protocol::api::{
    Accounts, AddRequest, ApiError, Audit, Balance, BalanceProof, BallotRequest, BlobDetail,
    BlobList, BlobQuery, BlobReceipt, BlobsQuery, BlockDetail, BlockRef, Blocks, BlocksQuery,
    ChainParameters, CompareRequest, Contribution, Contributions, CreateModelRequest, DataList,
    EvaluateRequest, ExportRequest, GcRequest, GenerateDone, GenerateRequest, GetRequest,
    HistoryPage, HistoryQuery, JobId, Model, ModelRef, Models, NodeEvent, OpenRoundsRequest, Peers,
    PinRequest, PinSummary, PrivateRequest, PrivateSummary, ProofQuery, ProposalDetail,
    ProposalQuery, Proposals, ProposalsQuery, ProposeRequest, Proposed, Providers, PublishRequest,
    RemoveRequest, Removed, ReviewsQuery, Rounds, RoundsOpened, RoundsQuery, SendRequest,
    StakeRequest, Stakes, StakesQuery, Status, SubmitTransactions, Submitted, TrainJoinRequest,
    TrainStatus, TransactionDetail, TransactionReceipt, TransactionState, UnpinRequest, Unpinned,
    UploadQuery, Validators, ValidatorsQuery, VerifyRequest,
};
use protocol::ids::{AccountId, ContentHash, ContributionId, TransactionHash};
use protocol::join::JoinString;
use protocol::transaction::ProposalId;
use tokio::sync::mpsc;

use super::Jobs;

/// A piece of a generation, as the worker gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GenerateOutput {
    /// More bytes; they may end inside a character, the server puts it together.
    Text(Vec<u8>),
    /// All of it.
    Done(GenerateDone),
}

/// A piece of an upload. A channel that closes without an end was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More bytes.
    Bytes(Bytes),
    /// That was all.
    End,
}

/// The node behind the interface.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The jobs that this backend starts.
    fn jobs(&self) -> &Jobs;

    /// `GET /v1/status`.
    async fn status(&self) -> Result<Status, ApiError>;

    /// `GET /v1/peers`.
    async fn peers(&self) -> Result<Peers, ApiError>;

    /// `GET /v1/join-string`.
    async fn join_string(&self) -> Result<JoinString, ApiError>;

    /// `POST /v1/node/stop`: begins the shutdown and returns.
    async fn stop(&self) -> Result<(), ApiError>;

    /// `GET /v1/events`. The channel is bounded; when it is full, events are dropped and
    /// [`NodeEvent::Missed`] says how many.
    async fn events(&self) -> Result<mpsc::Receiver<NodeEvent>, ApiError>;

    /// `GET /v1/chain/blocks`.
    async fn blocks(&self, query: BlocksQuery) -> Result<Blocks, ApiError>;

    /// `GET /v1/chain/block/{height or hash}`.
    async fn block(&self, block: BlockRef) -> Result<BlockDetail, ApiError>;

    /// `GET /v1/chain/tx/{hash}`.
    async fn find_transaction(&self, hash: TransactionHash) -> Result<TransactionDetail, ApiError>;

    /// `GET /v1/chain/validators`.
    async fn validators(&self, query: ValidatorsQuery) -> Result<Validators, ApiError>;

    /// `GET /v1/chain/params`.
    async fn parameters(&self) -> Result<ChainParameters, ApiError>;

    /// `GET /v1/chain/audit`.
    async fn audit(&self) -> Result<Audit, ApiError>;

    /// `GET /v1/chain/genesis`: the JSON of the genesis file.
    async fn genesis(&self) -> Result<Bytes, ApiError>;

    /// `GET /v1/credits/balance`: of `account`, or of the node's own.
    async fn balance(&self, account: Option<AccountId>) -> Result<Balance, ApiError>;

    /// `GET /v1/credits/accounts`.
    async fn accounts(&self) -> Result<Accounts, ApiError>;

    /// `POST /v1/credits/send`: returns when the transfer is in a final block.
    async fn send(&self, request: SendRequest) -> Result<TransactionReceipt, ApiError>;

    /// `GET /v1/credits/history`: of `account`, or of the node's own.
    async fn history(&self, query: HistoryQuery) -> Result<HistoryPage, ApiError>;

    /// `POST /v1/credits/stake`: returns when it is in a final block.
    async fn act_on_stake(&self, request: StakeRequest) -> Result<TransactionReceipt, ApiError>;

    /// `GET /v1/credits/stakes`: of `account`, or of the node's own.
    async fn stakes(&self, query: StakesQuery) -> Result<Stakes, ApiError>;

    /// `GET /v1/credits/proof`: returns when the block is final that commits what is proven.
    async fn proof(&self, query: ProofQuery) -> Result<BalanceProof, ApiError>;

    /// `POST /v1/governance/proposals`: returns when it is in a final block.
    async fn propose(&self, request: ProposeRequest) -> Result<Proposed, ApiError>;

    /// `POST /v1/governance/ballots`: returns when it is in a final block.
    async fn ballot(&self, request: BallotRequest) -> Result<TransactionReceipt, ApiError>;

    /// `GET /v1/governance/proposals`.
    async fn proposals(&self, query: ProposalsQuery) -> Result<Proposals, ApiError>;

    /// `GET /v1/governance/proposals/{id}`.
    async fn proposal(
        &self,
        id: ProposalId,
        query: ProposalQuery,
    ) -> Result<ProposalDetail, ApiError>;

    /// `POST /v1/transactions`: what is accepted is pending and on disk when this returns.
    async fn submit(&self, request: SubmitTransactions) -> Result<Submitted, ApiError>;

    /// `GET /v1/transactions/{hash}`.
    async fn transaction(&self, hash: TransactionHash) -> Result<TransactionState, ApiError>;

    /// `POST /v1/blobs`: stores and pins the bytes.
    async fn store_blob(&self, bytes: Bytes) -> Result<BlobReceipt, ApiError>;

    /// `POST /v1/data/add`: starts a job. The caller is the daemon's own user.
    async fn add_data(&self, request: AddRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/data/upload`: stores and pins the bytes that come.
    async fn upload(
        &self,
        query: UploadQuery,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<BlobReceipt, ApiError>;

    /// `POST /v1/data/get`: starts a job. The caller is the daemon's own user if a target is named.
    async fn get_data(&self, request: GetRequest) -> Result<JobId, ApiError>;

    /// `GET /v1/data/blobs`.
    async fn list_blobs(&self, query: BlobsQuery) -> Result<BlobList, ApiError>;

    /// `GET /v1/data/blobs/{hash}`.
    async fn blob(&self, hash: ContentHash, query: BlobQuery) -> Result<BlobDetail, ApiError>;

    /// `POST /v1/data/pin`.
    async fn pin(&self, request: PinRequest) -> Result<PinSummary, ApiError>;

    /// `POST /v1/data/unpin`.
    async fn unpin(&self, request: UnpinRequest) -> Result<Unpinned, ApiError>;

    /// `POST /v1/data/rm`.
    async fn remove_blob(&self, request: RemoveRequest) -> Result<Removed, ApiError>;

    /// `POST /v1/data/gc`: starts a job.
    async fn collect_garbage(&self, request: GcRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/data/verify`: starts a job.
    async fn verify_data(&self, request: VerifyRequest) -> Result<JobId, ApiError>;

    /// `GET /v1/data/providers/{hash}`.
    async fn providers(&self, hash: ContentHash) -> Result<Providers, ApiError>;

    /// `GET /v1/data`.
    async fn data(&self) -> Result<DataList, ApiError>;

    /// `POST /v1/data/publish`: starts a job. The caller is the daemon's own user.
    async fn publish(&self, request: PublishRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/data/private`. The caller is the daemon's own user.
    async fn set_private(&self, request: PrivateRequest) -> Result<PrivateSummary, ApiError>;

    /// `POST /v1/models`: starts a job.
    async fn create_model(&self, request: CreateModelRequest) -> Result<JobId, ApiError>;

    /// `GET /v1/models`.
    async fn models(&self) -> Result<Models, ApiError>;

    /// `GET /v1/models/{id or name}`.
    async fn model(&self, model: ModelRef) -> Result<Model, ApiError>;

    /// `POST /v1/models/{id or name}/generate`. Generation stops when the receiver is dropped.
    async fn generate(
        &self,
        model: ModelRef,
        request: GenerateRequest,
    ) -> Result<mpsc::Receiver<Result<GenerateOutput, ApiError>>, ApiError>;

    /// `POST /v1/models/{id or name}/evaluate`: starts a job.
    async fn evaluate(&self, model: ModelRef, request: EvaluateRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/models/{id or name}/export`: starts a job.
    async fn export(&self, model: ModelRef, request: ExportRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/models/{id or name}/compare`: starts a job.
    async fn compare(&self, model: ModelRef, request: CompareRequest) -> Result<JobId, ApiError>;

    /// `POST /v1/rounds`: returns when the opening is in a final block.
    async fn open_rounds(&self, request: OpenRoundsRequest) -> Result<RoundsOpened, ApiError>;

    /// `GET /v1/rounds`.
    async fn rounds(&self, query: RoundsQuery) -> Result<Rounds, ApiError>;

    /// `POST /v1/train/join`: joins this and later rounds of the model.
    async fn train_join(&self, request: TrainJoinRequest) -> Result<TrainStatus, ApiError>;

    /// `POST /v1/train/leave`: joins no further rounds; duties already owed are done.
    async fn train_leave(&self) -> Result<TrainStatus, ApiError>;

    /// `GET /v1/train/status`.
    async fn train_status(&self) -> Result<TrainStatus, ApiError>;

    /// `GET /v1/reviews`.
    async fn reviews(&self, query: ReviewsQuery) -> Result<Contributions, ApiError>;

    /// `GET /v1/reviews/{contribution}`.
    async fn review(&self, contribution: ContributionId) -> Result<Contribution, ApiError>;
}
