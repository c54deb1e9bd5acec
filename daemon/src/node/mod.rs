//! The node: everything that the daemon connects, and the tasks that run on it.
//!
//! **Architecture invariant.** What is decided here is only *when* to do something; *what* is
//! right is decided in `protocol`. Private data is read in [`private`] alone, into job
//! directories of the worker; no other module can name it.

pub mod announce;
pub mod application;
pub mod backend;
pub mod blobs;
pub mod duties;
pub mod events;
mod founding;
pub mod gossip;
pub mod history;
pub mod home;
pub mod join;
pub mod ledger;
pub mod notes;
pub mod private;
pub mod publish;
pub mod roots;
pub mod start;
pub mod transactions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use libp2p::PeerId;
use protocol::config::CheckedConfig;
use protocol::home::{Home, NodeSecrets};
use protocol::ids::{AccountId, ChainId, NodeId};
use protocol::ledger::entries::Round;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Jobs;
use crate::blobs::BlobService;
use crate::network::NetworkHandle;
use crate::worker::WorkerHandle;

/// What the node's tasks share.
pub struct Node {
    /// Home directory.
    pub home: Home,
    /// Configuration.
    pub config: CheckedConfig,
    /// Keys.
    pub secrets: NodeSecrets,
    /// The chain.
    pub chain: ChainId,
    /// The genesis file.
    pub genesis_json: Vec<u8>,
    /// Replica of the ledger.
    pub ledger: Arc<ledger::Ledger>,
    /// Where transactions are found again.
    pub history: history::Histories,
    /// The network.
    pub network: NetworkHandle,
    /// Stored blobs.
    pub store: storage::BlobStore,
    /// Their transfer.
    pub blobs: BlobService,
    /// Snapshots that peers may start from.
    pub snapshots: join::serve::SnapshotServer,
    /// Whether no peer has the next block any more.
    pub stranded: AtomicBool,
    /// What others are told that is here.
    pub announcer: announce::Announcer,
    /// Read by whoever brings data in or out, written by whoever removes it by name.
    pub data_in_use: Arc<tokio::sync::RwLock<()>>,
    /// Deltas that are not served yet.
    pub withheld: blobs::Withheld,
    /// The process that computes.
    pub worker: WorkerHandle,
    /// Sending transactions.
    pub transactions: transactions::Transactions,
    /// What listeners of the interface are told.
    pub events: events::Events,
    /// Long work of the interface.
    pub jobs: Jobs,
    /// State of this node's duties.
    pub training: duties::Training,
    /// Heights that peers say they have.
    pub best_known: AtomicU64,
    /// When the node started.
    pub started: Instant,
    /// Cancelled at shutdown.
    pub token: CancellationToken,
    /// All tasks.
    pub tracker: TaskTracker,
}

impl Node {
    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.secrets.node.public().node_id()
    }

    /// The account that owns this node.
    pub fn account(&self) -> AccountId {
        self.secrets.account.public().account_id()
    }

    /// Peers that should have what a round made: its members and attestors.
    pub fn round_peers(round: &Round) -> Vec<PeerId> {
        let members = round.members.iter().chain(&round.late).map(|m| m.node);
        let attestors = round.attestors.iter().map(|a| a.node);
        let mut peers: Vec<PeerId> =
            members.chain(attestors).filter_map(|node| crate::network::peer_id(&node)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}
