//! Bringing the stores into agreement when a ledger is opened.
//!
//! Invariant: what is damaged is moved aside, never deleted, and everything that was found and
//! done is in the [`RecoveryReport`]. Deliberately absent: mending a damaged block log, which only
//! an operator may ask for ([`crate::repair`]).

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::ids::ChainId;
use thiserror::Error;

use super::OpenError;
use crate::block_log::{BlockLog, BlockLogError, Tip};
use crate::durable::{self, FileError, at};
use crate::proposal_log::{ProposalLog, ProposalLogError};
use crate::record::{RecordError, TornTail};
use crate::snapshot::{SnapshotError, Snapshots};
use crate::state::{IntegrityError, LedgerState as _, StateOpenError, StateStore};

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
    /// The last height at which this node may have voted without remembering, if the log has lost
    /// blocks or the guard was cut short: it must not vote before that height is decided
    /// elsewhere. Known from the state and the signer guard.
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

/// Opens the proposal log; a damaged one is moved aside, because its bodies can be spared: those
/// who voted for a body have it too, and the guard keeps this node from proposing another.
pub(super) fn open_proposals(
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
pub(super) fn lost_until(
    tip: Option<Tip>,
    signed: Option<Height>,
    state: &StateRecovery,
) -> Option<Height> {
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
pub(super) fn open_state(
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
