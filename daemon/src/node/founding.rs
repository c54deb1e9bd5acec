//! From a genesis, own or fetched, to an open ledger: as it was, or from a snapshot of peers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use protocol::config::CheckedConfig;
use protocol::home::Home;
use protocol::ids::ChainId;
use protocol::join::TrustedBlock;
use protocol::ledger::genesis::Genesis;
use storage::Retention;
use storage::probe::{Probe, probe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::join::{self, Outcome, Setup};
use super::ledger::{Ledger, SNAPSHOTS_KEPT, now};
use super::start::Blobs;
use super::{home, notes};
use crate::network::{self, MetaRequest, MetaResponse, NetworkEvent, NetworkHandle};

/// How long a joining node asks for the genesis before it says that it cannot.
const GENESIS_MAX: Duration = Duration::from_secs(60);

/// A network's genesis, and the ledger that follows from it.
pub(super) struct Founded {
    pub(super) json: Vec<u8>,
    pub(super) chain: ChainId,
    pub(super) ledger: Arc<Ledger>,
}

/// What a node knows before it has a network.
pub(super) enum Known {
    /// Everything.
    Opened(Founded),
    /// A genesis, and that the chain may be far ahead of the ledger here.
    MayBeFar(Vec<u8>, Box<Genesis>, Box<Probe>),
}

/// Where and how a ledger is opened.
pub(super) struct Founding<'a> {
    root: &'a Home,
    config: &'a CheckedConfig,
    tracker: &'a TaskTracker,
    token: &'a CancellationToken,
}

impl<'a> Founding<'a> {
    pub(super) const fn new(
        root: &'a Home,
        config: &'a CheckedConfig,
        tracker: &'a TaskTracker,
        token: &'a CancellationToken,
    ) -> Self {
        Self { root, config, tracker, token }
    }

    /// Opens the ledger of a genesis, unless peers should be asked first.
    pub(super) async fn known(&self, json: Vec<u8>, genesis: Genesis) -> anyhow::Result<Known> {
        Ok(match self.probe(&genesis).await? {
            Some(probe) => Known::MayBeFar(json, Box::new(genesis), Box::new(probe)),
            None => Known::Opened(self.open(json, genesis).await?),
        })
    }

    /// Opens the ledger, with the help of peers as far as it is needed.
    pub(super) async fn found(
        &self,
        known: Option<Known>,
        chain: ChainId,
        events: &mut mpsc::Receiver<NetworkEvent>,
        blobs: &Blobs,
    ) -> anyhow::Result<Founded> {
        let network = &blobs.network;
        let (json, genesis, probe) = match known {
            Some(Known::Opened(founded)) => return Ok(founded),
            Some(Known::MayBeFar(json, genesis, probe)) => (json, *genesis, Some(*probe)),
            None => {
                let json = fetch_genesis(network, events, chain).await?;
                let genesis = home::parse_genesis(&json)?;
                // First this: a data directory of another network refuses the genesis.
                let probe = self.probe(&genesis).await?;
                let (path, bytes) = (self.root.genesis(), json.clone());
                tokio::task::spawn_blocking(move || notes::write(&path, &bytes))
                    .await?
                    .context("cannot store the genesis")?;
                (json, genesis, probe)
            }
        };
        network.set_genesis(json.clone()).await;
        if let Some(probe) = probe {
            let setup = self.setup(&genesis, &probe, blobs)?;
            let outcome = tokio::select! {
                () = self.token.cancelled() => bail!("stopped while looking for a snapshot"),
                outcome = Box::pin(join::join(&setup, events)) => outcome?,
            };
            if let Outcome::Prepared(height) = outcome {
                tracing::info!(height = height.get(), "starting from a snapshot");
            }
        }
        self.open(json, genesis).await
    }

    /// Where the ledger stands, if the chain may be far ahead and a snapshot would be taken.
    async fn probe(&self, genesis: &Genesis) -> anyhow::Result<Option<Probe>> {
        let (data, chain) = (self.root.data(), genesis.chain_id());
        let shown = data.display().to_string();
        let found = tokio::task::spawn_blocking(move || probe(&data, &chain))
            .await?
            .with_context(|| format!("cannot open the ledger in {shown}"))?;
        let last = found.last.as_ref().map_or(genesis.time, |header| header.time);
        let interval = genesis.parameters.snapshot_interval_blocks;
        // An archive wants every block.
        let seeks = !self.config.chain().archive
            && self.peers_expected() > 0
            && join::may_be_far(interval, last, now());
        Ok(seeks.then_some(found))
    }

    fn peers_expected(&self) -> usize {
        let told = self.config.join().map_or(0, |join| join.addresses().len());
        self.config.network().persistent_peers.len() + told
    }

    fn setup(&self, genesis: &Genesis, probe: &Probe, blobs: &Blobs) -> anyhow::Result<Setup> {
        Ok(Setup {
            data: self.root.data(),
            chain: genesis.chain_id(),
            genesis: genesis.validators().context("the genesis is not valid")?,
            trusted: self.config.trusted(),
            interval_blocks: genesis.parameters.snapshot_interval_blocks,
            tip: probe.tip,
            peers_expected: self.peers_expected(),
            network: blobs.network.clone(),
            store: blobs.store.clone(),
            blobs: blobs.service.clone(),
            tracker: self.tracker.clone(),
        })
    }

    async fn open(&self, json: Vec<u8>, genesis: Genesis) -> anyhow::Result<Founded> {
        let retention = match self.config.chain().archive {
            true => Retention::Archive,
            false => Retention::Snapshots(SNAPSHOTS_KEPT),
        };
        let guard = self.root.root().join("guard").join("signatures.log");
        let (dir, chain) = (self.root.data(), genesis.chain_id());
        let ledger =
            tokio::task::spawn_blocking(move || Ledger::open(&dir, &guard, &genesis, retention))
                .await??;
        let founded = Founded { json, chain, ledger };
        founded.check_trusted(self.config.trusted()).await?;
        Ok(founded)
    }
}

impl Founded {
    /// Refuses a ledger that has another block than its owner trusts.
    async fn check_trusted(&self, trusted: Option<TrustedBlock>) -> anyhow::Result<()> {
        let Some(trusted) = trusted else { return Ok(()) };
        let found = self.ledger.run(move |ledger| ledger.block_hash(trusted.height)).await;
        match found.filter(|found| *found != trusted.hash) {
            Some(found) => bail!(
                "block {} of this ledger is {found}, not {} as `trusted` says: this ledger is of \
                 another chain, or `trusted` was typed wrongly. If you are sure of it, move the \
                 data directory away, keep the signer guard, and start again",
                trusted.height,
                trusted.hash
            ),
            None => Ok(()),
        }
    }
}

/// Asks peers for the genesis of `chain` and checks that it is.
async fn fetch_genesis(
    network: &NetworkHandle,
    events: &mut mpsc::Receiver<NetworkEvent>,
    chain: ChainId,
) -> anyhow::Result<Vec<u8>> {
    tracing::info!(chain = %chain.short(), "asking for the genesis");
    let search = async {
        while let Some(event) = events.recv().await {
            let NetworkEvent::Connected(peer) = event else { continue };
            match network.request(peer, MetaRequest::Genesis).await {
                Ok(MetaResponse::Genesis(Some(json))) => match home::parse_genesis(&json) {
                    Ok(genesis) if genesis.chain_id() == chain => return Some(json),
                    Ok(_) | Err(_) => {
                        network.report(peer, network::Severity::Fatal, "a false genesis");
                    }
                },
                Ok(_) => {}
                Err(error) => tracing::debug!(%peer, %error, "no genesis"),
            }
        }
        None
    };
    tokio::time::timeout(GENESIS_MAX, search).await.ok().flatten().context(
        "no peer gave the genesis of the network; check that a node of the join string runs and \
         that its address can be reached from here",
    )
}
