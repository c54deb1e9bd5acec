//! Inner products of deltas as they are merged, block by block.

use super::blocks::{Piece, pieces, spread};
use super::combine::Source;
use super::rules::Gram;
use crate::arithmetic::count;
use crate::checkpoint::Checkpoint;
use crate::delta::CHUNK;

/// The Gram matrix of the sources. With `centre`, the last aggregate (none is zero) follows as
/// one more vector, and all sources are first multiplied with the given number.
pub(super) fn gram(
    head: &Checkpoint,
    sources: &[Source<'_>],
    centre: Option<(Option<&Checkpoint>, usize)>,
    threads: usize,
) -> Gram {
    let scale = centre.map_or(1.0, |(_, scale)| count(scale));
    let vectors = sources.len() + usize::from(centre.is_some());
    let pieces = pieces(head.tensors.iter().map(|tensor| tensor.values.len()));
    let partial = spread(
        pieces,
        threads,
        |piece| piece.len,
        |piece| triangle(piece, sources, centre.map(|(centre, _)| centre), scale),
    );
    let mut sum = vec![0.0; vectors * (vectors + 1) / 2];
    for triangle in partial {
        for (sum, product) in sum.iter_mut().zip(triangle) {
            *sum += product;
        }
    }
    Gram::from_triangle(vectors, &sum)
}

/// Products of each vector with those up to itself, over one piece.
fn triangle(
    piece: Piece,
    sources: &[Source<'_>],
    centre: Option<Option<&Checkpoint>>,
    scale: f64,
) -> Vec<f64> {
    let vectors = sources.len() + usize::from(centre.is_some());
    let mut sums = vec![0.0; vectors * (vectors + 1) / 2];
    let mut dense = vec![0.0f64; CHUNK];
    let centre = centre.flatten().map(|centre| &centre.tensors[piece.tensor].values);
    for offset in (0..piece.len).step_by(CHUNK) {
        let block = piece.block + offset / CHUNK;
        let mut next = sums.iter_mut();
        for (i, source) in sources.iter().enumerate() {
            let factor = source.factors[piece.tensor] * scale;
            let tensor = &source.delta.tensors[piece.tensor];
            tensor.visit(block, |at, value| dense[at] = factor * f64::from(value));
            for (other, sum) in sources[..=i].iter().zip(&mut next) {
                let factor = other.factors[piece.tensor] * scale;
                let mut product = 0.0;
                other.delta.tensors[piece.tensor].visit(block, |at, value| {
                    product += dense[at] * (factor * f64::from(value));
                });
                *sum += product;
            }
            tensor.visit(block, |at, _| dense[at] = 0.0);
        }
        let Some(centre) = centre else { continue };
        let start = piece.start + offset;
        let centre = &centre[start..start + CHUNK.min(piece.len - offset)];
        for (source, sum) in sources.iter().zip(&mut next) {
            let factor = source.factors[piece.tensor] * scale;
            let mut product = 0.0;
            source.delta.tensors[piece.tensor].visit(block, |at, value| {
                product += f64::from(centre[at]) * (factor * f64::from(value));
            });
            *sum += product;
        }
        for sum in next {
            *sum += centre.iter().fold(0.0, |sum, x| sum + f64::from(*x) * f64::from(*x));
        }
    }
    sums
}
