//! Looking at a damaged log, and cutting it, for operators.
//!
//! Invariant: what is cut off is moved aside, never deleted. Deliberately absent: doing so without
//! being asked; a node that lost blocks must fetch them again before it votes.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::amount::Height;
use protocol::ids::ChainId;

use super::segment::{self, Active, Reader};
use super::{BlockLogError, FOLDER, Tip};
use crate::durable::{self, at};
use crate::record::RecordLog;

/// What all of a log looks like.
#[derive(Debug)]
pub struct Survey {
    /// Height of its first block.
    pub first: Option<Height>,
    /// The last block before any damage.
    pub good: Option<Tip>,
    /// The first damage, as a sentence.
    pub damage: Option<String>,
    /// Files from the damaged one on.
    pub damaged_files: Vec<PathBuf>,
    /// Bytes of all segments.
    pub bytes: u64,
}

/// Reads every record of the log in `dir`. Changes nothing.
pub(crate) fn survey(dir: &Path, chain: &ChainId) -> Result<Survey, BlockLogError> {
    let folder = dir.join(FOLDER);
    let kind = segment::kind(chain);
    let mut survey =
        Survey { first: None, good: None, damage: None, damaged_files: Vec::new(), bytes: 0 };
    if !folder.exists() {
        return Ok(survey);
    }
    let firsts = segment::list(&folder)?;
    survey.first = firsts.first().copied().map(Height::new);
    let mut last_checksum = None;
    for first in &firsts {
        let path = segment::path(&folder, *first);
        survey.bytes += fs::metadata(&path).map_err(at("read", &path))?.len();
        if survey.damage.is_some() {
            survey.damaged_files.push(path);
            continue;
        }
        let expected = survey.good.map(|tip| tip.height.get().saturating_add(1));
        let mut reader = Reader::new(*first);
        let found = RecordLog::survey(&path, kind, |index, payload| reader.visit(index, payload))?;
        let mut damage = found.wrong.map(|error| error.to_string());
        if damage.is_none() {
            damage = reader.finish(&path).err().map(|error| error.to_string());
        }
        if expected.is_some_and(|expected| expected != *first) {
            damage = Some(format!("{}: a segment before it is missing", path.display()));
        } else if last_checksum.is_some_and(|last| last != reader.previous) {
            damage = Some(format!("{}: it continues another log", path.display()));
        } else if let Some(tip) = reader.tip.filter(|_| reader.wrong.is_none()) {
            survey.good = Some(tip);
        }
        if damage.is_some() {
            survey.damaged_files.push(path);
            survey.damage = damage;
            continue;
        }
        last_checksum = Some(found.last);
    }
    Ok(survey)
}

/// Cuts the log in `dir` after its last good block. The damaged segment and all after it are kept
/// in `aside`. The directory must be locked by the caller.
pub(crate) fn cut(dir: &Path, chain: &ChainId, aside: &Path) -> Result<Survey, BlockLogError> {
    let found = survey(dir, chain)?;
    let Some(damaged) = found.damaged_files.first() else { return Ok(found) };
    let folder = dir.join(FOLDER);
    let kind = segment::kind(chain);
    durable::create_dir(aside)?;
    let firsts = segment::list(&folder)?;
    let in_aside = |path: &Path| aside.join(path.file_name().unwrap_or_default());
    // From the last on, so that a crash leaves the damage where it is until all after it is gone.
    for first in firsts.iter().rev() {
        let (path, index) = (segment::path(&folder, *first), segment::index_path(&folder, *first));
        if path < *damaged {
            break;
        }
        durable::remove_if_present(&index)?;
        if path != *damaged {
            fs::rename(&path, in_aside(&path)).map_err(at("move aside", &path))?;
        }
    }
    durable::sync_dir(aside)?;
    durable::sync_dir(&folder)?;
    let copy = in_aside(damaged);
    fs::copy(damaged, &copy).map_err(at("copy aside", damaged))?;
    durable::sync_tree(aside)?;
    let first = firsts.iter().copied().find(|first| segment::path(&folder, *first) == *damaged);
    let first = first.unwrap_or_default();
    let good = found.good.map_or(0, |tip| tip.height.get());
    if good < first {
        fs::remove_file(damaged).map_err(at("remove", damaged))?;
        durable::sync_dir(&folder)?;
        return Ok(found);
    }
    rewrite(&folder, &kind, first, good, &copy)?;
    Ok(found)
}

/// Writes the good blocks of a damaged segment, up to height `good`, in its place.
fn rewrite(
    folder: &Path,
    kind: &crate::record::LogKind,
    first: u64,
    good: u64,
    copy: &Path,
) -> Result<(), BlockLogError> {
    let keep = good - first + 2;
    let mut records = Vec::new();
    RecordLog::survey(copy, *kind, |index, payload| {
        if index < keep {
            records.push(payload.to_vec());
        }
    })?;
    let path = segment::path(folder, first);
    RecordLog::write_new(&path, *kind, records.iter().map(Vec::as_slice))?;
    let (_, _, tip, _) = Active::open(folder, kind, first)?;
    if tip.height.get() != good {
        let what = format!("after the cut it ends at {}, not at {good}", tip.height);
        return Err(BlockLogError::inconsistent(&path, what));
    }
    Ok(())
}
