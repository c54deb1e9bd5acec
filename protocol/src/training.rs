//! Draws of a training round that everybody must make alike: which shards a member trains on,
//! which windows reviewers read, which windows a head is reported on. Integers and BLAKE3 only.

use crate::amount::PPM;
use crate::ids::{Beacon, ModelId, NodeId, derive};
use crate::model::ModelSpec;

/// A deterministic stream of 64-bit numbers from a seed: BLAKE3 in extendable-output mode.
pub struct Draw(blake3::OutputReader);

impl Draw {
    /// A stream for one purpose; equal arguments give equal streams.
    pub fn new(context: &'static str, beacon: &Beacon, parts: &[&[u8]]) -> Self {
        let seed = derive(context, parts);
        let mut hasher = blake3::Hasher::new_derive_key("ayni 2026 draw stream v1");
        hasher.update(beacon.as_bytes());
        hasher.update(&seed);
        Self(hasher.finalize_xof())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound` (zero when `bound` is), unbiased by rejection.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Numbers below `reject` would make the low remainders more likely.
        let reject = u64::MAX.checked_rem(bound).unwrap_or(0).wrapping_add(1);
        let reject = if reject == bound { 0 } else { reject };
        loop {
            let number = self.next_u64();
            if number >= reject {
                return number.checked_rem(bound).unwrap_or(0);
            }
        }
    }

    /// `count` different numbers below `bound` in drawn order (all of them if there are fewer):
    /// Floyd's sampling would be shorter; Fisher-Yates keeps the order uniform too.
    pub fn sample(&mut self, bound: u64, count: usize) -> Vec<u64> {
        let mut pool: Vec<u64> = (0..bound).collect();
        let take = count.min(pool.len());
        for i in 0..take {
            let rest = u64::try_from(pool.len().saturating_sub(i)).unwrap_or(0);
            let j = usize::try_from(self.below(rest)).unwrap_or(0).saturating_add(i);
            pool.swap(i, j);
        }
        pool.truncate(take);
        pool
    }
}

/// Shards of the member at `index`: `per_member` numbers below `total`, all members drawing from
/// one shuffled deck, so that no two share a shard while there are enough.
pub fn assigned_shards(
    beacon: &Beacon,
    model: &ModelId,
    round: u32,
    index: usize,
    total: u64,
    per_member: u32,
) -> Vec<u64> {
    let mut draw = Draw::new(
        "ayni 2026 shard assignment v1",
        beacon,
        &[model.as_bytes(), &round.to_le_bytes()],
    );
    let deck = draw.sample(total, usize::try_from(total).unwrap_or(usize::MAX));
    let per_member = usize::try_from(per_member).unwrap_or(usize::MAX).min(deck.len());
    let start = index.saturating_mul(per_member);
    deck.iter()
        .cycle()
        .skip(start.checked_rem(deck.len()).unwrap_or(0))
        .take(per_member)
        .copied()
        .collect()
}

/// Windows on which every delta of a round is judged: even-numbered windows of the suite.
/// A window is a number; it predicts bytes `w*context+1 ..= (w+1)*context` of the suite.
pub fn review_windows(beacon: &Beacon, spec: &ModelSpec, round: u32, count: u32) -> Vec<u64> {
    let evens = spec.suite_windows().div_ceil(2);
    let mut draw = Draw::new(
        "ayni 2026 review windows v1",
        beacon,
        &[spec.id().as_bytes(), &round.to_le_bytes()],
    );
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut windows: Vec<u64> =
        draw.sample(evens, count).into_iter().map(|n| n.saturating_mul(2)).collect();
    windows.sort_unstable();
    windows
}

/// Windows on which a head is reported and never judged: up to `count` of the odd-numbered
/// windows of the suite, evenly spread.
pub fn report_windows(spec: &ModelSpec, count: u32) -> Vec<u64> {
    let odds = spec.suite_windows().checked_div(2).unwrap_or(0);
    let count = u64::from(count).min(odds);
    (0..count)
        .map(|i| {
            let slot = i.saturating_mul(odds).checked_div(count).unwrap_or(0);
            slot.saturating_mul(2).saturating_add(1)
        })
        .collect()
}

/// Seed of a member's inner steps: of the order of its windows, and of what else is random in its
/// delta. Nobody chooses it.
pub fn steps_seed(beacon: &Beacon, author: &NodeId, round: u32) -> u64 {
    let seed = derive(
        "ayni 2026 inner steps seed v1",
        &[beacon.as_bytes(), author.as_bytes(), &round.to_le_bytes()],
    );
    seed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Inner steps for a node that takes `steps_per_s_milli` thousandths of a step in a second, so
/// that it is done within `margin_ppm` of `train_ms`: at least one, at most `inner_steps`. Zero
/// speed stands for an unknown one.
pub fn steps_for(inner_steps: u32, steps_per_s_milli: u64, train_ms: u32, margin_ppm: u32) -> u32 {
    if steps_per_s_milli == 0 {
        return inner_steps;
    }
    let scale = u128::from(PPM).saturating_mul(1_000_000);
    let fits = u128::from(steps_per_s_milli)
        .saturating_mul(u128::from(train_ms))
        .saturating_mul(u128::from(margin_ppm))
        .checked_div(scale)
        .unwrap_or(0);
    u32::try_from(fits).unwrap_or(u32::MAX).clamp(1, inner_steps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_do_not_overlap_while_there_are_enough() {
        let beacon = Beacon::from_bytes([3; 32]);
        let model = ModelId::from_bytes([4; 32]);
        let mut seen: Vec<u64> =
            (0..4).flat_map(|m| assigned_shards(&beacon, &model, 1, m, 40, 10)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        assert_eq!(assigned_shards(&beacon, &model, 1, 3, 2, 10).len(), 2);
        assert!(assigned_shards(&beacon, &model, 1, 0, 0, 10).is_empty());
    }

    #[test]
    fn a_slow_node_takes_fewer_steps() {
        // Two steps a second for 100 s, of which half is meant for training.
        for (inner, speed_milli, train_ms, margin, expect) in [
            (1_000, 2_000, 100_000, 500_000, 100),
            (50, 2_000, 100_000, 500_000, 50),
            (1_000, 0, 100_000, 500_000, 1_000),
            (1_000, 1, 1_000, 500_000, 1),
            (1_000, u64::MAX, u32::MAX, u32::MAX, 1_000),
        ] {
            assert_eq!(steps_for(inner, speed_milli, train_ms, margin), expect);
        }
    }

    #[test]
    fn bounded_draws_stay_in_bounds() {
        let mut draw = Draw::new("ayni test", &Beacon::default(), &[]);
        for bound in [1, 2, 3, 7, 1 << 63, u64::MAX] {
            for _ in 0..100 {
                assert!(draw.below(bound) < bound);
            }
        }
    }
}
