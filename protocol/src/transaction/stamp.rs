//! Work that stands in for a fee, for newcomers who have nothing.

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::{Beacon, derive};
use crate::transaction::Transaction;

/// Work on a transaction: a nonce whose BLAKE3 hash begins with enough zero bits. It builds on the
/// beacon of an epoch, so that nobody can work ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStamp {
    /// The epoch whose beacon the work builds on: the running one or the one before.
    pub epoch: u64,
    /// What was searched for.
    pub nonce: u64,
}

/// Searches and checks work on one transaction and one epoch's beacon.
pub struct Work([u8; 32]);

impl Work {
    /// For `transaction`, whatever the nonce in its stamp is.
    pub fn new(transaction: &Transaction, beacon: &Beacon) -> Self {
        let mut unworked = transaction.clone();
        if let Some(stamp) = &mut unworked.stamp {
            stamp.nonce = 0;
        }
        let bytes = codec::encode(&unworked);
        Self(derive("ayni 2026 work stamp v1", &[&bytes, beacon.as_bytes()]))
    }

    /// Leading zero bits of the hash with this nonce.
    pub fn zero_bits(&self, nonce: u64) -> u32 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&nonce.to_le_bytes());
        let hash = hasher.finalize();
        let bytes = hash.as_bytes().iter();
        let zeros = bytes.clone().take_while(|byte| **byte == 0).count();
        let next = bytes.clone().nth(zeros).map_or(0, |byte| byte.leading_zeros());
        u32::try_from(zeros).unwrap_or(u32::MAX).saturating_mul(8).saturating_add(next)
    }

    /// The first nonce from `start` on that has `bits` zero bits, within `tries`.
    pub fn search(&self, bits: u32, start: u64, tries: u64) -> Option<u64> {
        (start..start.saturating_add(tries)).find(|nonce| self.zero_bits(*nonce) >= bits)
    }
}
