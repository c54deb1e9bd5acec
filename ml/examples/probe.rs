//! Measures training rounds on real text: four members one after the other, without a network.
//!
//! `cargo run --release -p ayni-ml --example probe -- FOLDER [ROUNDS]` reads `*.rs` and `*.md`
//! below FOLDER and prints, per round, the held-out loss, each delta's paired gain at admission
//! strength with its standard error, the same for a poisoned delta, times and sizes. The
//! thresholds of a round are set from these numbers.

#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use ayni_ml::files::JobDirectory;
use ayni_ml::jobs::{Settings, Worker};
use protocol::ids::{Beacon, ContentHash};
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use protocol::training::{Draw, report_windows, review_windows};
use protocol::worker::{
    DeltaOutputs, EvaluateJob, FileName, MergeJob, SubmittedDelta, TrainJob, TrainOutcome, Variant,
    WorkerOutcome, WorkerRequest,
};

const MEMBERS: u32 = 4;
const SHARD_BYTES: usize = 64 * 1024;
const SHARDS: usize = 320;
const SUITE_SHARDS: usize = 16;
const FULL_PPM: u32 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("give a folder of text")?;
    let rounds: u32 = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let scratch = std::env::temp_dir().join(format!("ayni-probe-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let result = Probe::new(&scratch, Path::new(&folder)).and_then(|mut probe| probe.run(rounds));
    std::fs::remove_dir_all(&scratch)?;
    result
}

struct Probe {
    worker: Worker,
    scratch: PathBuf,
    spec: ModelSpec,
    parameters: RoundParameters,
    shards: Vec<Vec<u8>>,
}

impl Probe {
    fn new(scratch: &Path, folder: &Path) -> anyhow::Result<Self> {
        let mut shards = read_shards(folder)?;
        ensure!(shards.len() > 2 * SUITE_SHARDS, "too little text below {}", folder.display());
        let suite: Vec<u8> = shards.split_off(shards.len() - SUITE_SHARDS).concat();
        std::fs::write(scratch.join("suite"), &suite)?;
        std::fs::write(scratch.join("state-0"), [0])?;
        for (i, shard) in shards.iter().enumerate() {
            std::fs::write(scratch.join(format!("shard-{i}")), shard)?;
            let poison: Vec<u8> = shard.iter().map(|byte| 255 - byte).collect();
            std::fs::write(scratch.join(format!("poison-{i}")), poison)?;
        }
        let spec = ModelSpec {
            name: "probe".into(),
            architecture: Architecture::BytesGpt { layers: 4, width: 128, heads: 4, context: 128 },
            tokenizer: None,
            adapter: None,
            seed: 1,
            imported: false,
            initial_checkpoint: ContentHash::default(),
            evaluation_suite: ContentHash::of(&suite),
            evaluation_suite_bytes: u64::try_from(suite.len())?,
            licence: "CC0-1.0".into(),
        };
        println!("{} shards, {} parameters", shards.len(), spec.parameters());
        println!("byte frequencies alone: {:.4} nats", byte_entropy(&shards, &suite));
        let directory = JobDirectory::open(scratch)?;
        let mut worker = Worker::new(directory, Settings { threads: 1 });
        let checkpoint_out = name("head-0")?;
        worker
            .run(WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out }, &mut |_| {
                Ok(())
            })?;
        let mut parameters = RoundParameters::default();
        for (variable, field) in [
            ("LR", &mut parameters.learning_rate_ppm),
            ("WD", &mut parameters.weight_decay_ppm),
            ("KEEP", &mut parameters.keep_per_chunk),
            ("BETA", &mut parameters.feedback_decay_ppm),
            ("ALPHA", &mut parameters.outer_learning_rate_ppm),
            ("BATCH", &mut parameters.batch),
            ("STEPS", &mut parameters.inner_steps),
        ] {
            if let Ok(text) = std::env::var(variable) {
                *field = text.parse().with_context(|| variable.to_owned())?;
            }
        }
        Ok(Self { worker, scratch: scratch.to_owned(), spec, parameters, shards })
    }

    fn run(&mut self, rounds: u32) -> anyhow::Result<()> {
        let described = self.worker.run(WorkerRequest::Describe, &mut |_| Ok(()))?;
        println!("{described:?}\n{:?}", self.parameters);
        let windows = report_windows(&self.spec, 256);
        let (base, _) = self.evaluate(0, &windows, &[], vec![vec![]])?;
        println!("round 0: held-out {:.4}", mean(&base[0]));
        for round in 0..rounds {
            self.round(round)?;
            let (base, _) = self.evaluate(round + 1, &windows, &[], vec![vec![]])?;
            println!("round {}: held-out {:.4}", round + 1, mean(&base[0]));
        }
        Ok(())
    }

    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        let mut seconds = Vec::new();
        let mut last = None;
        for member in 0..MEMBERS {
            let started = Instant::now();
            last = Some(self.train(round, member, "shard")?);
            seconds.push(started.elapsed().as_secs_f64());
        }
        let last = last.context("no member")?;
        let payload = std::fs::metadata(self.scratch.join(format!("delta-{round}-0")))?.len();
        println!(
            "  train {:.2?} s, steps alone {} ms, loss {:.4} -> {:.4}, {:.4} bits per parameter",
            seconds,
            last.elapsed_ms,
            nats(last.loss_first_nanonats),
            nats(last.loss_last_nanonats),
            8.0 * float(payload) / float(self.spec.parameters()),
        );
        if std::env::var_os("NO_GAINS").is_none() {
            self.gains(round)?;
        }
        let submitted = (0..MEMBERS)
            .map(|member| {
                Ok(SubmittedDelta {
                    payload: name(&format!("delta-{round}-{member}"))?,
                    weight_ppm: FULL_PPM,
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let job = MergeJob {
            spec: self.spec.clone(),
            parameters: self.parameters.clone(),
            checkpoint: name(&format!("head-{round}"))?,
            outer_state: name(&format!("state-{round}"))?,
            submitted,
            divisor: MEMBERS,
            checkpoint_out: name(&format!("head-{}", round + 1))?,
            outer_state_out: name(&format!("state-{}", round + 1))?,
        };
        self.worker.run(WorkerRequest::Merge(job), &mut |_| Ok(()))?;
        Ok(())
    }

    /// Paired gains of each delta alone, honest and poisoned (in the place of the last member).
    fn gains(&mut self, round: u32) -> anyhow::Result<()> {
        let mut beacon = [0; 32];
        beacon[..4].copy_from_slice(&round.to_le_bytes());
        let windows = review_windows(&Beacon::from_bytes(beacon), &self.spec, round, 128);
        self.train(round, MEMBERS, "poison")?;
        let alone = |i: usize| (0..4).map(|j| if i == j { FULL_PPM } else { 0 }).collect();
        for members in [[0, 1, 2, 3], [0, 1, 2, MEMBERS]] {
            let variants = [vec![], alone(0), alone(1), alone(2), alone(3)];
            let (rows, seconds) = self.evaluate(round, &windows, &members, variants.into())?;
            let base = mean(&rows[0]);
            let gains: Vec<String> = rows[1..]
                .iter()
                .map(|row| {
                    let (gain, error) = paired_gain(&rows[0], row);
                    format!("{:.0}±{:.0}", 1e6 * gain / base, 1e6 * error / base)
                })
                .collect();
            let which = if members[3] == MEMBERS { "last poisoned" } else { "honest" };
            println!("  gains ppm ({which}): {} in {seconds:.2} s", gains.join("  "));
        }
        Ok(())
    }

    fn train(&mut self, round: u32, member: u32, kind: &str) -> anyhow::Result<TrainOutcome> {
        let seed = u64::from(round) * 100 + u64::from(member);
        let mut draw = Draw::new("ayni probe", &Beacon::default(), &[&seed.to_le_bytes()]);
        let total = u64::try_from(self.shards.len())?;
        let texts = (0..self.parameters.shards_per_member)
            .map(|_| name(&format!("{kind}-{}", draw.below(total))))
            .collect::<anyhow::Result<_>>()?;
        let feedback = format!("feedback-{round}-{member}");
        let feedback =
            if self.scratch.join(&feedback).exists() { Some(name(&feedback)?) } else { None };
        let outputs = DeltaOutputs {
            payload: name(&format!("delta-{round}-{member}"))?,
            feedback_accepted: name(&format!("feedback-{}-{member}", round + 1))?,
            feedback_rejected: name("feedback-rejected")?,
        };
        let job = TrainJob {
            spec: self.spec.clone(),
            parameters: self.parameters.clone(),
            steps: self.parameters.inner_steps,
            seed,
            checkpoint: name(&format!("head-{round}"))?,
            texts,
            feedback,
            delta: Some(outputs),
            checkpoint_out: None,
        };
        match self.worker.run(WorkerRequest::Train(job), &mut |_| Ok(()))? {
            WorkerOutcome::Trained(outcome) => Ok(outcome),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    fn evaluate(
        &mut self,
        round: u32,
        windows: &[u64],
        members: &[u32],
        variants: Vec<Vec<u32>>,
    ) -> anyhow::Result<(Vec<Vec<u64>>, f64)> {
        let submitted = members
            .iter()
            .map(|member| name(&format!("delta-{round}-{member}")))
            .collect::<anyhow::Result<_>>()?;
        let job = EvaluateJob {
            spec: self.spec.clone(),
            parameters: self.parameters.clone(),
            checkpoint: name(&format!("head-{round}"))?,
            outer_state: name(&format!("state-{round}"))?,
            suite: name("suite")?,
            windows: windows.to_vec(),
            submitted,
            divisor: MEMBERS,
            variants: variants.into_iter().map(|weights_ppm| Variant { weights_ppm }).collect(),
        };
        let started = Instant::now();
        match self.worker.run(WorkerRequest::Evaluate(job), &mut |_| Ok(()))? {
            WorkerOutcome::Evaluated { losses, .. } => {
                let rows = losses.into_iter().collect::<Option<_>>().context("undecodable")?;
                Ok((rows, started.elapsed().as_secs_f64()))
            }
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
}

/// Text below a folder in path order, cut into shards; a fixed share of every part of it.
fn read_shards(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs" || end == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    // Every n-th file, so that the text spans the whole folder.
    let mut keyed: Vec<(ContentHash, PathBuf)> = files
        .into_iter()
        .map(|path| (ContentHash::of(path.as_os_str().as_encoded_bytes()), path))
        .collect();
    keyed.sort();
    let mut text = Vec::new();
    for (_, path) in keyed {
        let bytes = std::fs::read(path)?;
        if bytes.len() < 128 * 1024 {
            text.extend_from_slice(&bytes);
            text.push(b'\n');
        }
        if text.len() >= SHARDS * SHARD_BYTES {
            break;
        }
    }
    Ok(text.chunks(SHARD_BYTES).map(<[u8]>::to_vec).collect())
}

/// Cross entropy of the suite under the byte frequencies of the shards.
fn byte_entropy(shards: &[Vec<u8>], suite: &[u8]) -> f64 {
    let mut counts = [1u32; 256];
    for byte in shards.iter().flatten() {
        counts[usize::from(*byte)] += 1;
    }
    let total: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let bits: f64 =
        suite.iter().map(|byte| -(f64::from(counts[usize::from(*byte)]) / total).ln()).sum();
    bits / suite.len() as f64
}

fn name(text: &str) -> anyhow::Result<FileName> {
    Ok(FileName::new(text)?)
}

fn float(value: u64) -> f64 {
    value as f64
}

fn nats(nanonats: u64) -> f64 {
    float(nanonats) / 1e9
}

fn mean(row: &[u64]) -> f64 {
    row.iter().map(|loss| nats(*loss)).sum::<f64>() / row.len() as f64
}

/// Mean of base - variant over windows, and its standard error.
fn paired_gain(base: &[u64], variant: &[u64]) -> (f64, f64) {
    let gains: Vec<f64> = base.iter().zip(variant).map(|(b, v)| nats(*b) - nats(*v)).collect();
    let count = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / count;
    let spread = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (spread / count).sqrt())
}
