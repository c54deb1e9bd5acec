//! The node behind the local interface: one method per operation, each short.

mod chain;
mod data;
mod governance;
mod history;
mod models;
mod node;
mod proof;
mod staking;
mod validators;
mod view;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use protocol::amount::Credits;
use protocol::api::{
    Accounts, AddRequest, ApiError, Audit, Balance, BalanceProof, BallotRequest, BlobDetail,
    BlobList, BlobQuery, BlobReceipt, BlobsQuery, BlockDetail, BlockRef, Blocks, BlocksQuery,
    ChainParameters, CompareRequest, Contribution, Contributions, CreateModelRequest, DataList,
    EvaluateRequest, ExportRequest, GcRequest, GenerateRequest, GetRequest, HistoryPage,
    HistoryQuery, JobId, Model, ModelRef, Models, NodeEvent, OpenRoundsRequest, Peers, PinRequest,
    PinSummary, PrivateRequest, PrivateSummary, ProofQuery, ProposalDetail, ProposalQuery,
    Proposals, ProposalsQuery, ProposeRequest, Proposed, Providers, PublishRequest, RemoveRequest,
    Removed, ReviewsQuery, Rounds, RoundsOpened, RoundsQuery, SendRequest, StakeRequest, Stakes,
    StakesQuery, Status, SubmitTransactions, Submitted, TrainJoinRequest, TrainStatus,
    TransactionDetail, TransactionReceipt, TransactionState, UnpinRequest, Unpinned, UploadQuery,
    Validators, ValidatorsQuery, VerifyRequest,
};
use protocol::ids::{AccountId, ContentHash, ContributionId, TransactionHash};
use protocol::join::JoinString;
use protocol::transaction::{Payload, ProposalId};
use tokio::sync::mpsc;

pub use view::round_events;

use super::Node;
use crate::api::{Backend, GenerateOutput, Jobs, Piece};
use crate::engine::Engine;

/// How long a transaction of the interface may take to become final.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub struct NodeBackend {
    node: Arc<Node>,
    engine: Engine,
}

impl NodeBackend {
    /// For a running node.
    pub const fn new(node: Arc<Node>, engine: Engine) -> Self {
        Self { node, engine }
    }

    async fn transact(&self, payload: Payload) -> Result<TransactionReceipt, ApiError> {
        let key = &self.node.secrets.account;
        self.node.transactions.send_and_wait(key, payload, PATIENCE).await
    }
}

#[async_trait]
impl Backend for NodeBackend {
    fn jobs(&self) -> &Jobs {
        &self.node.jobs
    }

    async fn status(&self) -> Result<Status, ApiError> {
        Ok(self.node_status().await)
    }

    async fn peers(&self) -> Result<Peers, ApiError> {
        Ok(self.node_peers().await)
    }

    async fn join_string(&self) -> Result<JoinString, ApiError> {
        self.node_join_string().await.ok_or_else(|| {
            ApiError::unavailable("the node does not listen on any address yet")
                .with_hint("set `listen` under [network] in config.toml")
        })
    }

    async fn stop(&self) -> Result<(), ApiError> {
        self.node.token.cancel();
        Ok(())
    }

    async fn events(&self) -> Result<mpsc::Receiver<NodeEvent>, ApiError> {
        let listener = self.node.events.listen();
        listener.ok_or_else(|| ApiError::unavailable("too many listeners for events"))
    }

    async fn blocks(&self, query: BlocksQuery) -> Result<Blocks, ApiError> {
        self.list_blocks(query).await
    }

    async fn block(&self, block: BlockRef) -> Result<BlockDetail, ApiError> {
        self.show_block(block).await
    }

    async fn find_transaction(&self, hash: TransactionHash) -> Result<TransactionDetail, ApiError> {
        self.show_transaction(hash).await
    }

    async fn validators(&self, query: ValidatorsQuery) -> Result<Validators, ApiError> {
        self.list_validators(query)
    }

    async fn parameters(&self) -> Result<ChainParameters, ApiError> {
        Ok(self.list_parameters())
    }

    async fn audit(&self) -> Result<Audit, ApiError> {
        let (state_root, audit) = self.node.ledger.run(super::ledger::Ledger::audit).await;
        let total = u64::try_from(audit.found)
            .map_err(|_| ApiError::internal("the credits found do not fit an amount"))?;
        Ok(Audit {
            height: audit.height,
            state_root,
            genesis_micro: audit.genesis,
            minted_micro: audit.minted,
            burned_micro: audit.burned,
            total_micro: Credits::from_micro(total),
            credits_conserved: audit.conserved,
            double_signs: audit.double_signs,
        })
    }

    async fn genesis(&self) -> Result<Bytes, ApiError> {
        Ok(Bytes::from(self.node.genesis_json.clone()))
    }

    async fn balance(&self, account: Option<AccountId>) -> Result<Balance, ApiError> {
        let account = account.unwrap_or_else(|| self.node.account());
        Ok(self.node.ledger.read(|view| view::balance(view, account)))
    }

    async fn accounts(&self) -> Result<Accounts, ApiError> {
        Ok(self.node.ledger.run(|ledger| ledger.read(view::accounts)).await)
    }

    async fn send(&self, request: SendRequest) -> Result<TransactionReceipt, ApiError> {
        if request.to == self.node.account() {
            return Err(ApiError::bad_request("the receiver is this node's own account")
                .with_hint("`ayni status` on the receiver's node says its account"));
        }
        self.transact(Payload::Transfer { to: request.to, amount: request.amount_micro }).await
    }

    async fn history(&self, query: HistoryQuery) -> Result<HistoryPage, ApiError> {
        self.list_history(query).await
    }

    async fn act_on_stake(&self, request: StakeRequest) -> Result<TransactionReceipt, ApiError> {
        self.change_stake(request).await
    }

    async fn stakes(&self, query: StakesQuery) -> Result<Stakes, ApiError> {
        Ok(self.list_stakes(query).await)
    }

    async fn proof(&self, query: ProofQuery) -> Result<BalanceProof, ApiError> {
        self.prove_balance(query).await
    }

    async fn propose(&self, request: ProposeRequest) -> Result<Proposed, ApiError> {
        self.make_proposal(request).await
    }

    async fn ballot(&self, request: BallotRequest) -> Result<TransactionReceipt, ApiError> {
        self.cast_ballot(request).await
    }

    async fn proposals(&self, query: ProposalsQuery) -> Result<Proposals, ApiError> {
        Ok(self.list_proposals(query).await)
    }

    async fn proposal(
        &self,
        id: ProposalId,
        query: ProposalQuery,
    ) -> Result<ProposalDetail, ApiError> {
        self.show_proposal(id, query).await
    }

    async fn submit(&self, request: SubmitTransactions) -> Result<Submitted, ApiError> {
        self.node.transactions.submit(request).await
    }

    async fn transaction(&self, hash: TransactionHash) -> Result<TransactionState, ApiError> {
        Ok(self.node.transactions.state(hash).await)
    }

    async fn store_blob(&self, bytes: Bytes) -> Result<BlobReceipt, ApiError> {
        self.keep_blob(bytes).await
    }

    async fn add_data(&self, request: AddRequest) -> Result<JobId, ApiError> {
        Self::add_data(self, request)
    }

    async fn upload(
        &self,
        query: UploadQuery,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<BlobReceipt, ApiError> {
        self.take_upload(query, pieces).await
    }

    async fn get_data(&self, request: GetRequest) -> Result<JobId, ApiError> {
        Self::get_data(self, request).await
    }

    async fn list_blobs(&self, query: BlobsQuery) -> Result<BlobList, ApiError> {
        Self::list_blobs(self, query).await
    }

    async fn blob(&self, hash: ContentHash, query: BlobQuery) -> Result<BlobDetail, ApiError> {
        self.show_blob(hash, query).await
    }

    async fn pin(&self, request: PinRequest) -> Result<PinSummary, ApiError> {
        self.pin_blob(request).await
    }

    async fn unpin(&self, request: UnpinRequest) -> Result<Unpinned, ApiError> {
        self.unpin_blob(request).await
    }

    async fn remove_blob(&self, request: RemoveRequest) -> Result<Removed, ApiError> {
        Self::remove_blob(self, request).await
    }

    async fn collect_garbage(&self, request: GcRequest) -> Result<JobId, ApiError> {
        Self::collect_garbage(self, request)
    }

    async fn verify_data(&self, request: VerifyRequest) -> Result<JobId, ApiError> {
        Self::verify_data(self, request)
    }

    async fn providers(&self, hash: ContentHash) -> Result<Providers, ApiError> {
        self.find_providers(hash).await
    }

    async fn data(&self) -> Result<DataList, ApiError> {
        self.list_data().await
    }

    async fn publish(&self, request: PublishRequest) -> Result<JobId, ApiError> {
        self.publish_dataset(request)
    }

    async fn set_private(&self, request: PrivateRequest) -> Result<PrivateSummary, ApiError> {
        self.use_private(request).await
    }

    async fn create_model(&self, request: CreateModelRequest) -> Result<JobId, ApiError> {
        self.make_model(request)
    }

    async fn models(&self) -> Result<Models, ApiError> {
        let models = self.node.ledger.read(|view| view.models());
        let models = models.into_iter().map(|m| view::model(&self.node, m)).collect();
        Ok(Models { models })
    }

    async fn model(&self, model: ModelRef) -> Result<Model, ApiError> {
        Ok(view::model(&self.node, self.find_model(&model)?))
    }

    async fn generate(
        &self,
        model: ModelRef,
        request: GenerateRequest,
    ) -> Result<mpsc::Receiver<Result<GenerateOutput, ApiError>>, ApiError> {
        self.generate_text(&model, request)
    }

    async fn evaluate(&self, model: ModelRef, request: EvaluateRequest) -> Result<JobId, ApiError> {
        self.evaluate_model(&model, request)
    }

    async fn export(&self, model: ModelRef, request: ExportRequest) -> Result<JobId, ApiError> {
        self.export_model(&model, request)
    }

    async fn compare(&self, model: ModelRef, request: CompareRequest) -> Result<JobId, ApiError> {
        self.compare_heads(&model, request)
    }

    async fn open_rounds(&self, request: OpenRoundsRequest) -> Result<RoundsOpened, ApiError> {
        let model = self.find_model(&request.model)?;
        let payload = Payload::OpenRounds {
            model: model.spec.id(),
            rounds: request.rounds,
            parameters: request.parameters.unwrap_or_default(),
            escrow: request.escrow_micro,
        };
        let receipt = self.transact(payload).await?;
        Ok(RoundsOpened {
            model: model.spec.id(),
            first_round: model.next_round,
            rounds: request.rounds,
            receipt,
        })
    }

    async fn rounds(&self, query: RoundsQuery) -> Result<Rounds, ApiError> {
        let found = self.find_model(&query.model)?;
        let (model, limit) = (found.spec.id(), query.limit());
        let from = query.from.unwrap_or_else(|| found.next_round.saturating_sub(limit));
        let rounds = self
            .node
            .ledger
            .run(move |ledger| ledger.read(|view| view::rounds(view, &model, from, limit)))
            .await;
        Ok(Rounds { model, rounds })
    }

    async fn train_join(&self, request: TrainJoinRequest) -> Result<TrainStatus, ApiError> {
        let model = self.find_model(&request.model)?.spec.id();
        self.ensure_registered(Credits::ZERO).await?;
        let node = Arc::clone(&self.node);
        remembered(tokio::task::spawn_blocking(move || node.training.join(model)).await)?;
        self.train_status().await
    }

    async fn train_leave(&self) -> Result<TrainStatus, ApiError> {
        let node = Arc::clone(&self.node);
        remembered(tokio::task::spawn_blocking(move || node.training.leave()).await)?;
        self.train_status().await
    }

    async fn train_status(&self) -> Result<TrainStatus, ApiError> {
        let mut status = self.node.training.status(self.node.config.training().auto_join);
        let me = self.node.id();
        let ledger = Arc::clone(&self.node.ledger);
        status.deltas_accepted =
            ledger.run(move |ledger| ledger.read(|view| view::deltas_merged(view, &me))).await;
        Ok(status)
    }

    async fn reviews(&self, query: ReviewsQuery) -> Result<Contributions, ApiError> {
        let only = query.model.as_ref().map(|m| self.find_model(m)).transpose()?;
        let limit = usize::try_from(query.limit()).unwrap_or(usize::MAX);
        let only = only.map(|m| m.spec.id());
        let contributions = self
            .node
            .ledger
            .run(move |ledger| ledger.read(|view| view::contributions(view, only, limit)))
            .await;
        Ok(Contributions { contributions })
    }

    async fn review(&self, contribution: ContributionId) -> Result<Contribution, ApiError> {
        self.node.ledger.read(|view| view::contribution(view, &contribution)).ok_or_else(|| {
            ApiError::not_found("there is no such contribution")
                .with_hint("`ayni review ls` lists them")
        })
    }
}

/// What became of writing down which models are joined.
fn remembered(
    written: Result<std::io::Result<()>, tokio::task::JoinError>,
) -> Result<(), ApiError> {
    let written = written.map_err(|error| ApiError::internal(error.to_string()))?;
    written.map_err(|error| ApiError::internal(format!("cannot write it down: {error}")))
}
