//! Names and shapes of a model's tensors, in name order: the order of checkpoints, deltas,
//! clipping norms and state hashes.

use protocol::model::{Architecture, ModelSpec};

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TensorSpec {
    /// Its name, unique in the model.
    pub name: String,
    /// Its shape, outermost dimension first; linear weights are `[out, in]`.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Values in the tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values. Never true for a valid specification.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The tensors of a model, sorted by name. Call only with a specification that
/// [`ModelSpec::validate`] accepts: its limits keep every product far from overflow.
///
/// Blocks have two-digit numbers, so that name order is block order.
pub fn tensor_specs(spec: &ModelSpec) -> Vec<TensorSpec> {
    let Architecture::BytesGpt { layers, width, context, .. } = spec.architecture else {
        unreachable!("only this architecture is built yet")
    };
    let (w, c) = (index(width), index(context));
    let mut tensors = vec![
        tensor("embed.position", &[c, w]),
        tensor("embed.token", &[VOCABULARY, w]),
        tensor("final_norm.bias", &[w]),
        tensor("final_norm.weight", &[w]),
        tensor("head.weight", &[VOCABULARY, w]),
    ];
    for block in 0..layers {
        let parts: [(&str, &[usize]); 12] = [
            ("attention.out.bias", &[w]),
            ("attention.out.weight", &[w, w]),
            ("attention.qkv.bias", &[3 * w]),
            ("attention.qkv.weight", &[3 * w, w]),
            ("mlp.down.bias", &[w]),
            ("mlp.down.weight", &[w, 4 * w]),
            ("mlp.up.bias", &[4 * w]),
            ("mlp.up.weight", &[4 * w, w]),
            ("norm1.bias", &[w]),
            ("norm1.weight", &[w]),
            ("norm2.bias", &[w]),
            ("norm2.weight", &[w]),
        ];
        tensors
            .extend(parts.map(|(part, shape)| tensor(&format!("blocks.{block:02}.{part}"), shape)));
    }
    tensors.sort();
    tensors
}

/// Symbols of the byte vocabulary.
pub const VOCABULARY: usize = 256;

fn tensor(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), shape: shape.to_vec() }
}

/// A checked dimension as an index. A `u32` fits a `usize` on every platform we build for.
pub fn index(value: u32) -> usize {
    usize::try_from(value).expect("usize has at least 32 bits")
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::ids::ContentHash;

    use super::*;

    /// A specification of the given shape.
    pub(crate) fn spec(layers: u32, width: u32, heads: u32, context: u32) -> ModelSpec {
        ModelSpec {
            name: "test".into(),
            architecture: Architecture::BytesGpt { layers, width, heads, context },
            tokenizer: None,
            adapter: None,
            seed: 7,
            imported: false,
            initial_checkpoint: ContentHash::default(),
            evaluation_suite: ContentHash::default(),
            evaluation_suite_bytes: 1 << 20,
            licence: "CC0-1.0".into(),
        }
    }

    #[test]
    fn parameters_add_up() {
        for spec in [spec(1, 16, 1, 16), spec(4, 128, 4, 128), spec(48, 64, 8, 4096)] {
            assert_eq!(spec.validate(), Ok(()));
            let tensors = tensor_specs(&spec);
            let sum: usize = tensors.iter().map(TensorSpec::len).sum();
            assert_eq!(u64::try_from(sum).expect("small"), spec.parameters());
            assert!(tensors.is_sorted_by(|a, b| a.name < b.name), "unique names in order");
        }
        assert_eq!(spec(4, 128, 4, 128).parameters(), 875_264);
    }
}
