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
    let specs = tensor_specs(spec);
    let start = |tensor: &TensorSpec| match spec.architecture {
        Architecture::Mlp { .. } | Architecture::Cnn { .. } => start_of_classifier(tensor, &specs),
        Architecture::BytesGpt { layers, .. }
        | Architecture::Gpt { layers, .. }
        | Architecture::Llama { layers, .. }
        | Architecture::TextClassifier { layers, .. } => {
            start_of_transformer(tensor, f64::from(layers))
        }
    };
    let tensors = specs
        .iter()
        .map(|tensor| {
            let values = match start(tensor) {
                Start::Constant(value) => vec![value; tensor.len()],
                Start::Uniform(bound) => uniform(spec.seed, tensor, bound),
            };
            Tensor { spec: tensor.clone(), values }
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
/// scale whatever the depth (Radford et al. 2019, section 2.3). The second matrix of an adapter is
/// zero, so that it begins as its base.
fn start_of_transformer(tensor: &TensorSpec, layers: f64) -> Start {
    let name = tensor.name.as_str();
    if name.ends_with(".bias") || name.ends_with(".lora_b") {
        return Start::Constant(0.0);
    }
    if tensor.shape.len() == 1 {
        return Start::Constant(1.0);
    }
    if name.starts_with("embed.") {
        return Start::Uniform(EMBEDDING_BOUND);
    }
    let bound = fan_in_bound(tensor);
    if name.ends_with(".out.weight") || name.ends_with(".down.weight") {
        return Start::Uniform(bound / (2.0 * layers).sqrt());
    }
    Start::Uniform(bound)
}

/// ±1/sqrt(fan in), for a bias that of its weight: what PyTorch begins such layers with, so that
/// published learning rates hold.
fn start_of_classifier(tensor: &TensorSpec, specs: &[TensorSpec]) -> Start {
    let weight = tensor.name.strip_suffix(".bias").map(|layer| format!("{layer}.weight"));
    let weight = weight.and_then(|name| specs.iter().find(|spec| spec.name == name));
    Start::Uniform(fan_in_bound(weight.unwrap_or(tensor)))
}

fn fan_in_bound(weight: &TensorSpec) -> f64 {
    let fan_in: usize = weight.shape.iter().skip(1).product();
    1.0 / crate::arithmetic::count(fan_in).sqrt()
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
    use crate::tensors::tests::{each, spec};

    #[test]
    fn the_same_on_every_machine() {
        let hash = initial_checkpoint(&spec(2, 32, 2, 16)).hash();
        assert_eq!(
            hash.to_string(),
            "31d974b01a1d666dac473d5f2078a50a0b25b11132575157350ff609ebc9a3ab"
        );
    }

    /// Of every architecture and of an adapter: a change here is a change of every model made from
    /// its seed.
    #[test]
    fn every_architecture_the_same_on_every_machine() {
        let mut hashes: Vec<String> =
            each().iter().map(|spec| initial_checkpoint(spec).hash().to_string()).collect();
        let mut adapted = each().swap_remove(3);
        adapted.adapter =
            Some(protocol::model::Adapter { base: Default::default(), rank: 2, alpha: 4 });
        hashes.push(initial_checkpoint(&adapted).hash().to_string());
        let expected = [
            "31d974b01a1d666dac473d5f2078a50a0b25b11132575157350ff609ebc9a3ab",
            "c62efc3ed371649551ca363eed882b5dc938bbcdfcd16bf8b791660203f410d4",
            "fc3c4ec8068a24a03a7c0c685384476ebb3d5c5e161591fdd6fe8f4462581be8",
            "3fbb6a48fdf704a72a93d579b89ca80bc5c743d265842e45fe9a8abd4449f5ff",
            "0b680261b87d1b9bb1fca6be1d396597316255aa6bd70cd17e8903a91657dd60",
            "56a4dc8563575c3c092eb550c023b3db0f10c812f3fe43fa9a44888496c9cee2",
            "1322ead4991c3b9cc83fd25ae6ef5eb9aa3bbb1c87c0c55a354868ec5df297d9",
            "c9675c5b2c344bb8f75e7f5056528a4a351dff9ba96620ec65d5fa4eaba92ebe",
            "716d8ff832748b664d53c429d640f170077209e29845689f888ddf4a615d641e",
        ];
        assert_eq!(hashes, expected);
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
