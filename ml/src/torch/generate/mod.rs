//! Text generation: several prompts at once, token by token, streamed.
//!
//! A continuation depends on its own prompt, the seed and its place in the list, not on the other
//! prompts. When a context is full, the older half of it is forgotten and the rest is read again:
//! slower for one token, and cheaper than moving the window by one each time.

mod engine;
mod sample;
mod text;

use protocol::ids::derive;
use protocol::limits;
use protocol::model::ModelSpec;
use protocol::worker::{GenerateJob, Progress, WorkerOutcome};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

pub use engine::Engine;
pub use sample::{choose, nucleus};
pub use text::Continuation;

use super::Machine;
use super::model::{Model, Options};
use crate::error::JobError;
use crate::huggingface::fold;
use crate::jobs::{Report, check_architecture, read_checkpoint};
use crate::tensors::{architecture_specs, index, tensor_specs};
use crate::tokenizer::Tokenizer;

/// What the model reads when there is no prompt: the start of a line.
const START: &[u8] = b"\n";
/// Bytes between two reports of a prompt: a few per second for a person to watch.
const REPORT_BYTES: usize = 8;
/// Above this, every token is about equally likely.
const TEMPERATURE_PPM_MAX: u32 = 100_000_000;
/// All probability.
const ALL_PPM: u32 = 1_000_000;

/// Runs a generation job.
pub fn run(
    machine: &Machine<'_>,
    job: &GenerateJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    check(job)?;
    let tokenizer = Tokenizer::open(machine.directory, &job.spec, job.files.tokenizer.as_ref())?;
    let prompts = job
        .prompts
        .iter()
        .map(|prompt| prompt_tokens(&tokenizer, prompt))
        .collect::<Result<Vec<_>, _>>()?;
    let _guard = tch::no_grad_guard();
    let model = load(machine, job)?;
    let decoder = model
        .network()
        .decoder()
        .ok_or_else(|| JobError::Request("this model classifies; it continues no text".into()))?;
    let mut engine = Engine::new(decoder, &prompts, index(job.bytes), model.device())?;
    let mut rows: Vec<Row> = (0u32..)
        .zip(&prompts)
        .map(|(number, prompt)| Row::new(job, number, &tokenizer, prompt))
        .collect();
    generate(&mut engine, &mut rows, job, report)?;
    let tokens: usize = rows.iter().map(|row| row.text.tokens()).sum();
    let texts = rows.into_iter().map(|row| row.text.into_bytes()).collect();
    Ok(WorkerOutcome::Generated { texts, tokens: u64::try_from(tokens).unwrap_or(u64::MAX) })
}

fn check(job: &GenerateJob) -> Result<(), JobError> {
    check_architecture(&job.spec)?;
    let bad = |what: &str| Err(JobError::Request(what.to_owned()));
    if !(1..=limits::PROMPTS_MAX).contains(&job.prompts.len()) {
        return bad("1 to 32 prompts at once");
    }
    if job.prompts.iter().any(|prompt| prompt.len() > limits::PROMPT_BYTES_MAX) {
        return bad("a prompt is over the limit");
    }
    if job.bytes > limits::GENERATE_BYTES_MAX || job.temperature_ppm > TEMPERATURE_PPM_MAX {
        return bad("bytes or temperature over the limit");
    }
    if !(1..=ALL_PPM).contains(&job.top_p_ppm) {
        return bad("top-p: 1 to 1,000,000 ppm");
    }
    let stops = 1..=limits::STOP_BYTES_MAX;
    if job.stop.len() > limits::STOP_TEXTS_MAX
        || job.stop.iter().any(|stop| !stops.contains(&stop.len()))
    {
        return bad("at most 16 texts to stop at, 1 to 256 bytes each");
    }
    Ok(())
}

/// The tokens of a prompt, at least one.
fn prompt_tokens(tokenizer: &Tokenizer, prompt: &[u8]) -> Result<Vec<u32>, JobError> {
    let failed = |error: crate::tokenizer::TokenizerError| JobError::Request(error.to_string());
    let mut tokens = tokenizer.encode_prompt(prompt).map_err(failed)?;
    if tokens.is_empty() {
        tokens = tokenizer.encode(START).map_err(failed)?;
    }
    if tokens.is_empty() {
        tokens.push(0);
    }
    Ok(tokens)
}

/// The model; an adapter is folded into its base, which computes the same with fewer products.
fn load(machine: &Machine<'_>, job: &GenerateJob) -> Result<Model, JobError> {
    let directory = machine.directory;
    let options = Options { device: machine.device, ..Options::inference() };
    let checkpoint = read_checkpoint(directory, &job.checkpoint, &tensor_specs(&job.spec))?;
    let Some(adapter) = &job.spec.adapter else {
        return Model::new(&job.spec, &checkpoint, None, options);
    };
    let file = job.files.base.as_ref().ok_or_else(|| {
        JobError::Request("the checkpoint under the adapter is needed too".into())
    })?;
    let base = read_checkpoint(directory, file, &architecture_specs(&job.spec.architecture))?;
    let whole = ModelSpec { adapter: None, ..job.spec.clone() };
    Model::new(&whole, &fold(base, &checkpoint, adapter), None, options)
}

/// One prompt and its continuation.
struct Row<'a> {
    number: u32,
    text: Continuation<'a>,
    stream: ChaCha20Rng,
    shown: usize,
}

impl<'a> Row<'a> {
    fn new(job: &'a GenerateJob, number: u32, tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let seed = [&job.seed.to_le_bytes()[..], &number.to_le_bytes()[..]];
        let key = derive("ayni 2026 generation v2", &seed);
        Self {
            number,
            text: Continuation::new(tokenizer, prompt, &job.stop, index(job.bytes)),
            stream: ChaCha20Rng::from_seed(key),
            shown: 0,
        }
    }
}

/// Continues all rows until each has ended. Row i of the engine is the i-th that has not.
fn generate(
    engine: &mut Engine<'_>,
    rows: &mut [Row<'_>],
    job: &GenerateJob,
    report: &mut Report<'_>,
) -> Result<(), JobError> {
    let mut open: Vec<usize> = (0..rows.len()).filter(|i| !rows[*i].text.ended()).collect();
    while !open.is_empty() {
        let logits = engine.logits()?;
        let vocabulary = logits.len() / open.len();
        let mut tokens = Vec::with_capacity(open.len());
        for (row, logits) in open.iter().zip(logits.chunks(vocabulary)) {
            let row = &mut rows[*row];
            let token = choose(logits, job.temperature_ppm, job.top_p_ppm, &mut row.stream)?;
            row.text.push(token).map_err(|error| JobError::Request(error.to_string()))?;
            tokens.push(token);
        }
        for row in &open {
            show(&mut rows[*row], job, report)?;
        }
        let stays: Vec<bool> = open.iter().map(|row| !rows[*row].text.ended()).collect();
        engine.push(&tokens, &stays)?;
        open.retain(|row| !rows[*row].text.ended());
    }
    Ok(())
}

fn show(row: &mut Row<'_>, job: &GenerateJob, report: &mut Report<'_>) -> Result<(), JobError> {
    let certain = row.text.certain();
    let text = &certain[row.shown..];
    if text.is_empty() || (text.len() < REPORT_BYTES && !row.text.ended()) {
        return Ok(());
    }
    let text = text.to_vec();
    row.shown += text.len();
    report(Progress {
        done: u64::try_from(row.shown).unwrap_or(u64::MAX),
        total: u64::from(job.bytes),
        loss_nanonats: None,
        per_second: None,
        prompt: row.number,
        text,
    })
}
