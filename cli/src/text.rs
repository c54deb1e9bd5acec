//! Numbers as people read them. Integers only.

use protocol::amount::TimestampMs;
use protocol::model::Architecture;
use protocol::review::{Gain, Verdict};

/// `1536` is `1.5 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if count >= size {
            return format!("{}.{} {unit}", count / size, count % size * 10 / size);
        }
    }
    format!("{count} B")
}

/// `1 block`, `2 blocks`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// `666667` ppm is `66.7 %`.
pub(crate) fn percent(ppm: u64) -> String {
    let tenths = ppm.saturating_add(500) / 1_000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A signed ratio in ppm: `-1200` is `-0.12 %`.
pub(crate) fn signed_percent(ppm: i64) -> String {
    let sign = if ppm < 0 { "-" } else { "+" };
    let hundredths = ppm.unsigned_abs().saturating_add(50) / 100;
    format!("{sign}{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// Nano-nats per byte as nats: `2903000000` is `2.903`.
pub(crate) fn nats(nanonats: u64) -> String {
    let thousandths = nanonats.saturating_add(500_000) / 1_000_000;
    format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
}

/// Nano-nats per byte as bits per byte: divided by ln 2 = 0.693147181.
pub(crate) fn bits(nanonats: u64) -> String {
    const NANO_LN_2: u128 = 693_147_181;
    let milli = (u128::from(nanonats) * 1_000 + NANO_LN_2 / 2) / NANO_LN_2;
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

/// Thousandths: `3425` is `3.425`.
pub(crate) fn thousandths(count: u64) -> String {
    format!("{}.{:03}", count / 1_000, count % 1_000)
}

/// `3725000` ms is `1 h 2 min`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}.{} s", ms % 1_000 / 100),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

/// Milliseconds since the Unix epoch as UTC: `2026-11-22 02:44:58`. The civil calendar after
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
pub(crate) fn time(at: TimestampMs) -> String {
    let seconds = at.get() / 1_000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on, so that the leap day is the last one.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// What a reviewer or a panel says.
pub(crate) const fn verdict(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "open",
        Some(Verdict::Accept) => "accept",
        Some(Verdict::Decline) => "decline",
        Some(Verdict::Fault) => "fault",
        Some(Verdict::Unavailable) => "unavailable",
    }
}

/// A measured gain with its error.
pub(crate) fn gain(gain: Option<Gain>) -> String {
    gain.map_or_else(String::new, |gain| {
        let error = signed_percent(i64::try_from(gain.error_ppm).unwrap_or(i64::MAX));
        format!("{} ± {}", signed_percent(gain.mean_ppm), error.trim_start_matches('+'))
    })
}

/// The shape of a model.
pub(crate) fn architecture(architecture: &Architecture) -> String {
    let transformer = |name: &str, layers, width, heads, context| {
        format!("{name}, {layers} layers, width {width}, {heads} heads, context {context}")
    };
    match *architecture {
        Architecture::BytesGpt { layers, width, heads, context } => {
            transformer("byte-level GPT", layers, width, heads, context)
        }
        Architecture::Gpt { layers, width, heads, context, vocabulary, .. } => {
            let gpt = transformer("GPT", layers, width, heads, context);
            format!("{gpt}, vocabulary {vocabulary}")
        }
        Architecture::Llama { layers, width, heads, kv_heads, context, vocabulary, .. } => {
            let llama = transformer("Llama", layers, width, heads, context);
            format!("{llama}, {kv_heads} key heads, vocabulary {vocabulary}")
        }
        Architecture::Mlp { inputs, hidden, layers, classes } => {
            format!(
                "MLP classifier, {inputs} inputs, {layers} layers of {hidden}, {classes} classes"
            )
        }
        Architecture::Cnn { height, width, channels, features, classes, .. } => format!(
            "CNN classifier, {height} x {width} x {channels}, {features} features, {classes} classes"
        ),
        Architecture::TextClassifier { layers, width, heads, context, classes, .. } => {
            let base = transformer("text classifier", layers, width, heads, context);
            format!("{base}, {classes} classes")
        }
    }
}

/// The name that JSON has for a plain enum value.
pub(crate) fn name(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    json.trim_matches('"').replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([bytes(999), bytes(1_536), bytes(5 << 30)], ["999 B", "1.5 KiB", "5.0 GiB"]);
        let counts = [0, 1, 2].map(|count| counted(count, "transaction"));
        assert_eq!(counts, ["0 transactions", "1 transaction", "2 transactions"]);
        assert_eq!(percent(666_667), "66.7 %");
        assert_eq!([signed_percent(-1_200), signed_percent(29)], ["-0.12 %", "+0.00 %"]);
        assert_eq!(nats(2_903_400_000), "2.903");
        assert_eq!(bits(693_147_181), "1.000");
        assert_eq!(bits(u64::MAX).split('.').count(), 2);
        assert_eq!([duration(1_250), duration(61_000)], ["1.2 s", "1 min 1 s"]);
        assert_eq!(duration(3_725_000), "1 h 2 min");
        let times = [0, 951_782_400_000, 1_709_251_199_999, 1_795_315_498_000];
        let shown = times.map(|ms| time(TimestampMs::new(ms)));
        assert_eq!(shown[..2], ["1970-01-01 00:00:00", "2000-02-29 00:00:00"]);
        assert_eq!(shown[2..], ["2024-02-29 23:59:59", "2026-11-22 02:44:58"]);
        assert!(!time(TimestampMs::new(u64::MAX)).is_empty());
        assert_eq!(name(&protocol::api::DutyKind::Train), "train");
    }
}
