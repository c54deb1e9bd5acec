//! A keyed permutation: every record once per pass, in an order that needs no memory.
//!
//! A Feistel network over the smallest even number of bits that holds the range, walked until it
//! lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

use protocol::ids::derive;

/// Rounds of the network: four make a strong pseudorandom permutation (Luby and Rackoff 1988).
const ROUNDS: u8 = 4;

/// Where `index` goes among `count` places, one to one, for a key. `index` is below `count`.
pub fn permute(key: &[u8; 32], index: u64, count: u64) -> u64 {
    assert!(index < count, "an index inside the range");
    let bits = (64 - (count - 1).leading_zeros()).max(2).next_multiple_of(2);
    let half = bits / 2;
    let mask = (1u64 << half) - 1;
    let mut at = index;
    // The range fills more than a quarter of the domain, so this takes few steps; it ends because
    // `index` itself lies on the cycle.
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..ROUNDS {
            let mixed = derive("ayni 2026 record order v1", &[key, &[round], &right.to_le_bytes()]);
            let word = u64::from_le_bytes(*mixed.first_chunk().expect("32 bytes"));
            (left, right) = (right, left ^ (word & mask));
        }
        at = (left << half) | right;
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_to_one_and_keyed() {
        for count in [1, 2, 3, 4, 5, 16, 17, 100, 257] {
            let mut all: Vec<u64> = (0..count).map(|i| permute(&[1; 32], i, count)).collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..count), "{count}");
        }
        let order = |key: u8| (0..50).map(|i| permute(&[key; 32], i, 1_000)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        assert!(permute(&[3; 32], u64::MAX - 1, u64::MAX) < u64::MAX);
    }
}
