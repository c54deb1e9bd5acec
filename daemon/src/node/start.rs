//! From a home directory to a running node, and back down in order.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use libp2p::Multiaddr;
use protocol::amount::Height;
use protocol::api::NodeEvent;
use protocol::config::{BlobsConfig, CheckedConfig};
use protocol::home::{Home, NodeSecrets};
use protocol::host::ProposerKeys;
use protocol::ids::{BlockHash, ChainId};
use storage::blobs::BlobLimits;
use storage::{BlobStore, Decision, GuardEntry, SignerGuard, Step};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::announce::{self, Announcer};
use super::application::Consensus;
use super::backend::NodeBackend;
use super::duties::{Duties, Training};
use super::events::Events;
use super::founding::{Founded, Founding};
use super::history::{self, Histories};
use super::ledger::Ledger;
use super::notes::Notes;
use super::transactions::{self, Transactions};
use super::{Node, blobs, gossip, home, join};
use crate::api::{Jobs, Server, ServerOptions};
use crate::blobs::{BlobConfig, BlobService};
use crate::engine::{self, Engine, EngineConfig, EngineStatus, GuardError, GuardStep, VoteGuard};
use crate::network::{self, NetworkConfig, NetworkEvent, NetworkHandle};
use crate::worker::{Worker, WorkerConfig, WorkerHandle};

/// How long tasks get to end at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// The signer guard of the store, as the engine asks it.
struct Guard(Arc<SignerGuard>);

impl VoteGuard for Guard {
    fn allow(
        &self,
        height: Height,
        round: u32,
        step: GuardStep,
        value: Option<BlockHash>,
    ) -> Result<bool, GuardError> {
        let step = match step {
            GuardStep::Propose => Step::Proposal,
            GuardStep::Prevote => Step::Prevote,
            GuardStep::Precommit => Step::Precommit,
        };
        match self.0.check(&GuardEntry { height, round, step, value }) {
            Ok(Decision::Sign) => Ok(true),
            Ok(Decision::Refuse(refusal)) => {
                tracing::error!(%height, round, ?step, ?refusal, "refused to sign twice");
                Ok(false)
            }
            Err(error) => super::ledger::fatal("record what is about to be signed", &error),
        }
    }

    fn highest(&self) -> Option<Height> {
        self.0.highest()
    }
}

fn addresses(texts: &[String]) -> anyhow::Result<Vec<Multiaddr>> {
    let parse =
        |text: &String| text.parse().with_context(|| format!("{text} is not a network address"));
    texts.iter().map(parse).collect()
}

/// Runs the node until `token` is cancelled.
pub async fn run(root: Home, token: CancellationToken) -> anyhow::Result<()> {
    let config = home::config(&root)?;
    let secrets = home::secrets(&root)?;
    // Before anything is touched: a second daemon of this home must not disturb the first.
    let _lock = home::lock(&root)?;
    let node_id = secrets.node.public().node_id();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    let socket = root.socket(config.api().socket.as_deref(), runtime.as_deref(), &node_id);
    protocol::home::check_socket_path(&socket)?;
    let server = Server::bind(&ServerOptions {
        socket: socket.clone(),
        note: Some(root.socket_note()),
        group_read: config.api().group_read,
    })?;
    let tracker = TaskTracker::new();
    let started = start(root, config, secrets, &tracker, &token).await;
    let (node, engine) = match started {
        Ok(started) => started,
        Err(error) => {
            let is_stopped = token.is_cancelled();
            token.cancel();
            tracker.close();
            tracker.wait().await;
            return if is_stopped { Ok(()) } else { Err(error) };
        }
    };
    tracing::info!(socket = %socket.display(), node = %node.id().short(), "ready");
    let backend = Arc::new(NodeBackend::new(Arc::clone(&node), engine.clone()));
    let serving = tokio::spawn(server.serve(backend, token.clone()));
    let mut status = engine.status();
    let failed = async {
        loop {
            if let EngineStatus::Failed(reason) = &*status.borrow_and_update() {
                return reason.clone();
            }
            if status.changed().await.is_err() {
                return "the consensus engine is gone".to_owned();
            }
        }
    };
    let outcome = tokio::select! {
        () = token.cancelled() => Ok(()),
        reason = failed => if token.is_cancelled() { Ok(()) } else {
            Err(anyhow::anyhow!("the consensus engine has failed: {reason}"))
        },
    };
    tracing::info!("stopping");
    token.cancel();
    tracker.close();
    if tokio::time::timeout(DRAIN_MAX, tracker.wait()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    if let Err(error) = serving.await {
        tracing::warn!(%error, "the local interface did not end well");
    }
    node.ledger.run(Ledger::flush).await;
    tracing::info!("stopped");
    outcome
}

async fn start(
    root: Home,
    config: CheckedConfig,
    secrets: NodeSecrets,
    tracker: &TaskTracker,
    token: &CancellationToken,
) -> anyhow::Result<(Arc<Node>, Engine)> {
    let known = home::genesis(&root)?;
    let chain = match (&known, config.join()) {
        (Some((_, genesis)), Some(join)) if genesis.chain_id() != join.chain() => bail!(
            "the join string is for chain {}, but {} is the genesis of chain {}; use another home \
             for another network",
            join.chain().short(),
            root.genesis().display(),
            genesis.chain_id().short()
        ),
        (Some((_, genesis)), _) => genesis.chain_id(),
        (None, Some(join)) => join.chain(),
        (None, None) => bail!(
            "no network to take part in: put a join string under [network] in {}, or a genesis \
             file at {}",
            root.config().display(),
            root.genesis().display()
        ),
    };
    let founding = Founding::new(&root, &config, tracker, token);
    let known = match known {
        Some((json, genesis)) => Some(founding.known(json, genesis).await?),
        None => None,
    };
    let network = start_network(&root, &config, &secrets, chain, tracker, token)?;
    let mut events = network.subscribe().await;
    let blobs = Blobs::open(&root, config.blobs(), &network, tracker, token).await?;
    let founded = founding.found(known, chain, &mut events, &blobs).await?;
    network.set_genesis(founded.json.clone()).await;
    let (data, store) = (root.data(), blobs.store.clone());
    tokio::task::spawn_blocking(move || join::tidy(&data, &store)).await??;
    let node = assemble(root, config, secrets, founded, blobs, tracker, token).await?;
    let engine = start_tasks(&node, events);
    Ok((node, engine))
}

fn start_network(
    root: &Home,
    config: &CheckedConfig,
    secrets: &NodeSecrets,
    chain: ChainId,
    tracker: &TaskTracker,
    token: &CancellationToken,
) -> anyhow::Result<NetworkHandle> {
    let mut bootstrap = addresses(&config.network().persistent_peers)?;
    if let Some(join) = config.join() {
        bootstrap.extend(addresses(join.addresses())?);
    }
    let settings = NetworkConfig {
        listen: addresses(&config.network().listen)?,
        bootstrap,
        connections_max: config.network().connections_max,
        ..NetworkConfig::loopback(chain)
    };
    network::start(settings, &secrets.node, tracker, token.clone()).with_context(|| {
        format!(
            "cannot start the network; if an address is in use, stop the program that has it, or \
             change `listen` under [network] in {}",
            root.config().display()
        )
    })
}

/// The network, the blob store and what serves it: there before the ledger, which may come from a
/// snapshot.
pub(super) struct Blobs {
    pub(super) network: NetworkHandle,
    pub(super) store: BlobStore,
    pub(super) service: BlobService,
    withheld: blobs::Withheld,
    /// Until there is a ledger nothing is served.
    ledger: Arc<OnceLock<Arc<Ledger>>>,
}

impl Blobs {
    async fn open(
        root: &Home,
        config: &BlobsConfig,
        network: &NetworkHandle,
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let data = root.data();
        let opened = tokio::task::spawn_blocking(move || BlobStore::open(&data));
        let store = opened.await?.context("cannot open the blob store")?;
        store.set_limits(BlobLimits { bytes_max: config.quota_bytes });
        let withheld = blobs::Withheld::default();
        let ledger: Arc<OnceLock<Arc<Ledger>>> = Arc::default();
        let (policy_ledger, policy_withheld) = (Arc::clone(&ledger), withheld.clone());
        let policy = move |hash: &_| {
            policy_ledger.get().is_some_and(|ledger| policy_withheld.allows(ledger, hash))
        };
        let (network, token) = (network.clone(), token.clone());
        let policy = Arc::new(policy);
        let limits = BlobConfig::new(config);
        let stored = store.clone();
        let service = BlobService::start(limits, stored, network.clone(), policy, tracker, token)?;
        Ok(Self { network, store, service, withheld, ledger })
    }
}

async fn assemble(
    root: Home,
    config: CheckedConfig,
    secrets: NodeSecrets,
    founded: Founded,
    blobs: Blobs,
    tracker: &TaskTracker,
    token: &CancellationToken,
) -> anyhow::Result<Arc<Node>> {
    let Founded { json: genesis_json, chain, ledger } = founded;
    let data = root.data();
    let history = tokio::task::spawn_blocking(move || Histories::open(&data)).await?;
    let Blobs { network, store, service, withheld, ledger: served } = blobs;
    // Set once: this is the only place that does.
    let _ = served.set(Arc::clone(&ledger));
    // Before the worker's directory is emptied.
    let (notes, left) = (Notes::new(root.data().join("duties")), root.root().join("worker/job"));
    tokio::task::spawn_blocking(move || notes.salvage(&left)).await?;
    let worker = start_worker(&root, &config, tracker, token)?;
    let path = root.data().join("announced");
    let announcer = tokio::task::spawn_blocking(move || Announcer::open(path)).await?;
    let announcer = announcer.context("cannot read what is announced")?;
    let note = root.data().join("joined.json");
    let training = tokio::task::spawn_blocking(move || Training::open(note)).await?;
    let account = secrets.account.public().account_id();
    let setup = transactions::Setup {
        ledger: Arc::clone(&ledger),
        network: network.clone(),
        chain,
        account,
        dir: root.data(),
    };
    let (tasks, ends) = (tracker.clone(), token.clone());
    let transactions =
        tokio::task::spawn_blocking(move || Transactions::open(setup, &tasks, &ends)).await??;
    Ok(Arc::new(Node {
        home: root,
        config,
        secrets,
        chain,
        genesis_json,
        ledger,
        history,
        network,
        store,
        blobs: service,
        snapshots: join::serve::SnapshotServer::default(),
        stranded: AtomicBool::new(false),
        announcer,
        data_in_use: Arc::default(),
        withheld,
        worker,
        transactions,
        events: Events::default(),
        jobs: Jobs::new(tracker.clone(), token.clone()),
        training,
        best_known: AtomicU64::new(0),
        started: Instant::now(),
        token: token.clone(),
        tracker: tracker.clone(),
    }))
}

fn start_worker(
    root: &Home,
    config: &CheckedConfig,
    tracker: &TaskTracker,
    token: &CancellationToken,
) -> anyhow::Result<WorkerHandle> {
    let settings = config.worker();
    if !settings.enabled {
        return Ok(Worker::disabled());
    }
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let command = home::worker_command(&settings.command, &own)?;
    let worker = WorkerConfig {
        threads: settings.threads,
        nice: settings.nice,
        memory_max_mib: settings.memory_max_mib,
        ..WorkerConfig::new(command, root.root().join("worker"))
    };
    Ok(Worker::start(worker, tracker, token.clone()))
}

fn start_tasks(node: &Arc<Node>, events: tokio::sync::mpsc::Receiver<NetworkEvent>) -> Engine {
    let key = &node.secrets.consensus;
    // The engine votes at the heights at which the key is in the set.
    let validates = node.config.capabilities().validates;
    let mut engine_config = EngineConfig::new(
        node.chain,
        node.id().short(),
        node.home.data().join("consensus.wal"),
        validates.then(|| key.clone()),
    );
    engine_config.abstain_until = node.ledger.lost_until();
    engine_config.block_wait = Duration::from_millis(u64::from(node.config.chain().block_wait_ms));
    let application = Arc::new(Consensus {
        ledger: Arc::clone(&node.ledger),
        keys: ProposerKeys { consensus: key.clone(), vrf: node.secrets.vrf.clone() },
        network: node.network.clone(),
        arrivals: node.transactions.arrivals(),
        trusted: node.config.trusted(),
    });
    let engine = engine::start(
        engine_config,
        node.network.clone(),
        application,
        Arc::new(Guard(node.ledger.guard())),
        &node.tracker,
        node.token.clone(),
    );
    node.tracker.spawn(gossip::run(Arc::clone(node), events));
    node.tracker.spawn(Box::pin(Duties::new(Arc::clone(node)).run()));
    node.tracker.spawn(announce::run(Arc::clone(node)));
    node.tracker.spawn(tell_blocks(Arc::clone(node)));
    node.tracker.spawn(history::run(Arc::clone(node)));
    node.tracker.spawn(join::serve::run(Arc::clone(node)));
    node.tracker.spawn(join::watch::run(Arc::clone(node)));
    engine
}

/// Tells listeners of blocks and of rounds that moved on.
async fn tell_blocks(node: Arc<Node>) {
    let mut applied = node.ledger.follow();
    let mut phases = std::collections::BTreeMap::new();
    loop {
        tokio::select! {
            () = node.token.cancelled() => break,
            changed = applied.changed() => if changed.is_err() { break },
        }
        let block = applied.borrow_and_update().clone();
        node.events.tell(&NodeEvent::Block {
            height: block.height,
            hash: block.block,
            time_ms: block.time,
            transactions: block.transactions,
        });
        for event in super::backend::round_events(&node, &mut phases) {
            node.events.tell(&event);
        }
    }
}
