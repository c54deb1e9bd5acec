//! Everything a node remembers of its chain: block log, proposals, state and signer guard, opened
//! together and brought into agreement.
//!
//! ```text
//! DIR/LOCK CHAIN blocks/ proposals.log state/ snapshots/ import/ *.damaged-N blobs/
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

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::ids::{BlockHash, ChainId, StateRoot};
use protocol::store::StateChanges;
use thiserror::Error;

use crate::block_log::{BlockLog, BlockLogError, Tip};
use crate::durable::{self, FileError, at};
use crate::identity::{self, IdentityError};
use crate::lock::{DirectoryLock, LockError};
use crate::migrate::{self, MigrateError};
use crate::proposal_log::{ProposalLog, ProposalLogError};
use crate::record::{RecordError, TornTail};
use crate::retention::{self, PruneError, Pruned, Retention};
use crate::signer_guard::{GuardError, SignerGuard};
use crate::snapshot::{self, SnapshotError, Snapshots};
use crate::state::{
    CommitError, FlushError, IntegrityError, LedgerState, StateOpenError, StateStore, StateView,
};

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

/// What was found and done while opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Writes that a crash interrupted, cut off. Nobody was told that they are stored.
    pub torn: Vec<TornTail>,
    /// The state.
    pub state: StateRecovery,
    /// Where a damaged proposal log was moved. Its bodies are gone from this node; others who
    /// voted for them have them.
    pub proposals_aside: Option<PathBuf>,
    /// A prepared snapshot was put in place of what was there.
    pub imported: bool,
    /// The last height at which this node may have voted, if the log has lost blocks: it must not
    /// vote before that height is decided elsewhere. Known from the state and the signer guard.
    pub lost_until: Option<Height>,
}

/// How the state compares with the block log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRecovery {
    /// It stands at the tip; in a new directory both are empty.
    UpToDate,
    /// Blocks above `from` must be replayed; with `None`, genesis too.
    NeedsReplay {
        /// Height of the state.
        from: Option<Height>,
        /// Why.
        cause: ReplayCause,
    },
}

/// Why blocks must be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayCause {
    /// Commits that were not flushed when the process ended.
    Behind,
    /// The old state was moved to `aside`.
    SetAside {
        /// What was wrong with it.
        damage: StateDamage,
        /// Where it is now.
        aside: PathBuf,
    },
}

/// What was wrong with a state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateDamage {
    /// It knows blocks that the log lost: the log was cut or restored from an old copy.
    #[error("it is at height {state}, the block log only at {log}: the log lost blocks")]
    AheadOfLog {
        /// Height of the state.
        state: Height,
        /// Height of the log, 0 if empty.
        log: Height,
    },
    /// The log was pruned above it.
    #[error("it is at height {state}, the block log begins at {first}")]
    BehindLog {
        /// Height of the state.
        state: Height,
        /// First height of the log.
        first: Height,
    },
    /// It stands for another block than the log's.
    #[error("its block at height {0} is not the log's")]
    OtherBlock(Height),
    /// It could not be read, or its values do not match its root.
    #[error("it is unreadable: {0}")]
    Unreadable(String),
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
        let snapshots = Snapshots::new(dir, chain);
        let (state, recovery) = open_state(dir, &blocks, &snapshots)?;
        let torn: Vec<_> =
            [torn_old, torn_blocks, torn_proposals, torn_guard].into_iter().flatten().collect();
        for tail in &torn {
            tracing::warn!(
                path = %tail.path.display(), offset = tail.offset, bytes = tail.bytes,
                "cut off a write that a crash interrupted"
            );
        }
        let lost_until = lost_until(blocks.tip(), signed, &recovery);
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

/// Opens the proposal log; a damaged one is moved aside, because its bodies can be spared: those
/// who voted for a body have it too, and the guard keeps this node from proposing another.
fn open_proposals(
    dir: &Path,
    chain: &ChainId,
) -> Result<(ProposalLog, Option<TornTail>, Option<PathBuf>), OpenError> {
    let damage = match ProposalLog::open(dir, chain) {
        Ok((log, torn)) => return Ok((log, torn, None)),
        Err(
            error @ (ProposalLogError::Codec(_)
            | ProposalLogError::Record(
                RecordError::Corrupt { .. } | RecordError::WrongFile { .. },
            )),
        ) => error,
        Err(error) => return Err(error.into()),
    };
    let aside = set_aside(dir, "proposals.log")?;
    tracing::error!(
        error = %damage, aside = %aside.display(),
        "the proposal log is damaged; it was moved aside and begins anew"
    );
    let (log, torn) = ProposalLog::open(dir, chain)?;
    Ok((log, torn, Some(aside)))
}

/// See [`RecoveryReport::lost_until`]. `signed` is the highest height that the guard speaks of:
/// that of the next block at most, unless blocks were lost.
fn lost_until(tip: Option<Tip>, signed: Option<Height>, state: &StateRecovery) -> Option<Height> {
    let tip = tip.map_or(Height::ZERO, |tip| tip.height);
    let by_state = match state {
        StateRecovery::NeedsReplay {
            cause: ReplayCause::SetAside { damage: StateDamage::AheadOfLog { state, .. }, .. },
            ..
        } => Some(*state),
        _ => None,
    };
    let by_guard = signed.filter(|signed| *signed > tip.plus(1));
    by_guard.max(by_state)
}

/// Opens the state, moving it aside if it cannot be used.
fn open_state(
    dir: &Path,
    log: &BlockLog,
    snapshots: &Snapshots,
) -> Result<(StateStore, StateRecovery), OpenError> {
    let path = dir.join("state");
    let damage = match try_state(&path)? {
        Ok(state) => match compare(&state, log)? {
            Ok(recovery) if state.tip().is_some() || !is_pruned(log) => {
                return Ok((state, recovery));
            }
            // A new state under a pruned log: nothing is lost by replacing it.
            Ok(_) => {
                drop(state);
                fs::remove_dir_all(&path).map_err(at("remove", &path))?;
                let from = rebuild(dir, log, snapshots)?;
                let recovery = StateRecovery::NeedsReplay { from, cause: ReplayCause::Behind };
                return Ok((StateStore::open(&path)?, recovery));
            }
            Err(damage) => damage,
        },
        Err(damage) => damage,
    };
    let aside = set_aside(dir, "state")?;
    tracing::error!(
        %damage, aside = %aside.display(),
        "the state was moved aside and is built again"
    );
    let cause = ReplayCause::SetAside { damage, aside };
    let from = if is_pruned(log) { rebuild(dir, log, snapshots)? } else { None };
    Ok((StateStore::open(&path)?, StateRecovery::NeedsReplay { from, cause }))
}

fn is_pruned(log: &BlockLog) -> bool {
    log.first().is_some_and(|first| first.get() > 1)
}

/// Builds the state in `dir`, where there is none, from the newest intact snapshot that the log
/// goes on from. Returns its height.
fn rebuild(dir: &Path, log: &BlockLog, snapshots: &Snapshots) -> Result<Option<Height>, OpenError> {
    let first = log.first().unwrap_or_default();
    let next = dir.join("state.rebuilding");
    for kept in snapshots.list()?.iter().rev() {
        let Some(block) = log.hash_at(kept.height)? else { continue };
        let info = match snapshots.verify(kept) {
            Ok(info) if info.head.block == block && info.head.height == kept.height => info,
            Ok(_) => {
                tracing::error!(path = %kept.path.display(), "a snapshot of another block");
                continue;
            }
            Err(error @ (SnapshotError::File(_) | SnapshotError::Io(_))) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::error!(path = %kept.path.display(), %error, "a snapshot is damaged");
                continue;
            }
        };
        if next.exists() {
            fs::remove_dir_all(&next).map_err(at("remove", &next))?;
        }
        crate::state::import(&next, &kept.path, &info)?;
        let place = dir.join("state");
        fs::rename(&next, &place).map_err(at("rename into place", &place))?;
        durable::sync_dir(dir)?;
        return Ok(Some(kept.height));
    }
    Err(OpenError::NoSnapshot(first))
}

/// A readable state whose values match its root; what is wrong with it; or an error that has
/// nothing to do with damage.
fn try_state(path: &Path) -> Result<Result<StateStore, StateDamage>, StateOpenError> {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let state = StateStore::open(path)?;
        let checked = state.check_integrity();
        Ok::<_, StateOpenError>(checked.map(|()| state))
    }));
    let damage = match attempt {
        Ok(Ok(Ok(state))) => return Ok(Ok(state)),
        Ok(Ok(Err(IntegrityError::Index(error)))) | Ok(Err(StateOpenError::Index(error))) => {
            if is_environment(&error) {
                return Err(StateOpenError::Index(error));
            }
            error.to_string()
        }
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error @ (StateOpenError::File(_) | StateOpenError::Newer { .. }))) => {
            return Err(error);
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => describe(panic.as_ref()),
    };
    Ok(Err(StateDamage::Unreadable(damage)))
}

/// Compares a state's tip with the log.
fn compare(
    state: &StateStore,
    log: &BlockLog,
) -> Result<Result<StateRecovery, StateDamage>, BlockLogError> {
    let tip = log.tip().map_or(Height::ZERO, |tip| tip.height);
    let Some(found) = state.tip() else {
        return Ok(Ok(match log.tip() {
            Some(_) => StateRecovery::NeedsReplay { from: None, cause: ReplayCause::Behind },
            None => StateRecovery::UpToDate,
        }));
    };
    if found.height > tip {
        return Ok(Err(StateDamage::AheadOfLog { state: found.height, log: tip }));
    }
    if let Some(first) = log.first().filter(|first| is_pruned(log) && found.height < *first) {
        return Ok(Err(StateDamage::BehindLog { state: found.height, first }));
    }
    if found.height > Height::ZERO && log.hash_at(found.height)? != Some(found.block) {
        return Ok(Err(StateDamage::OtherBlock(found.height)));
    }
    Ok(Ok(if found.height == tip {
        StateRecovery::UpToDate
    } else {
        StateRecovery::NeedsReplay { from: Some(found.height), cause: ReplayCause::Behind }
    }))
}

/// Errors of the machine rather than of the data: rebuilding would not help.
fn is_environment(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(e) => {
            durable::is_out_of_space(e)
                || e.kind() == io::ErrorKind::PermissionDenied
                // A view of an earlier opening in this process; sled gives it no kind of its own.
                || e.to_string().contains("could not acquire lock")
        }
        _ => false,
    }
}

/// Moves `name` in `dir` to `<name>.damaged-<n>`.
fn set_aside(dir: &Path, name: &str) -> Result<PathBuf, FileError> {
    let (path, aside) = (dir.join(name), free_name(dir, name));
    fs::rename(&path, &aside).map_err(at("move aside", &path))?;
    durable::sync_dir(dir)?;
    Ok(aside)
}

/// The first `<name>.damaged-<n>` in `dir` that does not exist.
pub(crate) fn free_name(dir: &Path, name: &str) -> PathBuf {
    (0_u32..)
        .map(|n| dir.join(format!("{name}.damaged-{n}")))
        .find(|candidate| !candidate.exists())
        .expect("fewer than 2^32 damaged files lie in one directory")
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("reading it panicked: {}", text.unwrap_or("without a message"))
}
