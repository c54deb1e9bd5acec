//! Small blobs, at most one group each, many to a file.
//!
//! **Invariant.** A blob is durable when [`SmallBlobs::put`] returns: one sync for all that were
//! given together. What is read is checked against its hash.
//!
//! A deletion frees space when its segment is rewritten, at the next collection of garbage. It is
//! not synced: after a power cut a deleted blob may be back, which harms nobody.
//!
//! Deliberately absent: an index of its own in memory; the store's says where each blob is.

mod format;
mod segment;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::ids::ContentHash;

pub(super) use self::format::SMALL_BYTES_MAX;
use self::format::{IndexEntry, Kind, RECORD_HEAD_BYTES, read_head};
use self::segment::{Paths, Writer};
use crate::durable::{self, FileError, at};

/// Data bytes after which a new segment is begun: what is rewritten at once to free space.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Segments of which less than this part is alive, in percent, are rewritten.
const ALIVE_PERCENT_MIN: u64 = 50;

/// Where a small blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SmallPlace {
    pub(super) segment: u32,
    /// Of its record in the data file.
    offset: u32,
}

/// How much of a segment is alive.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    bytes: u64,
    alive: u64,
}

/// All segments.
#[derive(Debug)]
pub(super) struct SmallBlobs {
    folder: PathBuf,
    segments: BTreeMap<u32, Usage>,
    writer: Option<Writer>,
    next: u32,
    /// The data file that was read last.
    reading: Option<(u32, Arc<File>)>,
}

/// A blob that was found when the segments were opened.
pub(super) type Found = (ContentHash, u32, SmallPlace);

impl SmallBlobs {
    /// Reads all segments. Gives every blob, its size and its place.
    pub(super) fn open(folder: PathBuf) -> Result<(Self, Vec<Found>), FileError> {
        durable::create_dir(&folder)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(Ok(number)) = name.strip_suffix(".data").map(str::parse::<u32>) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let (segments, next) = (BTreeMap::new(), numbers.last().map_or(0, |last| last + 1));
        let mut blobs = Self { folder, segments, writer: None, next, reading: None };
        let mut found: BTreeMap<ContentHash, (u32, SmallPlace)> = BTreeMap::new();
        for number in numbers {
            blobs.read_segment(number, &mut found)?;
        }
        for (size, place) in found.values() {
            blobs.count(*place, *size, true);
        }
        let found = found.into_iter().map(|(hash, (size, place))| (hash, size, place));
        Ok((blobs, found.collect()))
    }

    fn read_segment(
        &mut self,
        number: u32,
        found: &mut BTreeMap<ContentHash, (u32, SmallPlace)>,
    ) -> Result<(), FileError> {
        let contents = segment::read(&Paths::of(&self.folder, number), number)?;
        if contents.damaged > 0 {
            tracing::warn!(number, records = contents.damaged, "small blobs are damaged and lost");
        }
        for entry in &contents.entries {
            let Ok(offset) = u32::try_from(entry.offset) else { continue };
            let place = SmallPlace { segment: number, offset };
            match entry.kind {
                Kind::Put => drop(found.insert(entry.hash, (entry.length, place))),
                // Only this record: the blob may have been stored again.
                Kind::Deleted => {
                    if found.get(&entry.hash).is_some_and(|(_, at)| *at == place) {
                        found.remove(&entry.hash);
                    }
                }
            }
        }
        self.segments.insert(number, Usage { bytes: contents.end, alive: 0 });
        let is_last = number + 1 == self.next;
        if is_last && contents.is_clean && contents.end < SEGMENT_BYTES {
            self.writer = Some(Writer::resume(&self.folder, number, contents.end)?);
        }
        Ok(())
    }

    /// Counts a record as alive, or no longer.
    fn count(&mut self, place: SmallPlace, size: u32, is_alive: bool) {
        let record = RECORD_HEAD_BYTES as u64 + u64::from(size);
        if let Some(usage) = self.segments.get_mut(&place.segment) {
            usage.alive = match is_alive {
                true => usage.alive.saturating_add(record),
                false => usage.alive.saturating_sub(record),
            };
        }
    }

    /// Stores blobs of at most [`SMALL_BYTES_MAX`] under their hashes, with one sync for as many
    /// as fit a segment. When it fails, those before may be stored, too: they are found when the
    /// store is opened again.
    pub(super) fn put(
        &mut self,
        blobs: &[(ContentHash, &[u8])],
    ) -> Result<Vec<SmallPlace>, FileError> {
        let mut places = Vec::with_capacity(blobs.len());
        let most = (SEGMENT_BYTES / (SMALL_BYTES_MAX + RECORD_HEAD_BYTES as u64)) as usize;
        for blobs in blobs.chunks(most) {
            let mut writer = self.take_writer()?;
            let number = writer.number;
            let entries = match writer.append(blobs) {
                Ok(entries) => entries,
                Err(error) => {
                    // After a failed sync this segment takes no more.
                    self.writer = Writer::survives(&error).then_some(writer);
                    return Err(error);
                }
            };
            let end = writer.end();
            self.segments.entry(number).or_default().bytes = end;
            self.writer = Some(writer);
            for entry in entries {
                // A segment takes no more at 64 MiB, long before an offset has 32 bits.
                let offset = u32::try_from(entry.offset).unwrap_or(u32::MAX);
                let place = SmallPlace { segment: number, offset };
                self.count(place, entry.length, true);
                places.push(place);
            }
        }
        Ok(places)
    }

    fn take_writer(&mut self) -> Result<Writer, FileError> {
        match self.writer.take() {
            Some(writer) if writer.end() < SEGMENT_BYTES => Ok(writer),
            _ => {
                let writer = Writer::create(&self.folder, self.next)?;
                self.next += 1;
                Ok(writer)
            }
        }
    }

    /// The record at a place, if it is the blob. An error of kind `NotFound` when the segment was
    /// rewritten meanwhile.
    pub(super) fn get(
        &mut self,
        hash: &ContentHash,
        place: SmallPlace,
    ) -> Result<Option<Vec<u8>>, FileError> {
        let path = Paths::of(&self.folder, place.segment).data;
        let file = match &self.reading {
            Some((number, file)) if *number == place.segment => Arc::clone(file),
            _ => Arc::new(File::open(&path).map_err(at("open", &path))?),
        };
        self.reading = Some((place.segment, Arc::clone(&file)));
        let mut head = [0; RECORD_HEAD_BYTES];
        let offset = u64::from(place.offset);
        let read = file.read_exact_at(&mut head, offset).and_then(|()| {
            let Some((size, _)) = read_head(&head).filter(|(_, found)| found == hash) else {
                return Ok(None);
            };
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, offset + RECORD_HEAD_BYTES as u64)?;
            Ok((ContentHash::of(&bytes) == *hash).then_some(bytes))
        });
        match read {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            result => result.map_err(at("read", &path)),
        }
    }

    /// Forgets a blob.
    pub(super) fn delete(&mut self, hash: &ContentHash, size: u32, place: SmallPlace) {
        self.count(place, size, false);
        let (kind, offset) = (Kind::Deleted, u64::from(place.offset));
        let entry = IndexEntry { kind, hash: *hash, offset, length: size };
        if let Some(writer) = self.writer.as_ref().filter(|w| w.number == place.segment) {
            return writer.note(&[entry]);
        }
        let path = Paths::of(&self.folder, place.segment).index;
        match OpenOptions::new().write(true).open(&path) {
            Ok(index) => segment::note(&index, &path, place.segment, &[entry]),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot note a deletion"),
        }
    }

    /// The segments that should be rewritten: more dead than alive.
    pub(super) fn wasteful(&self) -> Vec<u32> {
        let writing = self.writer.as_ref().map(|writer| writer.number);
        let is_wasteful = |number: u32, usage: &Usage| match usage.bytes {
            // Nothing was ever written to it, or its beginning is lost.
            format::MAGIC_BYTES => writing != Some(number),
            bytes => bytes > usage.alive.saturating_mul(100) / ALIVE_PERCENT_MIN,
        };
        let wasteful = self.segments.iter().filter(|(number, usage)| is_wasteful(**number, usage));
        wasteful.map(|(number, _)| *number).collect()
    }

    /// Lets no blob be added to a segment that is to be removed.
    pub(super) fn close(&mut self, segment: u32) {
        if self.writer.as_ref().is_some_and(|writer| writer.number == segment) {
            self.writer = None;
        }
    }

    /// Removes a segment in which nothing is alive; returns how many bytes that frees.
    pub(super) fn remove(&mut self, segment: u32) -> Result<u64, FileError> {
        self.close(segment);
        if self.reading.as_ref().is_some_and(|(number, _)| *number == segment) {
            self.reading = None;
        }
        let paths = Paths::of(&self.folder, segment);
        durable::remove_if_present(&paths.data)?;
        durable::remove_if_present(&paths.index)?;
        Ok(self.segments.remove(&segment).map_or(0, |usage| usage.bytes))
    }
}
