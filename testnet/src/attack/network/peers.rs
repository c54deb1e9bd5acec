//! Members of the network: validators whose workers are relays, some of them hostile.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use cli::home::{InitOptions, init};
use cli::keys::draw_secrets;
use futures::future::{join_all, try_join_all};
use protocol::amount::{Credits, PPM, TimestampMs};
use protocol::config::Config;
use protocol::home::{Home, NodeSecrets};
use protocol::ids::NodeId;
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;

use crate::network::process::NodeProcess;
use crate::network::{PATIENCE, clear};
use crate::workspace::Workspace;

/// Members.
pub(super) const NODES: usize = 7;
/// Of them hostile: the most of which a quorum of a panel of six can do without.
pub(super) const HOSTILE: usize = 2;
/// Bonds that a node may lock: each fault of a hostile one burns one.
const ALLOWANCE: u64 = 500;

const fn credits(whole: u64) -> Credits {
    Credits::from_micro(whole * PPM)
}

/// The running members; the last [`HOSTILE`] are hostile.
pub(super) struct Peers {
    pub(super) nodes: Vec<NodeProcess>,
}

fn genesis(secrets: &[NodeSecrets]) -> Result<Genesis> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let identities: Vec<_> = secrets.iter().map(NodeSecrets::identity).collect();
    let capabilities = Capabilities { reviews: true, merges: true, hosts: true, validates: true };
    let genesis = Genesis {
        network: "ayni-attack".to_owned(),
        time: TimestampMs::new(u64::try_from(now.as_millis())?),
        rules_version: RULES_VERSION,
        parameters: LedgerParameters::default(),
        accounts: identities
            .iter()
            .map(|i| GenesisAccount { key: i.account_key, balance: credits(2 * ALLOWANCE) })
            .collect(),
        nodes: identities
            .iter()
            .map(|i| GenesisNode {
                account: i.account_key,
                keys: i.keys.clone(),
                capabilities,
                stake: credits(1_000),
                allowance: credits(ALLOWANCE),
            })
            .collect(),
    };
    genesis.build().context("the genesis of the network under attack")?;
    Ok(genesis)
}

/// A worker that plays its member's part.
fn command(workspace: &Workspace, role: &str, memory: &Path) -> Result<Vec<String>> {
    let (relay, worker) = (workspace.program("ayni-testnet")?, workspace.program("ayni-worker")?);
    let parts = [
        relay.as_path(),
        Path::new("evil-worker"),
        Path::new("--worker"),
        worker.as_path(),
        Path::new("--memory"),
        memory,
        Path::new("--play"),
        Path::new(role),
    ];
    parts.iter().map(|p| Ok(p.to_str().context("the path is not UTF-8")?.to_owned())).collect()
}

impl Peers {
    /// Makes the homes under `folder`, which is emptied first, and starts the daemons; returns
    /// when each sees all others.
    pub(super) async fn start(workspace: &Workspace, folder: &Path) -> Result<Self> {
        clear(folder)?;
        let secrets = (0..NODES).map(|_| draw_secrets()).collect::<Result<Vec<_>, _>>()?;
        let genesis = genesis(&secrets)?;
        let mut peers = Self { nodes: Vec::with_capacity(NODES) };
        let daemon = workspace.program("aynid")?;
        for (index, keys) in secrets.iter().enumerate() {
            let mut config = Config::default();
            config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
            config.log.level =
                "info,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".to_owned();
            config.training.auto_join = true;
            let role = if index < NODES - HOSTILE { "honest" } else { "hostile" };
            let memory = folder.join(format!("memory-{index}"));
            config.worker.command = command(workspace, role, &memory)?;
            if let Some(first) = peers.nodes.first() {
                config.network.persistent_peers = first.client.status().await?.listen;
            }
            let node = peers.add(index, keys, config, &genesis, (folder, &daemon))?;
            if index == 0 {
                node.start().await?;
            }
        }
        try_join_all(peers.nodes.iter_mut().skip(1).map(NodeProcess::start)).await?;
        for node in &peers.nodes {
            node.wait_status("its peers", PATIENCE, |s| {
                usize::try_from(s.peers).is_ok_and(|peers| peers + 1 >= NODES)
            })
            .await?;
        }
        Ok(peers)
    }

    fn add(
        &mut self,
        index: usize,
        secrets: &NodeSecrets,
        config: Config,
        genesis: &Genesis,
        (folder, daemon): (&Path, &PathBuf),
    ) -> Result<&mut NodeProcess> {
        let home = Home::new(folder.join(format!("node-{index}")));
        let options = InitOptions { config, genesis: Some(genesis.clone()) };
        let identity = init(&home, secrets, &options)?;
        protocol::home::check_socket_path(&home.root().join("run").join("ayni.sock"))
            .context("the checkout lies too deep in the file system for a Unix socket")?;
        self.nodes.push(NodeProcess::new(index, home, identity, daemon.clone()));
        self.nodes.last_mut().context("a node was just added")
    }

    /// The member that publishes, opens rounds and is asked; an honest one.
    pub(super) fn first(&self) -> Result<&NodeProcess> {
        self.nodes.first().context("a network has nodes")
    }

    /// Whether a member is hostile.
    pub(super) fn is_hostile(&self, author: &NodeId) -> bool {
        self.nodes.iter().skip(NODES - HOSTILE).any(|node| node.identity.node == *author)
    }

    /// Stops all at once; says which did not stop well.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let stopped = self.nodes.iter_mut().map(async |node| {
            let stopped = node.stop().await;
            stopped.map_err(|error| format!("{}: {error:#}", node.name()))
        });
        let failed: Vec<String> =
            join_all(stopped).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    }
}
