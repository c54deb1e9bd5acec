//! Which values of a chunk are sent: the largest by magnitude, or some drawn by lot.
//!
//! Ties go to the lower index, so that equal values give equal deltas everywhere. The lot is a
//! ChaCha stream of the delta's seed: everybody can draw it again, so positions are not sent, and
//! they say nothing about private data.

use protocol::ids::derive;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::CHUNK;

/// Positions of the `keep` largest values of a chunk, ascending. `values` are finite.
pub(super) fn largest(values: &[f32], keep: usize) -> Vec<u16> {
    let mut order: Vec<(u16, f32)> =
        (0u16..).zip(values).map(|(index, value)| (index, value.abs())).collect();
    if keep < order.len() {
        // A total order without equals: the selected set does not depend on the algorithm.
        order.select_nth_unstable_by(keep, |(i, x), (j, y)| y.total_cmp(x).then(i.cmp(j)));
        order.truncate(keep);
    }
    order.sort_unstable_by_key(|(index, _)| *index);
    order.into_iter().map(|(index, _)| index).collect()
}

/// Draws positions, chunk after chunk of a delta.
pub(super) struct Lot(ChaCha8Rng);

impl Lot {
    /// The lot of the delta with this seed in this round.
    pub(super) fn new(seed: u64, round: u32) -> Self {
        let parts: [&[u8]; 2] = [&seed.to_le_bytes(), &round.to_le_bytes()];
        Self(ChaCha8Rng::from_seed(derive("ayni 2026 random-k positions v1", &parts)))
    }

    /// `keep` different positions below `len`, ascending; `keep <= len <= CHUNK`. Floyd's
    /// algorithm (Bentley, CACM 30(9), 1987).
    pub(super) fn draw(&mut self, len: usize, keep: usize) -> Vec<u16> {
        let mut taken = [false; CHUNK];
        for last in len - keep..len {
            let drawn = self.below(last + 1);
            let position = if taken[drawn] { last } else { drawn };
            taken[position] = true;
        }
        (0u16..).zip(&taken[..len]).filter(|(_, taken)| **taken).map(|(index, _)| index).collect()
    }

    /// A number below `bound`, each equally likely; `1 <= bound <= CHUNK`.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u32::try_from(bound).expect("at most a chunk");
        // Draws from the incomplete last multiple of `bound` are thrown away.
        let limit = u32::MAX - u32::MAX % bound;
        loop {
            let drawn = self.0.next_u32();
            if drawn < limit {
                return crate::tensors::index(drawn % bound);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_with_ties_to_the_lower_index() {
        let mut values = vec![0.0f32; CHUNK];
        for (i, value) in [(5, -2.0), (9, 1.0), (17, 1.0), (4095, 3.0)] {
            values[i] = value;
        }
        assert_eq!(largest(&values, 3), [5, 9, 4095]);
        assert_eq!(largest(&values[..7], 7), [0, 1, 2, 3, 4, 5, 6]);
        assert!(largest(&[], 0).is_empty());
    }

    #[test]
    fn lots_are_even_and_repeat() {
        let mut hits = [0u32; 40];
        let mut lot = Lot::new(9, 2);
        for _ in 0..2_000 {
            let drawn = lot.draw(40, 10);
            assert_eq!(drawn.len(), 10);
            assert!(drawn.is_sorted_by(|a, b| a < b));
            for position in drawn {
                hits[usize::from(position)] += 1;
            }
        }
        // 500 expected, standard deviation 19.4.
        assert!(hits.iter().all(|hits| (400..600).contains(hits)), "{hits:?}");
        assert_eq!(Lot::new(9, 2).draw(4_096, 64), Lot::new(9, 2).draw(4_096, 64));
        assert_ne!(Lot::new(9, 2).draw(4_096, 64), Lot::new(9, 3).draw(4_096, 64));
        assert_eq!(lot.draw(3, 3), [0, 1, 2]);
    }
}
