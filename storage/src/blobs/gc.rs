//! Collecting garbage: what nobody pinned, named, held or asked to keep is deleted.
//!
//! **Invariant.** It may run beside fetches and imports. Kept is: everything that names, pins,
//! [`Hold`](super::Hold)s and the caller keep, of collections with all chunks; everything stored,
//! asked to be stored, held, pinned or named since it began; and partial blobs that somebody
//! writes to. Whether a blob is one of these is decided under the lock under which it is deleted.
//!
//! When a collection that must be kept cannot be read, nothing is deleted: its chunks are not
//! known. Deliberately absent: deciding when to run.

use std::collections::{BTreeMap, BTreeSet};

use protocol::blobs::collection::Collection;
use protocol::blobs::{GroupRange, bytes_of};
use protocol::ids::ContentHash;
use protocol::limits::COLLECTION_BYTES_MAX;

use super::BlobError;
use super::index::{Entry, Place};
use super::small::SmallPlace;
use super::store::BlobStore;
use super::{EncodeError, encode_part};
use crate::durable::at;

/// What a collection of garbage did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Blobs deleted, and references to files of the user forgotten.
    pub removed: u64,
    /// Their bytes; small ones free space only when their segment is rewritten.
    pub removed_bytes: u64,
    /// Partial blobs deleted.
    pub partials_removed: u64,
    /// Pins that have ended.
    pub pins_ended: u64,
    /// Segments of small blobs rewritten.
    pub segments_rewritten: u64,
    /// Segments that should be rewritten, for which the disk has no room or in which something is
    /// damaged.
    pub segments_left: u64,
}

impl BlobStore {
    /// Deletes what nobody keeps. `now` is in seconds since 1970; `extra_roots` are blobs that the
    /// caller keeps besides, of collections with all chunks.
    pub fn gc(
        &self,
        now: u64,
        extra_roots: impl IntoIterator<Item = ContentHash>,
    ) -> Result<GcReport, BlobError> {
        let _one = self.one_collector();
        let mut report = GcReport::default();
        self.pin_file().change(|all| {
            let before = all.pins.len();
            all.pins.retain(|_, retention| !retention.has_ended(now));
            report.pins_ended = (before - all.pins.len()) as u64;
        })?;
        self.index().begin_fresh();
        let done = self.collect(extra_roots, &mut report);
        self.index().end_fresh();
        done?;
        self.rewrite_segments(&mut report)?;
        Ok(report)
    }

    fn collect(
        &self,
        extra_roots: impl IntoIterator<Item = ContentHash>,
        report: &mut GcReport,
    ) -> Result<(), BlobError> {
        let mut kept = BTreeSet::new();
        // After this moment holds and pins are noted where what was stored is.
        let mut roots = self.inner.holds.all();
        roots.extend(extra_roots);
        {
            let pins = self.pin_file();
            let pins = pins.get()?;
            roots.extend(pins.pins.keys());
            roots.extend(pins.names.values());
        }
        self.mark(roots, &mut kept)?;
        let candidates: Vec<ContentHash> = {
            let index = self.index();
            report.blobs = index.len() as u64;
            index.iter().map(|(hash, _)| hash).filter(|hash| !kept.contains(hash)).collect()
        };
        for hash in candidates {
            if let Some(entry) = self.sweep(&hash, &mut kept)? {
                report.removed += 1;
                report.removed_bytes += entry.size;
            }
        }
        let fresh = self.index().take_fresh();
        self.mark(fresh, &mut kept)?;
        for partial in self.partials() {
            let is_kept = kept.contains(&partial.hash) || self.inner.holds.has(&partial.hash);
            if is_kept || partial.is_receiving {
                continue;
            }
            match self.discard_partial(&partial.hash) {
                Ok(removed) => report.partials_removed += u64::from(removed),
                // Somebody began to write to it.
                Err(BlobError::Receiving(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes a blob unless it became wanted meanwhile. What was deleted.
    fn sweep(
        &self,
        hash: &ContentHash,
        kept: &mut BTreeSet<ContentHash>,
    ) -> Result<Option<Entry>, BlobError> {
        loop {
            let mut index = self.index();
            let fresh = index.take_fresh();
            if !fresh.is_empty() {
                drop(index);
                self.mark(fresh, kept)?;
                continue;
            }
            if kept.contains(hash) {
                return Ok(None);
            }
            let entry = index.get(hash);
            self.delete_listed(&mut index, hash)?;
            return Ok(entry);
        }
    }

    /// Adds blobs, and what is in those that are collections.
    fn mark(
        &self,
        roots: impl IntoIterator<Item = ContentHash>,
        kept: &mut BTreeSet<ContentHash>,
    ) -> Result<(), BlobError> {
        for root in roots {
            kept.insert(root);
            if let Some(collection) = self.stored_collection(&root)? {
                let files = collection.files().iter();
                kept.extend(files.flat_map(|file| file.chunks.iter().map(|chunk| chunk.hash)));
            }
        }
        Ok(())
    }

    /// The collection that a stored blob is; `None` when it is something else or not here.
    pub fn stored_collection(&self, hash: &ContentHash) -> Result<Option<Collection>, BlobError> {
        let max = COLLECTION_BYTES_MAX as u64;
        let Some(size) = self.size(hash).filter(|size| *size <= max) else { return Ok(None) };
        let served = match self.open_for_serving(hash) {
            Ok(served) => served,
            Err(BlobError::NotFound(_)) if self.size(hash).is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        // The first group is checked: a damaged byte must not hide a collection.
        let first = GroupRange::one(0);
        let mut frame = Vec::new();
        encode_part(&served, first, &mut frame).map_err(|error| match error {
            EncodeError::Read { source, .. } => {
                at("read blob", &self.path(hash, "data"))(source).into()
            }
            _ => BlobError::Damaged(*hash),
        })?;
        let length = bytes_of(first, size).end as usize;
        let start = frame.get(frame.len() - length..).unwrap_or_default();
        if !Collection::is_announced_by(start) {
            return Ok(None);
        }
        let bytes = self.read_all(hash, max)?;
        Ok(Collection::from_bytes(&bytes).ok())
    }

    /// Copies what is alive out of segments that are mostly dead, and removes them.
    fn rewrite_segments(&self, report: &mut GcReport) -> Result<(), BlobError> {
        let wasteful = self.small().wasteful();
        if wasteful.is_empty() {
            return Ok(());
        }
        for segment in wasteful {
            match self.rewrite_segment(segment) {
                Ok(()) => report.segments_rewritten += 1,
                Err(error @ (BlobError::DiskFull { .. } | BlobError::Damaged(_))) => {
                    tracing::warn!(segment, %error, "a segment of small blobs is not rewritten");
                    report.segments_left += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn rewrite_segment(&self, segment: u32) -> Result<(), BlobError> {
        // Nobody is between writing a record and listing it.
        let _alone = self.rewriting().write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.small().close(segment);
        let alive: BTreeMap<ContentHash, (Entry, SmallPlace)> = {
            let index = self.index();
            let small = index.iter().filter_map(|(hash, entry)| match entry.place {
                Place::Small(place) if place.segment == segment => Some((hash, (entry, place))),
                _ => None,
            });
            small.collect()
        };
        let mut blobs = Vec::with_capacity(alive.len());
        for (hash, (_, place)) in &alive {
            let bytes = self.small().get(hash, *place)?;
            blobs.push((*hash, bytes.ok_or(BlobError::Damaged(*hash))?));
        }
        let given: Vec<_> = blobs.iter().map(|(hash, bytes)| (*hash, &bytes[..])).collect();
        let places = self.small().put(&given)?;
        let mut index = self.index();
        for ((hash, (entry, _)), place) in alive.into_iter().zip(places) {
            // Deleted meanwhile: the copy is dead, too.
            if index.get(&hash) == Some(entry) {
                index.relocate(&hash, Place::Small(place));
            } else {
                self.small().delete(&hash, entry.size as u32, place);
            }
        }
        self.small().remove(segment)?;
        Ok(())
    }
}
