//! A network of validator processes on this machine: homes, a genesis with signers, daemons.
//!
//! Every node has a UDP port of its own, drawn free before the first one starts, and knows the
//! ports of all others: whoever comes back after a kill finds the rest, and the rest finds it,
//! even when all were down together.
//!
//! Deliberately absent: workers and models (`demo` has them), and judging what happens.

pub(crate) mod accounts;
pub(crate) mod process;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use cli::home::{InitOptions, init};
use cli::keys::draw_secrets;
use futures::future::try_join_all;
use protocol::amount::{Credits, Height, PPM, TimestampMs};
use protocol::config::Config;
use protocol::home::{Home, NodeIdentity, NodeSecrets};
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;
use tokio::signal::unix::{SignalKind, signal};

use crate::workspace::Workspace;
use process::NodeProcess;

/// A node must see its peers, and the network come to rest, within this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Blocks that a network must have made before it is used: by then every validator has voted.
const FIRST_BLOCKS: u64 = 3;

/// How a network is set up.
pub(crate) struct Plan {
    /// Where the homes go; emptied first.
    pub(crate) folder: PathBuf,
    /// Name of the network.
    pub(crate) name: &'static str,
    /// Validators.
    pub(crate) validators: usize,
    /// Accounts of [`accounts`] with credits in the genesis.
    pub(crate) signers: usize,
    /// The rules' numbers.
    pub(crate) parameters: LedgerParameters,
    /// What the configuration of a node has beside its network, by number of the node.
    pub(crate) configure: fn(usize, &mut Config),
}

/// A running network.
pub(crate) struct Validators {
    /// The nodes; the validators of the genesis first.
    pub(crate) nodes: Vec<NodeProcess>,
    /// What all of them began with.
    pub(crate) genesis: Genesis,
    folder: PathBuf,
    daemon: PathBuf,
    ports: Vec<u16>,
}

fn genesis(
    plan: &Plan,
    identities: &[NodeIdentity],
    capabilities: Capabilities,
) -> Result<Genesis> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let owner = |i: &NodeIdentity| GenesisAccount {
        key: i.account_key,
        balance: Credits::from_micro(1_000 * PPM),
    };
    let signer =
        |index| GenesisAccount { key: accounts::key(index).public(), balance: accounts::BALANCE };
    let genesis = Genesis {
        network: plan.name.to_owned(),
        time: TimestampMs::new(u64::try_from(now.as_millis())?),
        rules_version: RULES_VERSION,
        parameters: plan.parameters.clone(),
        accounts: identities.iter().map(owner).chain((0..plan.signers).map(signer)).collect(),
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
    genesis.build().with_context(|| format!("the genesis of {}", plan.name))?;
    Ok(genesis)
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let sockets = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()
        .context("no free UDP port on 127.0.0.1")?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

fn address(port: u16) -> String {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
}

/// Fewer words than a daemon says by itself, and no worker.
fn config(ports: &[u16], index: usize) -> Config {
    let mut config = Config::default();
    config.network.listen = ports.get(index).map(|port| address(*port)).into_iter().collect();
    let others = ports.iter().enumerate().filter(|(other, _)| *other != index);
    config.network.persistent_peers = others.map(|(_, port)| address(*port)).collect();
    config.worker.enabled = false;
    config.log.level = "warn,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".to_owned();
    config
}

impl Validators {
    /// Makes homes and starts the validators; returns when each sees all others and blocks flow.
    pub(crate) async fn start(workspace: &Workspace, plan: &Plan) -> Result<Self> {
        let able = Capabilities { reviews: false, merges: false, hosts: true, validates: true };
        Self::start_with(workspace, plan, able, plan.configure).await
    }

    /// The same with other capabilities, and a configuration that depends on more than the number
    /// of the node.
    pub(crate) async fn start_with(
        workspace: &Workspace,
        plan: &Plan,
        capabilities: Capabilities,
        mut configure: impl FnMut(usize, &mut Config),
    ) -> Result<Self> {
        clear(&plan.folder)?;
        let secrets =
            (0..plan.validators).map(|_| draw_secrets()).collect::<Result<Vec<_>, _>>()?;
        let identities: Vec<_> = secrets.iter().map(NodeSecrets::identity).collect();
        let mut network = Self {
            nodes: Vec::new(),
            genesis: genesis(plan, &identities, capabilities)?,
            folder: plan.folder.clone(),
            daemon: workspace.program("aynid")?,
            ports: free_ports(plan.validators)?,
        };
        for (index, keys) in secrets.iter().enumerate() {
            let mut config = config(&network.ports, index);
            configure(index, &mut config);
            network.add(keys, config)?;
        }
        try_join_all(network.nodes.iter_mut().map(NodeProcess::start)).await?;
        for node in &network.nodes {
            node.wait_status("its peers", PATIENCE, |s| {
                usize::try_from(s.peers).is_ok_and(|peers| peers + 1 >= plan.validators)
            })
            .await?;
        }
        for node in &network.nodes {
            let is_flowing = |height: Height| height.get() >= FIRST_BLOCKS;
            node.wait_status("the first blocks", PATIENCE, |s| is_flowing(s.height)).await?;
        }
        Ok(network)
    }

    fn add(&mut self, secrets: &NodeSecrets, config: Config) -> Result<&mut NodeProcess> {
        let index = self.nodes.len();
        let home = Home::new(self.folder.join(format!("node-{index}")));
        let options = InitOptions { config, genesis: Some(self.genesis.clone()) };
        let identity = init(&home, secrets, &options)?;
        protocol::home::check_socket_path(&home.root().join("run").join("ayni.sock"))
            .context("the checkout lies too deep in the file system for a Unix socket")?;
        self.nodes.push(NodeProcess::new(index, home, identity, self.daemon.clone()));
        self.nodes.last_mut().context("a node was just added")
    }

    /// Makes the home of one more node, which is no validator; it is not started.
    pub(crate) fn add_follower(&mut self) -> Result<&mut NodeProcess> {
        self.add_follower_with(|_| ())
    }

    /// The same, with more in its configuration.
    pub(crate) fn add_follower_with(
        &mut self,
        configure: impl FnOnce(&mut Config),
    ) -> Result<&mut NodeProcess> {
        self.ports.extend(free_ports(1)?);
        let mut config = config(&self.ports, self.nodes.len());
        config.capabilities.validates = false;
        configure(&mut config);
        self.add(&draw_secrets()?, config)
    }

    /// Stops the node that was added last and removes its home.
    pub(crate) async fn remove_last(&mut self) -> Result<()> {
        let mut node = self.nodes.pop().context("a network has nodes")?;
        self.ports.pop();
        node.stop().await?;
        let root = node.home.root();
        std::fs::remove_dir_all(root).with_context(|| format!("{} is removed", root.display()))
    }

    /// All nodes must come to the same state with nothing pending and all credits there. Returns
    /// the height that was compared.
    pub(crate) async fn check_agreement(&self) -> Result<Height> {
        let first = self.nodes.first().context("a network has nodes")?;
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
        Ok(tip)
    }

    /// Stops all nodes at once; says which did not stop well.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let stopped = self.nodes.iter_mut().map(async |node| {
            let stopped = node.stop().await;
            stopped.map_err(|error| format!("{}: {error:#}", node.name()))
        });
        let failed: Vec<String> =
            futures::future::join_all(stopped).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    }
}

/// Returns when this program is asked to end.
pub(crate) async fn stop_asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}

/// Removes what an earlier run left; a folder that still has a running network is refused.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries {
            let socket = entry?.path().join("run").join("ayni.sock");
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                bail!(
                    "a node answers at {}: an earlier network still runs. Stop it first: Ctrl-C \
                     where it was started, or `ayni --home DIR node stop`",
                    socket.display()
                );
            }
        }
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be created", folder.display()))
}
