//! Which values of a tensor are sent: the largest of each chunk by magnitude, ties to the lower
//! index, so that equal values give equal deltas everywhere.

use super::{CHUNK, kept_of_chunk};

/// Flat indices of the kept values, ascending. `values` are finite.
pub(super) fn largest(values: &[f32], keep_per_chunk: u32) -> Vec<u32> {
    let mut positions = Vec::new();
    for (chunk, start) in values.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
        let keep = kept_of_chunk(chunk.len(), keep_per_chunk);
        let mut order: Vec<(u32, f32)> =
            (start..).zip(chunk).map(|(index, value)| (index, value.abs())).collect();
        if keep < order.len() {
            // A total order without equals: the selected set does not depend on the algorithm.
            order.select_nth_unstable_by(keep, |(i, x), (j, y)| y.total_cmp(x).then(i.cmp(j)));
            order.truncate(keep);
        }
        order.sort_unstable_by_key(|(index, _)| *index);
        positions.extend(order.into_iter().map(|(index, _)| index));
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_with_ties_to_the_lower_index() {
        let mut values = vec![0.0f32; CHUNK + 10];
        for (i, value) in [(5, -2.0), (9, 1.0), (17, 1.0), (4095, 3.0), (4097, 0.5)] {
            values[i] = value;
        }
        // Three of the whole chunk; ceil(3 * 10 / 4096) = 1 of the last one.
        assert_eq!(largest(&values, 3), [5, 9, 4095, 4097]);
        assert_eq!(largest(&values[..7], 4096), [0, 1, 2, 3, 4, 5, 6]);
        assert!(largest(&[], 3).is_empty());
    }
}
