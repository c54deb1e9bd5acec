//! Initial weights: a pure function of architecture and seed.
//!
//! Every tensor has its own ChaCha20 stream, keyed by the model's seed and the tensor's name, and
//! is filled with uniform numbers: only integers, `+ - * /` and `sqrt`, no libm, so every machine
//! makes the same checkpoint and a joiner can make it instead of downloading it.

use protocol::ids::derive;
use protocol::model::{Architecture, ModelSpec};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::arithmetic::narrow;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::tensors::{TensorSpec, tensor_specs};

/// Bound of the embeddings: small against the unit scale at which the norms hold the stream.
const EMBEDDING_BOUND: f64 = 0.05;

/// The weights of a model before any training.
pub fn initial_checkpoint(spec: &ModelSpec) -> Checkpoint {
    let Architecture::BytesGpt { layers, .. } = spec.architecture else {
        unreachable!("only this architecture is built yet")
    };
    let tensors = tensor_specs(spec)
        .into_iter()
        .map(|tensor| {
            let values = match initial_bound(&tensor, f64::from(layers)) {
                Start::Constant(value) => vec![value; tensor.len()],
                Start::Uniform(bound) => uniform(spec.seed, &tensor, bound),
            };
            Tensor { spec: tensor, values }
        })
        .collect();
    Checkpoint { tensors }
}

/// How a tensor begins.
enum Start {
    /// All values alike.
    Constant(f32),
    /// Uniform between plus and minus the bound.
    Uniform(f64),
}

/// Norms begin as the identity, biases at zero, weights at ±1/sqrt(fan in). What a block adds to
/// the residual stream is divided by sqrt(2 * layers), so that the sum of all blocks stays at one
/// scale whatever the depth (Radford et al. 2019, section 2.3).
fn initial_bound(tensor: &TensorSpec, layers: f64) -> Start {
    let name = tensor.name.as_str();
    if name.ends_with(".bias") {
        return Start::Constant(0.0);
    }
    if tensor.shape.len() == 1 {
        return Start::Constant(1.0);
    }
    if name.starts_with("embed.") {
        return Start::Uniform(EMBEDDING_BOUND);
    }
    let fan_in = tensor.shape.last().copied().unwrap_or(1);
    let bound = 1.0 / crate::arithmetic::count(fan_in).sqrt();
    if name.ends_with(".out.weight") || name.ends_with(".down.weight") {
        return Start::Uniform(bound / (2.0 * layers).sqrt());
    }
    Start::Uniform(bound)
}

/// The tensor's stream: 32 random bits each, as a number in [-bound, bound).
fn uniform(seed: u64, tensor: &TensorSpec, bound: f64) -> Vec<f32> {
    let key =
        derive("ayni 2026 initial weights v1", &[&seed.to_le_bytes(), tensor.name.as_bytes()]);
    let mut stream = ChaCha20Rng::from_seed(key);
    // 2^31: maps 0..2^32 to [0, 2).
    let unit = 2_147_483_648.0;
    (0..tensor.len()).map(|_| narrow((f64::from(stream.next_u32()) / unit - 1.0) * bound)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tests::spec;

    #[test]
    fn the_same_on_every_machine() {
        let hash = initial_checkpoint(&spec(2, 32, 2, 16)).hash();
        assert_eq!(
            hash.to_string(),
            "31d974b01a1d666dac473d5f2078a50a0b25b11132575157350ff609ebc9a3ab"
        );
    }

    #[test]
    fn seeds_and_tensors_differ() {
        let mut other = spec(1, 16, 2, 16);
        let first = initial_checkpoint(&other);
        other.seed += 1;
        assert_ne!(first.hash(), initial_checkpoint(&other).hash());
        let by_name = |name: &str| {
            let tensor = first.tensors.iter().find(|t| t.spec.name == name);
            &tensor.expect("present").values
        };
        assert_ne!(by_name("embed.token"), by_name("head.weight"));
        assert!(by_name("final_norm.weight").iter().all(|v| *v == 1.0));
        assert!(by_name("embed.token").iter().all(|v| v.abs() <= 0.05));
    }
}
