//! Validators for the benchmark: homes, genesis with the signers, processes.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cli::home::{InitOptions, init};
use cli::keys::draw_secrets;
use protocol::amount::{Credits, PPM, TimestampMs};
use protocol::config::Config;
use protocol::home::{Home, NodeSecrets};
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;

use super::accounts;
use crate::demo::process::NodeProcess;
use crate::workspace::Workspace;

/// A node must see its peers, and the network come to rest, within this.
const PATIENCE: Duration = Duration::from_secs(90);
/// The target above which the base fee rises, at its largest: fees that grow during the run would
/// measure the fee market and not the ledger.
const BLOCK_BYTES_TARGET: u64 = 524_288;

/// When blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// As a node does by itself: when there is something to put in.
    OnDemand,
    /// One after another, empty ones too.
    Unthrottled,
}

/// How a network is set up.
pub(super) struct Plan {
    pub(super) folder: PathBuf,
    pub(super) validators: usize,
    pub(super) accounts: usize,
    pub(super) blocks: Blocks,
}

/// A running network.
pub(super) struct BenchNetwork {
    pub(super) nodes: Vec<NodeProcess>,
}

fn genesis(secrets: &[NodeSecrets], signers: usize) -> Result<Genesis> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let identities: Vec<_> = secrets.iter().map(NodeSecrets::identity).collect();
    let owner = |i: &protocol::home::NodeIdentity| GenesisAccount {
        key: i.account_key,
        balance: Credits::from_micro(1_000 * PPM),
    };
    let signer =
        |index| GenesisAccount { key: accounts::key(index).public(), balance: accounts::BALANCE };
    let capabilities = Capabilities { reviews: false, merges: false, hosts: true, validates: true };
    let genesis = Genesis {
        network: "ayni-bench".to_owned(),
        time: TimestampMs::new(u64::try_from(now.as_millis())?),
        rules_version: RULES_VERSION,
        parameters: LedgerParameters {
            block_bytes_target: BLOCK_BYTES_TARGET,
            ..LedgerParameters::default()
        },
        accounts: identities.iter().map(owner).chain((0..signers).map(signer)).collect(),
        nodes: identities
            .iter()
            .map(|i| GenesisNode {
                account: i.account_key,
                keys: i.keys.clone(),
                capabilities,
                stake: Credits::from_micro(1_000 * PPM),
                allowance: Credits::from_micro(100 * PPM),
            })
            .collect(),
    };
    genesis.build().context("the genesis of the benchmark")?;
    Ok(genesis)
}

fn config(blocks: Blocks, peers: &[String]) -> Config {
    let mut config = Config::default();
    config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.network.persistent_peers = peers.to_vec();
    config.worker.enabled = false;
    config.log.level = "warn,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".to_owned();
    if blocks == Blocks::Unthrottled {
        config.chain.block_wait_ms = 1;
    }
    config
}

impl BenchNetwork {
    /// Makes homes and starts the validators; returns when each sees all others.
    pub(super) async fn start(workspace: &Workspace, plan: &Plan) -> Result<(Self, Genesis)> {
        if plan.folder.exists() {
            std::fs::remove_dir_all(&plan.folder)
                .with_context(|| format!("{} cannot be removed", plan.folder.display()))?;
        }
        let daemon = workspace.program("aynid")?;
        let secrets =
            (0..plan.validators).map(|_| draw_secrets()).collect::<Result<Vec<_>, _>>()?;
        let genesis = genesis(&secrets, plan.accounts)?;
        let mut network = Self { nodes: Vec::new() };
        let mut first_addresses = Vec::new();
        for (index, keys) in secrets.iter().enumerate() {
            let home = Home::new(plan.folder.join(format!("node-{index}")));
            let options = InitOptions {
                config: config(plan.blocks, &first_addresses),
                genesis: Some(genesis.clone()),
            };
            let identity = init(&home, keys, &options)?;
            protocol::home::check_socket_path(&home.root().join("run").join("ayni.sock"))
                .context("the checkout lies too deep in the file system for a Unix socket")?;
            let mut node = NodeProcess::new(index, home, identity, daemon.clone());
            let status = node.start().await?;
            network.nodes.push(node);
            if first_addresses.is_empty() {
                first_addresses = status.listen;
            }
        }
        for node in &network.nodes {
            node.wait_status("its peers", PATIENCE, |s| {
                usize::try_from(s.peers).is_ok_and(|peers| peers + 1 >= plan.validators)
            })
            .await?;
        }
        for node in &network.nodes {
            node.wait_status("the first blocks", PATIENCE, |s| s.height.get() >= 3).await?;
        }
        Ok((network, genesis))
    }

    /// All nodes must come to the same state with nothing pending and all credits there.
    pub(super) async fn check_agreement(&self) -> Result<()> {
        let first = &self.nodes[0];
        for node in &self.nodes {
            node.wait_status("an empty pool", PATIENCE, |s| s.mempool_transactions == 0).await?;
            ensure!(node.client.audit().await?.credits_conserved, "credits are not conserved");
        }
        // Roots are in the headers: the next block of one node names the state of all.
        let tip = first.client.status().await?.height;
        for node in &self.nodes {
            node.wait_status("the last block", PATIENCE, |s| s.height >= tip).await?;
            // Not the whole answers: each node has its own signatures under the same block.
            let (mine, theirs) = (first.client.block(tip).await?, node.client.block(tip).await?);
            let (mine, theirs) = (mine.summary.hash, theirs.summary.hash);
            ensure!(
                mine == theirs,
                "{} holds another block {tip}: {theirs}, not {mine}",
                node.name()
            );
        }
        Ok(())
    }

    /// Stops all validators.
    pub(super) async fn stop(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        Ok(())
    }
}
