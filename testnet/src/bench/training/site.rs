//! A network that trains: real daemons with metered workers, texts of their own, a model.
//!
//! Shared by the benchmarks of speed and of faults. Deliberately absent: rounds; who uses the
//! network opens them and watches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use protocol::amount::Credits;
use protocol::api::{
    CreateModelRequest, JobResult, ModelOrigin, ModelRef, OpenRoundsRequest, PublishRequest, Round,
    RoundsQuery,
};
use protocol::config::Config;
use protocol::ids::ModelId;
use protocol::ledger::parameters::LedgerParameters;
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use protocol::transaction::Capabilities;

use super::record::{self, Job};
use crate::corpus::{self, Corpus};
use crate::network::process::NodeProcess;
use crate::network::{PATIENCE, Plan, Validators};
use crate::workspace::Workspace;

/// Nodes, each with a worker: the members of every round.
pub(crate) const NODES: usize = 4;

/// What is trained, where, and on what.
pub(crate) struct Setting {
    /// Emptied first.
    pub(crate) folder: PathBuf,
    pub(crate) architecture: Architecture,
    pub(crate) seed: u64,
    /// What the blobs that a node sends may take of its line; 0 for all.
    pub(crate) upload_bytes_per_s: u64,
    pub(crate) corpus: Corpus,
}

impl Setting {
    /// Texts for the nodes, from a folder or the crates that Ayni is built from.
    pub(crate) fn texts(
        workspace: &Workspace,
        data: Option<&Path>,
        seed: u64,
        into: &Path,
    ) -> Result<Corpus> {
        let sizes = corpus::Options::new(NODES, seed);
        match data {
            Some(data) => corpus::from_folder(data, &sizes, into),
            None => corpus::from_crates(workspace, &sizes, into),
        }
    }
}

/// The running network.
pub(crate) struct Site {
    pub(crate) network: Validators,
    pub(crate) spec: ModelSpec,
    records: Vec<PathBuf>,
}

/// Command line of a metered worker; `--dir` and what else a worker takes follow.
pub(crate) fn metered(workspace: &Workspace, record: &Path) -> Result<Vec<String>> {
    let (meter, worker) = (workspace.program("ayni-testnet")?, workspace.program("ayni-worker")?);
    let parts: [&Path; 6] = [
        &meter,
        Path::new("meter-worker"),
        Path::new("--worker"),
        &worker,
        Path::new("--record"),
        record,
    ];
    let text = |part: &Path| part.to_str().map(str::to_owned).context("the path is not UTF-8");
    parts.into_iter().map(text).collect()
}

impl Site {
    /// Starts the nodes, gives them their texts, registers the model.
    pub(crate) async fn start(workspace: &Workspace, setting: &Setting) -> Result<Self> {
        let records: Vec<PathBuf> =
            (0..NODES).map(|node| setting.folder.join(format!("record-{node}"))).collect();
        let commands =
            records.iter().map(|path| metered(workspace, path)).collect::<Result<Vec<_>>>()?;
        let plan = Plan {
            folder: setting.folder.clone(),
            name: "ayni-training",
            validators: NODES,
            signers: 0,
            parameters: LedgerParameters::default(),
            configure: |_, _| (),
        };
        let able = Capabilities { reviews: true, merges: true, hosts: true, validates: true };
        let configure = |index: usize, config: &mut Config| {
            config.worker.enabled = true;
            config.worker.command = commands.get(index).cloned().unwrap_or_default();
            config.training.auto_join = true;
            config.blobs.upload_bytes_per_s = setting.upload_bytes_per_s;
            config.log.level = "info,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".into();
        };
        let network = Validators::start_with(workspace, &plan, able, configure).await?;
        publish(&network, &setting.corpus).await?;
        let first = network.nodes.first().context("a network has nodes")?;
        let spec = create(first, setting).await?;
        let height = first.client.status().await?.height;
        for node in &network.nodes {
            node.wait_status("the model", PATIENCE, |s| s.height >= height).await?;
        }
        Ok(Self { network, spec, records })
    }

    /// A node.
    pub(crate) fn node(&self, index: usize) -> Result<&NodeProcess> {
        self.network.nodes.get(index).with_context(|| format!("there is no node {index}"))
    }

    /// The model.
    pub(crate) fn model(&self) -> ModelId {
        self.spec.id()
    }

    /// Opens rounds through a node.
    pub(crate) async fn open(
        &self,
        node: usize,
        rounds: u32,
        parameters: &RoundParameters,
    ) -> Result<()> {
        let request = OpenRoundsRequest {
            model: ModelRef::Id(self.model()),
            rounds,
            parameters: Some(parameters.clone()),
            escrow_micro: Credits::ZERO,
        };
        self.node(node)?.client.open_rounds(&request).await?;
        Ok(())
    }

    /// All rounds so far from a number on, which counts from 1, as a node sees them.
    pub(crate) async fn rounds(&self, node: usize, from: u32) -> Result<Vec<Round>> {
        let (client, model) = (&self.node(node)?.client, ModelRef::Id(self.model()));
        let mut all: Vec<Round> = Vec::new();
        loop {
            let next = from + u32::try_from(all.len())?;
            let query = RoundsQuery { model: model.clone(), from: Some(next), limit: None };
            let more = client.rounds(&query).await?.rounds;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// What the workers of each node have done so far.
    pub(crate) fn jobs(&self) -> Result<Vec<Vec<Job>>> {
        let read = |path: &PathBuf| record::jobs(&record::lines(path)?);
        self.records.iter().map(read).collect()
    }

    /// What the workers of one node have done so far.
    pub(crate) fn jobs_of(&self, node: usize) -> Result<Vec<Job>> {
        let path = self.records.get(node).with_context(|| format!("there is no node {node}"))?;
        record::jobs(&record::lines(path)?)
    }
}

/// Every node publishes its texts.
async fn publish(network: &Validators, corpus: &Corpus) -> Result<()> {
    for (node, folder) in network.nodes.iter().zip(&corpus.nodes) {
        let request = PublishRequest {
            name: format!("text-{}", node.index),
            licence: "MIT OR Apache-2.0".to_owned(),
            path: folder.to_str().context("the path is not UTF-8")?.to_owned(),
            ingest: None,
        };
        let job = node.client.publish(&request).await?;
        let JobResult::PublishDataset { .. } = node.client.wait_job(job, |_| {}).await? else {
            bail!("{} answered another question", node.name());
        };
    }
    Ok(())
}

async fn create(node: &NodeProcess, setting: &Setting) -> Result<ModelSpec> {
    let suite = &setting.corpus.suite;
    let text =
        std::fs::read(suite).with_context(|| format!("{} cannot be read", suite.display()))?;
    let receipt = node.client.store_blob(Bytes::from(text)).await?;
    let request = CreateModelRequest {
        name: "bench".to_owned(),
        origin: ModelOrigin::Seed {
            architecture: setting.architecture,
            tokenizer: None,
            seed: setting.seed,
        },
        evaluation_suite: receipt.hash,
        licence: "MIT".to_owned(),
    };
    let job = node.client.create_model(&request).await?;
    let JobResult::CreateModel { model, .. } = node.client.wait_job(job, |_| {}).await? else {
        bail!("{} answered another question", node.name());
    };
    Ok(node.client.model(&ModelRef::Id(model)).await?.spec)
}
