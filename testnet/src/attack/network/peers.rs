//! Members of the network: validators whose workers are relays, some of them hostile.

use std::path::Path;

use anyhow::{Context, Result};
use protocol::config::Config;
use protocol::ids::NodeId;
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;

use crate::network::process::NodeProcess;
use crate::network::{Plan, Validators};
use crate::workspace::Workspace;

/// Members.
pub(super) const NODES: usize = 7;
/// Of them hostile: the most of which a quorum of a panel of six can do without.
pub(super) const HOSTILE: usize = 2;

/// The running members; the last [`HOSTILE`] are hostile.
pub(super) struct Peers {
    network: Validators,
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
    /// when each sees all others and blocks flow.
    pub(super) async fn start(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let plan = Plan {
            folder: folder.to_owned(),
            name: "ayni-attack",
            validators: NODES,
            signers: 0,
            parameters: LedgerParameters::default(),
            configure: |_, _| (),
        };
        let able = Capabilities { reviews: true, merges: true, hosts: true, validates: true };
        let role = |index| if index < NODES - HOSTILE { "honest" } else { "hostile" };
        let memory = |index| folder.join(format!("memory-{index}"));
        let commands = (0..NODES)
            .map(|index| command(workspace, role(index), &memory(index)))
            .collect::<Result<Vec<_>>>()?;
        let configure = |index: usize, config: &mut Config| {
            config.worker.enabled = true;
            config.worker.command = commands.get(index).cloned().unwrap_or_default();
            config.training.auto_join = true;
            config.log.level = "info,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".into();
        };
        Ok(Self { network: Validators::start_with(workspace, &plan, able, configure).await? })
    }

    /// The member that publishes, opens rounds and is asked; an honest one.
    pub(super) fn first(&self) -> Result<&NodeProcess> {
        self.network.nodes.first().context("a network has nodes")
    }

    /// Whether a member is hostile.
    pub(super) fn is_hostile(&self, author: &NodeId) -> bool {
        let mut hostile = self.network.nodes.iter().skip(NODES - HOSTILE);
        hostile.any(|node| node.identity.node == *author)
    }

    /// Stops all at once; says which did not stop well.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.network.stop().await
    }
}
