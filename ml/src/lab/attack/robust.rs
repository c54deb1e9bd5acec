//! One aggregate of what the workers send.

use tch::{Kind, TchError, Tensor};

use super::{HOSTILE, Rule};
use crate::arithmetic::narrow;
use crate::merge::rules::{self, Gram};
use crate::tensors::index;

/// Radius of centred clipping and its iterations, as published.
const RADIUS: f64 = 10.0;
const CLIP_ITERATIONS: u32 = 3;
/// Iterations and smoothing of the geometric median, as published.
const MEDIAN_ITERATIONS: u32 = 8;
const SMOOTHING: f64 = 0.1;

/// Aggregates the rows of `sent`. `last` is the previous aggregate.
pub(super) fn aggregate(
    rule: Rule,
    sent: &Tensor,
    last: &Tensor,
    bucket: usize,
    seed: [u8; 32],
) -> Result<Tensor, TchError> {
    if rule == Rule::Mean {
        return sent.f_mean_dim([0i64].as_slice(), false, Kind::Float);
    }
    let means = bucket_means(sent, bucket, seed)?;
    let coefficients = match rule {
        Rule::Median => {
            return Ok(means.f_transpose(0, 1)?.f_contiguous()?.f_median_dim(1, false)?.0);
        }
        Rule::Cclip => {
            let vectors = Tensor::f_cat(&[&means, &last.f_unsqueeze(0)?], 0)?;
            let coefficients = rules::centred_clip(&gram(&vectors)?, CLIP_ITERATIONS, RADIUS);
            return combine(&vectors, &coefficients);
        }
        Rule::Krum => rules::multi_krum(&gram(&means)?, HOSTILE, 1),
        Rule::Rfa => rules::geometric_median(&gram(&means)?, MEDIAN_ITERATIONS, SMOOTHING),
        Rule::Mean => unreachable!("done above"),
    };
    combine(&means, &coefficients)
}

/// Means of the rows of each bucket.
fn bucket_means(sent: &Tensor, size: usize, seed: [u8; 32]) -> Result<Tensor, TchError> {
    let workers = rows(sent);
    let buckets = rules::buckets(workers, size, seed);
    let mut matrix = vec![0.0f32; buckets.len() * workers];
    for (row, bucket) in matrix.chunks_mut(workers).zip(&buckets) {
        for member in bucket {
            row[*member] = narrow(1.0 / crate::arithmetic::count(bucket.len()));
        }
    }
    let shape = [buckets.len(), workers].map(|len| i64::try_from(len).expect("few workers"));
    Tensor::f_from_slice(&matrix)?.f_view(shape)?.f_matmul(sent)
}

/// Columns that are widened at once, so that they stay in the processor's cache.
const COLUMNS: i64 = 16_384;

/// Inner products, in f64: distances are differences of them.
fn gram(vectors: &Tensor) -> Result<Gram, TchError> {
    let n = rows(vectors);
    let size = i64::try_from(n).expect("few workers");
    let products = Tensor::f_zeros([size, size], (Kind::Double, vectors.device()))?;
    let (_, columns) = vectors.size2()?;
    let mut from = 0;
    while from < columns {
        let width = COLUMNS.min(columns - from);
        let wide = vectors.f_narrow(1, from, width)?.f_to_kind(Kind::Double)?;
        let mut sum = products.shallow_clone();
        let _ = sum.f_add_(&wide.f_matmul(&wide.f_transpose(0, 1)?)?)?;
        from += width;
    }
    let mut square = vec![0.0f64; n * n];
    products.f_contiguous()?.f_flatten(0, -1)?.f_copy_data(&mut square, n * n)?;
    let triangle: Vec<f64> =
        (0..n).flat_map(|i| square[i * n..i * n + i + 1].iter().copied()).collect();
    Ok(Gram::from_triangle(n, &triangle))
}

fn combine(vectors: &Tensor, coefficients: &[f64]) -> Result<Tensor, TchError> {
    let coefficients: Vec<f32> = coefficients.iter().map(|c| narrow(*c)).collect();
    Tensor::f_from_slice(&coefficients)?.f_matmul(vectors)
}

fn rows(vectors: &Tensor) -> usize {
    vectors.size().first().map_or(0, |rows| index(u32::try_from(*rows).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn robust_rules_ignore_five_far_vectors_of_twenty_five() {
        // Honest ones around 1, hostile ones at -100: the mean is at -19.2.
        let mut values: Vec<f32> = (0..40u8).map(|i| 1.0 + 0.01 * f32::from(i % 7)).collect();
        values.extend([-100.0f32; 10]);
        let sent = Tensor::from_slice(&values).view([25, 2]);
        let last = Tensor::from_slice(&[1.0f32, 1.0]);
        let result = |rule, bucket| {
            let aggregate = aggregate(rule, &sent, &last, bucket, [5; 32]).expect("computes");
            aggregate.double_value(&[0])
        };
        assert!((result(Rule::Mean, 1) + 19.2).abs() < 0.1);
        for rule in [Rule::Krum, Rule::Median, Rule::Rfa] {
            assert!((result(rule, 1) - 1.0).abs() < 1.0, "{rule:?}: {}", result(rule, 1));
        }
        // Each of three iterations moves by a fifth of the radius over the square root of two.
        let clipped = result(Rule::Cclip, 1);
        assert!((-5.0..0.5).contains(&clipped), "{clipped}");
    }
}
