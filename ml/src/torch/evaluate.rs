//! Losses of variants of a head, window by window, in f32.
//!
//! Variants are made by the exact merging code, so reviewers measure what would be merged. The
//! loss of a window is that per byte, whatever the tokenizer, or that of a record; sums within a
//! window run in `f64`, so it depends on the batch only through libtorch's products (below 1.2e-7
//! when measured).

use protocol::model::{InputKind, Precision};
use protocol::worker::{EvaluateJob, Progress, WorkerOutcome};
use tch::Reduction;

use super::model::{Model, Options};
use super::{Machine, batch};
use crate::arithmetic::{count, nanonats};
use crate::data::suite::Suite;
use crate::delta::job::read_deltas;
use crate::error::JobError;
use crate::jobs::{Report, check_architecture, check_parameters, read_checkpoint};
use crate::merge::job::read_outer;
use crate::merge::{Inputs, MergeError, Merger, bucket_seed};
use crate::tensors::{architecture_specs, index, tensor_specs};

/// Losses of one job: all of them go into one reply frame, at most 9 bytes each.
const LOSSES_MAX: usize = 400_000;
/// Tokens predicted at once: large enough for full speed, small enough for the caches.
const BATCH_TOKENS: usize = 2_048;
/// Records at once.
const BATCH_RECORDS: usize = 256;
/// The worst loss reported, 1,000 nats per byte: also that of weights that leave the finite
/// numbers. A hostile delta must look terrible, not stop the review of the others.
const LOSS_NANONATS_MAX: u64 = 1_000_000_000_000;
/// Longest description of a fault.
const FAULT_CHARS_MAX: usize = 200;

/// Runs an evaluation job.
pub fn run(
    machine: &Machine<'_>,
    job: &EvaluateJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    check(job)?;
    let directory = machine.directory;
    let specs = tensor_specs(&job.spec);
    let head = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let base = match (&job.spec.adapter, &job.files.base) {
        (Some(_), Some(name)) => {
            let specs = architecture_specs(&job.spec.architecture);
            Some(read_checkpoint(directory, name, &specs)?)
        }
        _ => None,
    };
    let outer = read_outer(directory, &job.outer, &specs)?;
    let threads = usize::from(machine.threads);
    let read = read_deltas(directory, &job.submitted, &specs, &job.parameters, threads)?;
    let faults = read
        .deltas
        .iter()
        .map(|result| result.as_ref().err().map(|error| shorten(&error.to_string())))
        .collect();
    let deltas: Vec<_> = read.deltas.into_iter().map(Result::ok).collect();
    let merger = Merger::new(Inputs {
        head: &head,
        state: &outer.state,
        momentum: outer.momentum.as_ref(),
        aggregate: outer.aggregate.as_ref(),
        deltas: &deltas,
        parameters: &job.parameters,
        divisor: job.divisor,
        seed: bucket_seed(&read.payloads),
        threads,
    })?;
    let tokenizer = machine.tokenizer(&job.spec, &job.files)?;
    let suite = Suite::open(directory, &job.spec, &job.suite, tokenizer.as_deref())?;

    let total = job.windows.len() * job.variants.len();
    let mut losses = Vec::with_capacity(job.variants.len());
    for (v, variant) in job.variants.iter().enumerate() {
        let row = match merger.merge(&variant.weights_ppm) {
            Err(MergeError::Undecodable(_)) => None,
            Err(MergeError::NotFinite(_)) => Some(vec![LOSS_NANONATS_MAX; job.windows.len()]),
            merged => {
                let mut done = v * job.windows.len();
                let options =
                    Options { trainable: false, device: machine.device, precision: Precision::F32 };
                let model = Model::new(&job.spec, &merged?, base.as_ref(), options)?;
                let row = window_losses(job, &model, &suite, &mut |windows| {
                    done += windows;
                    report(progress(done, total))
                })?;
                Some(row)
            }
        };
        losses.push(row);
    }
    Ok(WorkerOutcome::Evaluated { losses, faults })
}

fn check(job: &EvaluateJob) -> Result<(), JobError> {
    check_architecture(&job.spec)?;
    check_parameters(&job.parameters)?;
    let bad = |what: &str| Err(JobError::Request(what.to_owned()));
    if job.windows.len().saturating_mul(job.variants.len()) > LOSSES_MAX {
        return bad("too many windows and variants for one reply");
    }
    let last = job.spec.suite_windows();
    if job.windows.iter().any(|window| *window >= last) {
        return bad("a window lies beyond the suite");
    }
    Ok(())
}

fn window_losses(
    job: &EvaluateJob,
    model: &Model,
    suite: &Suite<'_>,
    done: &mut dyn FnMut(usize) -> Result<(), JobError>,
) -> Result<Vec<u64>, JobError> {
    let _guard = tch::no_grad_guard();
    let at_once = match job.spec.architecture.input() {
        InputKind::Text { context, .. } => (BATCH_TOKENS / index(context)).max(1),
        InputKind::Records { .. } => BATCH_RECORDS,
    };
    let mut losses = Vec::with_capacity(job.windows.len());
    for windows in job.windows.chunks(at_once) {
        let examples = suite.read(windows)?;
        let mut sums = vec![0.0f64; windows.len()];
        for part in &examples.parts {
            let batch = batch::of(&job.spec.architecture, &part.examples, model.device())?;
            let each = model.loss(&batch, Reduction::None)?.f_to(tch::Device::Cpu)?;
            let mut values = vec![0.0f32; part.examples.target.len()];
            if each.numel() != values.len() {
                return Err(JobError::Request("an unexpected number of losses".into()));
            }
            each.f_copy_data(&mut values, each.numel())?;
            let rows = values.chunks(values.len() / part.examples.rows.max(1));
            for (row, window) in rows.zip(&part.windows) {
                // Ignored targets have a loss of zero.
                sums[*window] += row.iter().map(|loss| f64::from(*loss)).sum::<f64>();
            }
        }
        for (sum, units) in sums.into_iter().zip(&examples.units) {
            let loss = nanonats(sum / count(*units)).unwrap_or(LOSS_NANONATS_MAX);
            losses.push(loss.min(LOSS_NANONATS_MAX));
        }
        done(windows.len())?;
    }
    Ok(losses)
}

fn progress(done: usize, total: usize) -> Progress {
    Progress {
        done: u64::try_from(done).unwrap_or(u64::MAX),
        total: u64::try_from(total).unwrap_or(u64::MAX),
        loss_nanonats: None,
        per_second: None,
        prompt: 0,
        text: Vec::new(),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(FAULT_CHARS_MAX).collect()
}
