//! Deltas: what one member's training changed, compressed about 200-fold, as a value and as
//! canonical bytes.
//!
//! SparseLoCo (arXiv 2508.15706): of every [`CHUNK`] consecutive values of a tensor only the k of
//! largest magnitude are kept, each as one of four bfloat16 levels per tensor; positions are
//! sorted gaps in a Rice code, which comes close to their entropy. Small tensors are sent whole at
//! two bits. Also DiLoCo (every value as f32) and, for private data, positions drawn by lot. What
//! is lost goes into the member's error feedback ([`crate::feedback`]). No libtorch here:
//! reviewers and mergers decode exactly alike.
//!
//! [`layout`] describes the bytes. Decoding trusts nothing: how each tensor is sent follows from
//! the [`Plan`], never from the payload.

mod bits;
pub mod job;
pub mod layout;
pub mod plan;
mod quantize;
mod select;

use thiserror::Error;

use crate::arithmetic::{count, narrow};
use crate::checkpoint::Checkpoint;

pub use layout::{decode, encode};
pub use plan::{Part, Plan, kept_of_chunk, kept_of_tensor};

/// Consecutive values of a tensor among which the largest are kept. Part of the format.
pub const CHUNK: usize = 4_096;
/// Levels of a tensor's codebook: two bits each. Part of the format.
pub const LEVELS: usize = 4;
/// Bits of a position in its chunk; a kept value's level stands above them.
const POSITION_BITS: u32 = 12;

/// A decoded delta: θ - θᵢ. One entry per tensor of the model, in name order.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The tensors.
    pub tensors: Vec<DeltaTensor>,
}

/// One tensor of a delta. Values that are not sent are zero.
#[derive(Clone, Debug, PartialEq)]
pub enum DeltaTensor {
    /// Nothing is sent: the tensor belongs to another fragment.
    Absent,
    /// Some values of each chunk.
    Sparse(Sparse),
    /// All values at two bits.
    Quantized(Quantized),
    /// All values.
    Full(Vec<f32>),
}

/// Kept values of a tensor, two bytes each in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    codebook: [f32; LEVELS],
    /// How many values have each level.
    counts: [usize; LEVELS],
    /// Chunk after chunk: position in the chunk, level above it; ascending in a chunk.
    entries: Vec<u16>,
    /// Values kept of each whole chunk.
    kept: usize,
}

/// All values of a tensor, four to a byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    codebook: [f32; LEVELS],
    counts: [usize; LEVELS],
    packed: Vec<u8>,
    len: usize,
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
    /// Another format, density, fragment or number of tensors.
    #[error("the header is not the one of this model and round")]
    Header,
    /// A level that is not finite.
    #[error("tensor {0}: a level of the codebook is not finite")]
    Codebook(usize),
    /// A position beyond its chunk.
    #[error("tensor {0}: a position lies outside its chunk")]
    Position(usize),
    /// The bits end too early.
    #[error("the bytes end inside the delta")]
    Truncated,
    /// A second spelling of a delta: unused level not zero, padding bits set, trailing bytes.
    #[error("the encoding is not canonical")]
    NotCanonical,
    /// Training left the finite numbers, or a value sent is not one.
    #[error("tensor {0}: a value is not finite")]
    NotFinite(usize),
}

impl Delta {
    /// Compresses dense values (a = βe + Δ) as the plan says.
    pub fn compress(dense: &Checkpoint, plan: &Plan) -> Result<Self, DeltaError> {
        assert_eq!(dense.tensors.len(), plan.parts.len(), "a plan of this model");
        let mut lot = select::Lot::new(plan.seed, plan.round);
        let mut tensors = Vec::with_capacity(dense.tensors.len());
        for (i, (tensor, (part, len))) in dense.tensors.iter().zip(&plan.parts).enumerate() {
            assert_eq!(tensor.values.len(), *len, "a plan of this model");
            if !tensor.values.iter().all(|value| value.is_finite()) {
                return Err(DeltaError::NotFinite(i));
            }
            let keep = |chunk: &[f32]| kept_of_chunk(chunk.len(), plan.keep);
            tensors.push(match part {
                Part::Absent => DeltaTensor::Absent,
                Part::Full => DeltaTensor::Full(tensor.values.clone()),
                Part::Quantized => DeltaTensor::Quantized(Quantized::of(&tensor.values)),
                Part::Largest => DeltaTensor::Sparse(Sparse::of(&tensor.values, plan, |chunk| {
                    select::largest(chunk, keep(chunk))
                })),
                Part::Drawn => DeltaTensor::Sparse(Sparse::of(&tensor.values, plan, |chunk| {
                    lot.draw(chunk.len(), keep(chunk))
                })),
            });
        }
        Ok(Self { tensors })
    }

    /// Values sent.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(DeltaTensor::len).sum()
    }

    /// Whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl DeltaTensor {
    /// Values sent.
    pub fn len(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Sparse(sparse) => sparse.entries.len(),
            Self::Quantized(quantized) => quantized.len,
            Self::Full(values) => values.len(),
        }
    }

    /// Whether nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sent values of one chunk: `each(position in the chunk, value)`, ascending.
    #[inline]
    pub fn visit(&self, chunk: usize, mut each: impl FnMut(usize, f32)) {
        match self {
            Self::Absent => {}
            Self::Sparse(sparse) => {
                for entry in sparse.chunk(chunk) {
                    let (position, level) = split(*entry);
                    each(position, sparse.codebook[level]);
                }
            }
            Self::Quantized(quantized) => {
                let start = chunk * CHUNK / 4;
                let len = quantized.len.saturating_sub(chunk * CHUNK).min(CHUNK);
                let bytes = &quantized.packed[start..start + plan::packed_bytes(len)];
                for position in 0..len {
                    let level = bytes[position / 4] >> (2 * (position % 4)) & 3;
                    each(position, quantized.codebook[usize::from(level)]);
                }
            }
            Self::Full(values) => {
                for (position, value) in values.iter().skip(chunk * CHUNK).take(CHUNK).enumerate() {
                    each(position, *value);
                }
            }
        }
    }

    /// All sent values with their flat indices, ascending.
    pub fn entries(&self) -> Vec<(usize, f32)> {
        let chunks = match self {
            Self::Absent => 0,
            Self::Sparse(sparse) => sparse.entries.len().div_ceil(sparse.kept.max(1)),
            Self::Quantized(_) | Self::Full(_) => self.len().div_ceil(CHUNK),
        };
        let mut entries = Vec::with_capacity(self.len());
        for chunk in 0..chunks {
            self.visit(chunk, |position, value| entries.push((chunk * CHUNK + position, value)));
        }
        entries
    }

    /// Euclidean norm of the sent values, at most `f32::MAX`. Of quantized ones it follows from
    /// how many have each level; others are summed in blocks of [`CHUNK`].
    pub fn norm(&self) -> f32 {
        let square = match self {
            Self::Absent => 0.0,
            Self::Sparse(Sparse { codebook, counts, .. })
            | Self::Quantized(Quantized { codebook, counts, .. }) => {
                let squares = codebook.iter().zip(counts).map(|(level, used)| {
                    let level = f64::from(*level);
                    level * level * count(*used)
                });
                squares.fold(0.0, |sum, square| sum + square)
            }
            Self::Full(values) => values.chunks(CHUNK).fold(0.0, |sum, block| {
                sum + block.iter().fold(0.0, |sum, x| {
                    let x = f64::from(*x);
                    sum + x * x
                })
            }),
        };
        narrow(square.sqrt()).min(f32::MAX)
    }
}

impl Sparse {
    fn of(values: &[f32], plan: &Plan, mut choose: impl FnMut(&[f32]) -> Vec<u16>) -> Self {
        let mut positions = Vec::with_capacity(kept_of_tensor(values.len(), plan.keep));
        let mut kept = Vec::with_capacity(positions.capacity());
        for chunk in values.chunks(CHUNK) {
            for position in choose(chunk) {
                positions.push(position);
                kept.push(chunk[usize::from(position)]);
            }
        }
        let (codebook, codes) = quantize::quantize(&kept);
        let entries = positions.iter().zip(&codes).map(|(p, code)| entry(*p, *code)).collect();
        let kept = kept_of_chunk(CHUNK, plan.keep);
        Self { codebook, counts: counts(codes.into_iter()), entries, kept }
    }

    /// The kept values of a chunk: position and, above it, level.
    #[inline]
    fn chunk(&self, chunk: usize) -> &[u16] {
        let start = (chunk * self.kept).min(self.entries.len());
        let end = (start + self.kept).min(self.entries.len());
        &self.entries[start..end]
    }
}

impl Quantized {
    fn of(values: &[f32]) -> Self {
        let (codebook, codes) = quantize::quantize(values);
        let pack = |four: &[u8]| {
            four.iter().enumerate().fold(0u8, |byte, (i, code)| byte | code << (2 * i))
        };
        let packed = codes.chunks(4).map(pack).collect();
        Self { codebook, counts: counts(codes.into_iter()), packed, len: values.len() }
    }

    /// The levels of the values in order.
    fn codes(packed: &[u8], len: usize) -> impl Iterator<Item = u8> + '_ {
        packed.iter().flat_map(|byte| (0..4).map(move |i| byte >> (2 * i) & 3)).take(len)
    }
}

fn counts(codes: impl Iterator<Item = u8>) -> [usize; LEVELS] {
    let mut counts = [0; LEVELS];
    for code in codes {
        counts[usize::from(code)] += 1;
    }
    counts
}

#[inline]
fn entry(position: u16, level: u8) -> u16 {
    u16::from(level) << POSITION_BITS | position
}

/// Position in the chunk and level of a kept value.
#[inline]
fn split(entry: u16) -> (usize, usize) {
    let position = usize::from(entry & ((1 << POSITION_BITS) - 1));
    (position, usize::from(entry >> POSITION_BITS & 3))
}
