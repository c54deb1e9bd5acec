//! The store itself: names, sizes, and how a file gets in and out.
//!
//! Invariant: the in-memory index lists exactly the blobs that are stored whole. One process per
//! directory: the caller holds the [`crate::lock::DirectoryLock`]
//! ([`crate::ledger::LedgerStore`] does).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use protocol::blobs::wire::Availability;
use protocol::ids::ContentHash;
use rustix::fs::{Mode, OFlags};

use super::attached::AttachedFiles;
use super::holds::{Hold, Holds};
use super::in_place::References;
use super::index::{Entry, Index, Place};
use super::partial::{self, PartialBlob, PartialStatus, Partials, Paths};
use super::pins::PinFile;
use super::received::{self, TempFile, WholeBlob};
use super::small::{SMALL_BYTES_MAX, SmallBlobs};
use super::tree::outboard_bytes;
use super::{BlobError, read};
use crate::durable::{self, FileError, at};

/// What a store may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobLimits {
    /// Bytes of all blobs together, whole and partial, without hash trees; 0: no limit.
    pub bytes_max: u64,
}

/// The blob store. Clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    next_temporary: AtomicU64,
    index: Mutex<Index>,
    pub(super) attached: AttachedFiles,
    partials: Partials,
    small: Mutex<SmallBlobs>,
    references: Mutex<References>,
    pub(super) holds: Holds,
    pins: Mutex<PinFile>,
    /// Held by whoever collects garbage.
    collecting: Mutex<()>,
    /// Read-locked while small blobs are stored, write-locked while a segment is rewritten.
    rewriting: RwLock<()>,
    bytes_max: AtomicU64,
    /// Bytes of imports that run.
    pub(super) importing: AtomicU64,
}

impl BlobStore {
    /// Opens or creates `dir/blobs`, removing what was unfinished.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let dir = dir.join("blobs");
        let (tmp, partial) = (dir.join("tmp"), dir.join("partial"));
        durable::create_dir(&tmp)?;
        durable::create_dir(&partial)?;
        for path in entries(&tmp)? {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        let mut index = Index::default();
        for folder in entries(&dir)?.into_iter().filter(|path| is_shard(path)) {
            read_shard(&folder, &partial, &mut index)?;
        }
        let (small, found) = SmallBlobs::open(dir.join("small"))?;
        for (hash, size, place) in found {
            let entry = Entry { size: u64::from(size), place: Place::Small(place) };
            index.insert(hash, entry);
        }
        let references = References::open(dir.join("refs"))?;
        for (hash, size) in references.iter() {
            if index.get(&hash).is_none() {
                index.insert(hash, Entry { size, place: Place::Referenced });
            }
        }
        let pins = dir.join("pins");
        durable::remove_if_present(&durable::temporary(&pins))?;
        let pins = PinFile::open(pins)?;
        let inner = Inner {
            dir,
            next_temporary: AtomicU64::new(0),
            index: Mutex::new(index),
            attached: AttachedFiles::default(),
            partials: Partials::open(partial)?,
            small: Mutex::new(small),
            references: Mutex::new(references),
            holds: Holds::default(),
            pins: Mutex::new(pins),
            collecting: Mutex::new(()),
            rewriting: RwLock::new(()),
            bytes_max: AtomicU64::new(0),
            importing: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps a blob from being collected while the result lives; it need not be stored yet.
    pub fn hold(&self, hash: ContentHash) -> Hold {
        let hold = self.inner.holds.hold(hash);
        self.keep([hash]);
        hold
    }

    /// Notes blobs for a collection of garbage that runs.
    pub(super) fn keep(&self, hashes: impl IntoIterator<Item = ContentHash>) {
        let mut index = self.index();
        for hash in hashes {
            index.wanted(&hash);
        }
    }

    /// Sets what it may take from now on. What is stored stays, even if it is more.
    pub fn set_limits(&self, limits: BlobLimits) {
        self.inner.bytes_max.store(limits.bytes_max, Ordering::Relaxed);
    }

    /// What it may take.
    pub fn limits(&self) -> BlobLimits {
        BlobLimits { bytes_max: self.inner.bytes_max.load(Ordering::Relaxed) }
    }

    /// Bytes that count towards the limit: blobs, and what partial blobs will have.
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes().saturating_add(self.inner.partials.bytes())
    }

    /// Refuses `wanted` more bytes over the limit.
    pub(super) fn room_for(&self, wanted: u64) -> Result<(), BlobError> {
        self.check_room(wanted, self.inner.partials.bytes())
    }

    /// As [`Self::room_for`], where `partial` bytes are those of the partial blobs.
    pub(super) fn check_room(&self, wanted: u64, partial: u64) -> Result<(), BlobError> {
        let max = self.limits().bytes_max;
        if max == 0 {
            return Ok(());
        }
        let importing = self.inner.importing.load(Ordering::Relaxed);
        let used = self.index().bytes().saturating_add(partial).saturating_add(importing);
        match used.checked_add(wanted) {
            Some(sum) if sum <= max => Ok(()),
            _ => Err(BlobError::QuotaExceeded { used, wanted, max }),
        }
    }

    /// Stores bytes. Durable when this returns.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentHash, BlobError> {
        let hash = ContentHash::of(bytes);
        if self.index().wanted(&hash) {
            return Ok(hash);
        }
        self.room_for(bytes.len() as u64)?;
        if bytes.len() as u64 <= SMALL_BYTES_MAX {
            self.put_small(&[(hash, Bytes::copy_from_slice(bytes))])?;
            return Ok(hash);
        }
        let mut temp = self.temporary()?;
        temp.file.write_all(bytes).map_err(at("write", temp.path()))?;
        self.install(temp, bytes.len() as u64, Some(hash))
    }

    /// Copies a file in, at most `max_bytes`. The file may belong to somebody hostile who changes
    /// it meanwhile: only a regular file is read, links are not followed, opening does not wait
    /// for a pipe, and what is hashed is the copy. The directory of `path` must be trusted.
    pub fn put_file(&self, path: &Path, max_bytes: u64) -> Result<ContentHash, BlobError> {
        let source = open_untrusted(path)?;
        let metadata = source.metadata().map_err(at("read", path))?;
        if !metadata.is_file() {
            return Err(BlobError::NotRegular { path: path.to_path_buf() });
        }
        if metadata.len() > max_bytes {
            return Err(BlobError::TooLarge { size: metadata.len(), max: max_bytes });
        }
        self.room_for(metadata.len())?;
        let mut temp = self.temporary()?;
        let mut bounded = source.take(max_bytes.saturating_add(1));
        let size = io::copy(&mut bounded, &mut temp.file).map_err(at("copy", path))?;
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        self.install(temp, size, None)
    }

    /// Begins to receive a blob whose sender announces `size`, from one provider and in order.
    /// It does not outlive the process: see [`Self::partial`].
    pub fn create_partial(
        &self,
        hash: ContentHash,
        size: u64,
        max_bytes: u64,
    ) -> Result<WholeBlob, BlobError> {
        if size > max_bytes {
            return Err(BlobError::TooLarge { size, max: max_bytes });
        }
        self.room_for(size)?;
        WholeBlob::new(self.clone(), hash, size)
    }

    /// Opens what has arrived of a blob, or begins with nothing. One writer at a time. `size`
    /// should have been proved by the blob's last group; groups that were verified for another
    /// size are dropped.
    pub fn partial(&self, hash: ContentHash, size: u64) -> Result<PartialBlob, BlobError> {
        if self.index().wanted(&hash) {
            return Err(BlobError::AlreadyStored(hash));
        }
        PartialBlob::open(self, hash, size)
    }

    /// Every blob of which only some groups may be here, by hash.
    pub fn partials(&self) -> Vec<PartialStatus> {
        self.inner.partials.list()
    }

    /// Removes what has arrived of a blob to which nobody writes; whether there was anything.
    pub fn discard_partial(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        self.inner.partials.discard(hash)
    }

    /// Which groups of a blob are here.
    pub fn availability(&self, hash: &ContentHash) -> Availability {
        if let Some(size) = self.size(hash) {
            return Availability::All { size };
        }
        match self.inner.partials.get(hash) {
            Some((size, verified)) => Availability::of(size, &verified),
            None => Availability::None,
        }
    }

    /// Lets a file outside the store be served under its hash, from where it lies. Hashes all of
    /// it and writes its hash tree to `tree`; both belong to the caller, who must not change the
    /// file, and may delete it at any time. Returns its length.
    pub fn attach(&self, hash: &ContentHash, data: &Path, tree: &Path) -> Result<u64, BlobError> {
        self.inner.attached.attach(hash, data, tree)
    }

    /// Serves an attached file no more; whether it was. Transfers under way go on.
    pub fn detach(&self, hash: &ContentHash) -> bool {
        self.inner.attached.detach(hash)
    }

    /// Whether the blob is stored or attached.
    pub fn contains(&self, hash: &ContentHash) -> bool {
        self.size(hash).is_some()
    }

    /// Its length in bytes.
    pub fn size(&self, hash: &ContentHash) -> Option<u64> {
        let stored = self.present(hash).map(|entry| entry.size);
        stored.or_else(|| self.inner.attached.get(hash).map(|attached| attached.size))
    }

    /// Every blob and its length, by hash.
    pub fn list(&self) -> Vec<(ContentHash, u64)> {
        self.index().iter().map(|(hash, entry)| (hash, entry.size)).collect()
    }

    /// Length of all blobs together, without hash trees.
    pub fn total_bytes(&self) -> u64 {
        self.index().bytes()
    }

    /// Removes a blob; whether it was there. Readers that have it open keep it.
    pub fn delete(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        self.delete_listed(&mut self.index(), hash)
    }

    /// As [`Self::delete`], where the caller has locked the index.
    pub(super) fn delete_listed(
        &self,
        index: &mut Index,
        hash: &ContentHash,
    ) -> Result<bool, BlobError> {
        let Some(entry) = index.remove(hash) else { return Ok(false) };
        match entry.place {
            Place::File => {}
            Place::Small(place) => self.small().delete(hash, entry.size as u32, place),
            Place::Referenced => return Ok(self.references().remove(hash).map(|()| true)?),
        }
        // Of a small blob, the file that somebody asked for.
        durable::remove_if_present(&self.path(hash, "data"))?;
        durable::remove_if_present(&self.path(hash, "obao4"))?;
        Ok(true)
    }

    /// A new file in `tmp`.
    pub(super) fn temporary(&self) -> Result<TempFile, FileError> {
        let number = self.inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.inner.dir.join("tmp").join(format!("{number}.data")))
    }

    /// Hashes, syncs and names a complete temporary file.
    pub(super) fn install(
        &self,
        temp: TempFile,
        size: u64,
        expected: Option<ContentHash>,
    ) -> Result<ContentHash, BlobError> {
        let hash = received::seal(&temp, size)?;
        read::check_hash(expected.unwrap_or(hash), hash)?;
        self.move_in(&hash, size, temp.path(), &temp.outboard_path())?;
        Ok(hash)
    }

    /// Gives complete, verified and synced files of a partial blob their names.
    pub(super) fn adopt(
        &self,
        hash: &ContentHash,
        size: u64,
        from: &Paths,
    ) -> Result<(), BlobError> {
        self.move_in(hash, size, &from.data, &from.pairs)?;
        // A claim of what has moved says nothing; it would be removed when the store is opened.
        from.remove()?;
        Ok(())
    }

    /// Renames data and hash tree into place, durably.
    pub(super) fn move_in(
        &self,
        hash: &ContentHash,
        size: u64,
        from: &Path,
        from_tree: &Path,
    ) -> Result<(), BlobError> {
        let (data, tree) = (from.to_path_buf(), from_tree.to_path_buf());
        self.move_all_in(&[Arrived { hash: *hash, size, data, tree }])
    }

    /// Renames files into place, durably, and lists them. The tree first: data has its tree.
    pub(super) fn move_all_in(&self, files: &[Arrived]) -> Result<(), BlobError> {
        let mut folders = BTreeSet::new();
        // Held all the while: what is deleted meanwhile must not be listed.
        let mut index = self.index();
        let mut new = Vec::with_capacity(files.len());
        for file in files.iter().filter(|file| !index.wanted(&file.hash)) {
            let (data, tree) = (self.path(&file.hash, "data"), self.path(&file.hash, "obao4"));
            let folder = durable::parent_of(&data).unwrap_or(&self.inner.dir).to_path_buf();
            durable::create_dir(&folder)?;
            let has_tree = outboard_bytes(file.size) > 0;
            if has_tree {
                fs::rename(&file.tree, &tree).map_err(at("rename into place", &tree))?;
            }
            if let Err(error) = fs::rename(&file.data, &data) {
                if has_tree {
                    fs::rename(&tree, &file.tree).map_err(at("move back", &file.tree))?;
                }
                return Err(at("rename into place", &data)(error).into());
            }
            folders.insert(folder);
            new.push((file.hash, file.size));
        }
        folders.iter().try_for_each(|folder| durable::sync_dir(folder))?;
        for (hash, size) in new {
            index.insert(hash, Entry { size, place: Place::File });
        }
        Ok(())
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The small blobs. Never locked before the index is.
    pub(super) fn small(&self) -> MutexGuard<'_, SmallBlobs> {
        self.inner.small.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names and pins. Never locked while the index is.
    pub(super) fn pin_file(&self) -> MutexGuard<'_, PinFile> {
        self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn one_collector(&self) -> MutexGuard<'_, ()> {
        self.inner.collecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rewriting(&self) -> &RwLock<()> {
        &self.inner.rewriting
    }

    /// The references. Never locked before the index is.
    pub(super) fn references(&self) -> MutexGuard<'_, References> {
        self.inner.references.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::entry`], of a file of the user only while it is unchanged.
    fn present(&self, hash: &ContentHash) -> Option<Entry> {
        let entry = self.entry(hash)?;
        let changed = match entry.place {
            Place::Referenced => {
                let references = self.references();
                references.get(hash).is_none_or(|reference| !reference.is_unchanged())
            }
            Place::File | Place::Small(_) => false,
        };
        if !changed {
            return Some(entry);
        }
        tracing::warn!(%hash, "the file that holds a blob has changed or is gone");
        if let Err(error) = self.delete(hash) {
            tracing::warn!(%hash, %error, "cannot remove the reference to a changed file");
        }
        None
    }

    pub(super) fn entry(&self, hash: &ContentHash) -> Option<Entry> {
        self.index().get(hash)
    }

    pub(super) fn partial_files(&self) -> &Partials {
        &self.inner.partials
    }

    pub(super) fn path(&self, hash: &ContentHash, extension: &str) -> PathBuf {
        let name = hash.to_string();
        let folder = name.get(..2).unwrap_or_default();
        self.inner.dir.join(folder).join(format!("{name}.{extension}"))
    }
}

/// A blob's files, complete, verified and synced.
pub(super) struct Arrived {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    pub(super) data: PathBuf,
    /// Only of a blob of several groups.
    pub(super) tree: PathBuf,
}

/// Whether a folder is one of those that hold blobs: two hexadecimal digits.
fn is_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && path.is_dir()
}

/// Lists the blobs of a folder.
fn read_shard(folder: &Path, partial: &Path, index: &mut Index) -> Result<(), BlobError> {
    for path in entries(folder)? {
        if let Some(hash) = named(&path, "data") {
            let size = fs::metadata(&path).map_err(at("read", &path))?.len();
            index.insert(hash, Entry { size, place: Place::File });
        } else if let Some(hash) = named(&path, "obao4")
            && !path.with_extension("data").exists()
            && !partial::take_back(&Paths::of(partial, &hash), &path)?
        {
            // A crash in the middle of a deletion.
            durable::remove_if_present(&path)?;
        }
    }
    Ok(())
}

pub(super) fn open_untrusted(path: &Path) -> Result<fs::File, BlobError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(fs::File::from(file)),
        // A link; a socket or a device without a driver.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
            Err(BlobError::NotRegular { path: path.to_path_buf() })
        }
        Err(e) => Err(at("open", path)(e.into()).into()),
    }
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    fs::read_dir(dir)
        .and_then(|list| list.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(at("list", dir))
}

/// The hash in a file name `<hash>.<extension>`.
pub(super) fn named(path: &Path, extension: &str) -> Option<ContentHash> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
}
