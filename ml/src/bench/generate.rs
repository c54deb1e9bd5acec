//! `ayni-worker bench generate`: tokens per second with a cache, beside transformers' `generate`
//! on the same weights, prompt and number of tokens.
//!
//! Pairs are interleaved, so that what else the machine does falls on both. Greedy, one prompt.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use clap::Args;
use protocol::ids::ContentHash;
use protocol::model::ModelSpec;
use protocol::worker::{FileName, ImportJob, SandboxStatus, WorkerOutcome, WorkerRequest};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::arithmetic::count;
use crate::checkpoint::Checkpoint;
use crate::error::JobError;
use crate::figures::{CommandError, Figures};
use crate::files::JobDirectory;
use crate::jobs::{DeviceChoice, Settings, Worker};
use crate::lab::transformers::{REFERENCE, Scratch};
use crate::memory::Memory;
use crate::python;
use crate::tensors::{index, tensor_specs};
use crate::torch::generate::{Engine, choose};
use crate::torch::model::{Model, Options};
use crate::torch::prepare_thread;

/// Our tokens per second over theirs.
const RATIO_AIM: f64 = 1.0;
/// A text for the prompt.
const TEXT: &str = include_str!("generate.rs");

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Generate {
    /// A Python with torch 2.13.0 and transformers; made under target/tools if none is given.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Pairs of measurements; the median counts.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
    pairs: u32,
    /// Tokens to generate in each.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=400))]
    tokens: u32,
    /// Numbers of threads to measure.
    #[arg(long, value_delimiter = ',', default_value = "1,2",
        value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Vec<u16>,
}

struct Row {
    kind: &'static str,
    threads: u16,
    ours: f64,
    theirs: f64,
    ratio: f64,
    spread: (f64, f64),
    equal: f64,
}

/// Measures.
pub(super) fn run(arguments: &Generate) -> Result<Figures, CommandError> {
    let python = python::interpreter(arguments.python.as_deref())?;
    let scratch = Scratch::new("generate")?;
    let directory = JobDirectory::open(&scratch.0).map_err(JobError::from)?;
    let settings =
        Settings { threads: 1, device: DeviceChoice::Cpu, sandbox: SandboxStatus::default() };
    let mut worker = Worker::new(directory, Memory::open(), settings)?;
    let mut rows = Vec::new();
    for kind in ["llama-tied", "gpt2"] {
        let (model, prompt) = prepare(&mut worker, &python, &scratch.0, kind)?;
        for threads in &arguments.threads {
            eprintln!("{kind}, {threads} thread(s), {} pairs", arguments.pairs);
            let row = measure(&python, &scratch.0, &model, &prompt, arguments, kind, *threads)?;
            rows.push(row);
        }
    }
    Ok(figures(&rows, arguments))
}

/// Has transformers write a model and imports it; with it the tokens of the prompt.
fn prepare(
    worker: &mut Worker,
    python: &Path,
    folder: &Path,
    kind: &str,
) -> Result<(Model, Vec<u32>), CommandError> {
    let failed = |error: String| CommandError::Failed(error);
    for file in std::fs::read_dir(folder).map_err(CommandError::io("the scratch"))?.flatten() {
        std::fs::remove_file(file.path()).map_err(CommandError::io("the scratch"))?;
    }
    std::fs::write(folder.join("text"), TEXT).map_err(CommandError::io("the text"))?;
    let path = folder.to_string_lossy();
    let reference = python::answer(python, REFERENCE, &["make", &path, kind, "small"])?;
    let name = |text: &str| FileName::new(text).map_err(|error| failed(error.to_string()));
    let weights = reference["files"].as_array().into_iter().flatten();
    let job = ImportJob {
        config: name("config.json")?,
        tokenizer: Some(name("tokenizer.json")?),
        weights: weights.filter_map(Value::as_str).map(name).collect::<Result<_, _>>()?,
        context: None,
        checkpoint_out: name("head")?,
    };
    let outcome = worker.run(WorkerRequest::Import(job), &mut |_| Ok(()))?;
    let WorkerOutcome::Imported { architecture, checkpoint, .. } = outcome else {
        return Err(failed(format!("importing gave {outcome:?}")));
    };
    let spec = ModelSpec {
        name: "imported".into(),
        architecture,
        tokenizer: None,
        adapter: None,
        seed: 1,
        imported: true,
        initial_checkpoint: checkpoint,
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 0,
        licence: "CC0-1.0".into(),
    };
    let bytes = std::fs::read(folder.join("head")).map_err(CommandError::io("the checkpoint"))?;
    let checkpoint = Checkpoint::from_bytes(&bytes, &tensor_specs(&spec))
        .map_err(|error| failed(error.to_string()))?;
    let model = Model::new(&spec, &checkpoint, None, Options::inference())?;
    let tokens = std::fs::read(folder.join("tokens.json")).map_err(CommandError::io("tokens"))?;
    let rows: Vec<Vec<u32>> =
        serde_json::from_slice(&tokens).map_err(|error| failed(error.to_string()))?;
    let prompt = rows.into_iter().next().ok_or_else(|| failed("no prompt".into()))?;
    Ok((model, prompt))
}

/// transformers in a process that waits for a line and generates.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(
        python: &Path,
        folder: &Path,
        threads: u16,
        tokens: u32,
    ) -> Result<Self, CommandError> {
        let path = folder.to_string_lossy();
        let (threads, tokens) = (threads.to_string(), tokens.to_string());
        let mut child = python::script(python, REFERENCE, &["generate", &path, &threads, &tokens])
            .env("OMP_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(CommandError::io(python.display().to_string()))?;
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Self { child, input, output })
    }

    /// Seconds and tokens of one generation.
    fn generate(&mut self) -> Result<(f64, Vec<u32>), CommandError> {
        let gone = "transformers ended early: run ml/bench/reference.py by hand to see why";
        self.input.write_all(b"\n").map_err(CommandError::io(gone))?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(CommandError::io(gone))?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| CommandError::Failed(format!("{gone}: {error}")))?;
        let tokens = answer["tokens"].as_array().into_iter().flatten();
        let tokens = tokens.filter_map(Value::as_u64).filter_map(|token| u32::try_from(token).ok());
        Ok((answer["seconds"].as_f64().unwrap_or(f64::NAN), tokens.collect()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is only waiting for a line; its state is worth nothing.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("transformers did not end: {error}");
        }
    }
}

fn measure(
    python: &Path,
    folder: &Path,
    model: &Model,
    prompt: &[u32],
    arguments: &Generate,
    kind: &'static str,
    threads: u16,
) -> Result<Row, CommandError> {
    prepare_thread(threads);
    let mut peer = Peer::start(python, folder, threads, arguments.tokens)?;
    // Once each before the clock counts: memory, code, caches.
    peer.generate()?;
    ours(model, prompt, arguments.tokens)?;
    let (mut own, mut other, mut ratios, mut equal) = (vec![], vec![], vec![], 0.0);
    for _ in 0..arguments.pairs {
        let (their_seconds, their_tokens) = peer.generate()?;
        let (our_seconds, our_tokens) = ours(model, prompt, arguments.tokens)?;
        own.push(f64::from(arguments.tokens) / our_seconds);
        other.push(f64::from(arguments.tokens) / their_seconds);
        ratios.push(their_seconds / our_seconds);
        let same = our_tokens.iter().zip(&their_tokens).take_while(|(x, y)| x == y).count();
        equal = count(same) / f64::from(arguments.tokens);
    }
    let ratio = median(&mut ratios);
    Ok(Row {
        kind,
        threads,
        ours: median(&mut own),
        theirs: median(&mut other),
        ratio,
        spread: (ratios[0], ratios[ratios.len() - 1]),
        equal,
    })
}

/// Seconds and tokens of our own greedy generation.
fn ours(model: &Model, prompt: &[u32], tokens: u32) -> Result<(f64, Vec<u32>), CommandError> {
    let _guard = tch::no_grad_guard();
    let decoder = model.network().decoder().expect("models of text continue it");
    let mut stream = ChaCha20Rng::from_seed([0; 32]);
    let started = Instant::now();
    let mut engine = Engine::new(decoder, &[prompt.to_vec()], index(tokens), model.device())?;
    let mut made = Vec::with_capacity(index(tokens));
    for _ in 0..tokens {
        let token = choose(&engine.logits()?, 0, 1_000_000, &mut stream)?;
        engine.push(&[token], &[true])?;
        made.push(token);
    }
    Ok((started.elapsed().as_secs_f64(), made))
}

/// Sorts, then the middle one, or the lower of two.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

fn figures(rows: &[Row], arguments: &Generate) -> Figures {
    let header = ["model", "threads", "tokens/s", "transformers", "ratio", "range", "equal tokens"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let (mut cells, mut missed) = (Vec::new(), Vec::new());
    for row in rows {
        table.push(vec![
            row.kind.into(),
            row.threads.to_string(),
            format!("{:.1}", row.ours),
            format!("{:.1}", row.theirs),
            format!("{:.3}", row.ratio),
            format!("{:.3} to {:.3}", row.spread.0, row.spread.1),
            format!("{:.0} %", 100.0 * row.equal),
        ]);
        cells.push(json!({
            "model": row.kind, "threads": row.threads, "tokens_per_second": row.ours,
            "transformers_tokens_per_second": row.theirs, "ratio": row.ratio,
            "ratio_min": row.spread.0, "ratio_max": row.spread.1, "tokens_equal": row.equal,
        }));
        if row.ratio.is_nan() || row.ratio < RATIO_AIM {
            missed.push(format!(
                "{}, {} thread(s): {:.3} of transformers' speed, {RATIO_AIM} is the aim",
                row.kind, row.threads, row.ratio
            ));
        }
    }
    let mut text = Figures::align(&table);
    text.push_str(&format!(
        "8 layers of width 512, prompt of 48 tokens, {} tokens, greedy, f32; medians of {} \
         interleaved pairs\n",
        arguments.tokens, arguments.pairs
    ));
    let json = json!({"rows": cells, "pairs": arguments.pairs, "tokens": arguments.tokens});
    Figures { table: text, json, missed }
}
