//! Pending transactions of one (account, key), in nonce order.

use std::collections::BTreeMap;

use super::admission::Charges;
use super::rank::{Rank, Standing};
use crate::amount::{Credits, Height};
use crate::transaction::VerifiedTransaction;

/// A pending transaction.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) transaction: VerifiedTransaction,
    pub(super) rank: Rank,
    pub(super) since: Height,
    pub(super) charges: Charges,
    /// Highest base fee per byte that it may be charged.
    pub(super) base_fee_max: Credits,
    /// Pays with work: in the newcomers' lane.
    pub(super) stamped: bool,
    /// Bytes that it counts for.
    pub(super) weight: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// Nonce that the ledger takes next.
    expected: u64,
    /// The first nonce from `expected` on that is missing.
    run_end: u64,
    entries: BTreeMap<u64, Entry>,
}

impl Queue {
    pub(super) const fn new(expected: u64) -> Self {
        Self { expected, run_end: expected, entries: BTreeMap::new() }
    }

    pub(super) const fn expected(&self) -> u64 {
        self.expected
    }

    pub(super) const fn run_end(&self) -> u64 {
        self.run_end
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn get(&self, nonce: u64) -> Option<&Entry> {
        self.entries.get(&nonce)
    }

    /// The entry that the ledger would take now.
    pub(super) fn head(&self) -> Option<&Entry> {
        self.entries.get(&self.expected)
    }

    /// The last entry before `nonce`.
    pub(super) fn before(&self, nonce: u64) -> Option<(u64, &Entry)> {
        self.entries.range(..nonce).next_back().map(|(nonce, entry)| (*nonce, entry))
    }

    /// The last entry.
    pub(super) fn tail(&self) -> Option<(u64, &Entry)> {
        self.entries.last_key_value().map(|(nonce, entry)| (*nonce, entry))
    }

    /// Where an entry of this queue stands.
    pub(super) const fn standing(&self, nonce: u64, entry: &Entry) -> Standing {
        Standing { runs: nonce < self.run_end, rank: entry.rank }
    }

    /// Whether some entry pays with credits.
    pub(super) fn pays(&self) -> bool {
        self.entries.values().any(|entry| !entry.stamped)
    }

    pub(super) fn insert(&mut self, nonce: u64, entry: Entry) -> Option<Entry> {
        let old = self.entries.insert(nonce, entry);
        self.extend_run();
        old
    }

    pub(super) fn remove(&mut self, nonce: u64) -> Option<Entry> {
        let gone = self.entries.remove(&nonce)?;
        if nonce < self.run_end {
            self.run_end = nonce.max(self.expected);
        }
        Some(gone)
    }

    /// The ledger has come to `expected`: takes out everything below.
    pub(super) fn advance(&mut self, expected: u64) -> Vec<Entry> {
        let rest = self.entries.split_off(&expected);
        let gone = std::mem::replace(&mut self.entries, rest);
        self.expected = expected;
        self.run_end = self.run_end.max(expected);
        self.extend_run();
        gone.into_values().collect()
    }

    fn extend_run(&mut self) {
        while self.entries.contains_key(&self.run_end) {
            self.run_end = self.run_end.saturating_add(1);
        }
    }
}
