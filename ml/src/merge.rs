//! The outer step: many deltas and a head become the next head, bit by bit the same everywhere.
//!
//! Per tensor, every delta is clipped to the lower median of the non-zero norms of all submitted
//! deltas, but no lower than half the norm used in the previous round; then
//! θ' = θ - α (Σ wᵢ clip(Δ̂ᵢ)) / n. Dividing by n, not by how many deltas hold a coordinate,
//! leaves nobody sole owner of one (design 7.4). The same code makes the variants that reviewers
//! evaluate, so what was judged is what is merged.
//!
//! Exact: values are summed in `f64` in the deltas' order, in blocks of [`CHUNK`] in index order,
//! with `+ - * /` and `sqrt` alone.

use protocol::codec::{self, CodecError};
use protocol::model::{OuterState, RoundParameters};
use thiserror::Error;

use crate::arithmetic::{FloatError, check_floats, narrow, ratio};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::delta::{CHUNK, Delta};

/// Why deltas cannot be merged.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum MergeError {
    /// Not an encoded [`OuterState`].
    #[error("outer state: {0}")]
    Codec(#[from] CodecError),
    /// This machine would merge otherwise than the others.
    #[error(transparent)]
    Float(#[from] FloatError),
    /// A state of another model, or a norm that is negative or not finite.
    #[error("the outer state does not belong to this model")]
    OuterState,
    /// Nothing was submitted.
    #[error("the divisor is zero")]
    Divisor,
    /// Not one weight per delta.
    #[error("{weights} weights for {deltas} deltas")]
    Weights {
        /// Weights given.
        weights: usize,
        /// Deltas submitted.
        deltas: usize,
    },
    /// A weight on a delta that could not be decoded.
    #[error("delta {0} has a weight but could not be decoded")]
    Undecodable(usize),
    /// The sum leaves the range of f32.
    #[error("merging makes a value of tensor {0} that is not finite")]
    NotFinite(String),
}

/// A head and the deltas submitted on it, with their clipping worked out.
pub struct Merger<'a> {
    head: &'a Checkpoint,
    deltas: &'a [Option<Delta>],
    /// Clipping norm of each tensor.
    clips: Vec<f32>,
    /// What each delta's tensors are multiplied with: `[delta][tensor]`.
    scales: Vec<Vec<f64>>,
    alpha: f64,
    divisor: f64,
}

impl<'a> Merger<'a> {
    /// Works out the clipping. `deltas` are all submitted ones in the round's order; `None` is
    /// one that cannot be decoded, which counts for nothing.
    pub fn new(
        head: &'a Checkpoint,
        state: &OuterState,
        deltas: &'a [Option<Delta>],
        parameters: &RoundParameters,
        divisor: u32,
    ) -> Result<Self, MergeError> {
        // Each time: a library on this thread may have changed the processor's mode meanwhile.
        check_floats()?;
        if divisor == 0 {
            return Err(MergeError::Divisor);
        }
        let previous = previous_clips(state, head.tensors.len())?;
        let norms: Vec<Vec<f32>> = deltas
            .iter()
            .map(|delta| match delta {
                Some(delta) => delta.tensors.iter().map(|tensor| tensor.norm()).collect(),
                None => vec![0.0; head.tensors.len()],
            })
            .collect();
        let clips: Vec<f32> = previous
            .iter()
            .enumerate()
            .map(|(t, previous)| {
                let floor = previous * 0.5;
                lower_median_nonzero(norms.iter().map(|norms| norms[t])).max(floor)
            })
            .collect();
        let scales = norms
            .iter()
            .map(|norms| norms.iter().zip(&clips).map(|(norm, clip)| scale(*norm, *clip)).collect())
            .collect();
        let alpha = ratio(parameters.outer_learning_rate_ppm);
        Ok(Self { head, deltas, clips, scales, alpha, divisor: f64::from(divisor) })
    }

    /// The outer state after this merge.
    pub fn outer_state(&self) -> OuterState {
        OuterState {
            clip_norm_bits: self.clips.iter().map(|clip| clip.to_bits()).collect(),
            ..OuterState::default()
        }
    }

    /// Whether a variant with these weights uses a delta that could not be decoded.
    pub fn uses_undecodable(&self, weights_ppm: &[u32]) -> Option<usize> {
        let pairs = weights_ppm.iter().zip(self.deltas);
        pairs.enumerate().find(|(_, (w, delta))| **w > 0 && delta.is_none()).map(|(i, _)| i)
    }

    /// θ' for the given weights, one per delta; no weights at all give the head itself.
    pub fn merge(&self, weights_ppm: &[u32]) -> Result<Checkpoint, MergeError> {
        if !weights_ppm.is_empty() && weights_ppm.len() != self.deltas.len() {
            let (weights, deltas) = (weights_ppm.len(), self.deltas.len());
            return Err(MergeError::Weights { weights, deltas });
        }
        if let Some(i) = self.uses_undecodable(weights_ppm) {
            return Err(MergeError::Undecodable(i));
        }
        let mut tensors = Vec::with_capacity(self.head.tensors.len());
        for (t, tensor) in self.head.tensors.iter().enumerate() {
            let values = self.merge_tensor(t, &tensor.values, weights_ppm);
            if !values.iter().all(|value| value.is_finite()) {
                return Err(MergeError::NotFinite(tensor.spec.name.clone()));
            }
            tensors.push(Tensor { spec: tensor.spec.clone(), values });
        }
        Ok(Checkpoint { tensors })
    }

    fn merge_tensor(&self, t: usize, values: &[f32], weights_ppm: &[u32]) -> Vec<f32> {
        // Every used delta with its factor and a cursor into its kept values.
        let mut sources: Vec<_> = self
            .deltas
            .iter()
            .zip(weights_ppm)
            .zip(&self.scales)
            .filter(|((_, weight), _)| **weight > 0)
            .filter_map(|((delta, weight), scales)| {
                let entries = delta.as_ref()?.tensors[t].entries().peekable();
                Some((entries, ratio(*weight) * scales[t]))
            })
            .collect();
        let mut merged = Vec::with_capacity(values.len());
        for (block, start) in values.chunks(CHUNK).zip((0usize..).step_by(CHUNK)) {
            let mut sums = [0.0f64; CHUNK];
            for (entries, factor) in &mut sources {
                let end = start + block.len();
                while let Some((index, value)) = entries.next_if(|(index, _)| *index < end) {
                    sums[index - start] += *factor * f64::from(value);
                }
            }
            merged.extend(
                block.iter().zip(sums).map(|(value, sum)| {
                    narrow(f64::from(*value) - self.alpha * sum / self.divisor)
                }),
            );
        }
        merged
    }
}

/// Parses an encoded outer state.
pub fn parse_outer_state(bytes: &[u8]) -> Result<OuterState, MergeError> {
    Ok(codec::decode::<OuterState>(bytes)?)
}

/// Norms of the previous round; zeros before the first merge.
fn previous_clips(state: &OuterState, tensors: usize) -> Result<Vec<f32>, MergeError> {
    if state.clip_norm_bits.is_empty() {
        return Ok(vec![0.0; tensors]);
    }
    let clips: Vec<f32> = state.clip_norm_bits.iter().map(|bits| f32::from_bits(*bits)).collect();
    let usable = |clip: &f32| clip.is_finite() && clip.is_sign_positive();
    if clips.len() != tensors || !clips.iter().all(usable) {
        return Err(MergeError::OuterState);
    }
    Ok(clips)
}

/// The lower median of the norms above zero; zero if there are none.
fn lower_median_nonzero(norms: impl Iterator<Item = f32>) -> f32 {
    let mut norms: Vec<f32> = norms.filter(|norm| *norm > 0.0).collect();
    norms.sort_unstable_by(f32::total_cmp);
    match norms.len() {
        0 => 0.0,
        len => norms[(len - 1) / 2],
    }
}

/// min(1, clip/norm).
fn scale(norm: f32, clip: f32) -> f64 {
    if norm > clip { f64::from(clip) / f64::from(norm) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_medians() {
        assert_eq!(lower_median_nonzero([].into_iter()), 0.0);
        assert_eq!(lower_median_nonzero([0.0, 0.0].into_iter()), 0.0);
        assert_eq!(lower_median_nonzero([3.0, 0.0, 1.0].into_iter()), 1.0);
        assert_eq!(lower_median_nonzero([9.0, 2.0, 4.0].into_iter()), 4.0);
    }

    #[test]
    fn scales() {
        assert_eq!(scale(0.0, 0.0), 1.0);
        assert_eq!(scale(1.0, 2.0), 1.0);
        assert_eq!(scale(4.0, 1.0), 0.25);
    }
}
