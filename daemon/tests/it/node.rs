//! A node for tests: swarm, engine and in-memory ledger, with its log in a directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ayni_daemon::engine::{self, Engine, EngineConfig, EngineStatus};
use ayni_daemon::network::{self, NetworkConfig, NetworkHandle};
use libp2p::Multiaddr;
use protocol::amount::{Height, VotingPower};
use protocol::consensus::{Validator, ValidatorSet};
use protocol::ids::ChainId;
use protocol::keys::SecretKey;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ledger::{Guard, Ledger};

/// No state may take longer than this to be reached.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until `reached`, or panics with `what` at the deadline.
pub(crate) async fn within<T>(what: &str, reached: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, reached).await {
        Ok(value) => value,
        Err(_) => panic!("not reached in time: {what}"),
    }
}

pub(crate) fn chain() -> ChainId {
    ChainId::from_bytes([42; 32])
}

pub(crate) fn consensus_key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

pub(crate) fn node_key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[100 + number; 32])
}

/// Validators 0..count with equal power.
pub(crate) fn validators(count: u8) -> ValidatorSet {
    let members = (0..count).map(|number| Validator {
        key: consensus_key(number).public(),
        power: VotingPower::new(10),
    });
    ValidatorSet::new(members.collect()).expect("a valid set")
}

/// What survives a restart.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) number: u8,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) guard: Arc<Guard>,
}

impl Disk {
    pub(crate) fn new(number: u8, validators: &ValidatorSet) -> Self {
        let me = consensus_key(number).public().validator_id();
        Self {
            number,
            ledger: Ledger::new(chain(), me, validators.clone()),
            guard: Arc::new(Guard::default()),
        }
    }

    pub(crate) async fn reached(&self, height: u64) {
        let what = format!("node {} at height {height}", self.number);
        let mut tip = self.ledger.watch_tip();
        within(&what, tip.wait_for(|tip| *tip >= Height::new(height))).await.expect("a ledger");
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) network: NetworkHandle,
    pub(crate) engine: Engine,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Node {
    /// Starts a node that knows `bootstrap`. Its log lies in `directory`.
    pub(crate) fn start(disk: &Disk, directory: &Path, bootstrap: Vec<Multiaddr>) -> Self {
        let tracker = TaskTracker::new();
        let token = CancellationToken::new();
        let config = NetworkConfig { bootstrap, ..NetworkConfig::loopback(chain()) };
        let network = network::start(config, &node_key(disk.number), &tracker, token.clone())
            .expect("starts");
        let mut config = EngineConfig::new(
            chain(),
            format!("node-{}", disk.number),
            directory.join(format!("{}.wal", disk.number)),
            Some(consensus_key(disk.number)),
        );
        config.block_wait = Duration::from_millis(50);
        config.status_interval = Duration::from_secs(1);
        let engine = engine::start(
            config,
            network.clone(),
            Arc::clone(&disk.ledger) as _,
            Arc::clone(&disk.guard) as _,
            &tracker,
            token.clone(),
        );
        Self { network, engine, tracker, token }
    }

    /// An address that others can dial.
    pub(crate) async fn address(&self) -> Multiaddr {
        let mut events = self.network.subscribe().await;
        within("a listening address", async {
            loop {
                if let Some(address) = self.network.listeners().await.first() {
                    return address.clone();
                }
                events.recv().await.expect("the network runs");
            }
        })
        .await
    }

    /// Waits for an engine status.
    pub(crate) async fn is(&self, what: &str, wanted: impl Fn(&EngineStatus) -> bool) {
        let mut status = self.engine.status();
        within(what, status.wait_for(|status| wanted(status))).await.expect("a supervisor");
    }

    /// Stops everything and waits for it.
    pub(crate) async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        within("an end of all tasks", self.tracker.wait()).await;
    }
}

/// Starts validators that all know the first one only.
pub(crate) async fn start_all(disks: &[Disk], directory: &Path) -> Vec<Node> {
    let first = Node::start(&disks[0], directory, Vec::new());
    let address = first.address().await;
    let mut nodes = vec![first];
    nodes.extend(disks[1..].iter().map(|disk| Node::start(disk, directory, vec![address.clone()])));
    nodes
}
