//! What is better: the order of pending transactions, and what replaces what.

use std::cmp::Reverse;

use crate::amount::Credits;
use crate::transaction::VerifiedTransaction;

/// A replacement pays at least this part more than what it replaces, in ppm: otherwise one tip
/// would buy the gossip of any number of transactions.
const REPLACEMENT_PPM: u64 = 100_000;
/// A replacement pays at least this much more per byte, in micro-credits, so that replacing a
/// transaction without a tip costs something too.
const RELAY_MICRO_PER_BYTE: u64 = 1;

/// Place in the order: tip per byte, then arrival. Greater is better; no two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Tip in units of 2^-32 micro-credits per byte.
    rate: u128,
    /// Number of the arrival.
    arrival: Reverse<u64>,
}

impl Rank {
    pub(super) fn new(transaction: &VerifiedTransaction, arrival: u64) -> Self {
        let size = u128::try_from(transaction.size().max(1)).unwrap_or(u128::MAX);
        let scaled = u128::from(transaction.transaction().tip.micro()).checked_shl(32);
        let rate = scaled.and_then(|tip| tip.checked_div(size)).unwrap_or(0);
        Self { rate, arrival: Reverse(arrival) }
    }

    pub(super) const fn arrival(self) -> u64 {
        self.arrival.0
    }

    /// Whether it pays more per byte, whenever it came.
    pub(super) const fn pays_more(self, other: Self) -> bool {
        self.rate > other.rate
    }
}

/// Place in the order of eviction: whoever waits for a gap goes before whoever can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    /// Whether everything before it in its queue is pending or applied.
    pub(super) runs: bool,
    pub(super) rank: Rank,
}

/// The least tip that replaces a pending transaction with one of `size` bytes.
pub(super) fn replacement_tip(pending: Credits, size: usize) -> Credits {
    let bytes = u64::try_from(size).unwrap_or(u64::MAX);
    // Rounded up: a tenth of nine micro-credits is one.
    let share = pending.micro().saturating_mul(REPLACEMENT_PPM).div_ceil(crate::amount::PPM);
    let relay = bytes.saturating_mul(RELAY_MICRO_PER_BYTE);
    Credits::from_micro(pending.micro().saturating_add(share.max(relay)))
}
