//! The demo: a network that trains a model on real text, reviews every delta, and pays for it.
//!
//! [`run`] tells the story of `cargo demo`; [`up`] leaves a network running. The figures of the
//! report are read from the nodes' interfaces and disks (`report.rs`); only the baselines and the
//! clock are the demo's own.

mod network;
mod report;
mod story;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::api::HeadChoice;
use protocol::model::{ModelSpec, RoundParameters};
use protocol::review::Verdict;
use protocol::training::report_windows;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Network;
use crate::baseline::{Counts, Losses};
use crate::corpus::{self, Corpus, canary};
use crate::worker_client::{Alone, Worker};
use crate::workspace::Workspace;
use network::{LocalNetwork, Plan};
use report::{LateJoiner, Report};

/// The round whose delta is poisoned.
const POISON_ROUND: u32 = 2;

/// Waits for Ctrl-C or a request to terminate.
async fn interruption() -> Result<&'static str> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok("terminated"),
        _ = interrupt.recv() => Ok("interrupted"),
    }
}

/// Runs `work` until it ends or the user interrupts; dropping it then kills the nodes.
async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        how = interruption() => bail!("{}; the nodes that were started here are stopped", how?),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn make_corpus(workspace: &Workspace, options: &Network, folder: &Path) -> Result<Corpus> {
    let sizes = corpus::Options::new(options.nodes, options.seed);
    let corpus = match &options.data {
        Some(data) => corpus::from_folder(data, &sizes, folder)?,
        None => corpus::from_crates(workspace, &sizes, folder)?,
    };
    println!("  {}", corpus.describe());
    Ok(corpus)
}

fn parameters(options: &Network) -> Result<RoundParameters> {
    Ok(RoundParameters { members_max: u32::try_from(options.nodes)?, ..RoundParameters::default() })
}

/// Starts a network, shares the texts, registers a model, opens rounds, and waits for Ctrl-C.
pub fn up(workspace: &Workspace, options: &Network) -> Result<ExitCode> {
    let folder = workspace.target().join("up");
    runtime()?.block_on(async {
        let open = Box::pin(open_network(workspace, options, &folder));
        let mut network = until_interrupted(open).await?;
        interruption().await?;
        println!("stopping");
        network.stop().await
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn open_network(
    workspace: &Workspace,
    options: &Network,
    folder: &Path,
) -> Result<LocalNetwork> {
    println!("texts");
    let corpus = make_corpus(workspace, options, &folder.join("corpus"))?;
    println!("network");
    let plan = Plan { folder: folder.join("nodes"), nodes: options.nodes, evil: None };
    let network = Box::pin(LocalNetwork::start(workspace, &plan)).await?;
    story::share_data(&network, &corpus).await?;
    let first = network.nodes.first().context("a network has nodes")?;
    let spec = story::create_model(first, &corpus, options.seed).await?;
    // Room for nodes that join by hand; without them a round starts after `join_ms`.
    let parameters = RoundParameters {
        members_max: u32::try_from(options.nodes)?.saturating_add(4),
        join_ms: 5_000,
        ..RoundParameters::default()
    };
    story::open_rounds(first, spec.id(), options.rounds, &parameters).await?;
    println!("\n{} training rounds are open. Homes and sockets:", options.rounds);
    for node in &network.nodes {
        println!(
            "  {}  {}  {}",
            node.name(),
            node.home.root().display(),
            node.client.socket().display()
        );
    }
    println!("\nTry:\n  export AYNI_HOME={}", network_home(&network)?);
    println!("  target/release/ayni status\n  target/release/ayni train watch");
    println!("\nCtrl-C stops the network.");
    Ok(network)
}

fn network_home(network: &LocalNetwork) -> Result<String> {
    let first = network.nodes.first().context("a network has nodes")?;
    Ok(first.home.root().display().to_string())
}

/// The demo.
pub fn run(workspace: &Workspace, options: &Network) -> Result<ExitCode> {
    let folder = workspace.target().join("demo");
    let told = Box::pin(tell(workspace, options, &folder));
    let (report, faults) = runtime()?.block_on(until_interrupted(told))?;
    if faults.is_empty() {
        println!("\nEverything is as it should be ({:.0} s).", report.elapsed_s);
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nNot as it should be:");
    for fault in &faults {
        println!("  - {fault}");
    }
    Ok(ExitCode::FAILURE)
}

async fn tell(
    workspace: &Workspace,
    options: &Network,
    folder: &Path,
) -> Result<(Report, Vec<String>)> {
    let started = Instant::now();
    println!("\n1. texts");
    let corpus = make_corpus(workspace, options, &folder.join("corpus"))?;
    let canary = canary::make_canary(options.seed);
    let private_text = corpus.nodes.last().context("a corpus has parts")?;
    let planted = canary::plant_canary(private_text, &canary)?;
    // The search must find what is there, or finding nothing elsewhere would mean nothing.
    ensure!(
        planted > 0 && canary::find_bytes(private_text, canary.as_bytes())? == planted,
        "the canary search does not find the canary"
    );

    let (evil, private) = (options.nodes - 2, options.nodes - 1);
    println!("\n2. {} validators; node-{evil} runs another worker program", options.nodes);
    let plan = Plan {
        folder: folder.join("nodes"),
        nodes: options.nodes,
        evil: Some((evil, POISON_ROUND)),
    };
    let mut network = Box::pin(LocalNetwork::start(workspace, &plan)).await?;
    story::share_data(&network, &corpus).await?;
    let first = network.nodes.first().context("a network has nodes")?;
    let spec = story::create_model(first, &corpus, options.seed).await?;
    let model = spec.id();
    let start_loss = story::heldout(first, model, HeadChoice::Initial).await?;
    let before = story::generate(first, model, HeadChoice::Initial).await?;

    let kill_round = POISON_ROUND + 1 + (options.rounds - POISON_ROUND - 1) / 3;
    println!(
        "\n3. {} training rounds; round {POISON_ROUND} is poisoned by node-{evil}, node-1 is \
         killed in round {kill_round}",
        options.rounds
    );
    let parameters = parameters(options)?;
    story::open_rounds(first, model, options.rounds, &parameters).await?;
    let mut seen = BTreeMap::new();
    story::follow(first, model, &mut seen, |rounds| {
        rounds.iter().any(|r| r.round == kill_round && !r.members.is_empty())
            && rounds
                .iter()
                .any(|r| r.round == kill_round && r.phase == protocol::api::RoundPhase::Train)
    })
    .await?;
    story::kill_and_return(&mut network, 1).await?;
    let first = network.nodes.first().context("a network has nodes")?;
    story::follow(first, model, &mut seen, |rounds| {
        rounds.iter().filter(|r| r.phase.is_finished()).count()
            >= usize::try_from(options.rounds).unwrap_or(usize::MAX)
    })
    .await?;

    println!("\n4. a fifth node joins with nothing but a join string");
    let join = first.client.join_string().await?;
    let target = first.client.status().await?.height;
    let late = network.join(&join).await?;
    let joiner = network.nodes.get(late).context("the joiner")?;
    let synced =
        joiner.wait_status("the chain", Duration::from_secs(120), |s| s.height >= target).await?;
    println!("  {} synced to height {}", joiner.name(), synced.height);
    let generated = story::generate(joiner, model, HeadChoice::Latest).await?;

    println!("\n5. the same model without a network, for comparison");
    let losses = baselines(&corpus, &spec)?;
    let alone = alone(workspace, folder, &corpus, &spec, &parameters, options).await?;

    println!("\n6. reading the nodes");
    let first = network.nodes.first().context("a network has nodes")?;
    let end_loss = story::heldout(first, model, HeadChoice::Latest).await?;
    let rounds = story::rounds(first, model).await?;
    story::claim_rewards(&network).await?;
    let (common_height, roots_equal) = story::common_root(&network).await?;
    let mut heads = Vec::new();
    let mut audits = Vec::new();
    let mut blob_bytes_sent = 0;
    for node in &network.nodes {
        heads.push(node.client.model(&model.into()).await?);
        audits.push(node.client.audit().await?);
        blob_bytes_sent += node.client.status().await?.blob_bytes_sent;
    }
    let certified = rounds.iter().rev().find_map(|r| r.head);
    let heads_equal = heads.iter().all(|m| Some(m.head_id) == certified);
    let accounts = first.client.accounts().await?;
    let victim = network.nodes.get(1).context("the killed node")?.client.status().await?;
    let evil_node = network.nodes.get(evil).context("the evil node")?.identity.node;
    network.stop().await?;
    let mut found = 0;
    for node in network.nodes.iter().filter(|n| n.index != private) {
        found += canary::find_bytes(node.disk(), canary.as_bytes())?;
    }

    let deltas = || rounds.iter().flat_map(|r| r.deltas.iter().map(move |d| (r.round, d)));
    let is_poisoned = |round: u32, author| round == POISON_ROUND && author == evil_node;
    let honest: Vec<_> = deltas().filter(|(r, d)| !is_poisoned(*r, d.author)).collect();
    let accepted = honest.iter().filter(|(_, d)| d.verdict == Some(Verdict::Accept)).count();
    let report = Report {
        nodes: network.nodes.len(),
        validators: network.validators,
        height: common_height,
        state_roots_equal: roots_equal,
        credits_conserved: audits.iter().all(|a| a.credits_conserved),
        parameters: spec.parameters(),
        heldout_loss_start: start_loss,
        heldout_loss_end: end_loss,
        heldout_loss_unigram: losses.unigram,
        heldout_loss_bigram: losses.bigram,
        heldout_loss_alone: alone,
        heads_equal,
        rounds: report::rounds(&rounds),
        poisoned_delta_rejected: deltas().any(|(r, d)| {
            is_poisoned(r, d.author) && d.verdict == Some(Verdict::Fault) && d.bond_burned
        }),
        honest_deltas_accepted_ppm: u64::try_from(accepted * 1_000_000 / honest.len().max(1))?,
        killed_node_recovered: roots_equal && victim.height >= common_height,
        double_signs: audits.iter().map(|a| a.double_signs).max().unwrap_or(0),
        late_joiner: LateJoiner {
            synced_height: synced.height,
            head_verified: heads
                .get(late)
                .is_some_and(|m| m.head_held && Some(m.head_id) == certified),
            generated_text: generated.clone(),
        },
        private_bytes_found_elsewhere: found,
        credits: report::credits(&accounts),
        blob_bytes_sent,
        elapsed_s: started.elapsed().as_secs_f64(),
    };
    let path = folder.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    table::print(&table::Closing {
        report: &report,
        network: &network,
        accounts: &accounts,
        before: &before,
        after: &generated,
        report_path: &path,
    });
    let faults = report.faults(options.rounds);
    Ok((report, faults))
}

/// Byte frequencies and bigrams of all the nodes' text, on the windows that heads are reported on.
fn baselines(corpus: &Corpus, spec: &ModelSpec) -> Result<Losses> {
    let mut counts = Counts::default();
    for folder in &corpus.nodes {
        counts.add_folder(folder)?;
    }
    let suite = std::fs::read(&corpus.suite)?;
    counts.losses(&suite, spec.window_bytes(), &report_windows(spec, story::REPORT_WINDOWS))
}

/// One node that trains alone, as many steps as it would have done in the network.
async fn alone(
    workspace: &Workspace,
    folder: &Path,
    corpus: &Corpus,
    spec: &ModelSpec,
    parameters: &RoundParameters,
    options: &Network,
) -> Result<f64> {
    let jobs = folder.join("alone");
    if jobs.exists() {
        std::fs::remove_dir_all(&jobs)?;
    }
    std::fs::create_dir_all(&jobs)?;
    let mut command = Command::new(workspace.program("ayni-worker")?);
    command.arg("--dir").arg(&jobs).args(["--threads", "2", "--nice", "0"]);
    let mut worker = Worker::start(command, &jobs)?;
    let windows = report_windows(spec, story::REPORT_WINDOWS);
    let texts = corpus.files(0)?;
    let job = Alone {
        spec,
        parameters,
        steps: parameters.inner_steps * options.rounds,
        seed: options.seed,
        texts: &texts,
        suite: &corpus.suite,
        windows: &windows,
    };
    let loss = worker.train_alone(&job, |_| {}).await?;
    worker.stop().await?;
    Ok(loss)
}
