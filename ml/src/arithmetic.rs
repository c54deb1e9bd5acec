//! Exact float arithmetic: the few conversions that results depend on, and a check that this
//! machine computes with IEEE floats.
//!
//! Rust neither reorders float operations nor contracts them into fused multiply-adds, so equal
//! inputs give equal bits on x86-64 and aarch64, unless a library has switched the processor to
//! flush denormals to zero; [`check_floats`] refuses to start then.

use std::hint::black_box;

/// Rounds to the nearest `f32`, ties to even: the one narrowing conversion of exact code.
pub fn narrow(value: f64) -> f32 {
    value as f32
}

/// A ratio in parts per million as a number.
pub fn ratio(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

/// Mean loss in nats to whole nano-nats; `None` unless it is finite and not negative.
pub fn nanonats(loss: f64) -> Option<u64> {
    let scaled = (loss * 1e9).round();
    // Below 2^63 every whole f64 is a u64 exactly.
    let fits = scaled.is_finite() && (0.0..9.2e18).contains(&scaled);
    fits.then_some(scaled as u64)
}

/// A number in parts per million, rounded up; the largest there is for what does not fit or is
/// not a number.
pub fn to_ppm_up(value: f64) -> u64 {
    let scaled = (value * 1e6).ceil();
    // Below 2^63 every whole f64 is a u64 exactly.
    let fits = scaled.is_finite() && (0.0..9.2e18).contains(&scaled);
    if fits { scaled as u64 } else { u64::MAX }
}

/// A count as a number. Exact below 2^53, which no count in memory reaches.
pub fn count(value: usize) -> f64 {
    value as f64
}

/// The nearest finite bfloat16 number, ties to even, as its bits: the upper half of an `f32`.
pub fn to_bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    let half = 0x7fff + (bits >> 16 & 1);
    let [_, _, low, high] = bits.saturating_add(half).to_le_bytes();
    let rounded = u16::from_le_bytes([low, high]);
    // The largest numbers would be rounded to infinity, of either sign.
    if value.is_finite() && rounded & 0x7fff == 0x7f80 { rounded - 1 } else { rounded }
}

/// A bfloat16 number as an `f32`, exactly.
pub fn from_bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Whether this processor, as set up now, keeps denormals and rounds to nearest even.
pub fn check_floats() -> Result<(), FloatError> {
    let tiny = black_box(f32::MIN_POSITIVE);
    let half = tiny * black_box(0.5);
    let back = half * black_box(2.0);
    if half.to_bits() != 0x0040_0000 || back.to_bits() != tiny.to_bits() {
        return Err(FloatError("denormal numbers are flushed to zero"));
    }
    let wide = black_box(f64::MIN_POSITIVE) * black_box(0.25);
    if wide.to_bits() != 0x0004_0000_0000_0000 {
        return Err(FloatError("denormal numbers are flushed to zero"));
    }
    // 1 + 2^-24 is a tie and goes to even; the product needs a rounding of its own before the
    // sum, which a fused multiply-add would skip.
    let tie = black_box(1.0f32) + black_box(5.960_464_5e-8f32);
    let x = black_box(1.0f32 + f32::EPSILON);
    let separate = x * x - black_box(1.0f32 + 2.0 * f32::EPSILON);
    if tie.to_bits() != 1.0f32.to_bits() || separate.to_bits() != 0 {
        return Err(FloatError("operations are not rounded one by one to nearest even"));
    }
    Ok(())
}

/// The processor computes otherwise than every other node.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("this machine's floating point is unusable: {0}")]
pub struct FloatError(&'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_usable() {
        assert_eq!(check_floats(), Ok(()));
    }

    #[test]
    fn nanonats_are_whole_and_never_wrap() {
        assert_eq!(nanonats(2.5), Some(2_500_000_000));
        for bad in [f64::NAN, f64::INFINITY, -0.1, 1e12] {
            assert_eq!(nanonats(bad), None);
        }
    }

    #[test]
    fn bfloat16_rounds_to_nearest_even() {
        let round = |value: f32| from_bfloat16(to_bfloat16(value));
        // Eight significant bits: the step above 1 is 2^-7.
        for (value, expect) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (-1.0 - 1.1 / 256.0, -1.0 - 2.0 / 256.0),
            (1e-40, 9.183_55e-41),
        ] {
            assert_eq!(round(value).to_bits(), f32::to_bits(expect), "{value}");
        }
        assert!(round(f32::MAX).is_finite() && round(-f32::MAX).is_finite());
        assert_eq!(round(-f32::MAX), -round(f32::MAX));
        assert_eq!(to_bfloat16(-0.0), 0x8000);
    }
}
