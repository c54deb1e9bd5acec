//! Inner training of one round: H steps of AdamW from the head.

use std::time::Instant;

use protocol::ids::ContentHash;
use protocol::model::{Determinism, RoundParameters};
use protocol::worker::{InnerRun, Progress, TrainJob, TrainOutcome, WorkerOutcome};
use tch::{Kind, Reduction, TchError};

use super::model::{Batch, Model, Options, windows_tensor};
use super::optimizer::AdamW;
use crate::arithmetic::{count, nanonats, ratio};
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::{Report, check_architecture, check_parameters, read_checkpoint};
use crate::merkle::merkle_root;
use crate::sample::Windows;
use crate::tensors::{index, tensor_specs};

/// Steps of one job. The hashes of all states are kept in memory until the end.
const STEPS_MAX: u32 = 1_000_000;
/// Texts of one job together: they are held in memory.
const TEXT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The rate rises linearly over this part of the steps: Adam's first steps know no scale yet.
const WARMUP_PART: u32 = 10;

/// Runs a training job.
pub fn run(
    directory: &JobDirectory,
    job: &TrainJob,
    threads: u16,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    let run = &job.run;
    check_architecture(&run.spec)?;
    check_parameters(&run.parameters)?;
    if !(1..=STEPS_MAX).contains(&run.steps) {
        return Err(JobError::Request(format!("steps: 1 to {STEPS_MAX}")));
    }
    let specs = tensor_specs(&run.spec);
    let head = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let context = usize::try_from(run.spec.window_bytes()).expect("a checked context");
    let mut windows = Windows::new(read_texts(directory, run)?, context, run.seed)?;

    let options = Options { trainable: true, ..Options::inference() };
    let model = Model::new(&run.spec, &head, None, options)?;
    let mut trace = steps(&model, &mut windows, context, &run.parameters, run.steps, report)?;
    directory.write(&job.checkpoint_out, &model.to_checkpoint()?.to_bytes())?;
    // More threads split sums elsewhere: close, but not bit for bit the same.
    trace.determinism = if threads == 1 { Determinism::Exact } else { Determinism::Close };
    Ok(WorkerOutcome::Trained(trace))
}

/// The inner steps alone.
pub fn steps(
    model: &Model,
    windows: &mut Windows,
    context: usize,
    parameters: &RoundParameters,
    steps: u32,
    report: &mut Report<'_>,
) -> Result<TrainOutcome, JobError> {
    let started = Instant::now();
    let batch = index(parameters.batch);
    let mut optimizer = AdamW::new(model, ratio(parameters.weight_decay_ppm))?;
    let mut states = StateHasher::new(model);
    let mut losses = Vec::with_capacity(index(steps));
    let mut bytes = Vec::with_capacity(batch * (context + 1));
    for step in 0..steps {
        bytes.clear();
        for _ in 0..batch {
            bytes.extend_from_slice(windows.draw());
        }
        let loss = model
            .loss(&Batch::of_windows(&windows_tensor(&bytes, context + 1)?)?, Reduction::Mean)?;
        let value = loss.f_double_value(&[])?;
        let shown = nanonats(value).ok_or(JobError::Diverged("the loss is not finite"))?;
        let warmup = (steps / WARMUP_PART).max(1);
        let rise = f64::from((step + 1).min(warmup)) / f64::from(warmup);
        optimizer.step(model, &loss, ratio(parameters.learning_rate_ppm) * rise)?;
        states.record(model)?;
        losses.push(value);
        report(Progress {
            done: u64::from(step + 1),
            total: u64::from(steps),
            loss_nanonats: Some(shown),
            per_second: None,
            prompt: 0,
            text: Vec::new(),
        })?;
    }
    let tenth = (losses.len() / 10).max(1);
    let mean = |losses: &[f64]| nanonats(losses.iter().sum::<f64>() / count(losses.len()));
    let unknown = JobError::Diverged("the loss is not finite");
    let (first, last) = match (mean(&losses[..tenth]), mean(&losses[losses.len() - tenth..])) {
        (Some(first), Some(last)) => (first, last),
        _ => return Err(unknown),
    };
    let bytes_per_step = u64::try_from(batch * context).unwrap_or(u64::MAX);
    Ok(TrainOutcome {
        loss_first_nanonats: first,
        loss_last_nanonats: last,
        bytes_trained: bytes_per_step.saturating_mul(u64::from(steps)),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        step_states: states.root(),
        determinism: Determinism::Exact,
        memory_bytes: 0,
        resumed_at: 0,
    })
}

fn read_texts(directory: &JobDirectory, run: &InnerRun) -> Result<Vec<Vec<u8>>, JobError> {
    let mut left = TEXT_BYTES_MAX;
    let mut texts = Vec::with_capacity(run.shards.len());
    for name in &run.shards {
        let text = directory.read(name, left)?;
        left = left.saturating_sub(u64::try_from(text.len()).unwrap_or(u64::MAX));
        texts.push(text);
    }
    Ok(texts)
}

/// Hashes the parameters after each step.
pub struct StateHasher {
    buffer: Vec<u8>,
    states: Vec<ContentHash>,
}

impl StateHasher {
    /// A hasher for states of a model.
    pub fn new(model: &Model) -> Self {
        Self { buffer: vec![0; model.flat().numel() * 4], states: Vec::new() }
    }

    /// Records the present state: BLAKE3 of all parameters in name order, as little-endian f32
    /// (the byte order of every machine libtorch runs on here).
    pub fn record(&mut self, model: &Model) -> Result<(), TchError> {
        let bytes = model.flat().f_view_dtype(Kind::Uint8)?;
        bytes.f_copy_data(&mut self.buffer, bytes.numel())?;
        self.states.push(ContentHash::of(&self.buffer));
        Ok(())
    }

    /// Merkle root of the recorded states.
    pub fn root(&self) -> ContentHash {
        merkle_root(&self.states)
    }
}
