//! Exact products and quotients that do not fit 128 bits in between.

/// `a * b / c` and its remainder. None when `c` is zero or above 2^127, or the quotient too large.
pub(super) fn mul_div(a: u128, b: u64, c: u128) -> Option<(u128, u128)> {
    if c == 0 || c > 1 << 127 {
        return None;
    }
    // Schoolbook, in limbs of 64 bits: (2^64-1)^2 + 2^64-1 still fits 128 bits.
    let b = u128::from(b);
    let low = (a & u128::from(u64::MAX)).checked_mul(b)?;
    let high = (a >> 64).checked_mul(b)?.checked_add(low >> 64)?;
    let upper = high.checked_div(c)?.checked_mul(1 << 64)?;
    let mut rest = high.checked_rem(c)?;
    let mut lower = 0_u128;
    for bit in (0..64_u32).rev() {
        // Below 2^128, because the rest is below c.
        rest = rest.checked_mul(2)? | (low.checked_shr(bit)? & 1);
        lower = lower.checked_mul(2)?;
        if let Some(less) = rest.checked_sub(c) {
            rest = less;
            lower |= 1;
        }
    }
    Some((upper.checked_add(lower)?, rest))
}

/// `a * b / c` rounded down, in micro-credits.
pub(super) fn share(a: u128, b: u64, c: u128) -> Option<u64> {
    mul_div(a, b, c).and_then(|(quotient, _)| u64::try_from(quotient).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges() {
        assert_eq!(mul_div(1, 1, 0), None);
        assert_eq!(mul_div(u128::MAX, u64::MAX, 1), None);
        assert_eq!(mul_div(u128::MAX, u64::MAX, u128::MAX), None);
        assert_eq!(mul_div(7, 3, 2), Some((10, 1)));
        assert_eq!(mul_div(1 << 127, 1 << 63, 1 << 127), Some((1 << 63, 0)));
        assert_eq!(share(u128::from(u64::MAX) + 1, 1, 1), None);
    }

    proptest! {
        #[test]
        fn small_products_agree_with_plain_arithmetic(a: u64, b: u64, c in 1..u128::MAX >> 1) {
            let product = u128::from(a) * u128::from(b);
            prop_assert_eq!(mul_div(a.into(), b, c), Some((product / c, product % c)));
        }

        #[test]
        fn multiplying_back_gives_the_product(a in 0..u128::MAX >> 2, b in 1..u64::MAX) {
            // a * b / b is a; with a larger divisor the remainder completes the product.
            prop_assert_eq!(mul_div(a, b, b.into()), Some((a, 0)));
            let c = a / 3 + 1;
            let (quotient, rest) = mul_div(a, b, c).expect("the quotient is near 3b");
            prop_assert!(rest < c);
            let same = quotient.wrapping_mul(c).wrapping_add(rest);
            prop_assert_eq!(same, a.wrapping_mul(b.into()));
        }
    }
}
