//! Small models and generated values.

use ayni_ml::checkpoint::{Checkpoint, Tensor};
use ayni_ml::tensors::{TensorSpec, tensor_specs};
use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// A model of 21 thousand parameters with tensors below, at and above one chunk.
pub(crate) fn small_spec() -> ModelSpec {
    ModelSpec {
        name: "small".into(),
        architecture: Architecture::BytesGpt { layers: 1, width: 32, heads: 2, context: 16 },
        tokenizer: None,
        adapter: None,
        seed: 3,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 4_096,
        licence: "CC0-1.0".into(),
    }
}

/// Parameters of a short round.
pub(crate) fn parameters() -> RoundParameters {
    RoundParameters { inner_steps: 4, batch: 4, ..RoundParameters::default() }
}

/// A tensor specification.
pub(crate) fn tensor(name: &str, len: usize) -> TensorSpec {
    TensorSpec { name: name.into(), shape: vec![len] }
}

/// Values from sums of uniform numbers: bell-shaped, the same everywhere.
pub(crate) fn generated(specs: &[TensorSpec], seed: u8, scale: f32) -> Checkpoint {
    let mut stream = ChaCha20Rng::from_seed([seed; 32]);
    let mut value = || {
        let sum: i32 = (0..4).map(|_| i32::from(stream.next_u32().to_le_bytes()[0]) - 128).sum();
        f32::from(i16::try_from(sum).expect("four bytes")) * scale
    };
    let tensors = specs
        .iter()
        .map(|spec| Tensor {
            spec: spec.clone(),
            values: (0..spec.len()).map(|_| value()).collect(),
        })
        .collect();
    Checkpoint { tensors }
}

/// Generated values for [`small_spec`].
pub(crate) fn small_generated(seed: u8, scale: f32) -> Checkpoint {
    generated(&tensor_specs(&small_spec()), seed, scale)
}
