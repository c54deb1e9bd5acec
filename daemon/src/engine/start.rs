//! Starting the engine and keeping it running.
//!
//! One supervisor task owns the engine. It checks the log before each start, runs the application
//! loop, and starts the engine again when it ends:
//! - after a refused signature, a damaged log or lost blocks, *without a vote* until that height is final;
//! - after that height, with a vote;
//! - after a failure of the engine's own, at most [`RESTARTS_MAX`] times at one height.
//!
//! A failure of the ledger or of the engine's log ends it for good: [`EngineStatus::Failed`]. The
//! process should then exit with the reason; a node whose disk fails must not vote.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use malachite_app::config::NodeConfig;
use malachite_app_channel::{
    Channels, ConsensusContext, EngineBuilder, EngineHandle, RequestContext, SyncContext,
    WalContext,
};
use malachite_config::{ConsensusConfig, ValueSyncConfig};
use malachite_core_types::LinearTimeouts;
use malachite_engine::wal::{Msg as LogMessage, WalRef};
use protocol::amount::Height;
use protocol::ids::{ChainId, ValidatorId};
use protocol::keys::SecretKey;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::abstention;
use super::app::{AppLoop, LoopEnd, LoopError};
use super::application::Application;
use super::codec::{EngineCodec, SYNC_BATCH_MAX};
use super::context::{Address, AyniContext};
use super::network_actor;
use super::proposals::Proposals;
use super::signing::{EngineLog, GuardedSigner, StrictVerifier, VoteGuard};
use super::wal::{self, WalState};
use crate::network::NetworkHandle;

/// Restarts of the engine at one height before it is given up.
const RESTARTS_MAX: u32 = 5;
/// Pause before a restart after a failure.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the engine's actors to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// An engine that failed ends by itself within this time, unless it hangs on purpose.
const END_GRACE: Duration = Duration::from_secs(3);

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The chain.
    pub chain: ChainId,
    /// The node's name in the engine's own logs and metrics; unique within a process.
    pub moniker: String,
    /// The engine's write-ahead log. Its directory must be this node's alone.
    pub wal: PathBuf,
    /// Consensus key; a node without one follows the chain and never votes. A key outside the
    /// validator set follows too, and votes from the height that includes it.
    pub key: Option<SecretKey>,
    /// No vote until this height is decided: the node may have voted on what it no longer knows.
    pub abstain_until: Option<Height>,
    /// Timeouts of consensus steps.
    pub timeouts: LinearTimeouts,
    /// How long a proposer waits for transactions: the pace of empty blocks.
    pub block_wait: Duration,
    /// How often neighbours hear the tip, from which sync starts.
    pub status_interval: Duration,
}

impl EngineConfig {
    /// Design values: propose timeout 3 s, a block a second when idle.
    pub fn new(chain: ChainId, moniker: String, wal: PathBuf, key: Option<SecretKey>) -> Self {
        Self {
            chain,
            moniker,
            wal,
            key,
            abstain_until: None,
            timeouts: LinearTimeouts::default(),
            block_wait: Duration::from_secs(1),
            status_interval: Duration::from_secs(5),
        }
    }
}

/// What the engine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineStatus {
    /// Not yet running.
    Starting,
    /// Running with a vote, if the key is in the validator set.
    Running,
    /// Running without a vote until `until` is decided.
    Abstaining {
        /// The height at which a vote could contradict an earlier one.
        until: Height,
        /// Where the damaged log lies, if that is the reason.
        damaged_log: Option<PathBuf>,
    },
    /// Stopped because the node is shutting down.
    Stopped,
    /// Stopped for good; the process should exit.
    Failed(String),
}

/// A running engine.
#[derive(Clone, Debug)]
pub struct Engine {
    status: watch::Receiver<EngineStatus>,
    refused: Arc<AtomicU64>,
}

impl Engine {
    /// What the engine is doing; watch it to exit on [`EngineStatus::Failed`].
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    /// Signatures that the guard refused since start.
    pub fn signatures_refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Why one run of the engine did not start or ended.
#[derive(Debug, Error)]
enum RunError {
    #[error(transparent)]
    Loop(#[from] LoopError),
    #[error(transparent)]
    Application(#[from] super::application::ApplicationError),
    #[error("the consensus log cannot be handled: {0}")]
    Log(#[from] std::io::Error),
    #[error("the engine did not start: {0}")]
    Start(String),
    #[error("the engine stopped itself to be safe; see its log")]
    SafetyStop,
    #[error("the engine failed {RESTARTS_MAX} times at height {0}")]
    Restarts(Height),
}

/// Starts the engine on `tracker`; it ends when `token` is cancelled.
pub fn start(
    config: EngineConfig,
    network: NetworkHandle,
    application: Arc<dyn Application>,
    guard: Arc<dyn VoteGuard>,
    tracker: &TaskTracker,
    token: CancellationToken,
) -> Engine {
    let (status, receiver) = watch::channel(EngineStatus::Starting);
    let refused = Arc::new(AtomicU64::new(0));
    let supervisor = Supervisor {
        config,
        network,
        application,
        guard,
        tracker: tracker.clone(),
        token,
        status,
        refused: Arc::clone(&refused),
        refusals: watch::Sender::new(None),
    };
    tracker.spawn(supervisor.run());
    Engine { status: receiver, refused }
}

struct Supervisor {
    config: EngineConfig,
    network: NetworkHandle,
    application: Arc<dyn Application>,
    guard: Arc<dyn VoteGuard>,
    tracker: TaskTracker,
    token: CancellationToken,
    status: watch::Sender<EngineStatus>,
    refused: Arc<AtomicU64>,
    refusals: watch::Sender<Option<Height>>,
}

/// How one run ended.
enum RunEnd {
    Shutdown,
    Again,
    Failed,
}

struct EngineNodeConfig {
    moniker: String,
    consensus: ConsensusConfig,
    sync: ValueSyncConfig,
}

impl NodeConfig for EngineNodeConfig {
    fn moniker(&self) -> &str {
        &self.moniker
    }

    fn consensus(&self) -> &ConsensusConfig {
        &self.consensus
    }

    fn consensus_mut(&mut self) -> &mut ConsensusConfig {
        &mut self.consensus
    }

    fn value_sync(&self) -> &ValueSyncConfig {
        &self.sync
    }

    fn value_sync_mut(&mut self) -> &mut ValueSyncConfig {
        &mut self.sync
    }
}

impl Supervisor {
    async fn run(self) {
        let last = match Box::pin(self.supervise()).await {
            Ok(()) => EngineStatus::Stopped,
            Err(error) => {
                tracing::error!(%error, "the consensus engine has failed");
                EngineStatus::Failed(error.to_string())
            }
        };
        self.status.send_replace(last);
    }

    async fn supervise(&self) -> Result<(), RunError> {
        let mut failures = (Height::ZERO, 0_u32);
        while !self.token.is_cancelled() {
            let ended = match self.run_once().await {
                // A lock that a process between fork and exec still holds, for example.
                Err(RunError::Start(reason)) => {
                    tracing::warn!(reason, "the consensus engine did not start");
                    RunEnd::Failed
                }
                ended => ended?,
            };
            match ended {
                RunEnd::Shutdown => break,
                RunEnd::Again => {}
                RunEnd::Failed => {
                    let tip = self.application.tip().await?;
                    failures = if failures.0 == tip { (tip, failures.1 + 1) } else { (tip, 1) };
                    if failures.1 > RESTARTS_MAX {
                        return Err(RunError::Restarts(tip.plus(1)));
                    }
                    tracing::warn!(height = %tip.plus(1), "restarting the consensus engine");
                    tokio::select! {
                        () = self.token.cancelled() => break,
                        () = tokio::time::sleep(RESTART_PAUSE) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// One run of the engine, from checking its log to stopping its actors.
    async fn run_once(&self) -> Result<RunEnd, RunError> {
        let tip = self.application.tip().await?;
        let (state, abstain) = self.prepare_log(tip).await?;
        self.refusals.send_replace(None);
        let run = self.token.child_token();
        let (channels, handle) = self.build(abstain.is_none(), &run).await?;
        self.status.send_replace(match (abstain, state) {
            (None, _) => EngineStatus::Running,
            (Some(until), WalState::SetAside(path)) => {
                EngineStatus::Abstaining { until, damaged_log: Some(path) }
            }
            (Some(until), _) => EngineStatus::Abstaining { until, damaged_log: None },
        });
        let app = AppLoop {
            chain: self.config.chain,
            key: self.config.key.clone(),
            application: Arc::clone(&self.application),
            network: channels.network.clone(),
            timeouts: self.config.timeouts,
            block_wait: self.config.block_wait,
            abstain_until: abstain,
            proposals: Proposals::default(),
            validators: std::collections::BTreeMap::new(),
            is_catching_up: false,
        };
        let ended = tokio::select! {
            () = self.token.cancelled() => None,
            ended = Box::pin(app.run(channels.consensus)) => Some(ended),
        };
        let has_ended = matches!(ended, Some(Ok(LoopEnd::EngineClosed)));
        let is_hanging = stop(handle, has_ended).await;
        run.cancel();
        match ended {
            None => Ok(RunEnd::Shutdown),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(LoopEnd::VoteAgain)) => Ok(RunEnd::Again),
            Some(Ok(LoopEnd::EngineClosed)) => {
                let refused = *self.refusals.borrow();
                if let Some(height) = refused {
                    self.abstain(height).await?;
                    return Ok(RunEnd::Again);
                }
                if is_hanging { Err(RunError::SafetyStop) } else { Ok(RunEnd::Failed) }
            }
        }
    }

    /// Checks the log and says until which height not to vote.
    async fn prepare_log(&self, tip: Height) -> Result<(WalState, Option<Height>), RunError> {
        let path = self.config.wal.clone();
        let wanted = self.config.abstain_until.filter(|until| *until > tip);
        let signed = self.guard.highest().filter(|signed| *signed > tip);
        let prepared = tokio::task::spawn_blocking(move || {
            let until = abstention::load(&path)?;
            if until.is_some_and(|until| until <= tip) {
                abstention::clear(&path)?;
            }
            if let Some(wanted) = wanted.filter(|wanted| until.is_none_or(|until| until < *wanted))
            {
                abstention::save(&path, wanted)?;
            }
            let state = wal::check(&path)?;
            if matches!(state, WalState::SetAside(_)) && abstention::load(&path)?.is_none() {
                abstention::save(&path, tip.plus(1))?;
            }
            if let (WalState::Absent, Some(signed), None) =
                (&state, signed, abstention::load(&path)?)
            {
                tracing::error!(
                    height = signed.get(),
                    "this node has signed at a height that its consensus log does not know: the \
                     log is gone; not voting until that height is final"
                );
                abstention::save(&path, signed)?;
            }
            Ok::<_, std::io::Error>((state, abstention::load(&path)?))
        });
        Ok(prepared.await.map_err(|error| RunError::Start(error.to_string()))??)
    }

    async fn abstain(&self, height: Height) -> Result<(), RunError> {
        let path = self.config.wal.clone();
        tokio::task::spawn_blocking(move || abstention::save(&path, height))
            .await
            .map_err(|error| RunError::Start(error.to_string()))??;
        Ok(())
    }

    async fn build(
        &self,
        may_vote: bool,
        run: &CancellationToken,
    ) -> Result<(Channels<AyniContext>, EngineHandle), RunError> {
        let verifier = StrictVerifier { chain: self.config.chain };
        let failed = |error: &dyn std::fmt::Display| RunError::Start(error.to_string());
        let actor =
            network_actor::spawn(self.network.clone(), verifier, &self.tracker, run.clone())
                .await
                .map_err(|error| failed(&error))?;
        let (network, mut parts) = mpsc::channel(16);
        let forward = actor.clone();
        let token = run.clone();
        self.tracker.spawn(async move {
            loop {
                let part: malachite_app_channel::NetworkMsg<AyniContext> = tokio::select! {
                    () = token.cancelled() => return,
                    part = parts.recv() => match part {
                        Some(part) => part,
                        None => return,
                    },
                };
                if forward.cast(part.into()).is_err() {
                    return;
                }
            }
        });
        let log = EngineLog::default();
        let built = EngineBuilder::new(AyniContext, self.node_config(may_vote))
            .with_default_wal(WalContext::new(self.config.wal.clone(), EngineCodec))
            .with_custom_network(actor, network)
            .with_default_sync(SyncContext::new(EngineCodec))
            .with_default_consensus(self.consensus(may_vote, verifier, &log))
            .with_default_request(RequestContext::new(16))
            .build();
        let (channels, handle) = Box::pin(built).await.map_err(|error| failed(&error))?;
        let Some(opened) = log_of(&handle) else {
            stop(handle, false).await;
            return Err(failed(&"it has no log"));
        };
        log.set(opened);
        Ok((channels, handle))
    }

    fn consensus(
        &self,
        may_vote: bool,
        verifier: StrictVerifier,
        log: &EngineLog,
    ) -> ConsensusContext<AyniContext> {
        match &self.config.key {
            Some(key) if may_vote => {
                let signer = GuardedSigner {
                    chain: self.config.chain,
                    key: key.clone(),
                    log: log.clone(),
                    guard: Arc::clone(&self.guard),
                    refusals: self.refusals.clone(),
                    refused: Arc::clone(&self.refused),
                };
                let address = Address(key.public().validator_id());
                ConsensusContext::new_validator(address, Box::new(verifier), Box::new(signer))
            }
            // Zero is no public key, so it is in no validator set.
            _ => {
                let nobody = Address(ValidatorId::from_bytes([0; 32]));
                ConsensusContext::new_full_node(nobody, Box::new(verifier))
            }
        }
    }

    fn node_config(&self, may_vote: bool) -> EngineNodeConfig {
        EngineNodeConfig {
            moniker: self.config.moniker.clone(),
            consensus: ConsensusConfig {
                enabled: may_vote && self.config.key.is_some(),
                ..ConsensusConfig::default()
            },
            sync: ValueSyncConfig {
                enabled: true,
                status_update_interval: self.config.status_interval,
                batch_size: SYNC_BATCH_MAX,
                ..ValueSyncConfig::default()
            },
        }
    }
}

/// The log that the engine opened: the one of its actors that takes a log's messages.
fn log_of(handle: &EngineHandle) -> Option<WalRef<AyniContext>> {
    let actors = handle.actor.get_cell().get_children();
    let log = actors
        .into_iter()
        .find(|actor| actor.is_message_type_of::<LogMessage<AyniContext>>() == Some(true))?;
    Some(WalRef::from(log))
}

/// Stops all actors and waits for them; true when the engine's own supervisor was hanging on
/// purpose, which it does after a failure of its log: it outlives its children then.
async fn stop(handle: EngineHandle, has_ended: bool) -> bool {
    let EngineHandle { actor, mut handle } = handle;
    if has_ended && tokio::time::timeout(END_GRACE, &mut handle).await.is_ok() {
        return false;
    }
    actor.get_cell().stop_children_and_wait(Some("stopping".to_owned()), Some(STOP_MAX)).await;
    actor.stop(Some("stopping".to_owned()));
    if tokio::time::timeout(STOP_MAX, handle).await.is_err() {
        tracing::error!("the consensus engine did not stop in time");
    }
    has_ended
}
