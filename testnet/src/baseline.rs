//! What a model must beat: byte frequencies and a bigram table, fitted on the nodes' training
//! text and read on the windows on which heads are reported.
//!
//! Losses are in nats per byte. A window is a number; it predicts bytes
//! `w * context + 1 ..= (w + 1) * context` of the suite, as in [`protocol::training`].

use anyhow::{Context, Result, ensure};

/// Symbols.
const BYTES: usize = 256;
/// Count given to every byte before anything is seen, for frequencies: add-one.
const UNIGRAM_ALPHA: f64 = 1.0;
/// The same for each row of the bigram table, whose rows see far less.
const BIGRAM_ALPHA: f64 = 0.1;

/// How often each byte occurs, and each byte after each other.
#[derive(Clone, Debug)]
pub struct Counts {
    single: Vec<u64>,
    pairs: Vec<u64>,
}

/// Held-out losses of the two baselines in nats per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// Of byte frequencies.
    pub unigram: f64,
    /// Of the bigram table.
    pub bigram: f64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { single: vec![0; BYTES], pairs: vec![0; BYTES * BYTES] }
    }
}

impl Counts {
    /// Counts one more text; pairs do not reach across texts.
    pub fn add(&mut self, text: &[u8]) {
        for &byte in text {
            self.single[usize::from(byte)] += 1;
        }
        for pair in text.windows(2) {
            self.pairs[slot(pair[0], pair[1])] += 1;
        }
    }

    /// Counts every file under a corpus folder.
    pub fn add_folder(&mut self, folder: &std::path::Path) -> Result<()> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("{} cannot be read", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let text = std::fs::read(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            self.add(&text);
        }
        Ok(())
    }

    /// Mean losses over the windows of a suite.
    pub fn losses(&self, suite: &[u8], context: u64, windows: &[u64]) -> Result<Losses> {
        ensure!(!windows.is_empty(), "no window to read");
        let context = usize::try_from(context)?;
        let all: u64 = self.single.iter().sum();
        let mut losses = Losses { unigram: 0.0, bigram: 0.0 };
        for &window in windows {
            let start = usize::try_from(window)?.saturating_mul(context);
            let bytes = suite
                .get(start..=start.saturating_add(context))
                .with_context(|| format!("window {window} reaches beyond the suite"))?;
            for pair in bytes.windows(2) {
                let single = self.single[usize::from(pair[1])];
                losses.unigram -= probability(single, all, UNIGRAM_ALPHA).ln();
                let after = self.row_total(pair[0]);
                let both = self.pairs[slot(pair[0], pair[1])];
                losses.bigram -= probability(both, after, BIGRAM_ALPHA).ln();
            }
        }
        let predicted = (windows.len() * context) as f64;
        losses.unigram /= predicted;
        losses.bigram /= predicted;
        Ok(losses)
    }

    fn row_total(&self, first: u8) -> u64 {
        self.pairs[slot(first, 0)..=slot(first, u8::MAX)].iter().sum()
    }
}

fn slot(first: u8, second: u8) -> usize {
    usize::from(first) * BYTES + usize::from(second)
}

fn probability(count: u64, of: u64, alpha: f64) -> f64 {
    (count as f64 + alpha) / (of as f64 + alpha * BYTES as f64)
}

/// Nats per byte as bits per byte.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expect: f64) {
        assert!((actual - expect).abs() < 1e-12, "{actual} {expect}");
    }

    #[test]
    fn an_empty_fit_is_uniform() {
        let losses = Counts::default().losses(b"abcdefghi", 4, &[0, 1]).expect("two windows");
        close(losses.unigram, 256f64.ln());
        close(losses.bigram, 256f64.ln());
        close(bits(losses.bigram), 8.0);
    }

    #[test]
    fn losses_are_those_computed_by_hand() {
        let mut counts = Counts::default();
        counts.add(b"aab");
        counts.add(b"ba");
        // Singles: a 3, b 2 of 5. Pairs: aa 1, ab 1, ba 1; none across the two texts.
        // Window 1 of context 2 predicts bytes 3 and 4 of the suite: b after a, z after b.
        let losses = counts.losses(b"xxabz", 2, &[1]).expect("a window");
        let unigram = -((3.0f64 / 261.0).ln() + (1.0f64 / 261.0).ln()) / 2.0;
        let bigram = -((1.1f64 / 27.6).ln() + (0.1f64 / 26.6).ln()) / 2.0;
        close(losses.unigram, unigram);
        close(losses.bigram, bigram);
    }

    #[test]
    fn windows_beyond_the_suite_are_refused() {
        let counts = Counts::default();
        assert!(counts.losses(b"abcde", 2, &[1]).is_ok());
        for (suite, windows) in [(&b"abcd"[..], &[1][..]), (b"abcde", &[2]), (b"abcde", &[])] {
            assert!(counts.losses(suite, 2, windows).is_err(), "{windows:?}");
        }
    }
}
