//! Error feedback: what compression left out of a delta comes back in the next one.
//!
//! a = βe + Δ is compressed to Δ̂; the member carries a - Δ̂ if the delta is accepted, a if it is
//! not. Feedback is stored like a checkpoint, with the same tensors.

use crate::arithmetic::{narrow, ratio};
use crate::checkpoint::Checkpoint;
use crate::delta::{CHUNK, Delta};

/// Δ = θ - θᵢ: what training changed, downhill positive.
pub fn difference(before: &Checkpoint, after: &Checkpoint) -> Checkpoint {
    combine(before, after, |before, after| before - after)
}

/// a = βe + Δ, with β in ppm.
pub fn compensate(delta: &Checkpoint, feedback: &Checkpoint, decay_ppm: u32) -> Checkpoint {
    let decay = ratio(decay_ppm);
    combine(delta, feedback, |delta, error| narrow(decay * f64::from(error) + f64::from(delta)))
}

/// a - Δ̂: what is left over once the delta has been accepted.
pub fn residual(mut compensated: Checkpoint, sent: &Delta) -> Checkpoint {
    for (tensor, sent) in compensated.tensors.iter_mut().zip(&sent.tensors) {
        for (chunk, values) in tensor.values.chunks_mut(CHUNK).enumerate() {
            sent.visit(chunk, |position, value| values[position] -= value);
        }
    }
    compensated
}

/// Two checkpoints of one model, value by value.
fn combine(a: &Checkpoint, b: &Checkpoint, op: impl Fn(f32, f32) -> f32) -> Checkpoint {
    assert_eq!(a.tensors.len(), b.tensors.len(), "checkpoints of one model");
    let mut result = a.clone();
    for (tensor, other) in result.tensors.iter_mut().zip(&b.tensors) {
        assert_eq!(tensor.spec, other.spec, "checkpoints of one model");
        for (x, y) in tensor.values.iter_mut().zip(&other.values) {
            *x = op(*x, *y);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use protocol::model::RoundParameters;

    use super::*;
    use crate::delta::Plan;
    use crate::initialize::initial_checkpoint;
    use crate::tensors::tensor_specs;
    use crate::tensors::tests::spec;

    #[test]
    fn nothing_is_lost() {
        let spec = spec(1, 32, 2, 16);
        let dense = initial_checkpoint(&spec);
        let zero = Checkpoint::zeros(&tensor_specs(&spec));
        assert_eq!(difference(&dense, &zero), dense);
        assert_eq!(compensate(&dense, &zero, 950_000), dense);

        let specs = tensor_specs(&spec);
        let plan = Plan::new(&specs, &RoundParameters::default(), 0, 0);
        let sent = Delta::compress(&dense, &plan).expect("finite");
        let rest = residual(dense.clone(), &sent);
        let again = compensate(&rest, &dense, 0);
        for (tensor, sent) in again.tensors.iter().zip(&sent.tensors) {
            let original = dense.tensors.iter().find(|t| t.spec == tensor.spec).expect("there");
            for (index, value) in sent.entries() {
                assert_eq!(tensor.values[index], original.values[index] - value);
            }
        }
    }
}
