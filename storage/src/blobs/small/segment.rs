//! One segment of small blobs: a data file and its index.
//!
//! Invariant: a blob is acknowledged after the data file was synced. The index is written behind
//! it and not synced: what it lost is read from the data again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::ids::ContentHash;

use super::format::{
    DATA_MAGIC, ENTRY_BYTES, INDEX_MAGIC, IndexEntry, Kind, MAGIC_BYTES, RECORD_HEAD_BYTES,
    read_head, write_record,
};
use crate::durable::{self, FileError, at};

/// The files of a segment.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) data: PathBuf,
    pub(super) index: PathBuf,
}

impl Paths {
    pub(super) fn of(folder: &Path, number: u32) -> Self {
        let path = |extension| folder.join(format!("{number:08}.{extension}"));
        Self { data: path("data"), index: path("index") }
    }
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Every put and deletion, in order.
    pub(super) entries: Vec<IndexEntry>,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Records that are not what they were.
    pub(super) damaged: u64,
    /// Whether all of the data file was understood.
    pub(super) is_clean: bool,
}

/// Reads a segment's index, and from the data whatever the index does not know.
pub(super) fn read(paths: &Paths, number: u32) -> Result<Contents, FileError> {
    let data = File::open(&paths.data).map_err(at("open", &paths.data))?;
    let length = data.metadata().map_err(at("read", &paths.data))?.len();
    let (mut contents, index_end) = read_index(paths, number, length)?;
    let known = contents.entries.len();
    scan(&data, length, &mut contents).map_err(at("read", &paths.data))?;
    let found = contents.entries.get(known..).unwrap_or_default();
    let index = OpenOptions::new().write(true).create(true).truncate(false).open(&paths.index);
    let index = index.map_err(at("open", &paths.index))?;
    let is_longer = index.metadata().map_err(at("read", &paths.index))?.len() > index_end;
    if found.is_empty() && !is_longer {
        return Ok(contents);
    }
    tracing::info!(number, found = found.len(), "small blobs that the index did not know");
    let mended = index
        .set_len(index_end)
        .map_err(at("cut", &paths.index))
        .and_then(|()| append_entries(&index, &paths.index, index_end, number, found));
    if let Err(error) = mended {
        // The disk is full, say. The next opening finds the same again.
        tracing::warn!(%error, source = %error.source, "an index of small blobs lacks entries");
    }
    Ok(contents)
}

/// The entries up to the first that is not whole, and where it is.
fn read_index(paths: &Paths, number: u32, length: u64) -> Result<(Contents, u64), FileError> {
    let mut contents = Contents { end: MAGIC_BYTES, ..Contents::default() };
    let mut file = match File::open(&paths.index) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((contents, 0)),
        Err(e) => return Err(at("open", &paths.index)(e)),
    };
    let mut magic = [0; 8];
    if file.read_exact(&mut magic).is_err() || magic != INDEX_MAGIC {
        return Ok((contents, 0));
    }
    let (mut index_end, mut bytes) = (MAGIC_BYTES, [0; ENTRY_BYTES]);
    loop {
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(at("read", &paths.index)(e)),
        }
        // An entry whose record is not there is no better than a damaged one.
        let entry = IndexEntry::decode(number, &bytes).filter(|entry| entry.end() <= length);
        let Some(entry) = entry else { break };
        contents.end = contents.end.max(entry.end());
        contents.entries.push(entry);
        index_end += ENTRY_BYTES as u64;
    }
    Ok((contents, index_end))
}

/// Reads records from where the index ends.
fn scan(data: &File, length: u64, contents: &mut Contents) -> io::Result<()> {
    let mut magic = [0; 8];
    if length < MAGIC_BYTES || data.read_exact_at(&mut magic, 0).is_err() || magic != DATA_MAGIC {
        contents.damaged += u64::from(length > MAGIC_BYTES);
        return Ok(());
    }
    let mut bytes = Vec::new();
    while contents.end < length {
        let mut head = [0; RECORD_HEAD_BYTES];
        let offset = contents.end;
        if offset + RECORD_HEAD_BYTES as u64 > length {
            return Ok(());
        }
        data.read_exact_at(&mut head, offset)?;
        let Some((size, hash)) = read_head(&head) else { return Ok(()) };
        let entry = IndexEntry { kind: Kind::Put, hash, offset, length: size };
        if entry.end() > length {
            return Ok(());
        }
        bytes.resize(size as usize, 0);
        data.read_exact_at(&mut bytes, offset + RECORD_HEAD_BYTES as u64)?;
        contents.end = entry.end();
        if ContentHash::of(&bytes) == hash {
            contents.entries.push(entry);
        } else {
            contents.damaged += 1;
        }
    }
    contents.is_clean = contents.damaged == 0;
    Ok(())
}

/// Appends entries at `end`, after the magic when the file is empty. Not synced.
pub(super) fn append_entries(
    index: &File,
    path: &Path,
    end: u64,
    number: u32,
    entries: &[IndexEntry],
) -> Result<(), FileError> {
    let mut bytes = Vec::with_capacity(MAGIC_BYTES as usize + entries.len() * ENTRY_BYTES);
    if end == 0 {
        bytes.extend(INDEX_MAGIC);
    }
    entries.iter().for_each(|entry| bytes.extend(entry.encode(number)));
    index.write_all_at(&bytes, end).map_err(at("write", path))
}

/// The segment that takes blobs.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) number: u32,
    paths: Paths,
    data: File,
    index: File,
    end: u64,
}

impl Writer {
    /// Begins a segment.
    pub(super) fn create(folder: &Path, number: u32) -> Result<Self, FileError> {
        let paths = Paths::of(folder, number);
        let create = |path: &Path, magic: &[u8]| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).open(path);
            let file = file.map_err(at("create", path))?;
            file.write_all_at(magic, 0).map_err(at("write", path))?;
            Ok::<_, FileError>(file)
        };
        let data = create(&paths.data, &DATA_MAGIC)?;
        let index = create(&paths.index, &INDEX_MAGIC)?;
        durable::sync_dir(folder)?;
        Ok(Self { number, paths, data, index, end: MAGIC_BYTES })
    }

    /// Goes on with a segment that was read and is clean.
    pub(super) fn resume(folder: &Path, number: u32, end: u64) -> Result<Self, FileError> {
        let paths = Paths::of(folder, number);
        let open = |path: &Path| {
            OpenOptions::new().read(true).write(true).open(path).map_err(at("open", path))
        };
        let (data, index) = (open(&paths.data)?, open(&paths.index)?);
        Ok(Self { number, paths, data, index, end })
    }

    /// Bytes of the data file.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Appends blobs and syncs them. When it fails, nothing was appended.
    pub(super) fn append(
        &mut self,
        blobs: &[(ContentHash, &[u8])],
    ) -> Result<Vec<IndexEntry>, FileError> {
        let (mut bytes, mut entries) = (Vec::new(), Vec::with_capacity(blobs.len()));
        for (hash, blob) in blobs {
            let (offset, length) = (self.end + bytes.len() as u64, blob.len() as u32);
            entries.push(IndexEntry { kind: Kind::Put, hash: *hash, offset, length });
            write_record(&mut bytes, hash, blob);
        }
        if let Err(error) = self.data.write_all_at(&bytes, self.end) {
            // Given back, where the disk is full. What stays would be written over.
            if let Err(error) = self.data.set_len(self.end) {
                tracing::warn!(path = %self.paths.data.display(), %error, "cannot cut");
            }
            return Err(at("write", &self.paths.data)(error));
        }
        self.data.sync_data().map_err(at("sync", &self.paths.data))?;
        self.end += bytes.len() as u64;
        self.note(&entries);
        Ok(entries)
    }

    /// Notes entries in the index. It is no loss when that fails: they are found in the data.
    pub(super) fn note(&self, entries: &[IndexEntry]) {
        note(&self.index, &self.paths.index, self.number, entries);
    }

    /// Whether its records could still be trusted after a failed append: only a full disk leaves
    /// everything before in order.
    pub(super) fn survives(error: &FileError) -> bool {
        error.is_out_of_space() && error.operation == "write"
    }
}

/// Appends to an index what is no loss when it is lost.
pub(super) fn note(index: &File, path: &Path, number: u32, entries: &[IndexEntry]) {
    let noted = index
        .metadata()
        .map_err(at("read", path))
        .map(|found| whole_entries(found.len()))
        .and_then(|end| append_entries(index, path, end, number, entries));
    if let Err(error) = noted {
        tracing::warn!(%error, source = %error.source, "an index of small blobs lacks entries");
    }
}

/// The end of the last whole entry of an index of so many bytes: a torn one is written over.
const fn whole_entries(length: u64) -> u64 {
    match length.checked_sub(MAGIC_BYTES) {
        Some(entries) => length - entries % ENTRY_BYTES as u64,
        None => 0,
    }
}
