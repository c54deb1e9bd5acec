//! Bringing a data directory of an older schema to the present one.
//!
//! Each step writes a copy beside the old store, checks it against the old one, renames it into
//! place and only then raises the schema; so a crash leaves a directory that is migrated again
//! from its untouched old store, or one that is done.
//!
//! | From | To | What changes |
//! |---|---|---|
//! | 1 | 2 | `blocks.log`, one file, becomes segments in `blocks/` |
//!
//! Proposal log, signer guard, state and snapshots each state a schema of their own; all are at
//! their first. Deliberately absent: going back.

use std::fs;
use std::path::Path;

use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::codec::Canonical;
use protocol::ids::ChainId;
use thiserror::Error;

use crate::block_log::{self, BlockLog, BlockLogError};
use crate::durable::{self, FileError, at};
use crate::identity;
use crate::record::{LogKind, RecordError, RecordLog, TornTail};

/// Why a directory was not migrated. It is as it was.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The old log is damaged.
    #[error("the old block log cannot be read")]
    Old(#[from] RecordError),
    /// The new log cannot be written.
    #[error("the new block log cannot be written")]
    New(#[from] BlockLogError),
    /// The copy is not equal to the original.
    #[error("the migrated copy differs from the original at record {0}: the disk is not reliable")]
    Differs(u64),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Migrates `dir` from schema `from`. Returns the torn tail of the old log, if it had one.
pub(crate) fn migrate(
    dir: &Path,
    chain: &ChainId,
    from: u32,
) -> Result<Option<TornTail>, MigrateError> {
    let old = dir.join("blocks.log");
    let mut torn = None;
    if from < 2 && old.exists() {
        tracing::info!(path = %old.display(), "migrating the block log to segments");
        torn = segment_blocks(dir, chain, &old)?;
        identity::write(dir, chain)?;
        durable::remove_if_present(&old)?;
    } else if from < identity::SCHEMA_VERSION {
        identity::write(dir, chain)?;
    } else if old.exists() {
        tracing::warn!(path = %old.display(), "left over from a migration; it can be deleted");
    }
    Ok(torn)
}

fn segment_blocks(
    dir: &Path,
    chain: &ChainId,
    old: &Path,
) -> Result<Option<TornTail>, MigrateError> {
    let kind = LogKind {
        name: "block log",
        schema: 1,
        end_mark: false,
        chain: *chain,
        payload_bytes_max: (DecidedBlock::BYTES_MAX + 40) as u32,
    };
    let (source, torn) = RecordLog::open(old, kind, |_, _| {})?;
    let (next, place) = (dir.join("blocks.migrating"), dir.join(block_log::FOLDER));
    for unfinished in [&next, &place] {
        if unfinished.exists() {
            fs::remove_dir_all(unfinished).map_err(at("remove", unfinished))?;
        }
    }
    let (mut log, _) = BlockLog::open_folder(&next, chain)?;
    for index in 0..source.count() {
        let payload = source.read(index)?.ok_or(MigrateError::Differs(index))?;
        log.append_record(&payload)?;
    }
    drop(log);
    durable::sync_tree(&next)?;
    compare(&source, &next, chain)?;
    fs::rename(&next, &place).map_err(at("rename into place", &place))?;
    durable::sync_dir(dir)?;
    Ok(torn)
}

/// Reads both logs again and compares them.
fn compare(source: &RecordLog, folder: &Path, chain: &ChainId) -> Result<(), MigrateError> {
    let (log, _) = BlockLog::open_folder(folder, chain)?;
    log.check()?;
    for index in 0..=source.count() {
        if log.record(Height::new(index).plus(1))? != source.read(index)? {
            return Err(MigrateError::Differs(index));
        }
    }
    Ok(())
}
