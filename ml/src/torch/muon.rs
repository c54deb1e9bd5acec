//! Muon: the momentum of a matrix, made nearly orthogonal, is its step (Jordan et al. 2024, as
//! inner optimizer in MuLoCo, arXiv 2505.23725).
//!
//! The step is scaled to the root mean square of AdamW's (Liu et al., arXiv 2502.16982, equation
//! 4), so that one learning rate serves both kinds of parameters.

use tch::{TchError, Tensor};

/// Decay of the momentum.
const MOMENTUM: f64 = 0.95;
/// Newton-Schulz iterations, and the coefficients of the quintic for which five are enough.
const ITERATIONS: usize = 5;
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Keeps the division by the norm of a zero matrix finite.
const EPSILON: f64 = 1e-7;
/// Root mean square of AdamW's steps, as measured by Liu et al.
const STEP_RMS: f64 = 0.2;

/// Takes a gradient into the momentum; gives what to subtract, for a learning rate of 1.
pub fn update(momentum: &mut Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    let _ = momentum.f_mul_scalar_(MOMENTUM)?;
    let _ = momentum.f_add_(gradient)?;
    // Nesterov's look ahead.
    let ahead = momentum.f_mul_scalar(MOMENTUM)?.f_add(gradient)?;
    let (rows, columns) = gradient.size2()?;
    #[expect(clippy::cast_precision_loss, reason = "sizes of matrices are far below 2^53")]
    let larger = rows.max(columns) as f64;
    orthogonal(&ahead)?.f_mul_scalar(STEP_RMS * larger.sqrt())
}

/// The matrix with all singular values near 1 (Newton-Schulz).
fn orthogonal(matrix: &Tensor) -> Result<Tensor, TchError> {
    let (rows, columns) = matrix.size2()?;
    let norm = matrix.f_norm()?.f_double_value(&[])?;
    let tall = rows > columns;
    let start = if tall { matrix.f_tr()? } else { matrix.shallow_clone() };
    let mut x = start.f_div_scalar(norm + EPSILON)?;
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let square = x.f_mm(&x.f_tr()?)?;
        let fourth = square.f_mm(&square)?;
        let mixed = square.f_mul_scalar(b)?.f_add(&fourth.f_mul_scalar(c)?)?;
        x = x.f_mul_scalar(a)?.f_add(&mixed.f_mm(&x)?)?;
    }
    if tall { x.f_tr()?.f_contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_near_one() {
        for shape in [[6, 9], [9, 6], [8, 8]] {
            let values: Vec<f32> = (0..shape[0] * shape[1])
                .map(|i| f32::from(i16::try_from((i * 7_919) % 1_009).expect("small")) - 504.0)
                .collect();
            let matrix = Tensor::f_from_slice(&values).and_then(|t| t.f_view(shape)).expect("fits");
            let values = orthogonal(&matrix).and_then(|x| x.f_svd(true, true).map(|svd| svd.1));
            let values = Vec::<f32>::try_from(values.expect("computed")).expect("values");
            assert!(values.iter().all(|value| (0.6..1.4).contains(value)), "{values:?}");
        }
    }
}
