//! Shards of data as examples to train on.
//!
//! **Invariant.** The examples of a step depend on the seed, the step's number and the shards,
//! on nothing that came before: a run that is resumed or replayed reads what it would have read.
//! Memory is constant: shards stay files, read by position, whatever their length; only texts
//! shorter than a window are kept, up to [`text::SHORT_BYTES_MAX`]. Every byte is a stranger's.
//!
//! Deliberately absent: caches, threads that read ahead. Reading a batch takes microseconds
//! beside the milliseconds of its step.

mod documents;
mod files;
pub mod ingest;
mod permute;
pub mod records;
pub mod suite;
pub mod text;
pub mod tokens;

use protocol::model::{InputKind, ModelSpec};
use thiserror::Error;

use crate::error::JobError;

pub use documents::DocumentTokens;
pub use files::Shards;
pub use permute::permute;
pub use tokens::Tokenize;

/// Why shards cannot be read as examples.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum DataError {
    /// The texts hold no window.
    #[error("the texts are shorter than one window of {0} bytes")]
    TooShort(usize),
    /// Too much text in texts that are shorter than a window.
    #[error("more than {0} bytes in texts shorter than a window: join them into longer shards")]
    TooManyShort(usize),
    /// A file changed while it was read.
    #[error("{0}: its length changed while it was read")]
    Changed(String),
    /// Not whole records.
    #[error("{name}: {bytes} bytes are not whole records of {record} bytes")]
    Length {
        /// The file.
        name: String,
        /// Its length.
        bytes: u64,
        /// Length of a record.
        record: u64,
    },
    /// There are no records.
    #[error("there are no records to train on")]
    Empty,
    /// A record whose content the model cannot read.
    #[error("{name}: record {index}: {reason}")]
    Record {
        /// The file.
        name: String,
        /// Which record of it.
        index: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A model whose vocabulary is not that of bytes came without its tokenizer.
    #[error("the model needs its tokenizer")]
    NoTokenizer,
}

/// What the model reads of some examples.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Tokens, `[rows, length]`.
    Tokens(Vec<i64>),
    /// Numbers, `[rows, inputs]`.
    Numbers(Vec<f32>),
    /// Bytes of pixels, `[rows, height * width * channels]`.
    Pixels(Vec<u8>),
}

/// Some examples, ready to become tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// How many.
    pub rows: usize,
    /// What the model reads.
    pub input: Input,
    /// What it should say: the next token of each token, or the class of each row.
    pub target: Vec<i64>,
    /// For classifiers of texts: tokens in each.
    pub lengths: Option<Vec<i64>>,
    /// Bytes that the targets stand for; for records, the records.
    pub units: u64,
}

/// Where the examples of a run come from.
pub enum Source<'a> {
    /// Windows of bytes.
    Bytes(text::ByteWindows<'a>),
    /// Windows of tokens.
    Tokens(tokens::TokenWindows<'a>),
    /// Records.
    Records(records::Records<'a>),
}

impl<'a> Source<'a> {
    /// Examples for a model from shards, in an order drawn from `seed`.
    pub fn new(
        spec: &ModelSpec,
        shards: Shards<'a>,
        tokenizer: Option<&'a dyn Tokenize>,
        seed: u64,
    ) -> Result<Self, JobError> {
        match spec.architecture.input() {
            InputKind::Records { .. } => {
                Ok(Self::Records(records::Records::new(spec, shards, tokenizer, seed)?))
            }
            InputKind::Text { context, .. } => {
                let context = crate::tensors::index(context);
                if spec.architecture.reads_bytes() {
                    return Ok(Self::Bytes(text::ByteWindows::new(shards, context, seed)?));
                }
                let tokenizer = tokenizer.ok_or(DataError::NoTokenizer)?;
                Ok(Self::Tokens(tokens::TokenWindows::new(shards, tokenizer, context, seed)?))
            }
        }
    }

    /// The examples of a step.
    pub fn step(&self, step: u64, rows: usize) -> Result<Examples, JobError> {
        match self {
            Self::Bytes(windows) => windows.step(step, rows),
            Self::Tokens(windows) => windows.step(step, rows),
            Self::Records(records) => records.step(step, rows),
        }
    }
}

/// Windows of `context + 1` tokens as inputs and, shifted by one, targets.
fn shifted(windows: &[Vec<i64>], units: u64) -> Examples {
    let all = |range: fn(&Vec<i64>) -> &[i64]| windows.iter().flat_map(range).copied().collect();
    Examples {
        rows: windows.len(),
        input: Input::Tokens(all(|window| &window[..window.len() - 1])),
        target: all(|window| &window[1..]),
        lengths: None,
        units,
    }
}
