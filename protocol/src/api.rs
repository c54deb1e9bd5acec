//! Types of the local interface: HTTP/1.1 + JSON over a Unix socket, paths under `/v1` (design 9).
//!
//! The server lives in `daemon`, the client in `cli`; both use these types and nothing else, so
//! that a field cannot mean two things. Amounts are [`crate::amount::Credits`] in fields that end
//! in `_micro`, times are milliseconds, losses nano-nats per byte, ratios ppm: no floats. Lists
//! come inside an object, so that a reply can grow.
//!
//! | Method and path | Body or query | Reply |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/peers` | | [`Peers`] |
//! | `GET /v1/join-string` | | [`JoinStringReply`] |
//! | `POST /v1/node/stop` | | [`Stopping`] |
//! | `GET /v1/events` | | server-sent [`NodeEvent`]s |
//! | `GET /v1/chain/blocks` | [`BlocksQuery`] | [`Blocks`] |
//! | `GET /v1/chain/block/{height or hash}` | | [`BlockDetail`] |
//! | `GET /v1/chain/tx/{hash}` | | [`TransactionDetail`] |
//! | `GET /v1/chain/validators` | [`ValidatorsQuery`] | [`Validators`] |
//! | `GET /v1/chain/params` | | [`ChainParameters`] |
//! | `GET /v1/chain/audit` | | [`Audit`] |
//! | `GET /v1/chain/genesis` | | the genesis file |
//! | `GET /v1/credits/balance` | [`BalanceQuery`] | [`Balance`] |
//! | `GET /v1/credits/accounts` | | [`Accounts`] |
//! | `POST /v1/credits/send` | [`SendRequest`] | [`TransactionReceipt`] |
//! | `GET /v1/credits/history` | [`HistoryQuery`] | [`HistoryPage`] |
//! | `POST /v1/credits/stake` | [`StakeRequest`] | [`TransactionReceipt`] |
//! | `GET /v1/credits/stakes` | [`StakesQuery`] | [`Stakes`] |
//! | `GET /v1/credits/proof` | [`ProofQuery`] | [`BalanceProof`] |
//! | `POST /v1/governance/proposals` | [`ProposeRequest`] | [`Proposed`] |
//! | `GET /v1/governance/proposals` | [`ProposalsQuery`] | [`Proposals`] |
//! | `GET /v1/governance/proposals/{id}` | [`ProposalQuery`] | [`ProposalDetail`] |
//! | `POST /v1/governance/ballots` | [`BallotRequest`] | [`TransactionReceipt`] |
//! | `POST /v1/transactions` | canonical [`SubmitTransactions`] | [`Submitted`] |
//! | `GET /v1/transactions/{hash}` | | [`TransactionState`] |
//! | `POST /v1/blobs` | raw bytes | [`BlobReceipt`] |
//! | `GET /v1/data` | | [`DataList`] |
//! | `POST /v1/data/publish` | [`PublishRequest`] | [`JobStarted`] |
//! | `POST /v1/data/private` | [`PrivateRequest`] | [`PrivateSummary`] |
//! | `POST /v1/data/add` | [`AddRequest`] | [`JobStarted`] |
//! | `POST /v1/data/upload` | [`UploadQuery`], raw bytes | [`BlobReceipt`] |
//! | `POST /v1/data/get` | [`GetRequest`] | [`JobStarted`] |
//! | `GET /v1/data/blobs` | [`BlobsQuery`] | [`BlobList`] |
//! | `GET /v1/data/blobs/{hash}` | [`BlobQuery`] | [`BlobDetail`] |
//! | `POST /v1/data/pin` | [`PinRequest`] | [`PinSummary`] |
//! | `POST /v1/data/unpin` | [`UnpinRequest`] | [`Unpinned`] |
//! | `POST /v1/data/rm` | [`RemoveRequest`] | [`Removed`] |
//! | `POST /v1/data/gc` | [`GcRequest`] | [`JobStarted`] |
//! | `POST /v1/data/verify` | [`VerifyRequest`] | [`JobStarted`] |
//! | `GET /v1/data/providers/{hash}` | | [`Providers`] |
//! | `POST /v1/models` | [`CreateModelRequest`] | [`JobStarted`] |
//! | `GET /v1/models` | | [`Models`] |
//! | `GET /v1/models/{id or name}` | | [`Model`] |
//! | `POST /v1/models/{id or name}/generate` | [`GenerateRequest`] | server-sent [`GenerateEvent`]s |
//! | `POST /v1/models/{id or name}/evaluate` | [`EvaluateRequest`] | [`JobStarted`] |
//! | `POST /v1/models/{id or name}/export` | [`ExportRequest`] | [`JobStarted`] |
//! | `POST /v1/models/{id or name}/compare` | [`CompareRequest`] | [`JobStarted`] |
//! | `POST /v1/rounds` | [`OpenRoundsRequest`] | [`RoundsOpened`] |
//! | `GET /v1/rounds` | [`RoundsQuery`] | [`Rounds`] |
//! | `POST /v1/train/join` | [`TrainJoinRequest`] | [`TrainStatus`] |
//! | `POST /v1/train/leave` | | [`TrainStatus`] |
//! | `GET /v1/train/status` | | [`TrainStatus`] |
//! | `GET /v1/reviews` | [`ReviewsQuery`] | [`Contributions`] |
//! | `GET /v1/reviews/{contribution}` | | [`Contribution`] |
//! | `GET /v1/jobs/{id}` | | [`JobStatus`] |
//! | `GET /v1/jobs/{id}/events` | | server-sent [`JobStatus`]es, the last one finished |
//! | `DELETE /v1/jobs/{id}` | | [`JobStatus`] |
//!
//! Every failure is an [`ErrorBody`].

mod blobs;
mod chain;
mod credits;
mod data;
mod error;
mod governance;
mod jobs;
mod models;
mod node;
mod proof;
mod staking;
mod training;
mod transactions;

pub use blobs::{
    AddMode, AddRequest, BLOBS_PAGE_MAX, BlobDetail, BlobFilter, BlobList, BlobQuery, BlobSummary,
    BlobsQuery, CollectionDetail, Damage, FILES_SHOWN, FetchPriority, FileSummary, GcRequest,
    GetRequest, LEASE_MAX_S, LISTED_MAX, PIN_NAME_BYTES_MAX, PROVIDERS_NAMED_MAX, PinName,
    PinNameError, PinRequest, PinSummary, Provider, Providers, RemoveRequest, Removed, SourceBytes,
    SourceProgress, UnpinRequest, Unpinned, UploadQuery, VerifyRequest,
};
pub use chain::{
    Audit, BlockDetail, BlockRef, BlockRefError, BlockSigner, BlockSummary, Blocks, BlocksQuery,
    ChainParameters, EvidenceSummary, Inclusion, ParameterSummary, RulesAhead, TransactionDetail,
    TransactionSummary, ValidatorState, ValidatorSummary, Validators, ValidatorsQuery,
};
pub use credits::{
    AccountSummary, Accounts, Balance, BalanceQuery, Earned, HistoryCursor, HistoryCursorError,
    HistoryDirection, HistoryEntry, HistoryPage, HistoryQuery, NodeBalance, SendRequest,
    TransactionReceipt,
};
pub use data::{
    BlobReceipt, DataList, DatasetSummary, IngestOptions, IngestReport, PrivateRequest,
    PrivateSummary, PublishRequest,
};
pub use error::{ApiError, ErrorBody, ErrorCode};
pub use governance::{
    Ballot, BallotRequest, Needs, Proposal, ProposalDetail, ProposalQuery, Proposals,
    ProposalsQuery, ProposeRequest, Proposed, Tally,
};
pub use jobs::{JobId, JobKind, JobProgress, JobResult, JobStarted, JobState, JobStatus};
pub use models::{
    CompareRequest, CreateModelRequest, EvaluateRequest, ExportRequest, ExportedFile, GenerateDone,
    GenerateEvent, GenerateRequest, HeadChoice, Model, ModelOrigin, ModelRef, ModelRefError,
    Models, TensorChange,
};
pub use node::{
    Direction, JoinStringReply, NodeEvent, Peer, Peers, Role, Status, Stopping, WorkerState,
    WorkerStatus,
};
pub use proof::{BalanceProof, ProofQuery, TrustedBy, TrustedPoint, TrustedPointError};
pub use staking::{Delegation, StakeRequest, Stakes, StakesQuery, Unbonding};
pub use training::{
    Contribution, Contributions, DutyKind, DutyStatus, OpenRoundsRequest, PanelReview,
    ReviewsQuery, Round, RoundPhase, Rounds, RoundsOpened, RoundsQuery, TrainJoinRequest,
    TrainStatus,
};
pub use transactions::{SubmitResult, SubmitTransactions, Submitted, TransactionState};
