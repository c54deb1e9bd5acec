//! One trial: damage, open, and whatever follows until the ledger is good again or refused.

use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use protocol::amount::Height;
use storage::block_log::BlockLogError;
use storage::ledger::{OpenError, VerifyError};
use storage::{Decision, GuardEntry, LedgerStore, MempoolLog, Opened, StateRecovery, repair};

use super::base::{Base, RUN, entries, pending};
use crate::crash_store::chain::{self, CHAIN, Draw};
use crate::crash_store::child;

/// How a trial ended.
pub(super) enum Ending {
    Repaired,
    Refetched,
    Refused,
    WithoutEffect,
    Silent(String),
    Panic(String),
}

/// Runs one; returns the kind of the file, what was done to it, and the ending.
pub(super) fn run(base: &Base, dir: &Path, draw: &mut Draw) -> Result<(String, String, Ending)> {
    copy(&base.dir, dir)?;
    // Every kind is as likely as any other, however many files it has.
    let mut kinds: Vec<&String> = base.files.iter().map(|(kind, _)| kind).collect();
    kinds.dedup();
    let kind = kinds[usize::try_from(draw.below(kinds.len() as u64))?].clone();
    let files: Vec<&Path> =
        base.files.iter().filter(|(k, _)| *k == kind).map(|(_, path)| path.as_path()).collect();
    let file = files[usize::try_from(draw.below(files.len() as u64))?];
    let what = format!("{} {}", file.display(), spoil(&dir.join(file), draw)?);
    let ending = match catch_unwind(AssertUnwindSafe(|| follow(base, dir, &kind))) {
        Ok(ending) => ending.with_context(|| what.clone())?,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Ending::Panic(text.unwrap_or_default())
        }
    };
    Ok((kind, what, ending))
}

/// Flips a bit, or in one of four cases cuts the file.
pub(super) fn spoil(path: &Path, draw: &mut Draw) -> Result<String> {
    let mut bytes = fs::read(path)?;
    // sled's files are mostly unused: aim at what is used.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) as u64;
    if used == 0 || draw.below(4) == 0 {
        let length = draw.below(used.max(1));
        bytes.truncate(usize::try_from(length)?);
        fs::write(path, bytes)?;
        return Ok(format!("cut to {length} bytes"));
    }
    let (at, bit) = (draw.below(used), draw.below(8));
    bytes[usize::try_from(at)?] ^= 1 << bit;
    fs::write(path, bytes)?;
    Ok(format!("bit {bit} of byte {at} flipped"))
}

/// What a node and its operator would do.
fn follow(base: &Base, dir: &Path, kind: &str) -> Result<Ending> {
    let opened = match child::open(dir) {
        Ok(opened) => opened,
        Err(error) => return refused(base, dir, kind, &error),
    };
    let spoke = speaks(&opened);
    let mut store = opened.store.with_segment_bytes(16 * 1024);
    // With a damaged block behind an index, replaying finds it.
    if let Err(error) = chain::replay(&mut store, base.seed) {
        drop(store);
        return refused(base, dir, kind, &error);
    }
    let tip = chain::height_of(&store);
    if let Some(wrong) = unsafe_signature(base, &store)? {
        return Ok(Ending::Silent(wrong));
    }
    if tip < base.height && !spoke {
        return Ok(Ending::Silent(format!("it opened at height {tip} without a word")));
    }
    if let Err(error) = store.verify() {
        if !matches!(error, VerifyError::BlockLog(_)) {
            return Ok(Ending::Silent(format!("the state is used and bad: {error}")));
        }
        drop(store);
        return refused(base, dir, kind, &error.into());
    }
    let kept = store
        .proposals()
        .find(Height::new(base.height + 1), &chain::body(base.height + 1, RUN).offer.block)?;
    if kept.as_ref() != Some(&chain::body(base.height + 1, RUN)) && !spoke {
        return Ok(Ending::Silent("a proposal is gone without a word".to_string()));
    }
    let pool_mended = match pool(base, dir)? {
        Pool::Whole => false,
        Pool::Mended => true,
        Pool::Silent(wrong) => return Ok(Ending::Silent(wrong)),
    };
    for snapshot in store.snapshots().list()? {
        if store.snapshots().verify(&snapshot).is_err() {
            // Found when it is used, and never used: pruning and rebuilding verify it first.
            return finish(base, store, Ending::Refused);
        }
    }
    // An index is made again without more words than a line in the program's log.
    let index_mended = kind == "segment index" && same_indexes(base, dir)?;
    let ending = match (tip < base.height, spoke || index_mended || pool_mended) {
        (true, _) => Ending::Refetched,
        (false, true) => Ending::Repaired,
        (false, false) => Ending::WithoutEffect,
    };
    finish(base, store, ending)
}

/// What became of the transactions that wait.
enum Pool {
    Whole,
    Mended,
    Silent(String),
}

/// Opens the mempool log: what it gives back must be the first of what was acknowledged, and less
/// than all of it must be said.
fn pool(base: &Base, dir: &Path) -> Result<Pool> {
    let acknowledged = pending(base.seed);
    let (_, restored) = MempoolLog::open(&dir.join("data"), &CHAIN)?;
    let spoke = restored.damaged.is_some() || restored.torn.is_some();
    let found = restored.transactions;
    Ok(if !acknowledged.starts_with(&found) {
        Pool::Silent("the mempool log gives back what nobody sent".to_string())
    } else if spoke {
        Pool::Mended
    } else if found.len() < acknowledged.len() {
        let (left, all) = (found.len(), acknowledged.len());
        Pool::Silent(format!("{left} of {all} pending transactions are left, without a word"))
    } else {
        Pool::Whole
    })
}

/// Fetches what is missing and compares the root.
fn finish(base: &Base, mut store: LedgerStore, ending: Ending) -> Result<Ending> {
    while chain::height_of(&store) < base.height {
        chain::append_next(&mut store, base.seed)?;
    }
    let root = store.view().root();
    if root != base.root {
        return Ok(Ending::Silent(format!("it ended with root {root}, not {}", base.root)));
    }
    Ok(ending)
}

/// Whether opening said that something was wrong.
fn speaks(opened: &Opened) -> bool {
    let recovery = &opened.recovery;
    recovery.state != StateRecovery::UpToDate
        || !recovery.torn.is_empty()
        || recovery.proposals_aside.is_some()
        || recovery.lost_until.is_some()
}

/// Whether the indexes are as they were before the damage.
fn same_indexes(base: &Base, dir: &Path) -> Result<bool> {
    let mut same = true;
    for (_, file) in base.files.iter().filter(|(kind, _)| kind == "segment index") {
        same &= fs::read(base.dir.join(file))? == fs::read(dir.join(file))?;
    }
    Ok(same)
}

/// A signature that contradicts one that was made, if the guard would allow it.
fn unsafe_signature(base: &Base, store: &LedgerStore) -> Result<Option<String>> {
    let guard = store.guard();
    for signed in entries(base.height) {
        let other = GuardEntry { value: child::value(RUN + 1), ..signed };
        if guard.check(&other)? == Decision::Sign {
            return Ok(Some(format!("the guard signs {:?} again", signed.step)));
        }
    }
    Ok(None)
}

/// A ledger that does not open: right for some files, and mended by an operator where that is
/// possible.
fn refused(base: &Base, dir: &Path, kind: &str, error: &anyhow::Error) -> Result<Ending> {
    let message = format!("{error:#}");
    if message.len() < 20 {
        return Ok(Ending::Silent(format!("refused with too few words: {message}")));
    }
    let by_log = error.downcast_ref::<BlockLogError>().is_some()
        || matches!(error.downcast_ref(), Some(OpenError::BlockLog(_)))
        || matches!(error.downcast_ref(), Some(VerifyError::BlockLog(_)));
    if !by_log {
        return match kind {
            "signer guard" | "identity" => Ok(Ending::Refused),
            _ => Ok(Ending::Silent(format!("{kind} should be mended, but: {message}"))),
        };
    }
    if !kind.starts_with("block segment") {
        return Ok(Ending::Silent(format!("{kind} stops the block log: {message}")));
    }
    storage::state::wait_released(&dir.join("data").join("state"))?;
    let (found, aside) = repair::cut_damage(&dir.join("data"), &CHAIN)?;
    if aside.is_none() {
        bail!("the log was refused ({message}), but repair finds no damage");
    }
    let good = found.good.map_or(0, |tip| tip.height.get());
    let opened = match child::open(dir) {
        Ok(opened) => opened,
        // Pruned, and cut below its snapshots: fetched anew.
        Err(error) if base.first > 1 && no_snapshot(&error) => return Ok(Ending::Refused),
        Err(error) => return Err(error).context("it does not open after the repair"),
    };
    if good < base.height && opened.recovery.lost_until < Some(Height::new(base.height)) {
        return Ok(Ending::Silent(format!("cut to {good}, and it would vote at once")));
    }
    let mut store = opened.store;
    chain::replay(&mut store, base.seed)?;
    if let Some(wrong) = unsafe_signature(base, &store)? {
        return Ok(Ending::Silent(wrong));
    }
    if store.view().tip().is_none() {
        return Ok(Ending::Refused);
    }
    finish(base, store, Ending::Refused)
}

fn no_snapshot(error: &anyhow::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(OpenError::NoSnapshot(_))) {
            return true;
        }
        source = error.source();
    }
    false
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
