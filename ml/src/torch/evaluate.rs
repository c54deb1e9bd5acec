//! Losses of variants of a head, window by window, in f32.
//!
//! Variants are made by the exact merging code, so reviewers measure what would be merged. The
//! loss of a window is the mean over its predicted bytes; sums within a window run in `f64`, so
//! it depends on the batch only through libtorch's products (below 1.2e-7 when measured).

use std::fs::File;
use std::os::unix::fs::FileExt;

use protocol::worker::{EvaluateJob, Progress, WorkerOutcome};
use tch::Reduction;

use super::model::{Batch, Model, Options, windows_tensor};
use crate::arithmetic::{count, nanonats};
use crate::checkpoint::Checkpoint;
use crate::error::JobError;
use crate::files::{FileError, JobDirectory};
use crate::jobs::{
    Report, check_architecture, check_parameters, outer_state_bytes_max, read_checkpoint,
    read_deltas,
};
use crate::merge::{MergeError, Merger, parse_outer_state};
use crate::tensors::tensor_specs;

/// Losses of one job: all of them go into one reply frame, at most 9 bytes each.
const LOSSES_MAX: usize = 400_000;
/// Bytes predicted at once: large enough for full speed, small enough for the caches.
const BATCH_BYTES: usize = 2_048;
/// The worst loss reported, 1,000 nats per byte: also that of weights that leave the finite
/// numbers. A hostile delta must look terrible, not stop the review of the others.
const LOSS_NANONATS_MAX: u64 = 1_000_000_000_000;
/// Longest description of a fault.
const FAULT_CHARS_MAX: usize = 200;

/// Runs an evaluation job.
pub fn run(
    directory: &JobDirectory,
    job: &EvaluateJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    check(job)?;
    let specs = tensor_specs(&job.spec);
    let head = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let state = parse_outer_state(&directory.read(&job.outer.state, outer_state_bytes_max())?)?;
    let results = read_deltas(directory, &job.submitted, &specs, &job.parameters)?;
    let faults = results
        .iter()
        .map(|result| result.as_ref().err().map(|error| shorten(&error.to_string())))
        .collect();
    let deltas: Vec<_> = results.into_iter().map(Result::ok).collect();
    let merger = Merger::new(&head, &state, &deltas, &job.parameters, job.divisor)?;
    let suite = Suite::open(directory, job)?;

    let total = job.windows.len() * job.variants.len();
    let mut losses = Vec::with_capacity(job.variants.len());
    for (v, variant) in job.variants.iter().enumerate() {
        let row = match merger.merge(&variant.weights_ppm) {
            Err(MergeError::Undecodable(_)) => None,
            Err(MergeError::NotFinite(_)) => Some(vec![LOSS_NANONATS_MAX; job.windows.len()]),
            merged => {
                let mut done = v * job.windows.len();
                let row = window_losses(job, &merged?, &suite, &mut |windows| {
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
    checkpoint: &Checkpoint,
    suite: &Suite,
    done: &mut dyn FnMut(usize) -> Result<(), JobError>,
) -> Result<Vec<u64>, JobError> {
    let _guard = tch::no_grad_guard();
    let model = Model::new(&job.spec, checkpoint, None, Options::inference())?;
    let mut losses = Vec::with_capacity(job.windows.len());
    for windows in job.windows.chunks((BATCH_BYTES / suite.context).max(1)) {
        let bytes = suite.read(windows)?;
        let each = model.loss(
            &Batch::of_windows(&windows_tensor(&bytes, suite.context + 1)?)?,
            Reduction::None,
        )?;
        let mut values = vec![0.0f32; windows.len() * suite.context];
        if each.numel() != values.len() {
            return Err(JobError::Request("an unexpected number of losses".into()));
        }
        each.f_copy_data(&mut values, each.numel())?;
        for window in values.chunks(suite.context) {
            let sum: f64 = window.iter().map(|loss| f64::from(*loss)).sum();
            let loss = nanonats(sum / count(suite.context)).unwrap_or(LOSS_NANONATS_MAX);
            losses.push(loss.min(LOSS_NANONATS_MAX));
        }
        done(windows.len())?;
    }
    Ok(losses)
}

/// The evaluation suite, read window by window: it may be larger than memory.
struct Suite {
    file: File,
    name: String,
    context: usize,
}

impl Suite {
    fn open(directory: &JobDirectory, job: &EvaluateJob) -> Result<Self, JobError> {
        let (file, length) = directory.file(&job.suite)?;
        if length != job.spec.evaluation_suite_bytes {
            let expected = job.spec.evaluation_suite_bytes;
            let text = format!("the suite has {length} bytes, the model's has {expected}");
            return Err(JobError::Request(text));
        }
        let context = usize::try_from(job.spec.window_bytes()).expect("a checked context");
        Ok(Self { file, name: job.suite.as_str().to_owned(), context })
    }

    /// Windows one after the other, `context + 1` bytes each: window w begins at w * context.
    fn read(&self, windows: &[u64]) -> Result<Vec<u8>, JobError> {
        let length = self.context + 1;
        let mut bytes = vec![0u8; windows.len() * length];
        let stride = u64::try_from(self.context).expect("a checked context");
        for (buffer, window) in bytes.chunks_mut(length).zip(windows) {
            // The last byte of the last window is still inside the suite: see `check`.
            self.file
                .read_exact_at(buffer, window * stride)
                .map_err(|source| FileError::Io { name: self.name.clone(), source })?;
        }
        Ok(bytes)
    }
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
