//! Windows of bytes: every byte position alike, in an order drawn from the seed.
//!
//! A window is `context + 1` consecutive bytes of one text: inputs and, shifted by one, targets.
//! Texts too short for a window are strung together, separated by newlines, so small documents
//! count too. Texts are bytes; nothing here assumes UTF-8.

use rand_chacha::ChaCha20Rng;

use super::{DataError, Examples, Shards, shifted};
use crate::error::JobError;
use crate::sample::{below, step_stream};

/// Bytes in texts that are shorter than a window: these are held in memory.
pub const SHORT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Windows of bytes of some texts.
pub struct ByteWindows<'a> {
    shards: Shards<'a>,
    /// The shards that hold a window each.
    long: Vec<usize>,
    /// The others, strung together.
    joined: Vec<u8>,
    /// Windows in all long texts up to and including each, then those of the joined one.
    ends: Vec<u64>,
    length: usize,
    seed: u64,
}

impl<'a> ByteWindows<'a> {
    /// Windows of `context + 1` bytes.
    pub fn new(shards: Shards<'a>, context: usize, seed: u64) -> Result<Self, JobError> {
        let length = context + 1;
        let window = u64::try_from(length).unwrap_or(u64::MAX);
        let (mut long, mut ends, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        let mut total = 0u64;
        for (shard, bytes) in shards.lengths().iter().enumerate() {
            if *bytes >= window {
                total = total.saturating_add(bytes - window + 1);
                long.push(shard);
                ends.push(total);
            } else {
                let start = joined.len();
                if start > 0 {
                    joined.push(b'\n');
                }
                let start = joined.len();
                joined.resize(start + usize::try_from(*bytes).unwrap_or(usize::MAX), 0);
                if joined.len() > SHORT_BYTES_MAX {
                    return Err(DataError::TooManyShort(SHORT_BYTES_MAX).into());
                }
                shards.read(shard, 0, &mut joined[start..])?;
            }
        }
        if joined.len() >= length {
            total += u64::try_from(joined.len() - context).unwrap_or(u64::MAX);
            ends.push(total);
        }
        if total == 0 {
            return Err(DataError::TooShort(length).into());
        }
        Ok(Self { shards, long, joined, ends, length, seed })
    }

    /// The windows of a step.
    pub fn step(&self, step: u64, rows: usize) -> Result<Examples, JobError> {
        let mut stream = step_stream(self.seed, step);
        let mut windows = Vec::with_capacity(rows);
        let mut bytes = vec![0u8; self.length];
        for _ in 0..rows {
            self.draw(&mut stream, &mut bytes)?;
            windows.push(bytes.iter().map(|byte| i64::from(*byte)).collect());
        }
        let units = rows.saturating_mul(self.length - 1);
        Ok(shifted(&windows, u64::try_from(units).unwrap_or(u64::MAX)))
    }

    fn draw(&self, stream: &mut ChaCha20Rng, window: &mut [u8]) -> Result<(), JobError> {
        let total = self.ends.last().copied().expect("checked when made");
        let number = below(stream, total);
        let text = self.ends.partition_point(|end| *end <= number);
        let start = number - if text == 0 { 0 } else { self.ends[text - 1] };
        match self.long.get(text) {
            Some(shard) => self.shards.read(*shard, start, window),
            None => {
                let start = usize::try_from(start).expect("an index into a text in memory");
                window.copy_from_slice(&self.joined[start..start + self.length]);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Input;

    fn windows(
        texts: &[&[u8]],
        context: usize,
        seed: u64,
    ) -> Result<ByteWindows<'static>, JobError> {
        let texts = texts.iter().map(|text| text.to_vec()).collect();
        ByteWindows::new(Shards::in_memory(texts), context, seed)
    }

    #[test]
    fn every_position_and_nothing_else() {
        let source = windows(&[b"abcdef", b"xy", b"01234", b"z"], 3, 1).expect("long enough");
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..100 {
            let examples = source.step(step, 2).expect("read");
            let Input::Tokens(input) = &examples.input else { panic!("tokens") };
            for (input, target) in input.chunks(3).zip(examples.target.chunks(3)) {
                assert_eq!(input[1..], target[..2]);
                let bytes = input.iter().chain(target.last());
                let window: Vec<u8> =
                    bytes.map(|token| u8::try_from(*token).expect("a byte")).collect();
                seen.insert(String::from_utf8(window).expect("ASCII"));
            }
        }
        assert_eq!(
            seen,
            ["abcd", "bcde", "cdef", "0123", "1234", "xy\nz"].map(String::from).into()
        );
    }

    #[test]
    fn seeded_stateless_and_refused() {
        let long = [7u8; 90];
        let source = |seed| windows(&[&long[..50], b"0123456789abcdefghij"], 16, seed);
        let draw = |seed, step| source(seed).expect("long").step(step, 4).expect("read");
        assert_eq!(draw(5, 3), draw(5, 3));
        assert_ne!(draw(5, 3), draw(6, 3));
        assert_ne!(draw(5, 3), draw(5, 4));
        assert_eq!(draw(5, 0).units, 64);
        for texts in [vec![&long[..3], &long[..4]], vec![]] {
            let refused = windows(&texts, 16, 0).err().map(|error| error.to_string());
            assert_eq!(refused, Some(DataError::TooShort(17).to_string()));
        }
    }
}
