//! Shapes of models: what tensors they have follows from these numbers alone.
//!
//! No floats: a base or an epsilon is an integer with its unit in its name. Every field has a
//! range, so that no product of them overflows.

use serde::{Deserialize, Serialize};

use super::{DocumentError, require};

/// Symbols of the byte vocabulary, which needs no tokenizer.
pub const BYTE_VOCABULARY: u32 = 256;
/// Bytes of the label at the end of a record.
const LABEL_BYTES: u64 = 2;

/// A model's shape. Adding an architecture adds a variant at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Decoder-only transformer, pre-norm, learned positions, GELU, a byte vocabulary of 256
    /// symbols, untied head without bias.
    BytesGpt {
        /// Transformer blocks.
        layers: u32,
        /// Residual width; divisible by `heads`.
        width: u32,
        /// Attention heads.
        heads: u32,
        /// Context length in bytes.
        context: u32,
    },
    /// GPT-2 (Radford et al. 2019): pre-norm, learned positions, GELU in its tanh form, biases.
    Gpt {
        /// Transformer blocks.
        layers: u32,
        /// Residual width; divisible by `heads`.
        width: u32,
        /// Attention heads.
        heads: u32,
        /// Context length in tokens.
        context: u32,
        /// Symbols of the vocabulary.
        vocabulary: u32,
        /// Whether the head is the token embedding.
        tied: bool,
    },
    /// Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped-query attention, SwiGLU.
    Llama {
        /// Transformer blocks.
        layers: u32,
        /// Residual width; divisible by `heads`.
        width: u32,
        /// Attention heads; divisible by `kv_heads`.
        heads: u32,
        /// Heads of keys and values.
        kv_heads: u32,
        /// Width inside the SwiGLU.
        hidden: u32,
        /// Context length in tokens.
        context: u32,
        /// Symbols of the vocabulary.
        vocabulary: u32,
        /// Base of the rotary frequencies.
        rope_theta: u32,
        /// Epsilon of the norms in parts per billion.
        norm_epsilon_ppb: u32,
        /// Whether the head is the token embedding.
        tied: bool,
    },
    /// Classifier of rows of numbers: fully connected layers with ReLU.
    Mlp {
        /// Numbers of a row.
        inputs: u32,
        /// Width of the hidden layers.
        hidden: u32,
        /// Hidden layers.
        layers: u32,
        /// Classes.
        classes: u32,
    },
    /// Classifier of images: two convolutions of 3x3 without padding (`features` and twice as
    /// many), ReLU, a 2x2 maximum, a hidden layer of four times `features`.
    Cnn {
        /// Rows of an image.
        height: u32,
        /// Columns of an image.
        width: u32,
        /// Bytes of a pixel.
        channels: u32,
        /// Features of the first convolution.
        features: u32,
        /// Classes.
        classes: u32,
        /// Subtracted from a pixel in [0, 1], in ppm.
        mean_ppm: u32,
        /// What it is then divided by, in ppm.
        deviation_ppm: u32,
    },
    /// Classifier of texts: a transformer that sees the whole text, mean of its last states over
    /// the text, one linear layer.
    TextClassifier {
        /// Transformer blocks.
        layers: u32,
        /// Residual width; divisible by `heads`.
        width: u32,
        /// Attention heads.
        heads: u32,
        /// Longest text in tokens; the rest is cut off.
        context: u32,
        /// Symbols of the vocabulary.
        vocabulary: u32,
        /// Classes.
        classes: u32,
    },
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Text, of which it predicts the continuation.
    Text {
        /// Longest input in tokens.
        context: u32,
        /// Symbols of the vocabulary.
        vocabulary: u32,
    },
    /// Records of a fixed length, each ending in its label (`u16`, little-endian).
    ///
    /// An image is its pixels row by row, a row is its numbers as little-endian `f32`, a text is
    /// its length (`u16`) and its bytes, padded with zeros.
    Records {
        /// Bytes of a record with its label.
        bytes: u64,
        /// Classes; a label is below it.
        classes: u32,
    },
}

/// What a dataset holds: a model trains only on datasets of the format that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Text.
    #[default]
    Text,
    /// Records, see [`InputKind::Records`]: rows of numbers.
    Rows {
        /// Numbers of a row.
        inputs: u32,
        /// Classes; a label is below it.
        classes: u32,
    },
    /// Records: images.
    Images {
        /// Rows of pixels.
        height: u32,
        /// Columns of pixels.
        width: u32,
        /// Bytes of a pixel.
        channels: u32,
        /// Classes; a label is below it.
        classes: u32,
    },
    /// Records: texts.
    LabelledTexts {
        /// Bytes of a record with its label.
        record: u64,
        /// Classes; a label is below it.
        classes: u32,
    },
}

impl Architecture {
    /// The format of the datasets that the model trains on.
    pub fn data_kind(&self) -> DataKind {
        match (*self, self.input()) {
            (Self::Mlp { inputs, classes, .. }, _) => DataKind::Rows { inputs, classes },
            (Self::Cnn { height, width, channels, classes, .. }, _) => {
                DataKind::Images { height, width, channels, classes }
            }
            (_, InputKind::Records { bytes, classes }) => {
                DataKind::LabelledTexts { record: bytes, classes }
            }
            (_, InputKind::Text { .. }) => DataKind::Text,
        }
    }

    /// What the model reads.
    pub fn input(&self) -> InputKind {
        match *self {
            Self::BytesGpt { context, .. } => {
                InputKind::Text { context, vocabulary: BYTE_VOCABULARY }
            }
            Self::Gpt { context, vocabulary, .. } | Self::Llama { context, vocabulary, .. } => {
                InputKind::Text { context, vocabulary }
            }
            Self::Mlp { inputs, classes, .. } => InputKind::Records {
                bytes: u64::from(inputs).saturating_mul(4).saturating_add(LABEL_BYTES),
                classes,
            },
            Self::Cnn { height, width, channels, classes, .. } => InputKind::Records {
                bytes: product(&[height, width, channels]).saturating_add(LABEL_BYTES),
                classes,
            },
            Self::TextClassifier { context, vocabulary, classes, .. } => {
                // A token is about four bytes of text.
                let bytes = if vocabulary == BYTE_VOCABULARY { 1 } else { 4 };
                let text = u64::from(context).saturating_mul(bytes);
                InputKind::Records {
                    bytes: text.saturating_add(2).saturating_add(LABEL_BYTES),
                    classes,
                }
            }
        }
    }

    /// Whether the vocabulary is that of bytes, which needs no tokenizer.
    pub const fn reads_bytes(&self) -> bool {
        match *self {
            Self::BytesGpt { .. } | Self::Mlp { .. } | Self::Cnn { .. } => true,
            Self::Gpt { vocabulary, .. }
            | Self::Llama { vocabulary, .. }
            | Self::TextClassifier { vocabulary, .. } => vocabulary == BYTE_VOCABULARY,
        }
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        match *self {
            Self::BytesGpt { layers, width, context, .. } => sum(&[
                transformer(layers, width),
                product(&[width, context]),
                product(&[width, BYTE_VOCABULARY, 2]),
            ]),
            Self::Gpt { layers, width, context, vocabulary, tied, .. } => sum(&[
                transformer(layers, width),
                product(&[width, context]),
                product(&[width, vocabulary, if tied { 1 } else { 2 }]),
            ]),
            Self::Llama { layers, width, heads, kv_heads, hidden, vocabulary, tied, .. } => {
                let head = width.checked_div(heads).unwrap_or(0);
                let block = sum(&[
                    product(&[width, width, 2]),
                    product(&[width, head, kv_heads, 2]),
                    product(&[width, hidden, 3]),
                    product(&[width, 2]),
                ]);
                sum(&[
                    u64::from(layers).saturating_mul(block),
                    u64::from(width),
                    product(&[width, vocabulary, if tied { 1 } else { 2 }]),
                ])
            }
            Self::Mlp { inputs, hidden, layers, classes } => sum(&[
                product(&[inputs, hidden]),
                product(&[hidden, hidden, layers.saturating_sub(1)]),
                product(&[hidden, layers]),
                product(&[hidden, classes]),
                u64::from(classes),
            ]),
            Self::Cnn { height, width, channels, features, classes, .. } => {
                let (rows, columns) = pooled(height, width);
                sum(&[
                    product(&[features, channels, 9]),
                    u64::from(features),
                    product(&[features, features, 18]),
                    product(&[features, 2]),
                    product(&[features, features, 8]).saturating_mul(product(&[rows, columns])),
                    product(&[features, 4]),
                    product(&[features, classes, 4]),
                    u64::from(classes),
                ])
            }
            Self::TextClassifier { layers, width, context, vocabulary, classes, .. } => sum(&[
                transformer(layers, width),
                product(&[width, context]),
                product(&[width, vocabulary]),
                product(&[width, classes]),
                u64::from(classes),
            ]),
        }
    }

    /// Parameters of an adapter of some rank: rank x (in + out) for every matrix inside the
    /// blocks; zero for an architecture without blocks.
    pub fn adapter_parameters(&self, rank: u32) -> u64 {
        let (layers, ends) = match *self {
            // qkv w+3w, projection w+w, mlp twice w+4w.
            Self::BytesGpt { layers, width, .. }
            | Self::Gpt { layers, width, .. }
            | Self::TextClassifier { layers, width, .. } => (layers, product(&[width, 16])),
            Self::Llama { layers, width, heads, kv_heads, hidden, .. } => {
                let head = width.checked_div(heads).unwrap_or(0);
                let keys = product(&[head, kv_heads, 2]);
                (
                    layers,
                    sum(&[product(&[width, 6]), keys, product(&[width, 3]), product(&[hidden, 3])]),
                )
            }
            Self::Mlp { .. } | Self::Cnn { .. } => return 0,
        };
        u64::from(rank).saturating_mul(u64::from(layers)).saturating_mul(ends)
    }

    /// Checks every field against its range.
    pub fn validate(&self) -> Result<(), DocumentError> {
        match *self {
            Self::BytesGpt { layers, width, heads, context } => {
                check_transformer(layers, width, heads, context)
            }
            Self::Gpt { layers, width, heads, context, vocabulary, .. } => {
                check_transformer(layers, width, heads, context)?;
                check_vocabulary(vocabulary)
            }
            Self::Llama {
                layers,
                width,
                heads,
                kv_heads,
                hidden,
                context,
                vocabulary,
                rope_theta,
                norm_epsilon_ppb,
                ..
            } => {
                check_transformer(layers, width, heads, context)?;
                check_vocabulary(vocabulary)?;
                let even = width.checked_div(heads).is_some_and(|head| head.is_multiple_of(2));
                require(even, "width", "an even multiple of heads")?;
                require((1..=heads).contains(&kv_heads), "kv_heads", "1 to heads")?;
                require(heads.checked_rem(kv_heads) == Some(0), "heads", "a multiple of kv_heads")?;
                require((16..=65_536).contains(&hidden), "hidden", "16 to 65,536")?;
                require((1..=100_000_000).contains(&rope_theta), "rope_theta", "1 to 100,000,000")?;
                require(
                    (1..=1_000_000).contains(&norm_epsilon_ppb),
                    "norm_epsilon_ppb",
                    "1 to 1,000,000",
                )
            }
            Self::Mlp { inputs, hidden, layers, classes } => {
                require((1..=65_536).contains(&inputs), "inputs", "1 to 65,536")?;
                require((1..=16_384).contains(&hidden), "hidden", "1 to 16,384")?;
                require((1..=32).contains(&layers), "layers", "1 to 32")?;
                check_classes(classes)
            }
            Self::Cnn { height, width, channels, features, classes, mean_ppm, deviation_ppm } => {
                require((8..=512).contains(&height), "height", "8 to 512")?;
                require((8..=512).contains(&width), "width", "8 to 512")?;
                require((1..=4).contains(&channels), "channels", "1 to 4")?;
                require((1..=256).contains(&features), "features", "1 to 256")?;
                require(mean_ppm <= 1_000_000, "mean_ppm", "at most 1,000,000")?;
                require(
                    (1_000..=1_000_000).contains(&deviation_ppm),
                    "deviation_ppm",
                    "1,000 to 1,000,000",
                )?;
                check_classes(classes)
            }
            Self::TextClassifier { layers, width, heads, context, vocabulary, classes } => {
                check_transformer(layers, width, heads, context)?;
                check_vocabulary(vocabulary)?;
                check_classes(classes)
            }
        }
    }
}

/// Rows and columns after two 3x3 convolutions without padding and a 2x2 maximum.
pub const fn pooled(height: u32, width: u32) -> (u32, u32) {
    (height.saturating_sub(4) / 2, width.saturating_sub(4) / 2)
}

/// Blocks and last norm: per block qkv 3w²+3w, projection w²+w, mlp 8w²+5w, two norms 4w.
fn transformer(layers: u32, width: u32) -> u64 {
    let block = product(&[width, width, 12]).saturating_add(product(&[width, 13]));
    u64::from(layers).saturating_mul(block).saturating_add(product(&[width, 2]))
}

fn product(factors: &[u32]) -> u64 {
    factors.iter().fold(1, |product, factor| u64::from(*factor).saturating_mul(product))
}

fn sum(terms: &[u64]) -> u64 {
    terms.iter().fold(0, |sum, term| term.saturating_add(sum))
}

fn check_transformer(
    layers: u32,
    width: u32,
    heads: u32,
    context: u32,
) -> Result<(), DocumentError> {
    require((1..=99).contains(&layers), "layers", "1 to 99")?;
    require((16..=16_384).contains(&width), "width", "16 to 16,384")?;
    require((1..=256).contains(&heads), "heads", "1 to 256")?;
    require(width.checked_rem(heads) == Some(0), "width", "a multiple of heads")?;
    require((16..=32_768).contains(&context), "context", "16 to 32,768")
}

fn check_vocabulary(vocabulary: u32) -> Result<(), DocumentError> {
    require((BYTE_VOCABULARY..=262_144).contains(&vocabulary), "vocabulary", "256 to 262,144")
}

fn check_classes(classes: u32) -> Result<(), DocumentError> {
    require((2..=4_096).contains(&classes), "classes", "2 to 4,096")
}
