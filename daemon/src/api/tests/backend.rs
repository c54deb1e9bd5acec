//! A backend that answers with samples: what it says matters only to the tests beside it.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::amount::{Credits, Height, TimestampMs};
use protocol::api::{
    Accounts, ApiError, Audit, Balance, BlobReceipt, BlockDetail, Blocks, BlocksQuery,
    Contribution, Contributions, CreateModelRequest, DataList, EvaluateRequest, GenerateDone,
    GenerateRequest, JobId, JobKind, JobResult, Model, ModelRef, Models, NodeEvent,
    OpenRoundsRequest, Peers, PrivateRequest, PrivateSummary, PublishRequest, ReviewsQuery, Role,
    Rounds, RoundsOpened, RoundsQuery, SendRequest, Status, SubmitResult, SubmitTransactions,
    Submitted, TrainJoinRequest, TrainStatus, TransactionReceipt, TransactionState, WorkerState,
    WorkerStatus,
};
use protocol::ids::{
    AccountId, BlockHash, ChainId, ContentHash, ContributionId, HeadId, ModelId, NodeId, StateRoot,
    TransactionHash,
};
use protocol::join::JoinString;
use protocol::transaction::Capabilities;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Backend, GenerateOutput, Jobs};

pub(super) struct Sample {
    jobs: Jobs,
    shutdown: CancellationToken,
    seen: Mutex<Vec<String>>,
    /// Keeps event channels open, as a node does.
    listeners: Mutex<Vec<mpsc::Sender<NodeEvent>>>,
}

impl Sample {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self {
            jobs: Jobs::new(TaskTracker::new(), shutdown.clone()),
            shutdown,
            seen: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn absent<T>() -> Result<T, ApiError> {
    Err(ApiError::not_found("the sample backend has none"))
}

pub(super) fn join() -> JoinString {
    let addresses = vec!["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()];
    JoinString::new(ChainId::default(), addresses, None).expect("valid parts")
}

pub(super) fn evaluated() -> JobResult {
    JobResult::Evaluate {
        model: ModelId::default(),
        head: HeadId::default(),
        loss_nanonats: 2_900_000_000,
        windows: 2,
        bytes: 256,
    }
}

pub(super) fn status() -> Status {
    Status {
        version: "1".to_owned(),
        pid: 1,
        uptime_ms: 2,
        chain: ChainId::default(),
        node: NodeId::default(),
        peer_id: "12D3".to_owned(),
        account: AccountId::default(),
        role: Role::Validator,
        capabilities: Capabilities::default(),
        is_member: true,
        listen: vec!["/ip4/127.0.0.1/udp/1/quic-v1".to_owned()],
        join_string: Some(join()),
        height: Height::new(3),
        block_hash: BlockHash::default(),
        state_root: StateRoot::default(),
        chain_time_ms: TimestampMs::new(4),
        syncing: false,
        best_known_height: Height::new(3),
        validators: 4,
        peers: 3,
        worker: WorkerStatus {
            state: WorkerState::Idle,
            job: None,
            version: None,
            device: Some("cpu".to_owned()),
            torch: Some(true),
            restarts: 0,
            last_error: None,
        },
        mempool_transactions: 0,
        mempool_bytes: 0,
        double_sign_refusals: 0,
        refused_messages: [("malformed".to_owned(), 1)].into(),
        blob_bytes_sent: 1,
        blob_bytes_received: 2,
        warnings: Vec::new(),
    }
}

#[async_trait]
impl Backend for Sample {
    fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    async fn status(&self) -> Result<Status, ApiError> {
        Ok(status())
    }

    async fn peers(&self) -> Result<Peers, ApiError> {
        panic!("a fault of the backend")
    }

    async fn join_string(&self) -> Result<JoinString, ApiError> {
        Ok(join())
    }

    async fn stop(&self) -> Result<(), ApiError> {
        self.shutdown.cancel();
        Ok(())
    }

    async fn events(&self) -> Result<mpsc::Receiver<NodeEvent>, ApiError> {
        let (sender, receiver) = mpsc::channel(4);
        let sent = sender.try_send(NodeEvent::Missed { events: 3 });
        sent.map_err(|_| ApiError::internal("a new channel has room"))?;
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(receiver)
    }

    async fn blocks(&self, query: BlocksQuery) -> Result<Blocks, ApiError> {
        let call = format!("blocks {:?} {}", query.from, query.limit());
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        Ok(Blocks { blocks: Vec::new() })
    }

    async fn block(&self, _: Height) -> Result<BlockDetail, ApiError> {
        absent()
    }

    async fn audit(&self) -> Result<Audit, ApiError> {
        absent()
    }

    async fn genesis(&self) -> Result<Bytes, ApiError> {
        Ok(Bytes::from_static(b"{}"))
    }

    async fn balance(&self, account: Option<AccountId>) -> Result<Balance, ApiError> {
        Ok(Balance {
            account: account.unwrap_or_default(),
            balance_micro: Credits::ZERO,
            nodes: Vec::new(),
            bonded_micro: Credits::ZERO,
        })
    }

    async fn accounts(&self) -> Result<Accounts, ApiError> {
        absent()
    }

    async fn submit(&self, request: SubmitTransactions) -> Result<Submitted, ApiError> {
        let accepted = SubmitResult {
            code: SubmitResult::ACCEPTED.to_owned(),
            transaction: None,
            message: None,
        };
        Ok(Submitted { results: vec![accepted; request.transactions.len()] })
    }

    async fn transaction(&self, _: TransactionHash) -> Result<TransactionState, ApiError> {
        Ok(TransactionState::Unknown)
    }

    async fn send(&self, _: SendRequest) -> Result<TransactionReceipt, ApiError> {
        Err(ApiError::insufficient_funds("the account has nothing").with_hint("earn some"))
    }

    async fn store_blob(&self, bytes: Bytes) -> Result<BlobReceipt, ApiError> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(BlobReceipt { hash: ContentHash::of(&bytes), bytes: count })
    }

    async fn data(&self) -> Result<DataList, ApiError> {
        absent()
    }

    async fn publish(&self, _: PublishRequest) -> Result<JobId, ApiError> {
        absent()
    }

    async fn set_private(&self, request: PrivateRequest) -> Result<PrivateSummary, ApiError> {
        Ok(PrivateSummary { path: request.path, files: 0, bytes: 0, files_skipped: 0 })
    }

    async fn create_model(&self, _: CreateModelRequest) -> Result<JobId, ApiError> {
        absent()
    }

    async fn models(&self) -> Result<Models, ApiError> {
        Ok(Models { models: Vec::new() })
    }

    async fn model(&self, _: ModelRef) -> Result<Model, ApiError> {
        absent()
    }

    async fn generate(
        &self,
        _: ModelRef,
        request: GenerateRequest,
    ) -> Result<mpsc::Receiver<Result<GenerateOutput, ApiError>>, ApiError> {
        let (sender, receiver) = mpsc::channel(8);
        let dies = request.prompt == "die";
        let text = |bytes: &[u8]| Ok(GenerateOutput::Text(bytes.to_vec()));
        let done = GenerateDone { head: HeadId::default(), bytes: 6, elapsed_ms: 1 };
        let mut pieces = vec![text(request.prompt.as_bytes())];
        if !dies {
            // Two characters, cut inside.
            pieces.extend([text(b"\xc3"), text(b"\xa9\xe2\x82"), text(b"\xac")]);
            pieces.push(Ok(GenerateOutput::Done(done)));
        }
        for piece in pieces {
            sender.try_send(piece).map_err(|_| ApiError::internal("a new channel has room"))?;
        }
        Ok(receiver)
    }

    async fn evaluate(&self, _: ModelRef, request: EvaluateRequest) -> Result<JobId, ApiError> {
        self.jobs.start(JobKind::Evaluate, move |handle| async move {
            handle.progress(1, 2, "half");
            if request.windows == 0 {
                std::future::pending::<()>().await;
            }
            Ok(evaluated())
        })
    }

    async fn open_rounds(&self, _: OpenRoundsRequest) -> Result<RoundsOpened, ApiError> {
        absent()
    }

    async fn rounds(&self, _: RoundsQuery) -> Result<Rounds, ApiError> {
        absent()
    }

    async fn train_join(&self, _: TrainJoinRequest) -> Result<TrainStatus, ApiError> {
        absent()
    }

    async fn train_leave(&self) -> Result<TrainStatus, ApiError> {
        absent()
    }

    async fn train_status(&self) -> Result<TrainStatus, ApiError> {
        absent()
    }

    async fn reviews(&self, _: ReviewsQuery) -> Result<Contributions, ApiError> {
        absent()
    }

    async fn review(&self, _: ContributionId) -> Result<Contribution, ApiError> {
        absent()
    }
}
