//! Snapshots at the heights that headers commit to.
//!
//! **Invariant.** A node goes on from a height whose state is due as a snapshot only after the
//! snapshot is durable: it is taken between that block and the next, also in a replay, so that a
//! validator can compare the header that commits to it.

use protocol::amount::Height;
use protocol::host::Host;
use protocol::ledger::state::State;
use protocol::proof::snapshot::committed_at;
use storage::LedgerStore;
use storage::snapshot::{Retained, SnapshotError};

use super::{Ledger, decode_block};

/// Tells a new host of the latest snapshot, and takes the one that was due when the node stopped.
pub(super) fn tell(store: &LedgerStore, host: &mut Host) -> Result<(), SnapshotError> {
    if let Some(latest) = store.snapshots().list()?.last() {
        host.snapshot_taken(latest.height, latest.hash);
    }
    take_if_due(store, host)?;
    Ok(())
}

/// Takes a snapshot of the state as it stands, if it is due; says whether it was.
pub(super) fn take_if_due(store: &LedgerStore, host: &mut Host) -> Result<bool, SnapshotError> {
    let view = store.view();
    let (now, due) = view.read(|state| {
        let clock = State::new(state).clock();
        (clock.height, clock.snapshot)
    });
    if now != due || now == Height::ZERO {
        return Ok(false);
    }
    let kept = store.snapshots().list()?.into_iter().find(|s| s.height == due);
    let hash = match kept {
        Some(kept) => kept.hash,
        None => {
            let (info, _) = store.snapshots().take(&view)?;
            tracing::info!(height = due.get(), hash = %info.hash, bytes = info.bytes, "snapshot");
            info.hash
        }
    };
    host.snapshot_taken(due, hash);
    Ok(true)
}

impl Ledger {
    /// The latest snapshots that final headers of this log commit to, at most `max`, the newest
    /// first.
    pub fn committed_snapshots(&self, max: usize) -> Result<Vec<Retained>, SnapshotError> {
        let mut kept = self.snapshots.list()?;
        kept.reverse();
        let is_committed = |kept: &Retained| {
            let decided = self.decided(committed_at(kept.height));
            let header = decided.and_then(|decided| Some(decode_block(&decided).ok()?.header));
            header.is_some_and(|header| header.snapshot == Some(kept.hash))
        };
        Ok(kept.into_iter().filter(is_committed).take(max).collect())
    }

    /// The last height whose state is due as a snapshot, zero before the first.
    pub fn snapshot_due(&self) -> Height {
        self.read(|view| view.clock().snapshot)
    }
}
