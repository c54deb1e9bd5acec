//! Everything a node remembers of its chain: block log, proposals, state and signer guard, opened
//! together and brought into agreement.
//!
//! ```text
//! DIR/LOCK CHAIN blocks/ proposals.log state/ snapshots/ import/ trail *.damaged-N blobs/
//! GUARD_PATH                     (by default outside DIR)
//! ```
//!
//! **Invariant.** The block log is the truth. The state is at its tip, behind it (then
//! [`LedgerStore::next_replay`] says what to apply), or it is moved aside and built again, from
//! genesis or, where the log was pruned, from a retained snapshot: a state ahead of the log, on
//! another block, or unreadable is never used.
//!
//! Use: open; while [`LedgerStore::next_replay`] returns something, apply the rules to it and
//! commit; then [`LedgerStore::append_decided`] for each decided block. Every write error is fatal
//! to the caller: stop signing and end the process.
//!
//! Deliberately absent: applying rules, checking certificates, threads.

use std::path::Path;
use std::sync::Arc;

use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::ids::{BlockHash, ChainId, StateRoot};
use protocol::store::StateChanges;
use thiserror::Error;

use crate::block_log::{BlockLog, BlockLogError, Tip};
use crate::durable::FileError;
use crate::identity::{self, IdentityError};
use crate::lock::{DirectoryLock, LockError};
use crate::migrate::{self, MigrateError};
use crate::proposal_log::{ProposalLog, ProposalLogError};
use crate::retention::{self, PruneError, Pruned, Retention};
use crate::signer_guard::{GuardError, SignerGuard};
use crate::snapshot::{self, SnapshotError, Snapshots};
use crate::state::{
    CommitError, FlushError, IntegrityError, LedgerState, StateOpenError, StateStore, StateView,
};

mod recovery;

pub(crate) use recovery::free_name;
pub use recovery::{RecoveryReport, ReplayCause, StateDamage, StateRecovery};
use recovery::{lost_until, open_proposals, open_state};

/// Blocks between two raisings of the guard's floor. Each costs an fsync; in between the guard
/// only remembers more than it must.
const BLOCKS_PER_FLOOR: u64 = 64;

/// Why a ledger was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Another network's directory, or a newer one.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The block log is damaged. It is not repaired silently: restore it, or move it away and
    /// fetch the chain again (keep the signer guard).
    #[error("the block log cannot be opened")]
    BlockLog(#[from] BlockLogError),
    /// The proposal log cannot be used, for a reason other than damage.
    #[error("the proposal log cannot be opened")]
    ProposalLog(#[from] ProposalLogError),
    /// A directory of an older schema could not be migrated. It is as it was.
    #[error("the data directory cannot be brought to the present schema")]
    Migrate(#[from] MigrateError),
    /// A prepared snapshot cannot be put in place.
    #[error("a snapshot that was prepared cannot be put in place")]
    Snapshot(#[from] SnapshotError),
    /// The state is lost and the log was pruned behind snapshots of which none is left.
    #[error(
        "the state must be built again, but the block log begins at height {0} and no intact \
         snapshot in reach of it is left: move the data directory away (keep the signer guard) \
         and fetch the chain from peers"
    )]
    NoSnapshot(Height),
    /// The signer guard is damaged or in use.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The state could not be opened for a reason that rebuilding does not cure.
    #[error("the state cannot be opened")]
    State(#[from] StateOpenError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a block or its changes were not stored.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The state has not caught up with the log.
    #[error("the state is at {state:?}, the log at {log}: replay first")]
    NotReplayed {
        /// Height of the state.
        state: Option<Height>,
        /// Height of the log.
        log: Height,
    },
    /// There is nothing to replay.
    #[error("the log has no block at height {0} to replay")]
    NothingToReplay(Height),
    /// The block log failed.
    #[error("the block was not appended")]
    BlockLog(#[from] BlockLogError),
    /// The proposal log failed.
    #[error("old proposals were not removed")]
    ProposalLog(#[from] ProposalLogError),
    /// The signer guard failed.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The state failed. The block itself is stored; the next start replays it.
    #[error("the block is stored, its changes are not")]
    Commit(#[from] CommitError),
}

/// What [`LedgerStore::verify`] found wrong.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// In the block log.
    #[error("the block log is damaged")]
    BlockLog(#[from] BlockLogError),
    /// In the state.
    #[error("the state is damaged")]
    State(#[from] IntegrityError),
}

/// An opened ledger and what opening it took.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub store: LedgerStore,
    /// What was found and done.
    pub recovery: RecoveryReport,
}

/// The next thing to apply to a state that is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Genesis: commit with [`LedgerStore::commit_genesis`].
    Genesis,
    /// A block: commit with [`LedgerStore::commit_replayed`].
    Block(Box<DecidedBlock>),
}

/// A node's ledger.
#[derive(Debug)]
pub struct LedgerStore {
    blocks: BlockLog,
    proposals: ProposalLog,
    state: StateStore,
    guard: Arc<SignerGuard>,
    snapshots: Snapshots,
    _lock: DirectoryLock,
}

impl LedgerStore {
    /// Opens or creates the ledger in `dir`, and the signer guard at `guard_path` (a file).
    ///
    /// Reads the state and the last segment of the log whole; what grows with the chain is only
    /// the number of segments. Migrates an older directory, and puts a snapshot in place that
    /// [`snapshot::stage`] prepared.
    pub fn open(dir: &Path, chain: &ChainId, guard_path: &Path) -> Result<Opened, OpenError> {
        let lock = DirectoryLock::acquire(dir)?;
        let schema = identity::claim(dir, chain)?;
        let torn_old = migrate::migrate(dir, chain, schema)?;
        let imported = snapshot::complete(dir, chain)?;
        let (blocks, torn_blocks) = BlockLog::open(dir, chain)?;
        let (mut proposals, torn_proposals, proposals_aside) = open_proposals(dir, chain)?;
        let (guard, torn_guard) = SignerGuard::open(guard_path, chain)?;
        let signed = guard.highest().max(Some(guard.floor()));
        if let Some(tip) = blocks.tip() {
            // Decided heights need no more signatures, whatever the guard remembers of them.
            guard.raise_floor(tip.height.plus(1))?;
            proposals.prune(tip.height)?;
        }
        if torn_guard.is_some() {
            // A signature of the height in progress may be forgotten; there is none above.
            let next = blocks.tip().map_or(Height::ZERO, |tip| tip.height).plus(1);
            tracing::error!(
                height = next.get(),
                "the signer guard was cut short, so nothing is signed at this height"
            );
            guard.raise_floor(next.plus(1))?;
        }
        let snapshots = Snapshots::new(dir, chain);
        let (state, recovery) = open_state(dir, &blocks, &snapshots)?;
        let guard_torn = torn_guard.is_some();
        let torn: Vec<_> =
            [torn_old, torn_blocks, torn_proposals, torn_guard].into_iter().flatten().collect();
        for tail in &torn {
            tracing::warn!(
                path = %tail.path.display(), offset = tail.offset, bytes = tail.bytes,
                "cut off a write that a crash interrupted"
            );
        }
        let mut lost_until = lost_until(blocks.tip(), signed, &recovery);
        if guard_torn {
            let next = blocks.tip().map_or(Height::ZERO, |tip| tip.height).plus(1);
            lost_until = lost_until.max(Some(next));
        }
        let guard = Arc::new(guard);
        let store = Self { blocks, proposals, state, guard, snapshots, _lock: lock };
        let recovery =
            RecoveryReport { torn, state: recovery, proposals_aside, imported, lost_until };
        Ok(Opened { store, recovery })
    }

    /// Seals segments of the log from `bytes` on instead of
    /// [`crate::block_log::SEGMENT_BYTES`].
    pub const fn with_segment_bytes(mut self, bytes: u64) -> Self {
        self.blocks.set_segment_bytes(bytes);
        self
    }

    /// What the state lacks: genesis, then each block of the log in turn.
    pub fn next_replay(&self) -> Result<Option<Replay>, BlockLogError> {
        let Some(height) = self.state.height() else { return Ok(Some(Replay::Genesis)) };
        Ok(self.blocks.get(height.plus(1))?.map(|block| Replay::Block(Box::new(block))))
    }

    /// Commits the genesis state (height 0).
    pub fn commit_genesis(&mut self, changes: &StateChanges) -> Result<StateRoot, AppendError> {
        Ok(self.state.commit(Height::ZERO, changes, BlockHash::default())?)
    }

    /// Commits the changes of the block that [`Self::next_replay`] returned.
    pub fn commit_replayed(&mut self, changes: &StateChanges) -> Result<StateRoot, AppendError> {
        let height = self.state.height().map_or(Height::ZERO, |height| height.plus(1));
        let block = self.blocks.hash_at(height)?.ok_or(AppendError::NothingToReplay(height))?;
        Ok(self.state.commit(height, changes, block)?)
    }

    /// Stores a decided block, then its changes. The block is durable when this returns.
    pub fn append_decided(
        &mut self,
        block: &DecidedBlock,
        changes: &StateChanges,
    ) -> Result<StateRoot, AppendError> {
        let log = self.blocks.tip().map_or(Height::ZERO, |tip| tip.height);
        if self.state.height() != Some(log) {
            return Err(AppendError::NotReplayed { state: self.state.height(), log });
        }
        let tip = self.blocks.append(block)?;
        let root = self.state.commit(tip.height, changes, tip.block)?;
        self.proposals.prune(tip.height)?;
        if tip.height.get().is_multiple_of(BLOCKS_PER_FLOOR) {
            self.guard.raise_floor(tip.height)?;
        }
        Ok(root)
    }

    /// The last decided block.
    pub const fn tip(&self) -> Option<Tip> {
        self.blocks.tip()
    }

    /// The decided blocks.
    pub const fn blocks(&self) -> &BlockLog {
        &self.blocks
    }

    /// Bodies of undecided blocks.
    pub const fn proposals(&self) -> &ProposalLog {
        &self.proposals
    }

    /// Bodies of undecided blocks, for inserting.
    pub const fn proposals_mut(&mut self) -> &mut ProposalLog {
        &mut self.proposals
    }

    /// The state.
    pub const fn state(&self) -> &StateStore {
        &self.state
    }

    /// A handle on the state for other threads. Drop all of them before opening the directory
    /// again in this process.
    pub fn view(&self) -> StateView {
        self.state.view()
    }

    /// The signer guard, for whichever thread signs.
    pub fn guard(&self) -> Arc<SignerGuard> {
        Arc::clone(&self.guard)
    }

    /// Makes the state durable, so that the next start replays less. Call every 5 s and on exit.
    pub fn flush(&mut self) -> Result<(), FlushError> {
        self.state.flush()
    }

    /// The retained snapshots. [`Snapshots::take`] with [`Self::view`] makes one, from any thread.
    pub const fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// The height behind which [`Self::prune`] deletes blocks when it keeps `keep` snapshots.
    pub fn prune_base(&self, keep: usize) -> Result<Option<Height>, FileError> {
        retention::base(&self.blocks, &self.snapshots, keep)
    }

    /// Deletes snapshots and blocks that `retention` does not ask for. Blocks go only behind a
    /// snapshot that was read again and has the root that a header of the log commits.
    pub fn prune(&mut self, retention: Retention) -> Result<Pruned, PruneError> {
        retention::prune(&mut self.blocks, &self.snapshots, retention)
    }

    /// Reads every block and every value again and checks them.
    pub fn verify(&self) -> Result<(), VerifyError> {
        self.blocks.check()?;
        Ok(self.state.check_integrity()?)
    }
}
