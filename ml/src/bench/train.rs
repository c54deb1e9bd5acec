//! Training beside PyTorch: one model, one initial checkpoint, one order of data, the same
//! hyperparameters. Each side is a fresh process that warms up and then measures; sides alternate,
//! and which goes first alternates too, so that a machine that slows down slows both.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, Precision, RoundParameters};
use protocol::worker::{InnerRun, ModelFiles};
use serde_json::{Value, json};

use super::python;
use crate::data::{Input, Shards, Source};
use crate::error::JobError;
use crate::figures::{CommandError, Figures};
use crate::initialize::initial_checkpoint;

/// The model has 3.4M parameters: large enough that arithmetic decides, small enough for 80
/// processes on two cores.
const LAYERS: u32 = 4;
const WIDTH: u32 = 256;
const HEADS: u32 = 8;
/// Bytes of a window.
pub(super) const CONTEXT: u32 = 256;
/// Windows of a step.
pub(super) const BATCH: u32 = 4;
/// Steps of a process, and how many of them are not timed.
pub(super) const STEPS: u32 = 20;
pub(super) const WARMUP: u32 = 5;
/// Our tokens per second over the peer's, median of the pairs.
const RATIO_AIM: f64 = 0.97;
/// Difference of the losses after the last step.
const LOSS_AIM: f64 = 1e-3;
const TEXT_BYTES: usize = 1 << 20;
const PEER: &str = include_str!("../../bench/peer.py");

/// How to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Pairs of processes for each of the four settings.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
    pairs: u32,
    /// A Python that has PyTorch 2.13; none makes one.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// Threads and precision.
const SETTINGS: [(u16, &str); 4] = [(1, "f32"), (2, "f32"), (1, "bf16"), (2, "bf16")];

/// Measures all settings.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let python = python::interpreter(options.python.as_deref(), &[])?;
    let folder = python::target().join("bench-train");
    prepare(&folder)?;
    let mut rows = Vec::new();
    for (threads, precision) in SETTINGS {
        let mut row = Row { threads, precision, ..Row::default() };
        for pair in 0..options.pairs {
            let ours = || ours(threads, precision, false);
            let theirs = || theirs(&python, &folder, threads, precision);
            let (ours, theirs) = if pair % 2 == 0 {
                let ours = ours()?;
                (ours, theirs()?)
            } else {
                let theirs = theirs()?;
                (ours()?, theirs)
            };
            row.add(&ours, &theirs);
            eprintln!(
                "{threads} thread(s), {precision}, pair {} of {}: {:.0} and {:.0} tokens/s",
                pair + 1,
                options.pairs,
                ours.speed,
                theirs.speed
            );
        }
        rows.push(row);
    }
    let plain = median(&rows[0].ours);
    let hashed = (0..options.pairs.div_ceil(3))
        .map(|_| ours(1, "f32", true).map(|side| side.speed))
        .collect::<Result<Vec<f64>, _>>()?;
    Ok(figures(&rows, median(&hashed) / plain))
}

/// Writes what the peer reads: script, checkpoint, windows of every step.
fn prepare(folder: &Path) -> Result<(), CommandError> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes)
            .map_err(CommandError::io(format!("writing {}", path.display())))
    };
    let made = format!("making {}", folder.display());
    std::fs::create_dir_all(folder).map_err(CommandError::io(made))?;
    let source = source()?;
    let mut windows = Vec::new();
    let context = crate::tensors::index(CONTEXT);
    for step in 0..STEPS {
        let examples = source.step(u64::from(step), crate::tensors::index(BATCH))?;
        let Input::Tokens(tokens) = &examples.input else { continue };
        for (input, target) in tokens.chunks(context).zip(examples.target.chunks(context)) {
            let all = input.iter().chain(target.last());
            windows.extend(all.map(|token| u8::try_from(*token).unwrap_or(0)));
        }
    }
    let spec = spec();
    let parameters = run_of(&spec, Precision::F32).parameters;
    let path = |name: &str| folder.join(name).display().to_string();
    let config = json!({
        "layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT,
        "batch": BATCH, "steps": STEPS, "warmup": WARMUP,
        "learning_rate": crate::arithmetic::ratio(parameters.learning_rate_ppm),
        "weight_decay": crate::arithmetic::ratio(parameters.weight_decay_ppm),
        "checkpoint": path("head.safetensors"), "windows": path("windows.bin"),
    });
    write("peer.py", PEER.as_bytes())?;
    write("head.safetensors", &initial_checkpoint(&spec).to_bytes())?;
    write("windows.bin", &windows)?;
    write("config.json", config.to_string().as_bytes())
}

/// What one process measured.
struct Side {
    losses: Vec<f64>,
    speed: f64,
}

fn ours(threads: u16, precision: &str, hash: bool) -> Result<Side, CommandError> {
    let program = std::env::current_exe().map_err(CommandError::io("finding this program"))?;
    let mut command = Command::new(program);
    command.args(["bench", "train-side", "--json", "--precision", precision]);
    command.args(["--threads", &threads.to_string()]);
    if hash {
        command.arg("--hash");
    }
    measure(&mut command)
}

fn theirs(
    python: &Path,
    folder: &Path,
    threads: u16,
    precision: &str,
) -> Result<Side, CommandError> {
    let mut command = Command::new(python);
    command.arg(folder.join("peer.py")).arg(folder.join("config.json"));
    command.args(["--threads", &threads.to_string(), "--precision", precision]);
    measure(&mut command)
}

fn measure(command: &mut Command) -> Result<Side, CommandError> {
    let what = format!("running {command:?}");
    let output = command.output().map_err(CommandError::io(what.clone()))?;
    let failed = |why: &str| CommandError::Failed(format!("{what}: {why}"));
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    let value: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(&error.to_string()))?;
    let losses = value["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64);
    let speed = value["tokens_per_second"].as_f64().ok_or_else(|| failed("no speed"))?;
    let losses: Vec<f64> = losses.collect();
    if losses.len() != crate::tensors::index(STEPS) {
        return Err(failed("another number of losses"));
    }
    Ok(Side { losses, speed })
}

/// One setting.
#[derive(Default)]
struct Row {
    threads: u16,
    precision: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratios: Vec<f64>,
    /// Largest difference of the last losses.
    difference: f64,
}

impl Row {
    fn add(&mut self, ours: &Side, theirs: &Side) {
        self.ours.push(ours.speed);
        self.theirs.push(theirs.speed);
        self.ratios.push(ours.speed / theirs.speed);
        let last = ours.losses.last().zip(theirs.losses.last());
        let difference = last.map_or(f64::INFINITY, |(ours, theirs)| (ours - theirs).abs());
        self.difference = self.difference.max(difference);
    }
}

fn figures(rows: &[Row], hashed: f64) -> Figures {
    let parameters = spec().parameters();
    let head = ["threads", "precision", "ours", "PyTorch", "ratio", "from", "to", "loss differs"];
    let mut table = vec![head.map(String::from).to_vec()];
    let (mut json, mut missed) = (Vec::new(), Vec::new());
    for row in rows {
        let ratio = median(&row.ratios);
        let least = row.ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = row.ratios.iter().copied().fold(0.0, f64::max);
        table.push(vec![
            row.threads.to_string(),
            row.precision.to_owned(),
            format!("{:.0}", median(&row.ours)),
            format!("{:.0}", median(&row.theirs)),
            format!("{ratio:.3}"),
            format!("{least:.3}"),
            format!("{most:.3}"),
            format!("{:.1e}", row.difference),
        ]);
        let setting = format!("{} thread(s), {}", row.threads, row.precision);
        if ratio < RATIO_AIM {
            missed.push(format!("{setting}: {ratio:.3} of PyTorch's speed, aim {RATIO_AIM}"));
        }
        if row.difference > LOSS_AIM {
            let difference = row.difference;
            missed.push(format!("{setting}: losses differ by {difference:.1e}, aim {LOSS_AIM}"));
        }
        json.push(json!({
            "threads": row.threads, "precision": row.precision,
            "tokens_per_second": median(&row.ours), "peer_tokens_per_second": median(&row.theirs),
            "ratio": ratio, "ratio_min": least, "ratio_max": most,
            "loss_difference": row.difference, "pairs": row.ratios.len(),
        }));
    }
    let aims = format!("aims: ratio at least {RATIO_AIM}, losses within {LOSS_AIM}");
    let text = format!(
        "Training beside PyTorch 2.13: {parameters} parameters, {BATCH} windows of {CONTEXT} bytes, \
         tokens/s, medians of pairs\n\n{}\nWith the hash of every state: {hashed:.3} of the speed \
         (1 thread, f32)\n{aims}\n",
        Figures::align(&table)
    );
    let json = json!({
        "parameters": parameters, "settings": json, "with_state_hashes": hashed,
        "missed": missed.clone(),
    });
    Figures { table: text, json, missed }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The model that both sides train.
pub(super) fn spec() -> ModelSpec {
    ModelSpec {
        name: "bench".into(),
        architecture: Architecture::BytesGpt {
            layers: LAYERS,
            width: WIDTH,
            heads: HEADS,
            context: CONTEXT,
        },
        tokenizer: None,
        adapter: None,
        seed: 1,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 0,
        licence: String::new(),
    }
}

/// The steps that both sides take.
pub(super) fn run_of(spec: &ModelSpec, precision: Precision) -> InnerRun {
    InnerRun {
        spec: spec.clone(),
        files: ModelFiles::default(),
        parameters: RoundParameters { batch: BATCH, precision, ..RoundParameters::default() },
        steps: STEPS,
        steps_before: 0,
        seed: 1,
        shards: Vec::new(),
    }
}

/// Text with something to learn: words of random letters, drawn unevenly.
pub(super) fn source() -> Result<Source<'static>, JobError> {
    use rand_core::Rng;
    let mut stream = crate::sample::step_stream(1, 0);
    let mut letter = || b'a' + u8::try_from(stream.next_u32() % 26).unwrap_or(0);
    let words: Vec<Vec<u8>> = (2..202)
        .map(|i| (0..i % 9 + 1).map(|_| letter()).chain([b' ']).collect::<Vec<u8>>())
        .collect();
    let mut text = Vec::with_capacity(TEXT_BYTES);
    while text.len() < TEXT_BYTES {
        // The smaller of two draws: early words are more frequent, as in a language.
        let draw = |word: u32| crate::tensors::index(word) % words.len();
        let word = draw(stream.next_u32()).min(draw(stream.next_u32()));
        text.extend_from_slice(&words[word]);
    }
    Source::new(&spec(), Shards::in_memory(vec![text]), None, 1)
}
