//! A small network for transfers: one validator, which provides, and nodes that follow it.
//!
//! A single validator makes the blocks alone, empty ones, far apart: what runs beside a transfer
//! is one empty block every [`BLOCK_WAIT_MS`] and the traffic that tells the followers of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::config::Config;
use protocol::ids::NodeId;
use protocol::ledger::parameters::LedgerParameters;

use super::api::Api;
use crate::network::process::NodeProcess;
use crate::network::{PATIENCE, Plan, Validators};
use crate::workspace::Workspace;

/// Milliseconds between two empty blocks. Three are waited for at the start.
const BLOCK_WAIT_MS: u32 = 3_000;

/// The network.
pub(crate) struct Site {
    /// Its nodes; the validator first.
    pub(crate) network: Validators,
    folder: PathBuf,
}

/// What every node of such a network has in its configuration.
pub(crate) fn quiet(_: usize, config: &mut Config) {
    config.chain.block_wait_ms = BLOCK_WAIT_MS;
}

impl Site {
    /// Starts the validator, in a folder that is emptied first.
    pub(crate) async fn start(workspace: &Workspace, name: &'static str) -> Result<Self> {
        Self::start_with(workspace, name, quiet).await
    }

    /// The same; `configure` says what the validator has in its configuration.
    pub(crate) async fn start_with(
        workspace: &Workspace,
        name: &'static str,
        configure: fn(usize, &mut Config),
    ) -> Result<Self> {
        let plan = Plan {
            folder: workspace.target().join("blobs").join(name),
            name: "ayni-blobs",
            validators: 1,
            signers: 0,
            parameters: LedgerParameters::default(),
            configure,
        };
        let network = Validators::start(workspace, &plan).await?;
        let folder = plan.folder.join("files");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { network, folder })
    }

    /// A folder for files, on the same file system as the homes.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A node.
    pub(crate) fn node(&self, index: usize) -> Result<&NodeProcess> {
        self.network.nodes.get(index).with_context(|| format!("there is no node {index}"))
    }

    /// The interface of a node.
    pub(crate) fn api(&self, index: usize) -> Result<Api> {
        Ok(Api::of(self.node(index)?.client.clone()))
    }

    /// Who a node is.
    pub(crate) fn id(&self, index: usize) -> Result<NodeId> {
        Ok(self.node(index)?.identity.node)
    }

    /// The process of a node.
    pub(crate) fn pid(&self, index: usize) -> Result<u32> {
        let node = self.node(index)?;
        node.pid().with_context(|| format!("{} does not run", node.name()))
    }

    /// Adds a node and starts it, on one core only if one is named; its number.
    pub(crate) async fn add(
        &mut self,
        core: Option<usize>,
        configure: impl FnOnce(&mut Config),
    ) -> Result<usize> {
        let index = self.add_stopped(configure)?;
        self.network.nodes.get_mut(index).context("it was just added")?.core = core;
        self.restart(index).await?;
        Ok(index)
    }

    /// Adds a node that is not started; its number.
    pub(crate) fn add_stopped(&mut self, configure: impl FnOnce(&mut Config)) -> Result<usize> {
        let node = self.network.add_follower_with(|config| {
            quiet(0, config);
            configure(config);
        })?;
        Ok(node.index)
    }

    /// Starts a node that is down and waits until it is connected to all others and up to date.
    pub(crate) async fn restart(&mut self, index: usize) -> Result<()> {
        let others = self.network.nodes.len() - 1;
        self.network.nodes.get_mut(index).context("no such node")?.start().await?;
        let tip = self.node(0)?.client.status().await?.height;
        let node = self.node(index)?;
        node.wait_status("its peers and the chain", PATIENCE, |status| {
            usize::try_from(status.peers).is_ok_and(|peers| peers >= others) && status.height >= tip
        })
        .await?;
        Ok(())
    }

    /// Starts a node again, on one core.
    pub(crate) async fn pin(&mut self, index: usize, core: usize) -> Result<()> {
        let node = self.network.nodes.get_mut(index).context("no such node")?;
        node.stop().await?;
        node.core = Some(core);
        self.restart(index).await
    }

    /// Stops all nodes.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.network.stop().await
    }
}

/// Writes what the system still holds back, so that it does not compete with what is measured.
pub(crate) fn settle_disk() {
    rustix::fs::sync();
}

/// Folder in which a node keeps its blobs.
pub(crate) fn blobs_of(node: &NodeProcess) -> PathBuf {
    node.home.data().join("blobs")
}
