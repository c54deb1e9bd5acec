//! The outer step: many deltas and a head become the next head, bit by bit the same everywhere.
//!
//! Per tensor, every delta is clipped to the lower median of the non-zero norms of all submitted
//! deltas, but no lower than half the norm used in the previous round (`clip`). Of the m deltas
//! with a weight, uᵢ = wᵢ clip(Δ̂ᵢ) go into the round's [`MergeRule`], whose result R counts m/n:
//! A = (m/n) R(u), so that the mean is A = (Σ uᵢ)/n. Dividing by n, not by how many deltas hold a
//! coordinate, leaves nobody sole owner of one (design 7.4). A rule that is not sound for m deltas
//! gives way to the mean. Then θ' = θ - α A, or with Nesterov momentum m' = μm + A and
//! θ' = θ - α (A + μm') (DiLoCo, arXiv 2311.08105). A tensor that no weighted delta sends keeps
//! its values and its momentum: fragments step one by one.
//!
//! The same code makes the variants that reviewers evaluate, but without the momentum: it would
//! be credited to whichever delta is judged.
//!
//! Exact: values are summed in `f64` in the deltas' order, in blocks of 4,096 in index order,
//! with `+ - * /` and `sqrt` alone; threads change nothing. Memory: beside head and result, a few
//! blocks per thread, and the deltas as they are sent.

pub(crate) mod blocks;
mod clip;
mod combine;
mod gram;
pub mod job;
pub mod rules;
mod trimmed;

use protocol::codec::{self, CodecError};
use protocol::ids::{ContentHash, derive};
use protocol::model::{MergeRule, OuterState, RoundParameters};
use thiserror::Error;

use crate::arithmetic::{FloatError, check_floats, count, ratio};
use crate::checkpoint::Checkpoint;
use crate::delta::Delta;
use clip::Clipping;
use combine::{Momentum, Source};

/// The smallest distance that the geometric median knows, in parts of the median norm.
const SMOOTHING: f64 = 1e-6;

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
    /// Momentum or aggregate is missing or is not the one that the outer state names.
    #[error("the outer state names {0}, which was not given, or another was")]
    OuterFile(&'static str),
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

/// What is merged.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The parent.
    pub head: &'a Checkpoint,
    /// Its outer state.
    pub state: &'a OuterState,
    /// The momentum that the state names; none is zero.
    pub momentum: Option<&'a Checkpoint>,
    /// The last aggregate that it names; none is zero.
    pub aggregate: Option<&'a Checkpoint>,
    /// All submitted deltas in the round's order; `None` is one that cannot be decoded, which
    /// counts for nothing.
    pub deltas: &'a [Option<Delta>],
    /// The round's parameters.
    pub parameters: &'a RoundParameters,
    /// The divisor n.
    pub divisor: u32,
    /// What draws the buckets, see [`bucket_seed`].
    pub seed: [u8; 32],
    /// Threads; the result is the same on any number.
    pub threads: usize,
}

/// A head and the deltas submitted on it, with their clipping worked out.
pub struct Merger<'a> {
    inputs: Inputs<'a>,
    clipping: Clipping,
}

/// The next head with the state of its outer optimizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The weights.
    pub checkpoint: Checkpoint,
    /// The outer state. It names momentum and aggregate.
    pub state: OuterState,
    /// The momentum, if the round has one.
    pub momentum: Option<Checkpoint>,
    /// The aggregate, if the rule starts the next merge from it.
    pub aggregate: Option<Checkpoint>,
}

/// The seed that draws buckets: of all the round's payloads, so that nobody knows it before
/// everybody has committed to theirs.
pub fn bucket_seed(payloads: &[ContentHash]) -> [u8; 32] {
    let parts: Vec<&[u8]> = payloads.iter().map(|hash| hash.as_bytes().as_slice()).collect();
    derive("ayni 2026 merge buckets v1", &parts)
}

impl<'a> Merger<'a> {
    /// Works out the clipping.
    pub fn new(inputs: Inputs<'a>) -> Result<Self, MergeError> {
        // Each time: a library on this thread may have changed the processor's mode meanwhile.
        check_floats()?;
        if inputs.divisor == 0 {
            return Err(MergeError::Divisor);
        }
        let clipping = Clipping::new(inputs.state, inputs.deltas, inputs.head.tensors.len())?;
        Ok(Self { inputs, clipping })
    }

    /// Whether a variant with these weights uses a delta that could not be decoded.
    pub fn uses_undecodable(&self, weights_ppm: &[u32]) -> Option<usize> {
        let pairs = weights_ppm.iter().zip(self.inputs.deltas);
        pairs.enumerate().find(|(_, (w, delta))| **w > 0 && delta.is_none()).map(|(i, _)| i)
    }

    /// A variant for evaluation, without momentum: θ - α A for the given weights, one per delta;
    /// no weights at all give the head itself.
    pub fn merge(&self, weights_ppm: &[u32]) -> Result<Checkpoint, MergeError> {
        Ok(self.outer_step(weights_ppm, false)?.checkpoint)
    }

    /// The next head for the given weights.
    pub fn step(&self, weights_ppm: &[u32]) -> Result<Merged, MergeError> {
        let result = self.outer_step(weights_ppm, true)?;
        let state = OuterState {
            clip_norm_bits: self.clipping.clips.iter().map(|clip| clip.to_bits()).collect(),
            momentum: result.momentum.as_ref().map(Checkpoint::hash),
            aggregate: result.aggregate.as_ref().map(Checkpoint::hash),
        };
        let combine::Combined { checkpoint, momentum, aggregate } = result;
        Ok(Merged { checkpoint, state, momentum, aggregate })
    }

    fn outer_step(
        &self,
        weights_ppm: &[u32],
        whole: bool,
    ) -> Result<combine::Combined, MergeError> {
        let Inputs { head, deltas, parameters, .. } = self.inputs;
        if !weights_ppm.is_empty() && weights_ppm.len() != deltas.len() {
            let (weights, deltas) = (weights_ppm.len(), deltas.len());
            return Err(MergeError::Weights { weights, deltas });
        }
        if let Some(i) = self.uses_undecodable(weights_ppm) {
            return Err(MergeError::Undecodable(i));
        }
        let mut sources = self.sources(weights_ppm);
        let deltas = u32::try_from(sources.len()).expect("few deltas");
        let sound = parameters.merge.is_sound(deltas);
        let rule = if sound { parameters.merge } else { MergeRule::Mean };
        let (coefficients, centre) = self.coefficients(rule, &sources);
        for (source, coefficient) in sources.iter_mut().zip(&coefficients) {
            for factor in &mut source.factors {
                *factor *= coefficient;
            }
        }
        let mu = ratio(parameters.outer_momentum_ppm);
        let step = combine::Step {
            head,
            sources,
            centre: centre.zip(self.inputs.aggregate),
            trim: match rule {
                MergeRule::TrimmedMean { .. } => {
                    Some(crate::tensors::index(parameters.merge.faulty(deltas)))
                }
                _ => None,
            },
            alpha: ratio(parameters.outer_learning_rate_ppm),
            momentum: (whole && parameters.outer_momentum_ppm > 0)
                .then_some(Momentum { mu, before: self.inputs.momentum }),
            aggregate: (whole && matches!(parameters.merge, MergeRule::CentredClip { .. }))
                .then_some(self.inputs.aggregate),
            threads: self.inputs.threads,
        };
        step.run()
    }

    /// Every used delta with its factor for each tensor: weight, clipping and 1/n.
    fn sources(&self, weights_ppm: &[u32]) -> Vec<Source<'a>> {
        let n = f64::from(self.inputs.divisor);
        self.inputs
            .deltas
            .iter()
            .zip(weights_ppm)
            .zip(&self.clipping.scales)
            .filter(|((_, weight), _)| **weight > 0)
            .filter_map(|((delta, weight), scales)| {
                let weight = ratio(*weight);
                let factors = scales.iter().map(|scale| weight * scale / n).collect();
                Some(Source { delta: delta.as_ref()?, factors })
            })
            .collect()
    }

    /// What each source is multiplied with so that their sum is A, and the factor of the last
    /// aggregate, if the rule wants it. The trimmed mean has its own pass.
    fn coefficients(&self, rule: MergeRule, sources: &[Source<'a>]) -> (Vec<f64>, Option<f64>) {
        let m = sources.len();
        let faulty = crate::tensors::index(rule.faulty(u32::try_from(m).expect("few deltas")));
        // Sources carry 1/n already, so A = (m/n) R(u) is m times R of the sources.
        let m_times = |mut coefficients: Vec<f64>| {
            coefficients.iter_mut().for_each(|c| *c *= count(m));
            coefficients
        };
        let Inputs { head, aggregate, seed, threads, .. } = self.inputs;
        match rule {
            MergeRule::Mean | MergeRule::TrimmedMean { .. } => (vec![1.0; m], None),
            MergeRule::MultiKrum { keep, .. } => {
                let gram = gram::gram(head, sources, None, threads);
                let keep = crate::tensors::index(keep);
                (m_times(rules::multi_krum(&gram, faulty, keep)), None)
            }
            MergeRule::GeometricMedian { bucket, iterations, .. } => {
                let gram = gram::gram(head, sources, None, threads);
                let buckets = rules::buckets(m, crate::tensors::index(bucket), seed);
                let smoothing = rules::median_norm(&gram, m) * SMOOTHING;
                let coefficients = rules::on_buckets(&gram, &buckets, |gram| {
                    rules::geometric_median(gram, iterations, smoothing.max(f64::MIN_POSITIVE))
                });
                (m_times(coefficients), None)
            }
            MergeRule::CentredClip { bucket, iterations, radius_ppm, .. } => {
                // The last aggregate is an A = (m/n) R(u), so R runs on (m/n) u: m times the
                // sources.
                let gram = gram::gram(head, sources, Some((aggregate, m)), threads);
                let buckets = rules::buckets(m, crate::tensors::index(bucket), seed);
                let radius = rules::median_norm(&gram, m) * ratio(radius_ppm);
                let mut coefficients = rules::on_buckets(&gram, &buckets, |gram| {
                    rules::centred_clip(gram, iterations, radius)
                });
                let centre = coefficients.pop();
                (m_times(coefficients), centre)
            }
        }
    }
}

/// Parses an encoded outer state.
pub fn parse_outer_state(bytes: &[u8]) -> Result<OuterState, MergeError> {
    Ok(codec::decode::<OuterState>(bytes)?)
}
