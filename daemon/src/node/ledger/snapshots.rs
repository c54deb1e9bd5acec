//! Snapshots at the heights that headers commit to.
//!
//! **Invariant.** A node goes on from a height whose state is due as a snapshot only after the
//! snapshot is durable: it is taken between that block and the next, also in a replay, so that a
//! validator can compare the header that commits to it.

use protocol::host::Host;
use protocol::ledger::state::State;
use storage::LedgerStore;
use storage::snapshot::SnapshotError;

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
    if now != due || now == protocol::amount::Height::ZERO {
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
