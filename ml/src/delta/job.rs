//! The job that makes a delta, and reading the deltas of others.

use protocol::ids::ContentHash;
use protocol::model::RoundParameters;
use protocol::worker::{CompressJob, CompressOutcome, SubmittedDelta, WorkerOutcome};

use super::{Delta, DeltaError, Plan, decode, encode};
use crate::checkpoint::Checkpoint;
use crate::error::JobError;
use crate::feedback;
use crate::files::JobDirectory;
use crate::jobs::{check_architecture, check_parameters, read_checkpoint};
use crate::merge::blocks::spread;
use crate::privacy;
use crate::tensors::{TensorSpec, tensor_specs};

/// Runs a compress job.
pub fn run(directory: &JobDirectory, job: &CompressJob) -> Result<WorkerOutcome, JobError> {
    check_architecture(&job.spec)?;
    check_parameters(&job.parameters)?;
    let specs = tensor_specs(&job.spec);
    let head = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let trained = read_checkpoint(directory, &job.trained, &specs)?;
    let mut change = feedback::difference(&head, &trained);
    if let Some(privacy) = &job.privacy {
        // Before anything else sees the change: see `privacy`.
        privacy::check(privacy, job.parameters.compression)?;
        privacy::protect(&mut change, privacy, job.round, trained.hash())?;
    }
    drop((head, trained));
    let error = match &job.feedback {
        Some(name) => read_checkpoint(directory, name, &specs)?,
        None => Checkpoint::zeros(&specs),
    };
    let dense = feedback::compensate(&change, &error, job.parameters.feedback_decay_ppm);
    drop((change, error));
    let name = job.outputs.payload.as_str().to_owned();
    let plan = Plan::new(&specs, &job.parameters, job.round, job.seed);
    let sent = Delta::compress(&dense, &plan)
        .map_err(|source| JobError::Delta { name: name.clone(), source })?;
    let payload = encode(&sent, &plan);
    let max = job.parameters.delta_bytes_max(job.spec.parameters());
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    if payload.len() > max {
        let source = DeltaError::Length { actual: payload.len(), min: 0, max };
        return Err(JobError::Delta { name, source });
    }
    directory.write(&job.outputs.feedback_rejected, &dense.to_bytes())?;
    let rest = feedback::residual(dense, &sent);
    directory.write(&job.outputs.feedback_accepted, &rest.to_bytes())?;
    directory.write(&job.outputs.payload, &payload)?;
    Ok(WorkerOutcome::Compressed(CompressOutcome {
        payload: ContentHash::of(&payload),
        payload_bytes: u64::try_from(payload.len()).unwrap_or(u64::MAX),
        values_sent: u64::try_from(sent.len()).unwrap_or(u64::MAX),
        privacy: job.privacy.as_ref().map(privacy::outcome),
    }))
}

/// Deltas of a round as they were read.
pub struct Submitted {
    /// Each delta, or its author's fault.
    pub deltas: Vec<Result<Delta, DeltaError>>,
    /// Hash of each payload.
    pub payloads: Vec<ContentHash>,
}

/// Reads and decodes deltas. A file that cannot be read fails the job; one that cannot be decoded
/// is its author's fault and comes back as such.
pub fn read_deltas(
    directory: &JobDirectory,
    submitted: &[SubmittedDelta],
    specs: &[TensorSpec],
    parameters: &RoundParameters,
    threads: usize,
) -> Result<Submitted, JobError> {
    let values = specs.iter().map(|spec| u64::try_from(spec.len()).unwrap_or(u64::MAX));
    let bytes_max = parameters.delta_bytes_max(values.fold(0, u64::saturating_add));
    let read = |delta: &SubmittedDelta| {
        let bytes = directory.read(&delta.payload, bytes_max)?;
        let plan = Plan::new(specs, parameters, delta.round, delta.seed);
        Ok((decode(&bytes, &plan), ContentHash::of(&bytes)))
    };
    let results = spread(submitted.iter().collect(), threads, |_| 1, read);
    let (deltas, payloads) =
        results.into_iter().collect::<Result<Vec<_>, JobError>>()?.into_iter().unzip();
    Ok(Submitted { deltas, payloads })
}
