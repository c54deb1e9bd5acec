//! Names and shapes of a model's tensors, in name order: the order of checkpoints, deltas,
//! clipping norms and state hashes.

use protocol::model::{Architecture, BYTE_VOCABULARY, ModelSpec, pooled};

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

/// The tensors that a model trains, sorted by name: those of its adapter, or of its architecture.
/// Call only with a specification that [`ModelSpec::validate`] accepts: its limits keep every
/// product far from overflow.
pub fn tensor_specs(spec: &ModelSpec) -> Vec<TensorSpec> {
    match spec.adapter {
        None => architecture_specs(&spec.architecture),
        Some(adapter) => adapter_specs(&spec.architecture, adapter.rank),
    }
}

/// The tensors of an architecture, sorted by name: also those of the base of an adapter.
///
/// Blocks have two-digit numbers, so that name order is block order.
pub fn architecture_specs(architecture: &Architecture) -> Vec<TensorSpec> {
    let mut tensors = match *architecture {
        Architecture::BytesGpt { layers, width, context, .. } => {
            gpt(layers, width, context, BYTE_VOCABULARY, false)
        }
        Architecture::Gpt { layers, width, context, vocabulary, tied, .. } => {
            gpt(layers, width, context, vocabulary, tied)
        }
        Architecture::Llama { .. } => llama(architecture),
        Architecture::Mlp { inputs, hidden, layers, classes } => {
            mlp(index(inputs), index(hidden), layers, index(classes))
        }
        Architecture::Cnn { height, width, channels, features, classes, .. } => {
            let (rows, columns) = pooled(height, width);
            cnn(index(rows) * index(columns), index(channels), index(features), index(classes))
        }
        Architecture::TextClassifier { layers, width, context, vocabulary, classes, .. } => {
            let mut tensors = gpt(layers, width, context, vocabulary, true);
            tensors.push(tensor("head.bias", &[index(classes)]));
            tensors.push(tensor("head.weight", &[index(classes), index(width)]));
            tensors
        }
    };
    tensors.sort();
    tensors
}

/// The tensors of an adapter, sorted by name: `lora_a` `[rank, in]` and `lora_b` `[out, rank]` for
/// every matrix inside the blocks; none for an architecture without blocks.
pub fn adapter_specs(architecture: &Architecture, rank: u32) -> Vec<TensorSpec> {
    let rank = index(rank);
    let mut tensors: Vec<TensorSpec> = architecture_specs(architecture)
        .into_iter()
        .filter(|tensor| tensor.name.starts_with("blocks.") && tensor.shape.len() == 2)
        .flat_map(|matrix| {
            let name = matrix.name.trim_end_matches(".weight");
            [
                tensor(&format!("{name}.lora_a"), &[rank, matrix.shape[1]]),
                tensor(&format!("{name}.lora_b"), &[matrix.shape[0], rank]),
            ]
        })
        .collect();
    tensors.sort();
    tensors
}

/// GPT-2 and its byte-level relative. A tied head is no tensor of its own.
fn gpt(layers: u32, width: u32, context: u32, vocabulary: u32, tied: bool) -> Vec<TensorSpec> {
    let (w, v) = (index(width), index(vocabulary));
    let mut tensors = vec![
        tensor("embed.position", &[index(context), w]),
        tensor("embed.token", &[v, w]),
        tensor("final_norm.bias", &[w]),
        tensor("final_norm.weight", &[w]),
    ];
    if !tied {
        tensors.push(tensor("head.weight", &[v, w]));
    }
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
    tensors
}

fn llama(architecture: &Architecture) -> Vec<TensorSpec> {
    let Architecture::Llama { layers, width, heads, kv_heads, hidden, vocabulary, tied, .. } =
        *architecture
    else {
        unreachable!("called for this architecture only")
    };
    let (w, h, v) = (index(width), index(hidden), index(vocabulary));
    let keys = w / index(heads) * index(kv_heads);
    let mut tensors = vec![tensor("embed.token", &[v, w]), tensor("final_norm.weight", &[w])];
    if !tied {
        tensors.push(tensor("head.weight", &[v, w]));
    }
    for block in 0..layers {
        let parts: [(&str, &[usize]); 9] = [
            ("attention.key.weight", &[keys, w]),
            ("attention.out.weight", &[w, w]),
            ("attention.query.weight", &[w, w]),
            ("attention.value.weight", &[keys, w]),
            ("mlp.down.weight", &[w, h]),
            ("mlp.gate.weight", &[h, w]),
            ("mlp.up.weight", &[h, w]),
            ("norm1.weight", &[w]),
            ("norm2.weight", &[w]),
        ];
        tensors
            .extend(parts.map(|(part, shape)| tensor(&format!("blocks.{block:02}.{part}"), shape)));
    }
    tensors
}

fn mlp(inputs: usize, hidden: usize, layers: u32, classes: usize) -> Vec<TensorSpec> {
    let mut tensors =
        vec![tensor("head.bias", &[classes]), tensor("head.weight", &[classes, hidden])];
    for layer in 0..layers {
        let from = if layer == 0 { inputs } else { hidden };
        tensors.push(tensor(&format!("layers.{layer:02}.bias"), &[hidden]));
        tensors.push(tensor(&format!("layers.{layer:02}.weight"), &[hidden, from]));
    }
    tensors
}

/// `area`: rows times columns after the maximum.
fn cnn(area: usize, channels: usize, features: usize, classes: usize) -> Vec<TensorSpec> {
    vec![
        tensor("convolution1.bias", &[features]),
        tensor("convolution1.weight", &[features, channels, 3, 3]),
        tensor("convolution2.bias", &[2 * features]),
        tensor("convolution2.weight", &[2 * features, features, 3, 3]),
        tensor("head.bias", &[classes]),
        tensor("head.weight", &[classes, 4 * features]),
        tensor("hidden.bias", &[4 * features]),
        tensor("hidden.weight", &[4 * features, 2 * features * area]),
    ]
}

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
    use protocol::model::Adapter;

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

    /// A specification of any architecture.
    pub(crate) fn of(architecture: Architecture) -> ModelSpec {
        let tokenizer = (!architecture.reads_bytes()).then(ContentHash::default);
        ModelSpec { architecture, tokenizer, ..spec(1, 16, 1, 16) }
    }

    /// One small model of each architecture.
    pub(crate) fn each() -> Vec<ModelSpec> {
        let (layers, width, heads, context) = (2, 32, 4, 16);
        let llama = |tied| Architecture::Llama {
            layers,
            width,
            heads,
            kv_heads: 2,
            hidden: 48,
            context,
            vocabulary: 300,
            rope_theta: 10_000,
            norm_epsilon_ppb: 10_000,
            tied,
        };
        let gpt = |tied| Architecture::Gpt { layers, width, heads, context, vocabulary: 300, tied };
        let classes = 3;
        [
            Architecture::BytesGpt { layers, width, heads, context },
            gpt(false),
            gpt(true),
            llama(false),
            llama(true),
            Architecture::Mlp { inputs: 7, hidden: 12, layers: 2, classes },
            Architecture::Cnn {
                height: 9,
                width: 11,
                channels: 3,
                features: 4,
                classes,
                mean_ppm: 130_700,
                deviation_ppm: 308_100,
            },
            Architecture::TextClassifier {
                layers,
                width,
                heads,
                context,
                vocabulary: 256,
                classes,
            },
        ]
        .map(of)
        .into()
    }

    #[test]
    fn parameters_add_up() {
        let gpts = [spec(1, 16, 1, 16), spec(4, 128, 4, 128), spec(48, 64, 8, 4096)];
        for mut spec in each().into_iter().chain(gpts) {
            assert_eq!(spec.validate(), Ok(()));
            let has_blocks = spec.architecture.adapter_parameters(1) > 0;
            let adapter = Adapter { base: ContentHash::default(), rank: 3, alpha: 6 };
            for adapter in [None, has_blocks.then_some(adapter)] {
                spec.adapter = adapter;
                let tensors = tensor_specs(&spec);
                let sum: usize = tensors.iter().map(TensorSpec::len).sum();
                assert_eq!(u64::try_from(sum).expect("small"), spec.parameters());
                assert!(tensors.is_sorted_by(|a, b| a.name < b.name), "unique names in order");
            }
        }
        assert_eq!(spec(4, 128, 4, 128).parameters(), 875_264);
    }
}
