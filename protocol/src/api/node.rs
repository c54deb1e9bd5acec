//! The node itself: status, peers, events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::{Height, TimestampMs};
use crate::api::{DutyStatus, RoundPhase};
use crate::ids::{AccountId, BlockHash, ChainId, HeadId, ModelId, NodeId, StateRoot};
use crate::join::JoinString;
use crate::transaction::Capabilities;
use crate::worker::SandboxStatus;

/// What a node is in consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// In the current validator set.
    Validator,
    /// Follows and checks.
    Full,
}

/// State of the worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Started, has not described itself yet.
    Starting,
    /// Ready.
    Idle,
    /// Runs the job named in [`WorkerStatus::job`].
    Busy,
    /// Ended or refused; see [`WorkerStatus::last_error`]. Restarted after a pause.
    Failed,
    /// Switched off in the configuration.
    Disabled,
}

/// The worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Where it stands.
    pub state: WorkerState,
    /// What it is doing, for people, while busy.
    pub job: Option<String>,
    /// Program and library versions, once it has described itself.
    pub version: Option<String>,
    /// `cpu`, `cuda:0`, once it has described itself.
    pub device: Option<String>,
    /// Whether it can train and evaluate (libtorch), once it has described itself.
    pub torch: Option<bool>,
    /// How it is confined, once it has described itself.
    pub sandbox: Option<SandboxStatus>,
    /// Times it was started again since the daemon started.
    pub restarts: u32,
    /// Why it last failed.
    pub last_error: Option<String>,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// The chain.
    pub chain: ChainId,
    /// This node.
    pub node: NodeId,
    /// Its libp2p name.
    pub peer_id: String,
    /// The account it belongs to.
    pub account: AccountId,
    /// In consensus.
    pub role: Role,
    /// What it offers to do.
    pub capabilities: Capabilities,
    /// Whether it is registered on the ledger, and so can be given duties.
    pub is_member: bool,
    /// Multiaddresses it listens on.
    pub listen: Vec<String>,
    /// What another node needs to join through this one. `None` until an address is known.
    pub join_string: Option<JoinString>,
    /// Last block applied.
    pub height: Height,
    /// Its hash.
    pub block_hash: BlockHash,
    /// Root of the state after it.
    pub state_root: StateRoot,
    /// Chain time after it.
    pub chain_time_ms: TimestampMs,
    /// Whether a peer is known to be ahead.
    pub syncing: bool,
    /// Greatest height that this node or a peer has stated.
    pub best_known_height: Height,
    /// Validators in the current set.
    pub validators: u32,
    /// Connected peers.
    pub peers: u32,
    /// The worker process.
    pub worker: WorkerStatus,
    /// Pending transactions.
    pub mempool_transactions: u32,
    /// Their size.
    pub mempool_bytes: u64,
    /// Votes and proposals that the signer guard refused to sign since the daemon started.
    pub double_sign_refusals: u64,
    /// Messages of peers refused since the daemon started, by reason.
    pub refused_messages: BTreeMap<String, u64>,
    /// Blob bytes sent to peers since the daemon started.
    pub blob_bytes_sent: u64,
    /// Blob bytes received from peers since the daemon started.
    pub blob_bytes_received: u64,
    /// What a person should look at.
    pub warnings: Vec<String>,
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// They did.
    Inbound,
    /// We did.
    Outbound,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// libp2p name.
    pub peer_id: String,
    /// The node, when its key is known.
    pub node: Option<NodeId>,
    /// Address of the connection.
    pub address: String,
    /// Who dialled.
    pub direction: Direction,
    /// Program and version it states.
    pub agent: Option<String>,
    /// Height it last stated.
    pub height: Option<Height>,
    /// Last round-trip time.
    pub ping_ms: Option<u64>,
    /// Messages of it that were refused.
    pub refused_messages: u64,
}

/// `GET /v1/peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Connected peers in order of name.
    pub peers: Vec<Peer>,
}

/// `GET /v1/join-string`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinStringReply {
    /// What another node needs to join through this one.
    pub join_string: JoinString,
}

/// `POST /v1/node/stop`: shutdown has begun; the socket disappears when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// The process that is ending.
    pub pid: u32,
}

/// Something that happened, for `GET /v1/events`. The SSE event name is the `event` field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// A block was applied.
    Block {
        /// Its height.
        height: Height,
        /// Its hash.
        hash: BlockHash,
        /// The proposer's clock.
        time_ms: TimestampMs,
        /// Transactions in it.
        transactions: u32,
    },
    /// A training round entered a phase.
    Round {
        /// The model.
        model: ModelId,
        /// The round.
        round: u32,
        /// The phase.
        phase: RoundPhase,
    },
    /// A duty of this node began, moved on or ended.
    Duty {
        /// The duty.
        duty: DutyStatus,
    },
    /// A head was certified.
    Head {
        /// The model.
        model: ModelId,
        /// The round that made it.
        round: u32,
        /// The head.
        head: HeadId,
        /// Attestors' stake behind it.
        certified_by_stake_ppm: u32,
    },
    /// The worker's state changed.
    Worker {
        /// The worker.
        worker: WorkerStatus,
    },
    /// The client read too slowly: this many events were left out here.
    Missed {
        /// How many.
        events: u64,
    },
}

impl NodeEvent {
    /// The SSE event name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Block { .. } => "block",
            Self::Round { .. } => "round",
            Self::Duty { .. } => "duty",
            Self::Head { .. } => "head",
            Self::Worker { .. } => "worker",
            Self::Missed { .. } => "missed",
        }
    }
}
