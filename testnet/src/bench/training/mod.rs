//! `bench training`: what a network costs those who train.
//!
//! Four real daemons with real workers train a model together, and before and after that the same
//! four workers train alone, at the same time, on the same cores: same model, batch, inner steps,
//! threads and niceness (`alone`). Both are told in tokens a second, which here are bytes of text.
//! The ratio is given as it is, and without what review, replay, evaluation and merging took of the
//! cores (`account` has the definitions), whose share of all that workers and daemons compute is
//! printed beside it.
//!
//! Every node sends blobs (deltas, heads, states) at 110 Mb/s at most, by the daemon's own limit.
//! What it receives is not limited by any setting: from three others that send at 110 Mb/s each
//! come at most 330 Mb/s, less than the 500 Mb/s of the line that is meant. Consensus and gossip,
//! some kilobytes a block, are not limited.
//!
//! Workers are metered by a relay ([`meter`]), of which the daemons know nothing.

mod account;
mod alone;
pub mod meter;
pub(crate) mod record;
mod report;
pub(crate) mod site;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use protocol::api::{Round, RoundPhase};
use protocol::model::{Architecture, RoundParameters};
use tokio::time::{Instant, sleep};

use self::account::{Account, Basis, Cores, Sample};
use self::alone::{Alone, Training};
use self::report::Report;
use self::site::{NODES, Setting, Site};
use crate::bench::process;
use crate::blobs::conclude;
use crate::corpus;
use crate::network::process::NodeProcess;
use crate::network::stop_asked;
use crate::workspace::Workspace;

/// The line that is meant, in bits a second: that of Covenant-72B's nodes (section 4.3), whose 94.5 %
/// of utilisation these figures stand beside.
const UPLOAD_BITS_PER_S: u64 = 110_000_000;
const DOWNLOAD_BITS_PER_S: u64 = 500_000_000;
// Else the missing limit of what is received would have to be made up for.
const _: () = assert!((NODES as u64 - 1) * UPLOAD_BITS_PER_S <= DOWNLOAD_BITS_PER_S);

/// Some hundred thousand parameters: with it 150 inner steps of four members take about half a
/// minute on two cores, so that seven rounds and the measurements alone fit into six minutes.
const ARCHITECTURE: Architecture =
    Architecture::BytesGpt { layers: 2, width: 128, heads: 4, context: 128 };
/// Nobody is to be late: what deadlines cost is not measured here.
const TRAIN_MS: u32 = 900_000;
/// How often rounds and counters are looked at: seldom, because whom is asked is measured.
const GLANCE: Duration = Duration::from_secs(1);
/// A round must move on within this.
const ROUND_MAX: Duration = Duration::from_secs(300);

/// How the figures are defined.
const HELP: &str = "\
The window: from the end of the last member's training for the warm-up round to that for the last
round. Over alone: text trained on in it over what the same workers alone train in as many core
seconds, without those that other programs took, on both sides. Without review: also without the
core seconds of review, replay, evaluation and merging. Review's share: these over all that workers
and daemons compute.

Aims: without review at least 0.90; review at most 10 % with at least 150 inner steps.";

/// What is measured.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = HELP)]
pub struct Options {
    /// Rounds measured, after one of warm-up.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Inner steps of a member in a round (H).
    #[arg(long, default_value_t = 150)]
    pub steps: u32,
    /// Members wait for the round before to be reviewed and merged before they train again.
    #[arg(long)]
    pub no_overlap: bool,
    /// Seed of texts and weights.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder of text [default: the sources of the crates that Ayni is built from].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn validate(&self) -> Result<()> {
        ensure!((1..=1_000).contains(&self.rounds), "--rounds must be 1 to 1,000");
        ensure!((1..=10_000).contains(&self.steps), "--steps must be 1 to 10,000");
        self.data.as_deref().map_or(Ok(()), corpus::check_folder)
    }

    fn parameters(&self) -> Result<RoundParameters> {
        Ok(RoundParameters {
            inner_steps: self.steps,
            keep_per_chunk: 64,
            members_min: u32::try_from(NODES)?,
            members_max: u32::try_from(NODES)?,
            overlap: !self.no_overlap,
            train_ms: TRAIN_MS,
            ..RoundParameters::default()
        })
    }
}

/// Runs the benchmark; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    options.validate()?;
    // One thread: what watches must not compete with what is watched.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = measure(workspace, options) => report,
            // Dropping the network and the workers kills their processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })?;
    conclude(options.json, &report, report.missed(), || report.print())
}

async fn measure(workspace: &Workspace, options: &Options) -> Result<Report> {
    let folder = workspace.target().join("bench").join("training");
    let corpus =
        Setting::texts(workspace, options.data.as_deref(), options.seed, &folder.join("corpus"))?;
    let setting = Setting {
        folder: folder.join("nodes"),
        architecture: ARCHITECTURE,
        seed: options.seed,
        upload_bytes_per_s: UPLOAD_BITS_PER_S / 8,
        corpus,
    };
    let parameters = options.parameters()?;
    eprintln!("bench training: starting {NODES} nodes");
    let mut site = Site::start(workspace, &setting).await?;
    let training =
        Training { spec: &site.spec.clone(), parameters: &parameters, corpus: &setting.corpus };
    // The model is known; the nodes are out of the way while the workers train alone.
    site.network.stop().await?;
    let before = alone(workspace, &training, &folder.join("alone")).await?;
    for node in &mut site.network.nodes {
        node.start().await?;
    }
    let outcome = rounds(&site, options, &parameters).await;
    let stopped = site.network.stop().await;
    let (samples, rounds) = outcome?;
    stopped?;
    let after = alone(workspace, &training, &folder.join("alone")).await?;

    let mean = |of: fn(&Alone) -> f64| f64::midpoint(of(&before), of(&after));
    let basis = Basis {
        alone_tokens_per_s: mean(|alone| alone.tokens_per_s),
        alone_tokens_per_core_s: mean(|alone| alone.tokens_per_core_s),
        step_tokens: training.step_tokens(),
        cores: Cores::for_workers(NODES)?,
        first_round: 1,
        last_round: 1 + options.rounds,
    };
    let jobs = site.jobs()?;
    let account = Account::of(&jobs, &samples, account::window(&jobs, &basis)?, &basis)?;
    Report::new(options, &site.spec, (before, after), &basis, account, &rounds)
}

async fn alone(
    workspace: &Workspace,
    training: &Training<'_>,
    folder: &std::path::Path,
) -> Result<Alone> {
    eprintln!("  {NODES} workers train alone, {} steps", training.parameters.inner_steps);
    let alone = alone::measure(workspace, training, folder).await?;
    eprintln!("  {:.0} tokens/s", alone.tokens_per_s);
    Ok(alone)
}

/// Opens the rounds and follows them to their end, reading the counters meanwhile.
async fn rounds(
    site: &Site,
    options: &Options,
    parameters: &RoundParameters,
) -> Result<(Vec<Sample>, Vec<Round>)> {
    let count = options.rounds + 1;
    site.open(0, count, parameters).await?;
    let (mut samples, mut shown, mut moved) = (Vec::new(), Vec::new(), Instant::now());
    loop {
        samples.push(sample(&site.network.nodes)?);
        let rounds = site.rounds(0, 1).await?;
        let phases: Vec<RoundPhase> = rounds.iter().map(|round| round.phase).collect();
        if phases != shown {
            (shown, moved) = (phases, Instant::now());
            let newest: Vec<String> = rounds.iter().rev().take(2).map(said).collect();
            eprintln!("  {}", newest.join("; "));
        }
        let finished = rounds.iter().filter(|round| round.phase.is_finished()).count();
        if u32::try_from(finished)? >= count {
            samples.push(sample(&site.network.nodes)?);
            return Ok((samples, rounds));
        }
        ensure!(moved.elapsed() < ROUND_MAX, "no round has moved for {} s", ROUND_MAX.as_secs());
        sleep(GLANCE).await;
    }
}

fn said(round: &Round) -> String {
    format!("round {} {:?}", round.round, round.phase).to_lowercase()
}

/// The counters now.
fn sample(nodes: &[NodeProcess]) -> Result<Sample> {
    let mut daemons_ms = 0.0;
    for node in nodes {
        let pid = node.pid().with_context(|| format!("{} does not run", node.name()))?;
        daemons_ms += process::cpu(pid)?.as_secs_f64() * 1_000.0;
    }
    let text = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    let busy_ms = process::busy(&text)?.as_secs_f64() * 1_000.0;
    Ok(Sample { at_ms: meter::now_ms()?, daemons_ms, busy_ms })
}
