//! Deltas: what one member's training changed, compressed about 150-fold, as a value and as
//! canonical bytes.
//!
//! SparseLoCo (arXiv 2508.15706): of every [`CHUNK`] consecutive values of a tensor only the k of
//! largest magnitude are kept, each as one of four levels per tensor; positions are sorted gaps in
//! a Rice code, which comes close to their entropy. What is lost goes into the member's error
//! feedback ([`crate::feedback`]). No libtorch here: reviewers and mergers decode exactly alike.
//!
//! [`layout`] describes the bytes. Decoding trusts nothing: counts follow from the model and the
//! round's parameters, never from the payload.

mod bits;
pub mod layout;
mod quantize;
mod select;

use thiserror::Error;

use crate::arithmetic;
use crate::checkpoint::Checkpoint;
use crate::tensors::TensorSpec;

pub use layout::{decode, encode};

/// Consecutive values of a tensor among which the largest are kept. Part of the format.
pub const CHUNK: usize = 4_096;
/// Levels of a tensor's codebook: two bits each. Part of the format.
pub const LEVELS: usize = 4;

/// A decoded delta: θ - θᵢ, sparse. One entry per tensor of the model, in name order.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The tensors.
    pub tensors: Vec<SparseTensor>,
}

/// The kept values of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    /// The levels; zero where no value uses one.
    pub codebook: [f32; LEVELS],
    /// Flat indices of the kept values, ascending.
    pub positions: Vec<u32>,
    /// The level of each kept value, below [`LEVELS`].
    pub codes: Vec<u8>,
}

/// Why values cannot be compressed or bytes are not a delta.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum DeltaError {
    /// More or fewer bytes than any delta of this model and these parameters has.
    #[error("{actual} bytes where {min} to {max} are possible")]
    Length {
        /// Bytes received.
        actual: usize,
        /// Fewest possible.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// Another format, density or number of tensors.
    #[error("the header is not the one of this model and round")]
    Header,
    /// A level that is not finite.
    #[error("tensor {0}: a level of the codebook is not finite")]
    Codebook(usize),
    /// A position beyond its chunk, or the bits end too early.
    #[error("tensor {0}: a position lies outside its chunk")]
    Position(usize),
    /// A second spelling of a delta: unused level not zero, padding bits set, trailing bytes.
    #[error("the encoding is not canonical")]
    NotCanonical,
    /// Training left the finite numbers.
    #[error("tensor {0}: a value is not finite")]
    NotFinite(usize),
}

impl Delta {
    /// Compresses dense values (a = βe + Δ), keeping `keep_per_chunk` of every [`CHUNK`].
    pub fn compress(dense: &Checkpoint, keep_per_chunk: u32) -> Result<Self, DeltaError> {
        let mut tensors = Vec::with_capacity(dense.tensors.len());
        for (i, tensor) in dense.tensors.iter().enumerate() {
            if !tensor.values.iter().all(|value| value.is_finite()) {
                return Err(DeltaError::NotFinite(i));
            }
            let positions = select::largest(&tensor.values, keep_per_chunk);
            let kept: Vec<f32> =
                positions.iter().map(|p| tensor.values[crate::tensors::index(*p)]).collect();
            let (codebook, codes) = quantize::quantize(&kept);
            tensors.push(SparseTensor { codebook, positions, codes });
        }
        Ok(Self { tensors })
    }

    /// Values sent.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.positions.len()).sum()
    }

    /// Whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SparseTensor {
    /// The kept values with their flat indices, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.positions.iter().zip(&self.codes).map(|(position, code)| {
            (crate::tensors::index(*position), self.codebook[usize::from(*code)])
        })
    }

    /// Euclidean norm of the decoded values.
    pub fn norm(&self) -> f32 {
        arithmetic::norm(self.entries().map(|(_, value)| value))
    }
}

/// Values kept of a chunk of `len` values: k of a whole chunk, in proportion and rounded up of
/// the shorter last one.
pub fn kept_of_chunk(len: usize, keep_per_chunk: u32) -> usize {
    (crate::tensors::index(keep_per_chunk) * len).div_ceil(CHUNK).min(len)
}

/// Values kept of a whole tensor.
pub fn kept_of_tensor(spec: &TensorSpec, keep_per_chunk: u32) -> usize {
    let whole = spec.len() / CHUNK;
    whole * kept_of_chunk(CHUNK, keep_per_chunk) + kept_of_chunk(spec.len() % CHUNK, keep_per_chunk)
}
