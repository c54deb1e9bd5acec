//! What happens in the demo, in order. Everything goes through the nodes' local interface.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use protocol::amount::Height;
use protocol::api::{
    CreateModelRequest, EvaluateRequest, GenerateEvent, GenerateRequest, HeadChoice, JobResult,
    ModelOrigin, ModelRef, OpenRoundsRequest, PrivateRequest, PublishRequest, Round, RoundPhase,
    RoundsQuery, StakeRequest,
};
use protocol::ids::{ModelId, StateRoot};
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use tokio::time::{Instant, sleep};

use super::network::LocalNetwork;
use crate::corpus::Corpus;
use crate::network::process::{LOOK, NodeProcess};

/// Windows on which heads are reported.
pub(super) const REPORT_WINDOWS: u32 = 256;
/// A round must move on within this time.
const ROUND_MAX: Duration = Duration::from_secs(300);
/// Blocks that the others decide while the killed node is away.
const BLOCKS_AWAY: u64 = 5;
/// What generation starts from.
pub(super) const PROMPT: &str = "/// Returns the ";

/// Validators are paid at the end of an epoch, and fetch it themselves.
pub(super) async fn claim_rewards(network: &LocalNetwork) -> Result<()> {
    for node in network.nodes.iter().take(network.validators) {
        node.client
            .stake(&StakeRequest::Claim { node: None })
            .await
            .with_context(|| format!("{} claims its rewards", node.name()))?;
    }
    Ok(())
}

/// Publishes the texts: all nodes but the last theirs, the last keeps its own.
pub(super) async fn share_data(network: &LocalNetwork, corpus: &Corpus) -> Result<()> {
    let (private, public) = network.nodes.split_last().context("a network has nodes")?;
    for (node, folder) in public.iter().zip(&corpus.nodes) {
        let request = PublishRequest {
            name: format!("text-{}", node.index),
            licence: "MIT OR Apache-2.0".to_owned(),
            path: path_text(folder)?,
            ingest: None,
        };
        let job = node.client.publish(&request).await?;
        let JobResult::PublishDataset { shards, documents, bytes, .. } =
            node.client.wait_job(job, |_| {}).await?
        else {
            bail!("{} answered another question", node.name());
        };
        println!(
            "  {} published {documents} documents in {shards} shards, {} KB",
            node.name(),
            bytes / 1_000
        );
    }
    let folder = corpus.nodes.last().context("a corpus has parts")?;
    let kept = private.client.set_private(&PrivateRequest { path: path_text(folder)? }).await?;
    println!(
        "  {} keeps {} files, {} KB, to itself (and trains on them)",
        private.name(),
        kept.files,
        kept.bytes / 1_000
    );
    Ok(())
}

fn path_text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("the path is not UTF-8")?.to_owned())
}

/// Registers the model with the suite set aside.
pub(super) async fn create_model(
    node: &NodeProcess,
    corpus: &Corpus,
    seed: u64,
) -> Result<ModelSpec> {
    let suite = std::fs::read(&corpus.suite)
        .with_context(|| format!("{} cannot be read", corpus.suite.display()))?;
    let receipt = node.client.store_blob(Bytes::from(suite)).await?;
    let request = CreateModelRequest {
        name: "ayni-demo".to_owned(),
        origin: ModelOrigin::Seed {
            architecture: Architecture::BytesGpt { layers: 4, width: 128, heads: 4, context: 128 },
            tokenizer: None,
            seed,
        },
        evaluation_suite: receipt.hash,
        licence: "MIT".to_owned(),
    };
    let job = node.client.create_model(&request).await?;
    let JobResult::CreateModel { model, parameters, .. } =
        node.client.wait_job(job, |_| {}).await?
    else {
        bail!("{} answered another question", node.name());
    };
    println!("  model {} with {parameters} parameters", model.short());
    Ok(node.client.model(&ModelRef::Id(model)).await?.spec)
}

/// Held-out loss in nats per byte.
pub(super) async fn heldout(node: &NodeProcess, model: ModelId, head: HeadChoice) -> Result<f64> {
    let request = EvaluateRequest { head, windows: REPORT_WINDOWS };
    let job = node.client.evaluate(&ModelRef::Id(model), &request).await?;
    match node.client.wait_job(job, |_| {}).await? {
        JobResult::Evaluate { loss_nanonats, .. } => Ok(loss_nanonats as f64 / 1e9),
        _ => bail!("{} answered another question", node.name()),
    }
}

/// Text of the model.
pub(super) async fn generate(
    node: &NodeProcess,
    model: ModelId,
    head: HeadChoice,
) -> Result<String> {
    let request = GenerateRequest {
        prompt: PROMPT.to_owned(),
        bytes: 200,
        temperature_ppm: 700_000,
        top_p_ppm: 1_000_000,
        stop: Vec::new(),
        seed: 1,
        head,
    };
    let mut events = node.client.generate(&ModelRef::Id(model), &request).await?;
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Text { text: piece } => text.push_str(&piece),
            GenerateEvent::Done(_) => break,
            GenerateEvent::Error(error) => return Err(error.into()),
        }
    }
    Ok(text)
}

/// Opens the rounds.
pub(super) async fn open_rounds(
    node: &NodeProcess,
    model: ModelId,
    rounds: u32,
    parameters: &RoundParameters,
) -> Result<()> {
    let request = OpenRoundsRequest {
        model: ModelRef::Id(model),
        rounds,
        parameters: Some(parameters.clone()),
        escrow_micro: protocol::amount::Credits::ZERO,
    };
    node.client.open_rounds(&request).await?;
    Ok(())
}

/// All rounds so far.
pub(super) async fn rounds(node: &NodeProcess, model: ModelId) -> Result<Vec<Round>> {
    let mut all: Vec<Round> = Vec::new();
    loop {
        let from = u32::try_from(all.len())? + 1;
        let query = RoundsQuery { model: ModelRef::Id(model), from: Some(from), limit: None };
        let more = node.client.rounds(&query).await?.rounds;
        if more.is_empty() {
            return Ok(all);
        }
        all.extend(more);
    }
}

/// Follows the rounds on `watcher`, saying what happens, until `until` says so of the rounds.
pub(super) async fn follow(
    watcher: &NodeProcess,
    model: ModelId,
    seen: &mut BTreeMap<u32, RoundPhase>,
    mut until: impl FnMut(&[Round]) -> bool,
) -> Result<()> {
    let mut moved = Instant::now();
    loop {
        let all = rounds(watcher, model).await?;
        for round in &all {
            if seen.insert(round.round, round.phase) == Some(round.phase) {
                continue;
            }
            moved = Instant::now();
            say(round);
        }
        if until(&all) {
            return Ok(());
        }
        if moved.elapsed() > ROUND_MAX {
            bail!(
                "no round has moved for {} s; the logs are in {}",
                ROUND_MAX.as_secs(),
                watcher.home.log().display()
            );
        }
        sleep(LOOK).await;
    }
}

fn say(round: &Round) {
    let verdicts: Vec<String> = round
        .deltas
        .iter()
        .filter_map(|d| {
            let verdict = format!("{:?}", d.verdict?).to_lowercase();
            Some(format!("{} {verdict} ({:+} ppm)", d.author.short(), d.score_ppm.unwrap_or(0)))
        })
        .collect();
    match round.phase {
        RoundPhase::Certified => println!(
            "  round {:>2}: new head {} certified by {} % of stake, {} credits paid; {}",
            round.round,
            round.head.map(|h| h.short()).unwrap_or_default(),
            round.certified_by_stake_ppm / 10_000,
            round.paid_micro,
            verdicts.join(", ")
        ),
        RoundPhase::Failed => {
            println!("  round {:>2}: the head stays; {}", round.round, verdicts.join(", "));
        }
        phase => println!("  round {:>2}: {}", round.round, format!("{phase:?}").to_lowercase()),
    }
}

/// Kills a node as hard as can be, lets the others go on, starts it again and waits until it has
/// caught up.
pub(super) async fn kill_and_return(network: &mut LocalNetwork, victim: usize) -> Result<()> {
    let node = network.nodes.get_mut(victim).context("there is such a node")?;
    let before = node.client.status().await?.height;
    node.kill().await?;
    println!("  {}: kill -9 at height {before}", node.name());
    let watcher = network.nodes.first().context("a network has nodes")?;
    let patience = Duration::from_secs(120);
    watcher
        .wait_status("blocks without the killed node", patience, |s| {
            s.height >= before.plus(BLOCKS_AWAY)
        })
        .await?;
    let node = network.nodes.get_mut(victim).context("there is such a node")?;
    let back = node.start().await?;
    println!("  {}: back, from its own disk at height {}", node.name(), back.height);
    if back.height < before {
        bail!("{} came back at {}, below {before}: it forgot blocks", node.name(), back.height);
    }
    let target = network.nodes.first().context("a network has nodes")?.client.status().await?;
    let node = network.nodes.get(victim).context("there is such a node")?;
    let caught =
        node.wait_status("the others' height", patience, |s| s.height >= target.height).await?;
    println!("  {}: caught up at height {}", node.name(), caught.height);
    Ok(())
}

/// A height at which every node was seen, if all saw the same root there.
pub(super) async fn common_root(network: &LocalNetwork) -> Result<(Height, bool)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut seen: BTreeMap<Height, BTreeMap<usize, StateRoot>> = BTreeMap::new();
    loop {
        for node in &network.nodes {
            let status = node.client.status().await?;
            seen.entry(status.height).or_default().insert(node.index, status.state_root);
        }
        if let Some((height, roots)) =
            seen.iter().rev().find(|(_, roots)| roots.len() == network.nodes.len())
        {
            let mut roots = roots.values();
            let first = roots.next();
            return Ok((*height, roots.all(|root| Some(root) == first)));
        }
        if Instant::now() > deadline {
            bail!("the nodes were never seen at one height: {:?}", seen.keys());
        }
    }
}
