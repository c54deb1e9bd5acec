//! Robust rules as coefficients.
//!
//! Krum, the geometric median and centred clipping all end at a linear combination of what was
//! submitted, and everything they compare is a distance between such combinations. So they need
//! the inner products of the submissions ([`Gram`]) and nothing else of them: the iterations run
//! on a handful of numbers, and the submissions are read twice however many iterations there are.
//! Sums run in index order; ties go to the lower index.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::arithmetic::count;

/// Inner products of vectors, all with all.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    vectors: usize,
    products: Vec<f64>,
}

impl Gram {
    /// From the products of each vector i with the vectors j <= i, row after row.
    pub fn from_triangle(vectors: usize, triangle: &[f64]) -> Self {
        assert_eq!(triangle.len(), vectors * (vectors + 1) / 2, "a whole triangle");
        let mut products = vec![0.0; vectors * vectors];
        let mut next = triangle.iter();
        for i in 0..vectors {
            for (j, product) in (0..=i).zip(&mut next) {
                products[i * vectors + j] = *product;
                products[j * vectors + i] = *product;
            }
        }
        Self { vectors, products }
    }

    fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.vectors + j]
    }

    /// Squared norm of a vector.
    pub fn square(&self, i: usize) -> f64 {
        self.product(i, i)
    }

    /// Squared norm of a combination; rounding must not make it negative.
    fn combination_square(&self, coefficients: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (i, a) in coefficients.iter().enumerate() {
            let row = coefficients.iter().enumerate();
            let inner = row.fold(0.0, |sum, (j, b)| sum + b * self.product(i, j));
            sum += a * inner;
        }
        sum.max(0.0)
    }

    /// Distance of vector `i` from a combination.
    fn distance(&self, i: usize, centre: &[f64]) -> f64 {
        let mut difference = centre.to_vec();
        difference[i] -= 1.0;
        self.combination_square(&difference).sqrt()
    }

    /// Products of combinations of the vectors.
    fn combine(&self, combinations: &[Vec<f64>]) -> Self {
        let mut triangle = Vec::with_capacity(combinations.len() * (combinations.len() + 1) / 2);
        for (i, a) in combinations.iter().enumerate() {
            for b in &combinations[..=i] {
                let mut sum = 0.0;
                for (k, x) in a.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                    let row = b.iter().enumerate().filter(|(_, y)| **y != 0.0);
                    sum += x * row.fold(0.0, |sum, (l, y)| sum + y * self.product(k, l));
                }
                triangle.push(sum);
            }
        }
        Self::from_triangle(combinations.len(), &triangle)
    }
}

/// Coefficients of multi-Krum (Blanchard et al. 2017): the mean of the `keep` vectors whose n-f-2
/// nearest others are nearest. `keep` is cut to n - f.
pub fn multi_krum(gram: &Gram, faulty: usize, keep: usize) -> Vec<f64> {
    let n = gram.vectors;
    let neighbours = n.saturating_sub(faulty + 2).max(1);
    let mut scores: Vec<(f64, usize)> = (0..n)
        .map(|i| {
            let mut squares: Vec<f64> = (0..n)
                .filter(|j| *j != i)
                .map(|j| {
                    let both = gram.square(i) + gram.square(j);
                    (both - 2.0 * gram.product(i, j)).max(0.0)
                })
                .collect();
            squares.sort_unstable_by(f64::total_cmp);
            (squares.iter().take(neighbours).fold(0.0, |sum, square| sum + square), i)
        })
        .collect();
    scores.sort_unstable_by(|(a, i), (b, j)| a.total_cmp(b).then(i.cmp(j)));
    let keep = keep.clamp(1, n.saturating_sub(faulty).max(1));
    let mut coefficients = vec![0.0; n];
    for (_, i) in scores.iter().take(keep) {
        coefficients[*i] = 1.0 / count(keep);
    }
    coefficients
}

/// Coefficients of the smoothed geometric median (RFA, Pillutla et al., arXiv 1912.13445,
/// Algorithm 2): Weiszfeld's iteration from the mean, where no distance counts as smaller than
/// `smoothing`, which is above zero.
pub fn geometric_median(gram: &Gram, iterations: u32, smoothing: f64) -> Vec<f64> {
    let n = gram.vectors;
    let mut centre = vec![1.0 / count(n.max(1)); n];
    for _ in 0..iterations {
        let weights: Vec<f64> =
            (0..n).map(|i| smoothing / gram.distance(i, &centre).max(smoothing)).collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        centre = weights.iter().map(|weight| weight / sum).collect();
    }
    centre
}

/// Coefficients of centred clipping (Karimireddy et al., arXiv 2012.10333, equation 3):
/// v <- v + (1/n) Σ (x_i - v) min(1, τ/|x_i - v|). The last vector of the Gram matrix is where v
/// starts; the others are x.
pub fn centred_clip(gram: &Gram, iterations: u32, radius: f64) -> Vec<f64> {
    let n = gram.vectors - 1;
    let mut centre = vec![0.0; n + 1];
    centre[n] = 1.0;
    for _ in 0..iterations {
        let steps: Vec<f64> = (0..n)
            .map(|i| {
                let distance = gram.distance(i, &centre);
                (if distance > radius { radius / distance } else { 1.0 }) / count(n.max(1))
            })
            .collect();
        let moved = steps.iter().fold(0.0, |sum, step| sum + step);
        for coefficient in &mut centre {
            *coefficient *= 1.0 - moved;
        }
        for (coefficient, step) in centre.iter_mut().zip(steps) {
            *coefficient += step;
        }
    }
    centre
}

/// Vectors in buckets of `size` (the last may hold fewer), in an order drawn from the seed
/// (Karimireddy et al., arXiv 2006.09365, Algorithm 1).
pub fn buckets(vectors: usize, size: usize, seed: [u8; 32]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..vectors).collect();
    if size > 1 {
        let mut stream = ChaCha8Rng::from_seed(seed);
        for last in (1..vectors).rev() {
            // A draw of 64 bits: the bias of the remainder is below 2^-57.
            let bound = u64::try_from(last + 1).expect("few deltas");
            let drawn = usize::try_from(stream.next_u64() % bound).expect("few deltas");
            order.swap(drawn, last);
        }
    }
    order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

/// Applies a rule to the means of buckets: `rule` sees their Gram matrix (and after them the
/// vectors from `bucketed` on, such as a centre) and gives a coefficient for each; the result has
/// one for each vector.
pub fn on_buckets(
    gram: &Gram,
    buckets: &[Vec<usize>],
    rule: impl FnOnce(&Gram) -> Vec<f64>,
) -> Vec<f64> {
    let bucketed: usize = buckets.iter().map(Vec::len).sum();
    let mut combinations = Vec::with_capacity(buckets.len() + gram.vectors - bucketed);
    for bucket in buckets {
        let mut combination = vec![0.0; gram.vectors];
        for member in bucket {
            combination[*member] = 1.0 / count(bucket.len());
        }
        combinations.push(combination);
    }
    for alone in bucketed..gram.vectors {
        let mut combination = vec![0.0; gram.vectors];
        combination[alone] = 1.0;
        combinations.push(combination);
    }
    let outer = rule(&gram.combine(&combinations));
    let mut coefficients = vec![0.0; gram.vectors];
    for (weight, combination) in outer.iter().zip(&combinations) {
        for (coefficient, part) in coefficients.iter_mut().zip(combination) {
            *coefficient += weight * part;
        }
    }
    coefficients
}

/// The lower median of the norms of the first `vectors` vectors.
pub fn median_norm(gram: &Gram, vectors: usize) -> f64 {
    let mut norms: Vec<f64> = (0..vectors).map(|i| gram.square(i).max(0.0).sqrt()).collect();
    norms.sort_unstable_by(f64::total_cmp);
    norms.get(vectors.saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a plane.
    fn gram(points: &[[f64; 2]]) -> Gram {
        let mut triangle = Vec::new();
        for (i, a) in points.iter().enumerate() {
            for b in &points[..=i] {
                triangle.push(a[0] * b[0] + a[1] * b[1]);
            }
        }
        Gram::from_triangle(points.len(), &triangle)
    }

    fn at(points: &[[f64; 2]], coefficients: &[f64]) -> [f64; 2] {
        let mut sum = [0.0; 2];
        for (point, c) in points.iter().zip(coefficients) {
            sum[0] += c * point[0];
            sum[1] += c * point[1];
        }
        sum
    }

    #[test]
    fn krum_takes_the_densest() {
        let points = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.2], [90.0, 90.0], [91.0, 90.0]];
        assert_eq!(multi_krum(&gram(&points), 1, 1), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let two = multi_krum(&gram(&points), 1, 2);
        assert_eq!(two, [0.5, 0.0, 0.0, 0.5, 0.0, 0.0]);
        // Never more than n - f.
        assert_eq!(multi_krum(&gram(&points), 2, 9).iter().filter(|c| **c > 0.0).count(), 4);
    }

    #[test]
    fn the_geometric_median_of_a_square_and_a_far_point() {
        // With four corners and one point on the diagonal's end the median stays in the square;
        // the mean leaves it.
        let points = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e6, 1e6]];
        let [x, y] = at(&points, &geometric_median(&gram(&points), 100, 1e-6));
        assert!(x < 1.001 && (x - y).abs() < 1e-6, "{x} {y}");
        // Of three points on a line it is the one between: Weiszfeld converges there.
        let line = [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]];
        let [x, _] = at(&line, &geometric_median(&gram(&line), 100, 1e-6));
        assert!((x - 1.0).abs() < 1e-3, "{x}");
    }

    #[test]
    fn centred_clipping_moves_by_the_radius_at_most() {
        // One step from (0, 0) with radius 1: (1, 0)/2 + (0, 1)/2.
        let points = [[0.5, 0.0], [0.0, 30.0], [0.0, 0.0]];
        let [x, y] = at(&points, &centred_clip(&gram(&points), 1, 1.0));
        assert!((x - 0.25).abs() < 1e-12 && (y - 0.5).abs() < 1e-12, "{x} {y}");
        // A second one from there: distances 0.559 (kept) and 29.5 (clipped to 1).
        let [x, y] = at(&points, &centred_clip(&gram(&points), 2, 1.0));
        let far = (0.25f64 * 0.25 + 29.5 * 29.5).sqrt();
        assert!((x - (0.25 + 0.125 - 0.125 / far)).abs() < 1e-9, "{x}");
        assert!((y - (0.5 - 0.25 + 0.5 * 29.5 / far)).abs() < 1e-9, "{y}");
    }

    #[test]
    fn buckets_hold_everyone_once() {
        let buckets_of = buckets(25, 2, [3; 32]);
        assert_eq!(buckets_of.len(), 13);
        let mut all: Vec<usize> = buckets_of.concat();
        assert_ne!(all, (0..25).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..25).collect::<Vec<_>>());
        assert_ne!(buckets_of, buckets(25, 2, [4; 32]));
        assert_eq!(buckets(3, 1, [3; 32]), [[0], [1], [2]]);
    }

    #[test]
    fn rules_see_the_means_of_buckets() {
        let points = [[2.0, 0.0], [0.0, 2.0], [4.0, 4.0], [9.0, 9.0]];
        let seen = on_buckets(&gram(&points), &[vec![0, 1], vec![2]], |gram| {
            assert_eq!((gram.square(0), gram.square(1), gram.square(2)), (2.0, 32.0, 162.0));
            vec![1.0, 0.5, 0.25]
        });
        assert_eq!(seen, [0.5, 0.5, 0.5, 0.25]);
    }
}
