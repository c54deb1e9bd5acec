//! The trimmed mean per coordinate (Yin et al. 2018): the f largest and the f smallest values are
//! left out. A delta that does not hold a coordinate counts there as zero.

use crate::arithmetic::count;
use crate::delta::CHUNK;

/// The values of one block, coordinate by coordinate.
pub(super) struct Trimmer {
    vectors: usize,
    trim: usize,
    /// The vectors' values of each coordinate.
    values: Vec<f64>,
    /// How many of them are above and below zero.
    above: Vec<usize>,
    below: Vec<usize>,
}

impl Trimmer {
    /// Room for so many vectors; `2 * trim < vectors`.
    pub(super) fn new(vectors: usize, trim: usize) -> Self {
        assert!(2 * trim < vectors, "something is left");
        let values = vec![0.0; vectors * CHUNK];
        Self { vectors, trim, values, above: vec![0; CHUNK], below: vec![0; CHUNK] }
    }

    /// The value of a vector at a coordinate.
    pub(super) fn put(&mut self, at: usize, vector: usize, value: f64) {
        self.values[at * self.vectors + vector] = value;
        self.above[at] += usize::from(value > 0.0);
        self.below[at] += usize::from(value < 0.0);
    }

    /// Writes `scale` times the trimmed mean of each coordinate and empties the block.
    pub(super) fn take(&mut self, scale: f64, means: &mut [f64]) {
        let rows = self.values.chunks_exact_mut(self.vectors);
        let signs = self.above.iter_mut().zip(&mut self.below);
        for ((mean, row), (above, below)) in means.iter_mut().zip(rows).zip(signs) {
            // With no more values on either side than are left out, only zeros remain.
            *mean = if *above <= self.trim && *below <= self.trim {
                0.0
            } else {
                row.sort_unstable_by(f64::total_cmp);
                let rest = &row[self.trim..self.vectors - self.trim];
                let sum = rest.iter().fold(0.0, |sum, value| sum + value);
                scale * (sum / count(rest.len()))
            };
            if *above + *below > 0 {
                row.fill(0.0);
            }
            (*above, *below) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_both_ends() {
        let mut trimmer = Trimmer::new(5, 1);
        for (vector, value) in [1.0, -100.0, 3.0, 1e9, 2.0].into_iter().enumerate() {
            trimmer.put(1, vector, value);
        }
        trimmer.put(2, 4, 7.0);
        let mut means = [9.0; 3];
        trimmer.take(2.0, &mut means);
        // One vector alone holds the third coordinate: it is the largest and left out.
        assert_eq!(means, [0.0, 4.0, 0.0]);
        trimmer.take(1.0, &mut means);
        assert_eq!(means, [0.0; 3], "the block was emptied");
    }
}
