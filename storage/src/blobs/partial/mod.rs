//! A blob of which some groups are here: received in any order, resumed after a crash, served.
//!
//! **Invariant.** Only a [`VerifiedPart`] is written. The file of verified groups claims what was
//! synced and nothing else, so that after a crash nothing false is believed and nothing that a
//! checkpoint made durable is fetched again. A complete blob needs no second hashing.
//!
//! One writer for a blob. Dropping it keeps the files, and the next one goes on. After a restart the
//! first one looks for what was written after the last checkpoint: whatever still leads up to the
//! hash need not be fetched again. Deliberately absent: deciding when to make a checkpoint.

pub(super) mod bits;
mod files;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use protocol::blobs::wire::Parts;
use protocol::blobs::{GroupRanges, all_groups, bytes_of};
use protocol::ids::ContentHash;

pub use self::files::Checkpoint;
use self::files::Files;
pub(super) use self::files::Paths;
use super::part::{EncodeError, Frame, VerifiedPart, encode_part};
use super::serve::SharedRanges;
use super::store::BlobStore;
use super::tree::{PAIR_BYTES, Subtree, outboard_bytes};
use super::{BlobError, BlobFile, ServedBlob};
use crate::durable::{self, FileError, at};

/// Slices that one `pwritev` takes; the system's own limit is 1,024.
const SLICES_MAX: usize = 512;

/// A partial blob, as listed by [`BlobStore::partials`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialStatus {
    /// The blob.
    pub hash: ContentHash,
    /// Its size.
    pub size: u64,
    /// What is here.
    pub verified: GroupRanges,
    /// Whether somebody writes to it now.
    pub is_receiving: bool,
}

/// A known partial blob.
#[derive(Clone, Debug)]
struct Known {
    size: u64,
    verified: SharedRanges,
    is_open: bool,
    /// Whether what was written after the last checkpoint, before a crash, was looked for.
    is_searched: bool,
}

/// All partial blobs of a store.
#[derive(Debug)]
pub(super) struct Partials {
    folder: PathBuf,
    known: Mutex<BTreeMap<ContentHash, Known>>,
}

impl Partials {
    /// Reads what is there. Files that nothing claims are removed: their blob begins again.
    pub(super) fn open(folder: PathBuf) -> Result<Self, BlobError> {
        durable::create_dir(&folder)?;
        let mut names: BTreeMap<ContentHash, bool> = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            let stem = path.file_name().and_then(|name| name.to_str()?.split('.').next());
            if let Some(hash) = stem.and_then(|stem| stem.parse().ok()) {
                let is_bits = path.extension().is_some_and(|extension| extension == "bits");
                *names.entry(hash).or_default() |= is_bits;
            }
        }
        let mut known = BTreeMap::new();
        for (hash, has_bits) in names {
            let paths = Paths::of(&folder, &hash);
            if let Some(bits) = paths.read(&hash) {
                let verified = Arc::new(RwLock::new(bits.verified));
                let size = bits.size;
                known.insert(hash, Known { size, verified, is_open: false, is_searched: false });
                continue;
            }
            if has_bits {
                tracing::warn!(%hash, "the record of what has arrived is damaged; it begins again");
            }
            paths.remove()?;
        }
        Ok(Self { folder, known: Mutex::new(known) })
    }

    pub(super) fn paths(&self, hash: &ContentHash) -> Paths {
        Paths::of(&self.folder, hash)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ContentHash, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that all of them will have.
    pub(super) fn bytes(&self) -> u64 {
        self.known().values().fold(0, |sum, known| sum.saturating_add(known.size))
    }

    pub(super) fn list(&self) -> Vec<PartialStatus> {
        let all = self.known();
        let status = |(hash, known): (&ContentHash, &Known)| PartialStatus {
            hash: *hash,
            size: known.size,
            verified: read(&known.verified),
            is_receiving: known.is_open,
        };
        all.iter().map(status).collect()
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<(u64, GroupRanges)> {
        self.known().get(hash).map(|known| (known.size, read(&known.verified)))
    }

    /// Opens one for serving what is here of it.
    pub(super) fn serve(&self, hash: &ContentHash) -> Result<ServedBlob, BlobError> {
        let known = self.known().get(hash).cloned().ok_or(BlobError::NotFound(*hash))?;
        let paths = self.paths(hash);
        let open = |path: &Path| match File::open(path) {
            Ok(file) => Ok(BlobFile::new(file)),
            // Finished or discarded meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(BlobError::NotFound(*hash)),
            Err(e) => Err(at("open", path)(e).into()),
        };
        let data = open(&paths.data)?;
        let pairs =
            if outboard_bytes(known.size) == 0 { BlobFile::empty() } else { open(&paths.pairs)? };
        Ok(ServedBlob::new(*hash, known.size, data, pairs).partial(known.verified))
    }

    /// Makes one the writer's. `room` is asked before a new one is begun, and told what all others
    /// will take.
    fn claim(
        &self,
        hash: &ContentHash,
        size: u64,
        room: impl FnOnce(u64) -> Result<(), BlobError>,
    ) -> Result<(Files, SharedRanges, bool), BlobError> {
        let mut all = self.known();
        let paths = self.paths(hash);
        if let Some(known) = all.get_mut(hash) {
            if known.is_open {
                return Err(BlobError::Receiving(*hash));
            }
            if known.size == size {
                let files = Files::open(paths, *hash, size, false)?;
                known.is_open = true;
                let is_searched = std::mem::replace(&mut known.is_searched, true);
                return Ok((files, Arc::clone(&known.verified), is_searched));
            }
            // Groups that were verified for another size: one of the two was never proved.
            tracing::warn!(%hash, was = known.size, now = size, "another size; it begins again");
            all.remove(hash);
        }
        paths.remove()?;
        room(all.values().fold(0, |sum, known| sum.saturating_add(known.size)))?;
        let files = match Files::open(paths.clone(), *hash, size, true) {
            Ok(files) => files,
            Err(error) => {
                paths.remove()?;
                return Err(error.into());
            }
        };
        let verified = SharedRanges::default();
        let shared = Arc::clone(&verified);
        let known = Known { size, verified: shared, is_open: true, is_searched: true };
        all.insert(*hash, known);
        Ok((files, verified, true))
    }

    /// The writer is gone. After a failed sync only what was synced before is believed.
    fn release(&self, hash: &ContentHash, has_failed: bool) {
        let mut all = self.known();
        let Some(known) = all.get_mut(hash) else { return };
        known.is_open = false;
        if has_failed {
            let durable = self.paths(hash).read(hash).map(|bits| bits.verified);
            known.verified = Arc::new(RwLock::new(durable.unwrap_or_default()));
        }
    }

    fn forget(&self, hash: &ContentHash) {
        self.known().remove(hash);
    }

    /// Removes one that nobody writes to; whether it was there.
    pub(super) fn discard(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        let mut all = self.known();
        match all.get(hash) {
            Some(known) if known.is_open => return Err(BlobError::Receiving(*hash)),
            Some(_) => {}
            None => return Ok(false),
        }
        self.paths(hash).remove()?;
        all.remove(hash);
        Ok(true)
    }
}

fn read(verified: &SharedRanges) -> GroupRanges {
    verified.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The writer of a partial blob.
#[derive(Debug)]
pub struct PartialBlob {
    store: BlobStore,
    files: Arc<Files>,
    /// The same as `shared`, for the writer to look at.
    verified: GroupRanges,
    shared: SharedRanges,
    pairs: WrittenPairs,
    checkpoints: u64,
    /// Nothing is left to give back: it was finished or discarded.
    is_over: bool,
}

impl PartialBlob {
    pub(super) fn open(store: &BlobStore, hash: ContentHash, size: u64) -> Result<Self, BlobError> {
        let (files, shared, is_searched) =
            store.partial_files().claim(&hash, size, |others| store.check_room(size, others))?;
        let verified = read(&shared);
        let (files, pairs) = (Arc::new(files), WrittenPairs::default());
        let mut opened = Self {
            store: store.clone(),
            files,
            verified,
            shared,
            pairs,
            checkpoints: 0,
            is_over: false,
        };
        if !is_searched {
            opened.search()?;
        }
        Ok(opened)
    }

    /// Looks for groups that were written and not claimed when the process died. Where nothing was
    /// written the first pair on the way is zeros, which fit no hash, so that costs next to nothing.
    fn search(&mut self) -> Result<(), BlobError> {
        let (hash, size) = (self.hash(), self.size());
        let whole = self.store.partial_files().serve(&hash)?.unrestricted();
        let mut frame = Vec::new();
        let mut found = GroupRanges::new();
        for gap in self.verified.gaps(all_groups(size)) {
            for part in Parts::of(&gap.into()) {
                match encode_part(&whole, part, &mut frame) {
                    Ok(()) => {
                        found.insert(part);
                    }
                    Err(EncodeError::Read { source, .. }) => {
                        return Err(at("read", &self.files.paths.data)(source).into());
                    }
                    Err(_) => {}
                }
            }
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).insert_all(&found);
        self.verified.insert_all(&found);
        Ok(())
    }

    /// The hash it must have.
    pub fn hash(&self) -> ContentHash {
        self.files.hash
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.files.size
    }

    /// The groups that are here.
    pub const fn verified(&self) -> &GroupRanges {
        &self.verified
    }

    /// Whether all of them are here.
    pub fn is_complete(&self) -> bool {
        self.verified.contains_all(all_groups(self.size()))
    }

    /// Bytes that are here.
    pub fn bytes(&self) -> u64 {
        self.verified
            .iter()
            .map(|run| bytes_of(run, self.size()))
            .map(|run| run.end - run.start)
            .sum()
    }

    /// Writes a part to the file; it can be served from now on, and is durable after the next
    /// [`Self::checkpoint`]. Returns how many groups are new. When it fails, nothing is claimed.
    pub fn write_part<F: Frame>(&mut self, part: &VerifiedPart<F>) -> Result<u64, BlobError> {
        let (hash, size) = (self.hash(), self.size());
        if part.hash() != hash {
            return Err(BlobError::OtherBlob { expected: hash, found: part.hash() });
        }
        if part.size() != size {
            return Err(BlobError::OutOfBounds { offset: part.size(), size });
        }
        if self.verified.contains_all(part.range()) {
            return Ok(0);
        }
        let slices: Vec<IoSlice<'_>> = part.slices().map(IoSlice::new).collect();
        let offset = bytes_of(part.range(), size).start;
        write_slices(&self.files.data, &slices, offset)
            .map_err(at("write", &self.files.paths.data))?;
        if let Some(file) = &self.files.pairs {
            self.pairs.write(file, part).map_err(at("write", &self.files.paths.pairs))?;
        }
        self.shared.write().unwrap_or_else(PoisonError::into_inner).insert(part.range());
        Ok(self.verified.insert(part.range()))
    }

    /// Forgets all groups but these, durably: a check found that the others are wrong.
    pub(super) fn claim_only(&mut self, groups: GroupRanges) -> Result<(), BlobError> {
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = groups.clone();
        self.verified = groups;
        self.checkpoint().run()
    }

    /// What has been verified so far, to be made durable: see [`Checkpoint::run`]. When that fails
    /// to sync, drop this and open it again: it goes on from the checkpoint before.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.checkpoints += 1;
        let (files, verified) = (Arc::clone(&self.files), self.verified.clone());
        Checkpoint { files, number: self.checkpoints, verified }
    }

    /// Makes everything durable and gives the blob its name. Hashes nothing: every group was
    /// verified when it arrived. Returns the size. What was not complete can be opened again.
    pub fn finish(mut self) -> Result<u64, BlobError> {
        let (hash, size) = (self.hash(), self.size());
        if !self.is_complete() {
            return Err(BlobError::Incomplete { have: self.bytes(), size });
        }
        // With the claims: should the process die between the renames, nothing is fetched again.
        self.checkpoint().run()?;
        let files = Arc::clone(&self.files);
        files.close(|| self.store.adopt(&hash, size, &files.paths))?;
        self.end();
        Ok(size)
    }

    /// Removes everything that has arrived.
    pub fn discard(mut self) -> Result<(), BlobError> {
        let files = Arc::clone(&self.files);
        files.close(|| Ok(files.paths.remove()?))?;
        self.end();
        Ok(())
    }

    /// From now on the blob may be begun by somebody else.
    fn end(&mut self) {
        self.is_over = true;
        self.store.partial_files().forget(&self.files.hash);
    }
}

impl Drop for PartialBlob {
    fn drop(&mut self) {
        if !self.is_over {
            self.store.partial_files().release(&self.files.hash, self.files.has_failed());
        }
    }
}

fn write_slices(file: &File, mut slices: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !slices.is_empty() {
        let (now, later) = slices.split_at(slices.len().min(SLICES_MAX));
        let length: usize = now.iter().map(|slice| slice.len()).sum();
        let written = loop {
            match rustix::io::pwritev(file, now, offset) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        // A disk that fills up takes a part: the next write says why.
        let mut passed = 0;
        for slice in now {
            let skip = written.saturating_sub(passed).min(slice.len());
            let rest = slice.get(skip..).unwrap_or_default();
            file.write_all_at(rest, offset + (passed + skip) as u64)?;
            passed += slice.len();
        }
        offset += length as u64;
        slices = later;
    }
    Ok(())
}

/// Writes the pairs of parts, those near the root only once.
#[derive(Debug, Default)]
struct WrittenPairs {
    /// Bits of the pairs that this writer has written.
    bits: Vec<u64>,
    /// Pairs that lie together in the file.
    together: Vec<u8>,
}

impl WrittenPairs {
    fn write<F: Frame>(&mut self, file: &File, part: &VerifiedPart<F>) -> io::Result<()> {
        let mut pairs: Vec<(u64, &[u8])> =
            part.pairs().filter(|(place, _)| !self.has(*place)).collect();
        pairs.sort_unstable_by_key(|(place, _)| *place);
        for run in pairs.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let Some((first, _)) = run.first() else { continue };
            self.together.clear();
            run.iter().for_each(|(_, pair)| self.together.extend_from_slice(pair));
            file.write_all_at(&self.together, first * PAIR_BYTES as u64)?;
        }
        if self.bits.is_empty() {
            let places = Subtree::of(part.size()).pairs().div_ceil(64);
            self.bits.resize(usize::try_from(places).unwrap_or_default(), 0);
        }
        for (place, _) in pairs {
            if let Some(word) = self.bits.get_mut((place / 64) as usize) {
                *word |= 1 << (place % 64);
            }
        }
        Ok(())
    }

    fn has(&self, place: u64) -> bool {
        self.bits.get((place / 64) as usize).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }
}

/// Puts a hash tree back that a crash left half-way between its partial blob and its final place.
/// Whether it did.
pub(super) fn take_back(paths: &Paths, tree: &Path) -> Result<bool, FileError> {
    if !paths.data.exists() || paths.pairs.exists() {
        return Ok(false);
    }
    fs::rename(tree, &paths.pairs).map_err(at("rename into place", &paths.pairs))?;
    Ok(true)
}
