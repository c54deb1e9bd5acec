//! How two checkpoints of a model differ, tensor by tensor.

use protocol::worker::{CompareJob, TensorChange, WorkerOutcome};

use crate::checkpoint::Tensor;
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::{check_architecture, read_checkpoint};
use crate::tensors::tensor_specs;

/// Runs a comparison.
pub fn run(directory: &JobDirectory, job: &CompareJob) -> Result<WorkerOutcome, JobError> {
    check_architecture(&job.spec)?;
    let specs = tensor_specs(&job.spec);
    let from = read_checkpoint(directory, &job.from, &specs)?;
    let to = read_checkpoint(directory, &job.to, &specs)?;
    let tensors = from.tensors.iter().zip(&to.tensors).map(|(from, to)| change(from, to));
    Ok(WorkerOutcome::Compared { tensors: tensors.collect() })
}

fn change(from: &Tensor, to: &Tensor) -> TensorChange {
    let pairs = || from.values.iter().zip(&to.values);
    let dimension = |size: &usize| u32::try_from(*size).expect("a checked dimension");
    TensorChange {
        name: from.spec.name.clone(),
        shape: from.spec.shape.iter().map(dimension).collect(),
        norm_before_micro: millionths(norm(from.values.iter().copied())),
        norm_change_micro: millionths(norm(pairs().map(|(from, to)| to - from))),
        values_changed: u64::try_from(pairs().filter(|(from, to)| from != to).count())
            .expect("usize has at most 64 bits"),
    }
}

/// Euclidean norm, summed in `f64` in the order given.
fn norm(values: impl Iterator<Item = f32>) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    values.map(square).sum::<f64>().sqrt()
}

/// A norm, which is finite and not negative, in whole millionths.
fn millionths(norm: f64) -> u64 {
    (norm * 1e6).round().min(9.2e18) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::TensorSpec;

    #[test]
    fn changes_are_norms_and_counts() {
        let spec = TensorSpec { name: "w".into(), shape: vec![3] };
        let from = Tensor { spec: spec.clone(), values: vec![3.0, -4.0, 0.0] };
        let to = Tensor { spec, values: vec![3.0, -4.0, 0.5] };
        let expect = TensorChange {
            name: "w".into(),
            shape: vec![3],
            norm_before_micro: 5_000_000,
            norm_change_micro: 500_000,
            values_changed: 1,
        };
        assert_eq!(change(&from, &to), expect);
        assert_eq!(change(&to, &to).norm_change_micro, 0);
    }
}
