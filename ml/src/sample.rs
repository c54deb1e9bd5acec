//! Which windows of the texts the inner steps see: every byte position alike, in an order drawn
//! from the job's seed.
//!
//! A window is `context + 1` consecutive bytes of one text: inputs and, shifted by one, targets.
//! Texts too short for a window are strung together, separated by newlines, so small documents
//! count too. Texts are bytes; nothing here assumes UTF-8.

use protocol::ids::derive;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use thiserror::Error;

/// The texts hold no window.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
#[error("the texts are shorter than one window of {0} bytes")]
pub struct SampleError(usize);

/// An endless stream of training windows.
pub struct Windows {
    texts: Vec<Vec<u8>>,
    /// Windows in all texts up to and including each.
    ends: Vec<u64>,
    length: usize,
    stream: ChaCha20Rng,
}

impl Windows {
    /// Windows of `context + 1` bytes.
    pub fn new(texts: Vec<Vec<u8>>, context: usize, seed: u64) -> Result<Self, SampleError> {
        let length = context + 1;
        let (mut texts, short): (Vec<_>, Vec<_>) =
            texts.into_iter().partition(|text| text.len() >= length);
        let joined = short.join(&b'\n');
        if joined.len() >= length {
            texts.push(joined);
        }
        let mut ends = Vec::with_capacity(texts.len());
        let mut total = 0u64;
        for text in &texts {
            total += u64::try_from(text.len() - context).expect("usize has at most 64 bits");
            ends.push(total);
        }
        if total == 0 {
            return Err(SampleError(length));
        }
        let key = derive("ayni 2026 training windows v1", &[&seed.to_le_bytes()]);
        Ok(Self { texts, ends, length, stream: ChaCha20Rng::from_seed(key) })
    }

    /// The next window.
    pub fn draw(&mut self) -> &[u8] {
        let total = self.ends.last().copied().expect("checked when made");
        let number = below(&mut self.stream, total);
        let text = self.ends.partition_point(|end| *end <= number);
        let before = if text == 0 { 0 } else { self.ends[text - 1] };
        let start = usize::try_from(number - before).expect("an index into a text in memory");
        &self.texts[text][start..start + self.length]
    }
}

/// The random stream of one step of a run: any step can be drawn without those before it.
pub fn step_stream(seed: u64, step: u64) -> ChaCha20Rng {
    let key = derive("ayni 2026 step windows v1", &[&seed.to_le_bytes(), &step.to_le_bytes()]);
    ChaCha20Rng::from_seed(key)
}

/// A uniform number below `bound`, which is not zero: draws that would favour the low remainders
/// are thrown away.
pub fn below(stream: &mut impl Rng, bound: u64) -> u64 {
    let unfair = u64::MAX % bound + 1;
    loop {
        let number = stream.next_u64();
        if unfair == bound || number >= unfair {
            return number % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_and_nothing_else() {
        let texts = vec![b"abcdef".to_vec(), b"xy".to_vec(), b"01234".to_vec(), b"z".to_vec()];
        let mut windows = Windows::new(texts, 3, 1).expect("long enough");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            seen.insert(String::from_utf8(windows.draw().to_vec()).expect("ASCII"));
        }
        let all = ["abcd", "bcde", "cdef", "0123", "1234", "xy\nz"];
        assert_eq!(seen, all.map(String::from).into());
    }

    #[test]
    fn seeded_and_refused() {
        let draw = |seed| {
            let mut windows =
                Windows::new(vec![vec![7; 50], (0..90).collect()], 16, seed).expect("long enough");
            (0..9).map(|_| windows.draw().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let short = Windows::new(vec![vec![1; 3], vec![2; 4]], 16, 0);
        assert_eq!(short.err(), Some(SampleError(17)));
        assert!(Windows::new(vec![], 16, 0).is_err());
    }

    #[test]
    fn bounded_draws() {
        let mut stream = ChaCha20Rng::from_seed([1; 32]);
        for bound in [1, 2, 3, 10, 1 << 40, u64::MAX] {
            assert!((0..50).all(|_| below(&mut stream, bound) < bound));
        }
    }
}
