//! A backend that answers with samples: what it says matters only to the tests beside it.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::amount::{Credits, Height, TimestampMs};
use protocol::api::{
    Accounts, AddRequest, ApiError, Audit, Balance, BalanceProof, BallotRequest, BlobDetail,
    BlobList, BlobQuery, BlobReceipt, BlobsQuery, BlockDetail, BlockRef, Blocks, BlocksQuery,
    ChainParameters, CompareRequest, Contribution, Contributions, CreateModelRequest, DataList,
    EvaluateRequest, ExportRequest, GcRequest, GenerateDone, GenerateRequest, GetRequest,
    HistoryPage, HistoryQuery, JobId, JobKind, JobProgress, JobResult, Model, ModelRef, Models,
    NodeEvent, OpenRoundsRequest, Peers, PinName, PinRequest, PinSummary, PrivateRequest,
    PrivateSummary, ProofQuery, ProposalDetail, ProposalQuery, Proposals, ProposalsQuery,
    ProposeRequest, Proposed, Providers, PublishRequest, RemoveRequest, Removed, ReviewsQuery,
    Role, Rounds, RoundsOpened, RoundsQuery, SendRequest, SourceBytes, SourceProgress,
    StakeRequest, Stakes, StakesQuery, Status, SubmitResult, SubmitTransactions, Submitted,
    TrainJoinRequest, TrainStatus, TransactionDetail, TransactionReceipt, TransactionState,
    UnpinRequest, Unpinned, UploadQuery, Validators, ValidatorsQuery, VerifyRequest, WorkerState,
    WorkerStatus,
};
use protocol::ids::{
    AccountId, BlockHash, ChainId, ContentHash, ContributionId, HeadId, ModelId, NodeId, StateRoot,
    TransactionHash,
};
use protocol::join::JoinString;
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::{Capabilities, ProposalId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Backend, GenerateOutput, Jobs, Piece};

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

    fn note(&self, call: String) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(call);
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

pub(super) fn got(hash: ContentHash) -> JobResult {
    JobResult::GetData {
        hash,
        bytes: 9,
        files: 1,
        collection: false,
        bytes_fetched: 5,
        bytes_had: 4,
        sources: vec![SourceBytes { node: NodeId::default(), bytes: 5 }],
        target: Some("/out".to_owned()),
        pin: None,
        elapsed_ms: 1,
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
            sandbox: None,
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
        self.note(format!("blocks {:?} {}", query.from, query.limit()));
        Ok(Blocks { blocks: Vec::new() })
    }

    async fn block(&self, block: BlockRef) -> Result<BlockDetail, ApiError> {
        self.note(format!("block {block}"));
        absent()
    }

    async fn find_transaction(&self, hash: TransactionHash) -> Result<TransactionDetail, ApiError> {
        self.note(format!("tx {hash}"));
        absent()
    }

    async fn validators(&self, query: ValidatorsQuery) -> Result<Validators, ApiError> {
        self.note(format!("validators {:?}", query.height));
        absent()
    }

    async fn parameters(&self) -> Result<ChainParameters, ApiError> {
        let list = LedgerParameters::default().list();
        Ok(ChainParameters {
            height: Height::new(3),
            rules_version: 1,
            rules_ahead: None,
            base_fee_per_byte_micro: Credits::from_micro(10),
            parameters: list.into_iter().map(Into::into).collect(),
        })
    }

    async fn history(&self, query: HistoryQuery) -> Result<HistoryPage, ApiError> {
        let before = query.before.map(|at| at.to_string());
        self.note(format!("history {before:?} {}", query.limit()));
        Ok(HistoryPage {
            account: query.account.unwrap_or_default(),
            entries: Vec::new(),
            older: query.before,
            searched: Height::new(3),
        })
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
        Err(ApiError::insufficient_funds("the account has nothing")
            .with_hint("earn some")
            .with_rejection("insufficient_funds"))
    }

    async fn act_on_stake(&self, request: StakeRequest) -> Result<TransactionReceipt, ApiError> {
        self.note(format!("{request:?}"));
        Err(ApiError::conflict("too early").with_rejection("too_early"))
    }

    async fn stakes(&self, _: StakesQuery) -> Result<Stakes, ApiError> {
        absent()
    }

    async fn proof(&self, query: ProofQuery) -> Result<BalanceProof, ApiError> {
        self.note(format!("proof from {:?}", query.trusted_height));
        absent()
    }

    async fn propose(&self, request: ProposeRequest) -> Result<Proposed, ApiError> {
        self.note(format!("{} {:?}", request.title, request.change));
        absent()
    }

    async fn ballot(&self, request: BallotRequest) -> Result<TransactionReceipt, ApiError> {
        self.note(format!("{} {:?}", request.proposal, request.choice));
        absent()
    }

    async fn proposals(&self, query: ProposalsQuery) -> Result<Proposals, ApiError> {
        self.note(format!("proposals {} {}", query.all, query.limit()));
        absent()
    }

    async fn proposal(
        &self,
        id: ProposalId,
        query: ProposalQuery,
    ) -> Result<ProposalDetail, ApiError> {
        self.note(format!("proposal {id} {:?} {}", query.skip, query.limit()));
        absent()
    }

    async fn store_blob(&self, bytes: Bytes) -> Result<BlobReceipt, ApiError> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(BlobReceipt { hash: ContentHash::of(&bytes), bytes: count })
    }

    async fn add_data(&self, request: AddRequest) -> Result<JobId, ApiError> {
        self.note(format!("add {request:?}"));
        absent()
    }

    async fn upload(
        &self,
        query: UploadQuery,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> Result<BlobReceipt, ApiError> {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        loop {
            match pieces.recv().await {
                Some(Piece::Bytes(piece)) => {
                    bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    hasher.update(&piece);
                }
                Some(Piece::End) => break,
                None => {
                    self.note("upload cut off".to_owned());
                    return Err(ApiError::bad_request("cut off"));
                }
            }
        }
        self.note(format!("upload {query:?}"));
        Ok(BlobReceipt { hash: ContentHash::from_bytes(*hasher.finalize().as_bytes()), bytes })
    }

    async fn get_data(&self, request: GetRequest) -> Result<JobId, ApiError> {
        self.jobs.start(JobKind::GetData, move |handle| async move {
            let node = NodeId::default();
            let sources = vec![SourceProgress { node, bytes: 5, bytes_per_s: 6 }];
            let message = "fetching".to_owned();
            handle.report(JobProgress { done: 5, total: 9, message, sources });
            if request.target.is_none() {
                std::future::pending::<()>().await;
            }
            Ok(got(request.hash))
        })
    }

    async fn list_blobs(&self, query: BlobsQuery) -> Result<BlobList, ApiError> {
        self.note(format!("blobs {query:?}"));
        Ok(BlobList::default())
    }

    async fn blob(&self, hash: ContentHash, query: BlobQuery) -> Result<BlobDetail, ApiError> {
        self.note(format!("blob {hash} {:?}", query.files));
        absent()
    }

    async fn pin(&self, request: PinRequest) -> Result<PinSummary, ApiError> {
        let PinRequest { hash, name, lease_s: until_s, announce: announced } = request;
        let name = name.unwrap_or_else(|| PinName::from(hash));
        Ok(PinSummary { name, hash, until_s, announced })
    }

    async fn unpin(&self, _: UnpinRequest) -> Result<Unpinned, ApiError> {
        absent()
    }

    async fn remove_blob(&self, request: RemoveRequest) -> Result<Removed, ApiError> {
        self.note(format!("rm {} {}", request.hash, request.force));
        Err(ApiError::conflict("it is pinned"))
    }

    async fn collect_garbage(&self, request: GcRequest) -> Result<JobId, ApiError> {
        self.note(format!("gc {}", request.dry_run));
        absent()
    }

    async fn verify_data(&self, request: VerifyRequest) -> Result<JobId, ApiError> {
        self.note(format!("verify {} {}", request.hash.is_some(), request.repair));
        absent()
    }

    async fn providers(&self, _: ContentHash) -> Result<Providers, ApiError> {
        Ok(Providers::default())
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

    async fn export(&self, _: ModelRef, _: ExportRequest) -> Result<JobId, ApiError> {
        absent()
    }

    async fn compare(&self, _: ModelRef, _: CompareRequest) -> Result<JobId, ApiError> {
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
