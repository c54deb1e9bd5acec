//! Progress in bytes: a bar on a terminal, a line per tenth elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, what is smaller than this gets a closing line only.
const LINES_FROM_BYTES: u64 = 50_000_000;

/// Shows how far something is. On a terminal the bar is replaced by a closing line.
pub struct Meter {
    title: String,
    total: u64,
    bar: Option<ProgressBar>,
    tenths_shown: u64,
}

impl Meter {
    /// Starts at zero of `total` bytes.
    pub fn new(title: impl Into<String>, total: u64) -> Self {
        let title = title.into();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_message(title.clone());
            let style = ProgressStyle::with_template(
                "  {msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}",
            );
            style.map_or(bar.clone(), |style| bar.with_style(style.progress_chars("=> ")))
        });
        if bar.is_none() && total >= LINES_FROM_BYTES {
            eprintln!("  {title}: {} in all", megabytes(total));
        }
        Self { title, total, bar, tenths_shown: 0 }
    }

    /// Moves to `done` bytes.
    pub fn set(&mut self, done: u64) {
        let done = done.min(self.total);
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.total < LINES_FROM_BYTES => {}
            None => {
                let tenths = done.saturating_mul(10).checked_div(self.total).unwrap_or(10);
                if tenths > self.tenths_shown && tenths < 10 {
                    self.tenths_shown = tenths;
                    eprintln!("  {}: {} %, {}", self.title, tenths * 10, megabytes(done));
                }
            }
        }
    }

    /// Ends with a line that stays.
    pub fn finish(self, closing: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("  {}: {closing}", self.title);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.abandon();
        }
    }
}

/// `527 MB`, `0.4 MB`: decimal megabytes for people.
pub fn megabytes(bytes: u64) -> String {
    if bytes >= 10_000_000 {
        format!("{} MB", bytes / 1_000_000)
    } else {
        format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(megabytes(526_574_961), "526 MB");
        assert_eq!(megabytes(2_243_632), "2.2 MB");
        assert_eq!(megabytes(0), "0.0 MB");
    }
}
