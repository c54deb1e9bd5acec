//! A local network: homes, genesis, daemons.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use cli::home::{InitOptions, init};
use cli::keys::draw_secrets;
use protocol::amount::{Credits, PPM, TimestampMs};
use protocol::config::Config;
use protocol::home::{Home, NodeSecrets};
use protocol::join::JoinString;
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;

use crate::network::{clear, process::NodeProcess};
use crate::workspace::Workspace;

const fn credits(whole: u64) -> Credits {
    Credits::from_micro(whole * PPM)
}

/// How a network is set up.
pub(super) struct Plan {
    /// Where the homes go; emptied first.
    pub(super) folder: PathBuf,
    /// Validators.
    pub(super) nodes: usize,
    /// The node whose worker is another program, and the round that it poisons.
    pub(super) evil: Option<(usize, u32)>,
}

/// A running network.
pub(super) struct LocalNetwork {
    /// The nodes, validators first.
    pub(super) nodes: Vec<NodeProcess>,
    /// Validators.
    pub(super) validators: usize,
    folder: PathBuf,
    daemon: PathBuf,
    worker: PathBuf,
}

fn genesis(secrets: &[NodeSecrets]) -> Result<Genesis> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let identities: Vec<_> = secrets.iter().map(NodeSecrets::identity).collect();
    let genesis = Genesis {
        network: "ayni-local".to_owned(),
        time: TimestampMs::new(u64::try_from(now.as_millis())?),
        rules_version: RULES_VERSION,
        // Epochs of a minute, so that the story sees validators paid; per minute they may mint
        // what its rounds earn in one.
        parameters: LedgerParameters {
            epoch_ms: 60_000,
            emission_per_epoch_micro: credits(1_000).micro(),
            ..LedgerParameters::default()
        },
        accounts: identities
            .iter()
            .map(|i| GenesisAccount { key: i.account_key, balance: credits(1_000) })
            .collect(),
        nodes: identities
            .iter()
            .map(|i| GenesisNode {
                account: i.account_key,
                keys: i.keys.clone(),
                capabilities: Capabilities {
                    reviews: true,
                    merges: true,
                    hosts: true,
                    validates: true,
                },
                stake: credits(1_000),
                allowance: credits(200),
            })
            .collect(),
    };
    genesis.build().context("the genesis of the local network")?;
    Ok(genesis)
}

impl LocalNetwork {
    /// Makes the homes and starts the daemons. The first one's address goes into the others'
    /// configuration; they learn of one another through it.
    pub(super) async fn start(workspace: &Workspace, plan: &Plan) -> Result<Self> {
        clear(&plan.folder)?;
        let secrets = (0..plan.nodes).map(|_| draw_secrets()).collect::<Result<Vec<_>, _>>()?;
        let genesis = genesis(&secrets)?;
        let mut network = Self {
            nodes: Vec::new(),
            validators: plan.nodes,
            folder: plan.folder.clone(),
            daemon: workspace.program("aynid")?,
            worker: workspace.program("ayni-worker")?,
        };
        let mut first_addresses = Vec::new();
        for (index, keys) in secrets.iter().enumerate() {
            let mut config = network.config()?;
            config.network.persistent_peers.clone_from(&first_addresses);
            config.training.auto_join = true;
            if let Some((_, round)) = plan.evil.filter(|(evil, _)| *evil == index) {
                let memory = plan.folder.join("evil-rounds.json");
                config.worker.command = evil_command(workspace, &network.worker, &memory, round)?;
            }
            let status = network.add(index, keys, config, Some(genesis.clone()))?.start().await?;
            if first_addresses.is_empty() {
                first_addresses = status.listen;
            }
        }
        for node in &network.nodes {
            node.wait_status("its peers", Duration::from_secs(60), |s| {
                usize::try_from(s.peers).is_ok_and(|peers| peers + 1 >= plan.nodes)
            })
            .await?;
        }
        Ok(network)
    }

    fn config(&self) -> Result<Config> {
        let mut config = Config::default();
        config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        config.worker.command =
            vec![self.worker.to_str().context("the path is not UTF-8")?.to_owned()];
        config.log.level = "info,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".to_owned();
        Ok(config)
    }

    fn add(
        &mut self,
        index: usize,
        secrets: &NodeSecrets,
        config: Config,
        genesis: Option<Genesis>,
    ) -> Result<&mut NodeProcess> {
        let home = Home::new(self.folder.join(format!("node-{index}")));
        let identity = init(&home, secrets, &InitOptions { config, genesis })?;
        let socket = home.root().join("run").join("ayni.sock");
        protocol::home::check_socket_path(&socket)
            .context("the checkout lies too deep in the file system for a Unix socket")?;
        self.nodes.push(NodeProcess::new(index, home, identity, self.daemon.clone()));
        self.nodes.last_mut().context("a node was just added")
    }

    /// Starts another node that knows nothing but a join string.
    pub(super) async fn join(&mut self, join: &JoinString) -> Result<usize> {
        let index = self.nodes.len();
        let mut config = self.config()?;
        config.network.join = Some(join.to_string());
        self.add(index, &draw_secrets()?, config, None)?.start().await?;
        Ok(index)
    }

    /// Stops all daemons.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        for node in &mut self.nodes {
            if let Err(error) = node.stop().await {
                failed.push(format!("{}: {error:#}", node.name()));
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    }
}

fn evil_command(
    workspace: &Workspace,
    worker: &Path,
    memory: &Path,
    round: u32,
) -> Result<Vec<String>> {
    let evil = workspace.program("ayni-testnet")?;
    let parts = [
        evil.as_path(),
        Path::new("evil-worker"),
        Path::new("--worker"),
        worker,
        Path::new("--memory"),
        memory,
    ];
    let mut command = parts
        .iter()
        .map(|part| part.to_str().map(str::to_owned).context("the path is not UTF-8"))
        .collect::<Result<Vec<_>>>()?;
    command.extend(["--poison-round".to_owned(), round.to_string()]);
    Ok(command)
}
