//! Credits as people write them: decimal, at most six decimals, exact. No floats.

use protocol::amount::{Credits, PPM};
use thiserror::Error;

/// Why an amount was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    /// Not digits with at most one point.
    #[error("{0:?} is not an amount of credits; write for example 12 or 0.25")]
    Malformed(String),
    /// A seventh decimal.
    #[error("{0:?} has more than six decimals; the smallest amount is 0.000001 credits")]
    TooFine(String),
    /// Above the largest amount.
    #[error("{0:?} is more than the largest amount, 18446744073709.551615 credits")]
    TooLarge(String),
    /// Not a share.
    #[error("{0:?} is not per cent; write 0 to 100 with at most four decimals, for example 7.5")]
    Percent(String),
}

/// Parses `12`, `0.25`, `12.000001`. No sign, exponent, separator or bare point.
pub fn parse_credits(text: &str) -> Result<Credits, AmountError> {
    let shown = || text.chars().take(40).collect::<String>();
    let (whole, decimals) = match text.split_once('.') {
        Some((_, "")) => return Err(AmountError::Malformed(shown())),
        Some(parts) => parts,
        None => (text, ""),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) {
        return Err(AmountError::Malformed(shown()));
    }
    if decimals.len() > 6 {
        return Err(AmountError::TooFine(shown()));
    }
    let too_large = || AmountError::TooLarge(shown());
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let micro: u64 = format!("{decimals:0<6}").parse().map_err(|_| too_large())?;
    let total = whole.checked_mul(PPM).and_then(|sum| sum.checked_add(micro));
    total.map(Credits::from_micro).ok_or_else(too_large)
}

/// Parses a share in per cent: `7.5` is 75,000 ppm. At most four decimals and 100 per cent.
pub fn parse_percent(text: &str) -> Result<u32, AmountError> {
    let shown = || text.chars().take(40).collect::<String>();
    let malformed = |error| match error {
        AmountError::Malformed(_) => AmountError::Percent(shown()),
        other => other,
    };
    // As an amount it is in millionths of a per cent: a hundred times finer than ppm.
    let millionths = parse_credits(text).map_err(malformed)?.micro();
    let whole = millionths.is_multiple_of(100) && millionths <= 100 * PPM;
    let ppm = whole.then(|| u32::try_from(millionths / 100).ok()).flatten();
    ppm.ok_or_else(|| AmountError::Percent(shown()))
}

/// The shortest text that [`parse_credits`] reads as this amount.
pub fn format_credits(amount: Credits) -> String {
    let text = amount.to_string();
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let check = |text: &str, micro: u64| {
            assert_eq!(parse_credits(text), Ok(Credits::from_micro(micro)), "{text}");
        };
        check("0", 0);
        check("12", 12_000_000);
        check("0.25", 250_000);
        check("1.000001", 1_000_001);
        check("007.10", 7_100_000);
        check("18446744073709.551615", u64::MAX);
    }

    #[test]
    fn refusals() {
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1 ", "1.2.3", "0x1", "½"] {
            let error = parse_credits(bad).expect_err(bad);
            assert!(matches!(error, AmountError::Malformed(_)), "{bad}: {error}");
        }
        assert!(matches!(parse_credits("0.1234567"), Err(AmountError::TooFine(_))));
        for large in ["18446744073709.551616", "18446744073710", "99999999999999999999999"] {
            assert!(matches!(parse_credits(large), Err(AmountError::TooLarge(_))), "{large}");
        }
    }

    #[test]
    fn percent() {
        let check = |text: &str, ppm: u32| assert_eq!(parse_percent(text), Ok(ppm), "{text}");
        check("0", 0);
        check("7.5", 75_000);
        check("0.0001", 1);
        check("100", 1_000_000);
        for bad in ["", "%", "5%", "-1", "100.0001", "0.00001", "101"] {
            assert_eq!(parse_percent(bad), Err(AmountError::Percent(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn the_text_reads_back() {
        for micro in [0, 1, 10, 100_000, 1_000_000, 1_500_000, 20_000_000, u64::MAX] {
            let amount = Credits::from_micro(micro);
            assert_eq!(parse_credits(&format_credits(amount)), Ok(amount));
        }
        assert_eq!(format_credits(Credits::from_micro(20_000_000)), "20");
        assert_eq!(format_credits(Credits::from_micro(1_500_000)), "1.5");
    }
}
