//! Passes over the blocks of all tensors, on several threads, with the same bytes on any number.
//!
//! A value of the result depends on its own block alone, and sums over blocks are taken in pieces
//! of fixed size, in order. So threads only decide who computes a piece, never what is added when.

use std::thread;

use crate::delta::CHUNK;

/// Blocks of a tensor that are worked on in one go: a million values.
const PIECE_BLOCKS: usize = 256;

/// Consecutive blocks of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The tensor.
    pub(super) tensor: usize,
    /// The first block.
    pub(super) block: usize,
    /// The first value.
    pub(super) start: usize,
    /// Values in it.
    pub(super) len: usize,
}

/// All tensors in pieces, in order.
pub(super) fn pieces(lengths: impl Iterator<Item = usize>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (tensor, len) in lengths.enumerate() {
        for start in (0..len).step_by(PIECE_BLOCKS * CHUNK) {
            let piece_len = (len - start).min(PIECE_BLOCKS * CHUNK);
            pieces.push(Piece { tensor, block: start / CHUNK, start, len: piece_len });
        }
    }
    pieces
}

/// Runs `work` on every item and returns the results in the items' order. Each thread takes a run
/// of neighbours of nearly equal `size` in all.
pub(crate) fn spread<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    size: impl Fn(&T) -> usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.clamp(1, items.len().max(1));
    if threads == 1 {
        return items.into_iter().map(work).collect();
    }
    let total: usize = items.iter().map(&size).sum();
    let mut shares: Vec<Vec<T>> = (0..threads).map(|_| Vec::new()).collect();
    let mut before = 0;
    for item in items {
        let middle = before + size(&item) / 2;
        before += size(&item);
        let share = (middle * threads).checked_div(total).unwrap_or(0).min(threads - 1);
        shares[share].push(item);
    }
    let run = |share: Vec<T>| share.into_iter().map(&work).collect::<Vec<R>>();
    let last = shares.pop().unwrap_or_default();
    thread::scope(|scope| {
        let run = &run;
        let others: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || run(share))).collect();
        let last = run(last);
        let mut results = Vec::new();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results.extend(last);
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        let lengths = [10, CHUNK * PIECE_BLOCKS * 2 + 1, 4_096];
        let pieces = pieces(lengths.into_iter());
        let lens: Vec<usize> = pieces.iter().map(|piece| piece.len).collect();
        assert_eq!(lens, [10, CHUNK * PIECE_BLOCKS, CHUNK * PIECE_BLOCKS, 1, 4_096]);
        assert_eq!(pieces[3], Piece { tensor: 1, block: 512, start: 512 * CHUNK, len: 1 });
    }

    #[test]
    fn results_keep_their_order() {
        for threads in [1, 2, 3, 7, 100] {
            let results = spread((0..50usize).collect(), threads, |i| *i, |i| i * i);
            assert_eq!(results, (0..50).map(|i| i * i).collect::<Vec<_>>());
            assert!(spread(Vec::<u8>::new(), threads, |_| 1, |i| i).is_empty());
        }
    }
}
