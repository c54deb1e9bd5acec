//! Getting a user's bytes in: copied, cloned, or left where they are.
//!
//! Invariant: memory is constant, whatever the size; nothing of an import that did not end well
//! stays in the store.
//! Deliberately absent: whether the user may name that file, which the caller decides.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use protocol::ids::ContentHash;
use rustix::io::Errno;

use super::in_place::Reference;
use super::index::{Entry, Place};
use super::received::TempFile;
use super::small::SMALL_BYTES_MAX;
use super::store::{BlobStore, open_untrusted};
use super::tree::{TreeBuilder, outboard_bytes};
use super::{BlobError, Hold};
use crate::durable::{self, at};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// How a file gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Copied.
    Copy,
    /// Cloned, where the file system can: no second copy on the disk. Else copied.
    Reflink,
    /// Left where it is; gone from the store when it changes. Only for a file that its owner
    /// lets us name: see [`Reference`].
    InPlace,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was here before.
    AlreadyHere,
    /// Its bytes were copied.
    Copied,
    /// It shares its bytes on the disk with the file.
    Reflinked,
    /// The store refers to the file.
    InPlace,
}

/// An imported blob, which is not collected as garbage while this lives: pin it.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its hash.
    pub hash: ContentHash,
    /// Its length.
    pub size: u64,
    /// How it is stored.
    pub stored: Stored,
    /// Keeps it.
    pub hold: Hold,
}

/// Told the bytes done; says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> bool;

impl BlobStore {
    /// Imports a regular file of at most `max` bytes. Links are not followed; the folder of `path`
    /// must be trusted.
    pub fn import(
        &self,
        path: &Path,
        mode: ImportMode,
        max: u64,
        progress: Progress<'_>,
    ) -> Result<Imported, BlobError> {
        self.import_open(path, &open_untrusted(path)?, mode, max, progress)
    }

    /// As [`Self::import`], of a file that is open; `path` leads to it.
    pub(super) fn import_open(
        &self,
        path: &Path,
        mut source: &File,
        mode: ImportMode,
        max: u64,
        progress: Progress<'_>,
    ) -> Result<Imported, BlobError> {
        let found = source.metadata().map_err(at("read", path))?;
        if !found.is_file() {
            return Err(BlobError::NotRegular { path: path.to_path_buf() });
        }
        if found.len() > max {
            return Err(BlobError::TooLarge { size: found.len(), max });
        }
        match mode {
            ImportMode::Copy => {}
            ImportMode::InPlace => return self.refer_to(path, source, progress),
            ImportMode::Reflink => {
                if let Some(imported) = self.reflink(path, source, max, progress)? {
                    return Ok(imported);
                }
            }
        }
        self.room_for(found.len())?;
        let mut importer = self.importer(max);
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(bytes) = read_some(&mut source, &mut buffer).map_err(at("read", path))? {
            importer.write(bytes)?;
            if !progress(importer.size()) {
                return Err(BlobError::Cancelled);
            }
        }
        importer.finish()
    }

    /// Begins to import bytes as they come, at most `max`.
    pub fn importer(&self, max: u64) -> Importer {
        let (builder, start) = (TreeBuilder::new(), Vec::new());
        Importer { store: self.clone(), max, builder, start, files: None, pairs: Vec::new() }
    }

    /// Clones a file; `None` when the file system cannot.
    fn reflink(
        &self,
        path: &Path,
        source: &File,
        max: u64,
        progress: Progress<'_>,
    ) -> Result<Option<Imported>, BlobError> {
        let temp = self.temporary()?;
        match rustix::fs::ioctl_ficlone(&temp.file, source) {
            Ok(()) => {}
            Err(
                Errno::OPNOTSUPP
                | Errno::XDEV
                | Errno::INVAL
                | Errno::NOTTY
                | Errno::PERM
                | Errno::NOSYS
                | Errno::TXTBSY,
            ) => return Ok(None),
            Err(error) => return Err(at("clone", path)(error.into()).into()),
        }
        let size = temp.file.metadata().map_err(at("read", temp.path()))?.len();
        if size > max {
            return Err(BlobError::TooLarge { size, max });
        }
        self.room_for(size)?;
        let hash = hash_file(&temp.file, temp.path(), &temp.outboard_path(), progress)?.0;
        let hold = self.hold(hash);
        let stored = if self.contains(&hash) { Stored::AlreadyHere } else { Stored::Reflinked };
        temp.file.sync_data().map_err(at("sync", temp.path()))?;
        self.move_in(&hash, size, temp.path(), &temp.outboard_path())?;
        Ok(Some(Imported { hash, size, stored, hold }))
    }

    /// Keeps a reference to a file.
    fn refer_to(
        &self,
        path: &Path,
        source: &File,
        progress: Progress<'_>,
    ) -> Result<Imported, BlobError> {
        let path = std::path::absolute(path).map_err(at("find", path))?;
        let before = Reference::of(&path, source)?;
        let temp = self.temporary()?;
        let (hash, size) = hash_file(source, &path, &temp.outboard_path(), progress)?;
        let hold = self.hold(hash);
        if self.contains(&hash) {
            return Ok(Imported { hash, size, stored: Stored::AlreadyHere, hold });
        }
        if Reference::of(&path, source)? != before || !before.is_unchanged() {
            return Err(BlobError::Changed { hash, path });
        }
        let mut index = self.index();
        if index.wanted(&hash) {
            return Ok(Imported { hash, size, stored: Stored::AlreadyHere, hold });
        }
        self.references().insert(hash, before, &temp.outboard_path())?;
        index.insert(hash, Entry { size, place: Place::Referenced });
        Ok(Imported { hash, size, stored: Stored::InPlace, hold })
    }
}

/// Hashes a file from its beginning and writes its hash tree, synced.
fn hash_file(
    file: &File,
    path: &Path,
    tree: &Path,
    progress: Progress<'_>,
) -> Result<(ContentHash, u64), BlobError> {
    let mut reader = file;
    reader.rewind().map_err(at("read", path))?;
    let (mut builder, mut buffer) = (TreeBuilder::new(), vec![0; BUFFER_BYTES]);
    let mut writer = BufWriter::new(File::create(tree).map_err(at("create", tree))?);
    let mut pairs = Vec::new();
    while let Some(bytes) = read_some(&mut reader, &mut buffer).map_err(at("read", path))? {
        builder.update(bytes, &mut pairs);
        writer.write_all(&pairs).map_err(at("write", tree))?;
        pairs.clear();
        if !progress(builder.size()) {
            return Err(BlobError::Cancelled);
        }
    }
    let found = builder.finish(&mut pairs);
    writer.write_all(&pairs).map_err(at("write", tree))?;
    let written = writer.into_inner().map_err(io::IntoInnerError::into_error);
    written.and_then(|file| file.sync_data()).map_err(at("write", tree))?;
    Ok(found)
}

fn read_some<'a>(source: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        match source.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => return Ok(buffer.get(..read)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether all bytes are zero; as fast as memory is read.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|bytes| bytes.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Takes bytes as they come and makes a blob of them, in constant memory. Dropping it leaves
/// nothing behind.
#[derive(Debug)]
pub struct Importer {
    store: BlobStore,
    max: u64,
    builder: TreeBuilder,
    /// All bytes, while they may be a small blob.
    start: Vec<u8>,
    files: Option<(TempFile, BufWriter<File>)>,
    pairs: Vec<u8>,
}

impl Importer {
    /// Bytes so far.
    pub const fn size(&self) -> u64 {
        self.builder.size()
    }

    /// Takes bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let size = self.size().saturating_add(bytes.len() as u64);
        if size > self.max {
            return Err(BlobError::TooLarge { size, max: self.max });
        }
        self.store.room_for(bytes.len() as u64)?;
        // What imports write counts at once: several may run.
        let importing = &self.store.inner.importing;
        importing.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.builder.update(bytes, &mut self.pairs);
        if self.files.is_none() && size <= SMALL_BYTES_MAX {
            self.start.extend_from_slice(bytes);
            return Ok(());
        }
        if self.files.is_none() {
            let temp = self.store.temporary()?;
            let path = temp.outboard_path();
            let tree = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
            self.files = Some((temp, BufWriter::new(tree.map_err(at("create", &path))?)));
        }
        let Some((temp, tree)) = &mut self.files else { return Ok(()) };
        let start = std::mem::take(&mut self.start);
        let pieces = [&start[..], bytes].into_iter().filter(|piece| !piece.is_empty());
        for piece in pieces {
            // Zeros take no space.
            let written = match is_zero(piece) {
                true => temp.file.seek(SeekFrom::Current(piece.len() as i64)).map(drop),
                false => temp.file.write_all(piece),
            };
            written.map_err(at("write", temp.path()))?;
        }
        tree.write_all(&self.pairs).map_err(at("write", &temp.outboard_path()))?;
        self.pairs.clear();
        Ok(())
    }

    /// Makes everything durable and gives it its name.
    pub fn finish(mut self) -> Result<Imported, BlobError> {
        let store = self.store.clone();
        let builder = std::mem::replace(&mut self.builder, TreeBuilder::new());
        let written = builder.size();
        let (hash, size) = builder.finish(&mut self.pairs);
        store.inner.importing.fetch_sub(written, Ordering::Relaxed);
        let hold = store.hold(hash);
        let stored = if store.contains(&hash) { Stored::AlreadyHere } else { Stored::Copied };
        let imported = Imported { hash, size, stored, hold };
        if stored == Stored::AlreadyHere {
            return Ok(imported);
        }
        let Some((temp, mut tree)) = self.files.take() else {
            store.put_small(&[(hash, std::mem::take(&mut self.start).into())])?;
            return Ok(imported);
        };
        let path = temp.outboard_path();
        tree.write_all(&self.pairs).map_err(at("write", &path))?;
        let tree = tree.into_inner().map_err(io::IntoInnerError::into_error);
        tree.and_then(|file| file.sync_data()).map_err(at("write", &path))?;
        // Zeros at the end were only passed over.
        temp.file.set_len(size).map_err(at("write", temp.path()))?;
        temp.file.sync_data().map_err(at("sync", temp.path()))?;
        if outboard_bytes(size) == 0 {
            durable::remove_if_present(&path)?;
        }
        store.move_in(&hash, size, temp.path(), &path)?;
        Ok(imported)
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        self.store.inner.importing.fetch_sub(self.builder.size(), Ordering::Relaxed);
    }
}
