//! Random streams: ChaCha, seeded, one per purpose, so that a new draw in one place does not
//! shift the draws of another.

use protocol::ids::derive;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Parts per million: how probabilities are written here.
pub(super) const ALWAYS: u32 = 1_000_000;

/// One stream.
#[derive(Clone, Debug)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    /// The stream of `seed` for `purpose` and `index`.
    pub(super) fn new(seed: u64, purpose: &'static str, index: u64) -> Self {
        let key = derive(
            "ayni 2026 simulator stream v1",
            &[&seed.to_le_bytes(), purpose.as_bytes(), &index.to_le_bytes()],
        );
        Self(ChaCha8Rng::from_seed(key))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `bound`; 0 for 0. The bias of the remainder is far below anything drawn here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// An index below `length`.
    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Between both ends, which are included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with a probability in parts per million.
    pub(super) fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(u64::from(ALWAYS)) < u64::from(ppm)
    }

    pub(super) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Shuffles in place.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.index(end + 1);
            items.swap(end, other);
        }
    }
}
