//! What this node has acknowledged and not yet seen applied: sent again until it is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::ids::TransactionHash;
use protocol::limits;

use crate::node::ledger::Ledger;

/// Acknowledged transactions at most; more would be kept out of every journal and resend.
const OWN_MAX: usize = 131_072;
/// A transaction that is not applied so long after it was sent is sent again: its gossip may have
/// been lost.
const RESEND_AFTER: Duration = Duration::from_secs(3);
/// Sent again at one time: half a batch, so that resending never crowds out what is new.
const RESEND_BYTES_MAX: usize = limits::TRANSACTION_BATCH_BYTES_MAX / 2;

/// An acknowledged transaction.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) hash: TransactionHash,
    /// Canonical bytes.
    pub(super) bytes: Bytes,
    sent: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<VecDeque<Waiting>>);

impl Own {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        // Nothing inside panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many more can be looked after.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.lock().len().saturating_add(more) <= OWN_MAX
    }

    /// Looks after a transaction from now on.
    pub(super) fn add(&self, hash: TransactionHash, bytes: Bytes) {
        self.lock().push_back(Waiting { hash, bytes, sent: Instant::now() });
    }

    /// Forgets what is no longer pending and returns the rest. Blocks.
    pub(super) fn pending(&self, ledger: &Ledger) -> Vec<Waiting> {
        // Not under the lock while the ledger's is waited for.
        let before: Vec<_> = self.lock().iter().map(|waiting| waiting.hash).collect();
        let mut is_pending = ledger.pending(&before).into_iter();
        let mut list = self.lock();
        // What was added meanwhile stands behind and stays.
        list.retain(|_| is_pending.next().unwrap_or(true));
        list.iter().cloned().collect()
    }

    /// What is due to be sent again. Blocks.
    pub(super) fn due(&self, ledger: &Ledger) -> Vec<Bytes> {
        self.pending(ledger);
        let now = Instant::now();
        let mut due = Vec::new();
        let mut bytes = 0_usize;
        for waiting in self.lock().iter_mut() {
            if now.duration_since(waiting.sent) < RESEND_AFTER {
                continue;
            }
            bytes = bytes.saturating_add(waiting.bytes.len());
            if bytes > RESEND_BYTES_MAX {
                break;
            }
            waiting.sent = now;
            due.push(waiting.bytes.clone());
        }
        due
    }
}
