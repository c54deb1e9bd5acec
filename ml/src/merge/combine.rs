//! The pass that makes the next weights: A of each block from the deltas, then the step.

use super::MergeError;
use super::blocks::{Piece, pieces, spread};
use super::trimmed::Trimmer;
use crate::arithmetic::{count, narrow};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::delta::{CHUNK, Delta, DeltaTensor};

/// A delta that is merged, with what each of its tensors is multiplied with.
pub(super) struct Source<'a> {
    pub(super) delta: &'a Delta,
    pub(super) factors: Vec<f64>,
}

/// Outer Nesterov momentum.
pub(super) struct Momentum<'a> {
    pub(super) mu: f64,
    /// None is zero.
    pub(super) before: Option<&'a Checkpoint>,
}

/// An outer step, ready to be run.
pub(super) struct Step<'a> {
    pub(super) head: &'a Checkpoint,
    pub(super) sources: Vec<Source<'a>>,
    /// The last aggregate and its factor in the new one.
    pub(super) centre: Option<(f64, &'a Checkpoint)>,
    /// Values left out at either end, for the trimmed mean.
    pub(super) trim: Option<usize>,
    pub(super) alpha: f64,
    pub(super) momentum: Option<Momentum<'a>>,
    /// The last aggregate, if the new one is kept; it stays where nothing is sent.
    pub(super) aggregate: Option<Option<&'a Checkpoint>>,
    pub(super) threads: usize,
}

/// What a step makes.
pub(super) struct Combined {
    pub(super) checkpoint: Checkpoint,
    pub(super) momentum: Option<Checkpoint>,
    pub(super) aggregate: Option<Checkpoint>,
}

/// A piece of the tensors that are written.
struct Output<'o> {
    piece: Piece,
    weights: &'o mut [f32],
    momentum: Option<&'o mut [f32]>,
    aggregate: Option<&'o mut [f32]>,
}

impl Step<'_> {
    pub(super) fn run(&self) -> Result<Combined, MergeError> {
        let mut weights = zeros(self.head);
        let mut momentum = self.momentum.is_some().then(|| zeros(self.head));
        let mut aggregate = self.aggregate.is_some().then(|| zeros(self.head));
        let pieces = pieces(self.head.tensors.iter().map(|tensor| tensor.values.len()));
        let mut weights_left = Left::new(&mut weights);
        let mut momentum_left = momentum.as_mut().map(Left::new);
        let mut aggregate_left = aggregate.as_mut().map(Left::new);
        let outputs: Vec<Output<'_>> = pieces
            .into_iter()
            .map(|piece| Output {
                piece,
                weights: weights_left.take(piece),
                momentum: momentum_left.as_mut().map(|left| left.take(piece)),
                aggregate: aggregate_left.as_mut().map(|left| left.take(piece)),
            })
            .collect();
        let finite = spread(
            outputs,
            self.threads,
            |output| output.piece.len,
            |mut output| (output.piece.tensor, self.piece(&mut output)),
        );
        if let Some((t, _)) = finite.into_iter().find(|(_, finite)| !finite) {
            return Err(MergeError::NotFinite(self.head.tensors[t].spec.name.clone()));
        }
        Ok(Combined { checkpoint: weights, momentum, aggregate })
    }

    /// Writes one piece; false if a value is not finite.
    fn piece(&self, output: &mut Output<'_>) -> bool {
        let Piece { tensor: t, block, start, len } = output.piece;
        let sends = |source: &Source<'_>| !matches!(source.delta.tensors[t], DeltaTensor::Absent);
        let of =
            |checkpoint: &'_ Checkpoint| checkpoint.tensors[t].values[start..start + len].to_vec();
        if !self.sources.iter().any(sends) {
            // Another fragment: everything stays.
            output.weights.copy_from_slice(&self.head.tensors[t].values[start..start + len]);
            let before = self.momentum.as_ref().and_then(|momentum| momentum.before);
            if let (Some(to), Some(from)) = (&mut output.momentum, before) {
                to.copy_from_slice(&of(from));
            }
            if let (Some(to), Some(from)) = (&mut output.aggregate, self.aggregate.flatten()) {
                to.copy_from_slice(&of(from));
            }
            return true;
        }
        let mut sums = vec![0.0f64; CHUNK];
        let mut trimmer = self.trim.map(|trim| Trimmer::new(self.sources.len(), trim));
        let mut finite = true;
        for offset in (0..len).step_by(CHUNK) {
            let block = block + offset / CHUNK;
            let range = offset..offset + CHUNK.min(len - offset);
            let sums = &mut sums[..range.len()];
            self.sum(t, block, start + offset, sums, trimmer.as_mut());
            finite &= self.step_block(t, start + offset, sums, &mut output.weights[range.clone()]);
            if let (Some(momentum), Some(to)) = (&self.momentum, &mut output.momentum) {
                let before =
                    momentum.before.map(|before| &before.tensors[t].values[start + offset..]);
                finite &= nesterov(momentum.mu, before, sums, &mut to[range.clone()]);
            }
            if let Some(to) = &mut output.aggregate {
                finite &= store(&mut to[range], sums);
            }
        }
        finite
    }

    /// A of one block.
    fn sum(
        &self,
        t: usize,
        block: usize,
        start: usize,
        sums: &mut [f64],
        trimmer: Option<&mut Trimmer>,
    ) {
        if let Some(trimmer) = trimmer {
            for (i, source) in self.sources.iter().enumerate() {
                let factor = source.factors[t];
                source.delta.tensors[t]
                    .visit(block, |at, value| trimmer.put(at, i, factor * f64::from(value)));
            }
            // The sources carry 1/n: m times their mean is A.
            trimmer.take(count(self.sources.len()), sums);
            return;
        }
        match self.centre {
            None => sums.fill(0.0),
            Some((factor, centre)) => {
                for (sum, value) in sums.iter_mut().zip(&centre.tensors[t].values[start..]) {
                    *sum = factor * f64::from(*value);
                }
            }
        }
        for source in &self.sources {
            let factor = source.factors[t];
            source.delta.tensors[t].visit(block, |at, value| sums[at] += factor * f64::from(value));
        }
    }

    /// θ' = θ - α (A + μm'), with m' = μm + A.
    fn step_block(&self, t: usize, start: usize, sums: &[f64], to: &mut [f32]) -> bool {
        let head = &self.head.tensors[t].values[start..start + to.len()];
        let alpha = self.alpha;
        let mut finite = true;
        let Some(Momentum { mu, before }) = &self.momentum else {
            for ((to, value), sum) in to.iter_mut().zip(head).zip(sums) {
                *to = narrow(f64::from(*value) - alpha * sum);
                finite &= to.is_finite();
            }
            return finite;
        };
        let before = before.map(|before| &before.tensors[t].values[start..]);
        for (i, ((to, value), sum)) in to.iter_mut().zip(head).zip(sums).enumerate() {
            let before = before.map_or(0.0, |before| f64::from(before[i]));
            let momentum = mu * before + sum;
            *to = narrow(f64::from(*value) - alpha * (sum + mu * momentum));
            finite &= to.is_finite();
        }
        finite
    }
}

fn nesterov(mu: f64, before: Option<&[f32]>, sums: &[f64], to: &mut [f32]) -> bool {
    let mut finite = true;
    for (i, (to, sum)) in to.iter_mut().zip(sums).enumerate() {
        let before = before.map_or(0.0, |before| f64::from(before[i]));
        *to = narrow(mu * before + sum);
        finite &= to.is_finite();
    }
    finite
}

fn store(to: &mut [f32], sums: &[f64]) -> bool {
    let mut finite = true;
    for (to, sum) in to.iter_mut().zip(sums) {
        *to = narrow(*sum);
        finite &= to.is_finite();
    }
    finite
}

fn zeros(like: &Checkpoint) -> Checkpoint {
    let tensors = like
        .tensors
        .iter()
        .map(|t| Tensor { spec: t.spec.clone(), values: vec![0.0; t.values.len()] })
        .collect();
    Checkpoint { tensors }
}

/// Tensors of which pieces are taken from the front.
struct Left<'o> {
    tensors: Vec<&'o mut [f32]>,
}

impl<'o> Left<'o> {
    fn new(checkpoint: &'o mut Checkpoint) -> Self {
        let tensors = checkpoint.tensors.iter_mut().map(|t| t.values.as_mut_slice()).collect();
        Self { tensors }
    }

    fn take(&mut self, piece: Piece) -> &'o mut [f32] {
        let left = &mut self.tensors[piece.tensor];
        let (own, rest) = std::mem::take(left).split_at_mut(piece.len);
        *left = rest;
        own
    }
}
