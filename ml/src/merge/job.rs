//! The job that makes the next head.

use protocol::codec::{self, Canonical};
use protocol::ids::ContentHash;
use protocol::model::OuterState;
use protocol::worker::{FileName, MergeJob, OuterFiles, WorkerOutcome};

use super::{Inputs, MergeError, Merger, bucket_seed, parse_outer_state};
use crate::checkpoint::Checkpoint;
use crate::delta::job::read_deltas;
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::{check_architecture, check_parameters, read_checkpoint};
use crate::tensors::{TensorSpec, tensor_specs};

/// An outer state with what it names.
#[derive(Debug)]
pub struct Outer {
    /// The state.
    pub state: OuterState,
    /// Its momentum.
    pub momentum: Option<Checkpoint>,
    /// Its last aggregate.
    pub aggregate: Option<Checkpoint>,
}

/// Reads an outer state and the files it names, and checks that they are those.
pub fn read_outer(
    directory: &JobDirectory,
    files: &OuterFiles,
    specs: &[TensorSpec],
) -> Result<Outer, JobError> {
    let max = u64::try_from(OuterState::BYTES_MAX).unwrap_or(u64::MAX);
    let state = parse_outer_state(&directory.read(&files.state, max)?)?;
    let read = |named: Option<ContentHash>, file: &Option<FileName>, what| match (named, file) {
        (None, _) => Ok::<_, JobError>(None),
        (Some(_), None) => Err(MergeError::OuterFile(what).into()),
        (Some(hash), Some(file)) => {
            let checkpoint = read_checkpoint(directory, file, specs)?;
            // The bytes are canonical, so those of the value are those of the file.
            let same = checkpoint.hash() == hash;
            if same { Ok(Some(checkpoint)) } else { Err(MergeError::OuterFile(what).into()) }
        }
    };
    let momentum = read(state.momentum, &files.momentum, "a momentum")?;
    let aggregate = read(state.aggregate, &files.aggregate, "an aggregate")?;
    Ok(Outer { state, momentum, aggregate })
}

/// Runs a merge job.
pub fn run(
    directory: &JobDirectory,
    job: &MergeJob,
    threads: u16,
) -> Result<WorkerOutcome, JobError> {
    check_architecture(&job.spec)?;
    check_parameters(&job.parameters)?;
    let specs = tensor_specs(&job.spec);
    let head = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let outer = read_outer(directory, &job.outer, &specs)?;
    let threads = usize::from(threads);
    let read = read_deltas(directory, &job.submitted, &specs, &job.parameters, threads)?;
    let mut decoded = Vec::with_capacity(read.deltas.len());
    for (delta, submitted) in read.deltas.into_iter().zip(&job.submitted) {
        match delta {
            Ok(delta) => decoded.push(Some(delta)),
            // Counts for nothing, as it did when reviewers evaluated.
            Err(_) if submitted.weight_ppm == 0 => decoded.push(None),
            Err(source) => {
                let name = submitted.payload.as_str().to_owned();
                return Err(JobError::Delta { name, source });
            }
        }
    }
    let merger = Merger::new(Inputs {
        head: &head,
        state: &outer.state,
        momentum: outer.momentum.as_ref(),
        aggregate: outer.aggregate.as_ref(),
        deltas: &decoded,
        parameters: &job.parameters,
        divisor: job.divisor,
        seed: bucket_seed(&read.payloads),
        threads,
    })?;
    let weights: Vec<u32> = job.submitted.iter().map(|delta| delta.weight_ppm).collect();
    let merged = merger.step(&weights)?;
    let checkpoint = merged.checkpoint.to_bytes();
    let outer_state = codec::encode(&merged.state);
    directory.write(&job.checkpoint_out, &checkpoint)?;
    if let Some(momentum) = &merged.momentum {
        directory.write(&job.outer_out.momentum, &momentum.to_bytes())?;
    }
    if let Some(aggregate) = &merged.aggregate {
        directory.write(&job.outer_out.aggregate, &aggregate.to_bytes())?;
    }
    directory.write(&job.outer_out.state, &outer_state)?;
    Ok(WorkerOutcome::Merged {
        checkpoint: ContentHash::of(&checkpoint),
        outer_state: ContentHash::of(&outer_state),
        momentum: merged.state.momentum,
        aggregate: merged.state.aggregate,
    })
}
