//! Checking the whole store: everything is read and hashed.
//!
//! **Invariant.** Without `repair` nothing is changed. With it, what is wrong is removed (a blob
//! with wrong bytes is no blob), and what can be made again is: a hash tree from its data, the
//! record of a partial blob from what can be verified, names and pins from what can be read.
//! Deliberately absent: fetching a damaged blob again; the report says which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use protocol::blobs::{GroupRange, GroupRanges};
use protocol::ids::ContentHash;
use protocol::limits::PART_GROUPS;

use super::index::{Entry, Place};
use super::read::{Found, Source, check_files};
use super::store::{BlobStore, entries, named};
use super::{BlobError, PartialStatus, encode_part, outboard};
use crate::durable::{self, at};

/// What a check found. With `repair`, all of it was mended or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Blobs checked.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs whose bytes are wrong: removed by a repair, to be fetched again.
    pub damaged: Vec<ContentHash>,
    /// Blobs whose file is gone, or was the user's and has changed: forgotten.
    pub missing: Vec<ContentHash>,
    /// Blobs whose hash tree is wrong: made again from the data.
    pub damaged_trees: Vec<ContentHash>,
    /// Partial blobs that claim groups which are not what they should be: no longer claimed.
    pub wrong_claims: Vec<ContentHash>,
    /// Files that belong to nothing: removed. Folders are left.
    pub strays: Vec<PathBuf>,
    /// Whether the file of names and pins was damaged: a copy is kept beside it.
    pub pins_damaged: bool,
    /// Names and pins that could still be read.
    pub pins_kept: u64,
}

impl FsckReport {
    /// Whether nothing was wrong.
    pub const fn is_clean(&self) -> bool {
        self.damaged.is_empty()
            && self.missing.is_empty()
            && self.damaged_trees.is_empty()
            && self.wrong_claims.is_empty()
            && self.strays.is_empty()
            && !self.pins_damaged
    }
}

/// What a blob was found to be.
enum State {
    Right,
    Damaged,
    Missing,
    /// Its tree is wrong; where data and tree are.
    Tree(PathBuf, PathBuf),
}

impl BlobStore {
    /// Checks everything. `progress` is told the bytes done and all bytes, and says whether to go
    /// on. Partial blobs that are being received are left alone.
    pub fn fsck(
        &self,
        repair: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<FsckReport, BlobError> {
        let _one = self.one_collector();
        let mut report = FsckReport::default();
        self.check_pins(repair, &mut report)?;
        let all = self.list();
        let total = all.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        for (hash, size) in all {
            self.check_blob(&hash, size, repair, &mut report)?;
            report.blobs += 1;
            report.bytes = report.bytes.saturating_add(size);
            if !progress(report.bytes, total) {
                return Err(BlobError::Cancelled);
            }
        }
        for partial in self.partials().into_iter().filter(|partial| !partial.is_receiving) {
            self.check_claims(&partial, repair, &mut report)?;
        }
        self.check_strays(repair, &mut report)?;
        Ok(report)
    }

    fn check_pins(&self, repair: bool, report: &mut FsckReport) -> Result<(), BlobError> {
        let mut pins = self.pin_file();
        match pins.get() {
            Ok(all) => report.pins_kept = (all.pins.len() + all.names.len()) as u64,
            Err(BlobError::PinsDamaged { .. }) => {
                report.pins_damaged = true;
                if repair {
                    report.pins_kept = pins.mend()? as u64;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn check_blob(
        &self,
        hash: &ContentHash,
        size: u64,
        repair: bool,
        report: &mut FsckReport,
    ) -> Result<(), BlobError> {
        let Some(entry) = self.entry(hash) else { return Ok(()) };
        match self.state(hash, size)? {
            State::Right => return Ok(()),
            State::Damaged => report.damaged.push(*hash),
            State::Missing => report.missing.push(*hash),
            State::Tree(data, tree) => {
                report.damaged_trees.push(*hash);
                return if repair { self.mend_tree(hash, size, &data, &tree) } else { Ok(()) };
            }
        }
        // Unless it was stored again meanwhile.
        let mut index = self.index();
        if repair && index.get(hash) == Some(entry) {
            self.delete_listed(&mut index, hash)?;
        }
        Ok(())
    }

    fn state(&self, hash: &ContentHash, size: u64) -> Result<State, BlobError> {
        Ok(match self.source(hash) {
            Ok(Source::Memory(_)) => State::Right,
            Ok(Source::File { data, path, tree }) => {
                match check_files(hash, size, &data, &path, &tree)? {
                    Found { is_data_right: false, .. } => State::Damaged,
                    Found { is_tree_right: false, .. } => State::Tree(path, tree),
                    _ => State::Right,
                }
            }
            Err(BlobError::Damaged(_)) => State::Damaged,
            Err(BlobError::NotFound(_) | BlobError::Changed { .. }) => State::Missing,
            Err(error) => return Err(error),
        })
    }

    fn mend_tree(
        &self,
        hash: &ContentHash,
        size: u64,
        data: &Path,
        tree: &Path,
    ) -> Result<(), BlobError> {
        let temp = self.temporary()?;
        let file = fs::File::open(data).map_err(at("open", data))?;
        let found = outboard::write_outboard(file, size, &temp.outboard_path());
        super::read::check_hash(*hash, found.map_err(at("hash", data))?)?;
        fs::rename(temp.outboard_path(), tree).map_err(at("rename into place", tree))?;
        Ok(durable::sync_parent(tree)?)
    }

    /// Verifies what a partial blob claims.
    fn check_claims(
        &self,
        partial: &PartialStatus,
        repair: bool,
        report: &mut FsckReport,
    ) -> Result<(), BlobError> {
        // As its writer, so that nobody else is.
        let mut writer = match self.partial(partial.hash, partial.size) {
            Ok(writer) => writer,
            Err(BlobError::Receiving(_) | BlobError::AlreadyStored(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let served = self.partial_files().serve(&partial.hash)?;
        let (mut right, mut frame) = (GroupRanges::new(), Vec::new());
        for run in writer.verified() {
            for start in (run.start()..run.end()).step_by(PART_GROUPS as usize) {
                let end = run.end().min(start.saturating_add(PART_GROUPS));
                let Some(part) = GroupRange::new(start, end) else { continue };
                if encode_part(&served, part, &mut frame).is_ok() {
                    right.insert(part);
                    continue;
                }
                let groups = (start..end).map(GroupRange::one);
                right.extend(groups.filter(|one| encode_part(&served, *one, &mut frame).is_ok()));
            }
        }
        if right == *writer.verified() {
            return Ok(());
        }
        report.wrong_claims.push(partial.hash);
        if repair {
            writer.claim_only(right)?;
        }
        Ok(())
    }

    /// Finds files that belong to nothing.
    fn check_strays(&self, repair: bool, report: &mut FsckReport) -> Result<(), BlobError> {
        let dir = &self.inner.dir;
        for path in entries(dir)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let known = ["tmp", "partial", "small", "refs", "pins", "pins.damaged"];
            if known.contains(&name) {
                continue;
            }
            if !path.is_dir() {
                report.strays.push(path);
                continue;
            }
            for path in entries(&path)? {
                if path.is_file() && !self.is_of_a_blob(&path) {
                    report.strays.push(path);
                }
            }
        }
        let partials: BTreeSet<ContentHash> =
            self.partials().into_iter().map(|partial| partial.hash).collect();
        for path in entries(&dir.join("partial"))? {
            let of = ["data", "obao4", "bits", "bits.tmp"];
            let hash = of.iter().find_map(|extension| named(&path, extension));
            if hash.is_none_or(|hash| !partials.contains(&hash)) {
                report.strays.push(path);
            }
        }
        for path in entries(&dir.join("small"))? {
            let is_segment = path.extension().is_some_and(|e| e == "data" || e == "index");
            if !is_segment {
                report.strays.push(path);
            }
        }
        for path in entries(&dir.join("refs"))? {
            let hash = named(&path, "ref").or_else(|| named(&path, "obao4"));
            let place = hash.and_then(|hash| self.entry(&hash)).map(|entry| entry.place);
            if place != Some(Place::Referenced) {
                report.strays.push(path);
            }
        }
        let mut files = report.strays.iter().filter(|path| repair && path.is_file());
        Ok(files.try_for_each(|path| durable::remove_if_present(path))?)
    }

    /// Whether a file in one of the folders of blobs is a blob's.
    fn is_of_a_blob(&self, path: &Path) -> bool {
        let hash = named(path, "data").or_else(|| named(path, "obao4"));
        let entry = hash.and_then(|hash| self.entry(&hash));
        // A small blob may have a file besides.
        matches!(entry, Some(Entry { place: Place::File | Place::Small(_), .. }))
    }
}
