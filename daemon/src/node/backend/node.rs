//! The node itself: status, peers, registering.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::amount::{Credits, Height};
use protocol::api::{ApiError, Direction, Peer, Peers, Role, Status, WorkerState, WorkerStatus};
use protocol::join::JoinString;
use protocol::keys::Namespace;
use protocol::transaction::{Payload, RegisterNode};

use super::NodeBackend;
use crate::engine::EngineStatus;
use crate::network;
use crate::node::join::watch::STRANDED;
use crate::worker;

/// Blocks behind the best peer at which a node calls itself syncing.
const SYNCING_BLOCKS: u64 = 3;
/// Without a block for this long a node warns.
const STALLED: Duration = Duration::from_secs(60);
/// Most that registering puts into the node's allowance.
const ALLOWANCE_MAX: Credits = Credits::from_micro(100_000_000);

/// The worker's status for people.
pub(crate) fn worker_status(status: &worker::WorkerStatus) -> WorkerStatus {
    let (state, job) = match &status.state {
        worker::WorkerState::Disabled | worker::WorkerState::Stopped => {
            (WorkerState::Disabled, None)
        }
        worker::WorkerState::Starting => (WorkerState::Starting, None),
        worker::WorkerState::Idle => (WorkerState::Idle, None),
        worker::WorkerState::Busy(job) => (WorkerState::Busy, Some((*job).to_owned())),
        worker::WorkerState::Failed(_) => (WorkerState::Failed, None),
    };
    let failure = match &status.state {
        worker::WorkerState::Failed(reason) => Some(reason.clone()),
        _ => None,
    };
    let described = status.description.as_ref();
    WorkerStatus {
        state,
        job,
        version: described.map(|d| d.version.clone()),
        device: described.map(|d| d.device.clone()),
        torch: described.map(|d| d.torch),
        sandbox: described.map(|d| d.sandbox),
        restarts: u32::try_from(status.restarts).unwrap_or(u32::MAX),
        last_error: failure.or_else(|| status.last_error.clone()),
    }
}

impl NodeBackend {
    pub(super) async fn node_status(&self) -> Status {
        let node = &self.node;
        let applied = node.ledger.applied();
        let (clock, validators) = node.ledger.read(|view| (view.clock(), view.validators()));
        let is_member = node.ledger.read(|view| view.node(&node.id()).is_some());
        let best = node.best_known.load(Ordering::Relaxed).max(applied.height.get());
        let (transactions, bytes) =
            node.ledger.run(crate::node::ledger::Ledger::mempool_size).await;
        let key = node.secrets.consensus.public().validator_id();
        let stats = node.network.stats();
        let blobs = node.blobs.stats();
        let listen = node.network.listeners().await;
        let worker = worker_status(&node.worker.status().borrow());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            chain: node.chain,
            node: node.id(),
            peer_id: node.network.local_peer().to_string(),
            account: node.account(),
            role: if validators.get(&key).is_some() { Role::Validator } else { Role::Full },
            capabilities: node.config.capabilities(),
            is_member,
            listen: listen.iter().map(ToString::to_string).collect(),
            join_string: self.node_join_string().await,
            height: applied.height,
            block_hash: applied.block,
            state_root: applied.root,
            chain_time_ms: clock.time,
            syncing: best > applied.height.get().saturating_add(SYNCING_BLOCKS),
            best_known_height: Height::new(best),
            validators: u32::try_from(validators.as_slice().len()).unwrap_or(u32::MAX),
            peers: u32::try_from(node.network.peers().await.len()).unwrap_or(u32::MAX),
            warnings: self.warnings(&worker),
            worker,
            mempool_transactions: u32::try_from(transactions).unwrap_or(u32::MAX),
            mempool_bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            double_sign_refusals: self.engine.signatures_refused(),
            refused_messages: BTreeMap::from([
                ("gossip_rejected".to_owned(), stats.gossip_rejected),
                ("rate_limited".to_owned(), stats.rate_limited),
                ("faults".to_owned(), stats.faults),
                ("peers_disconnected".to_owned(), stats.disconnected),
                ("peers_banned".to_owned(), stats.banned),
                ("events_dropped".to_owned(), stats.events_dropped),
            ]),
            blob_bytes_sent: blobs.bytes_sent,
            blob_bytes_received: blobs.bytes_received,
        }
    }

    fn warnings(&self, worker: &WorkerStatus) -> Vec<String> {
        let mut warnings = Vec::new();
        match &*self.engine.status().borrow() {
            EngineStatus::Abstaining { until, damaged_log } => {
                let log = damaged_log.as_ref().map_or_else(String::new, |path| {
                    format!("; the damaged consensus log is at {}", path.display())
                });
                warnings.push(format!("not voting until height {until} is final{log}"));
            }
            EngineStatus::Failed(reason) => warnings.push(format!("consensus failed: {reason}")),
            EngineStatus::Starting => warnings.push("consensus has not started yet".to_owned()),
            EngineStatus::Running | EngineStatus::Stopped => {}
        }
        if self.node.stranded.load(Ordering::Relaxed) {
            warnings.push(STRANDED.to_owned());
        }
        if worker.state == WorkerState::Failed {
            let why = worker.last_error.as_deref().unwrap_or("unknown");
            warnings.push(format!("the worker does not run: {why}"));
        }
        if let Some(missing) = worker.sandbox.and_then(|sandbox| sandbox.missing()) {
            warnings.push(format!("the worker is not fully confined: {missing}"));
        }
        let since =
            crate::node::ledger::now().get().saturating_sub(self.node.ledger.applied().time.get());
        if u128::from(since) > STALLED.as_millis() {
            warnings.push(format!("no block for {} s", since / 1_000));
        }
        warnings
    }

    pub(super) async fn node_join_string(&self) -> Option<JoinString> {
        let addresses = self.node.network.listeners().await;
        let addresses = addresses.iter().map(ToString::to_string).take(8).collect();
        JoinString::new(self.node.chain, addresses, None).ok()
    }

    pub(super) async fn node_peers(&self) -> Peers {
        let peers = self.node.network.peers().await;
        let peers = peers
            .into_iter()
            .map(|peer| Peer {
                peer_id: peer.peer.to_string(),
                node: network::node_id(&peer.peer),
                address: peer.address.to_string(),
                direction: if peer.outbound { Direction::Outbound } else { Direction::Inbound },
                agent: (!peer.agent.is_empty()).then_some(peer.agent),
                height: peer.status.map(|status| status.tip),
                ping_ms: peer.rtt.and_then(|rtt| u64::try_from(rtt.as_millis()).ok()),
                refused_messages: 0,
            })
            .collect();
        Peers { peers }
    }

    /// Registers the node on the ledger, unless it is there: a newcomer's first step. `keep` of the
    /// balance is not put into the node's allowance.
    pub(super) async fn ensure_registered(&self, keep: Credits) -> Result<(), ApiError> {
        let node = &self.node;
        let (known, balance) = node
            .ledger
            .read(|view| (view.node(&node.id()).is_some(), view.account(&node.account()).balance));
        if known {
            return Ok(());
        }
        let account = node.account();
        let free = balance.checked_sub(keep).unwrap_or(Credits::ZERO);
        let prove = |key: &protocol::keys::SecretKey| {
            key.sign(Namespace::Possession, &node.chain, account.as_bytes())
        };
        let payload = Payload::RegisterNode(Box::new(RegisterNode {
            keys: node.secrets.identity().keys,
            node_proof: prove(&node.secrets.node),
            consensus_proof: prove(&node.secrets.consensus),
            vrf_proof: prove(&node.secrets.vrf),
            duty_proof: prove(&node.secrets.duty),
            capabilities: node.config.capabilities(),
            allowance: free.scaled(1, 2).min(ALLOWANCE_MAX),
        }));
        self.transact(payload).await.map(|_| ()).map_err(|error| {
            let hint = format!("somebody can send credits to this node's account {account}");
            if error.hint.is_none() { error.with_hint(hint) } else { error }
        })
    }
}
