//! Random numbers of a run: streams that any step can draw without those before it, and uniform
//! numbers below a bound.

use protocol::ids::derive;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

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
    fn streams_differ_by_seed_and_step() {
        let first = |seed, step| step_stream(seed, step).next_u64();
        assert_eq!(first(5, 7), first(5, 7));
        assert_ne!(first(5, 7), first(5, 8));
        assert_ne!(first(5, 7), first(6, 7));
    }

    #[test]
    fn bounded_draws() {
        let mut stream = ChaCha20Rng::from_seed([1; 32]);
        for bound in [1, 2, 3, 10, 1 << 40, u64::MAX] {
            assert!((0..50).all(|_| below(&mut stream, bound) < bound));
        }
    }
}
