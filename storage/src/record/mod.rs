//! An append-only file of records, each chained to the one before: the shape of the block log,
//! the proposal log and the signer guard.
//!
//! ```text
//! file   = magic "AYNILOG1" (8) | identity (32): what kind of log, of which network
//! record = magic "AYR1" (4) | length u32 LE | header check (8) | checksum (32) | payload
//! ```
//!
//! The checksum is BLAKE3 keyed with the previous record's checksum (the first: with the
//! identity) over length and payload. The header check protects the length by itself: without
//! it, one flipped bit in a length would look like a torn tail and cut off everything after it.
//!
//! Invariant: what was synced is either read back unchanged or reported as
//! [`RecordError::Corrupt`]. Only a last record that is *short* (the process died while writing
//! it, so nobody was told that it is stored) is cut off when the file is opened.
//!
//! Deliberately absent: repair, and detection of a file that was cut exactly between records;
//! whoever owns the log compares its tip with something else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::ids::{ChainId, derive};

use crate::durable::{self, at};

mod error;
mod format;

pub use error::RecordError;
pub use format::HEADER_BYTES;
use format::{Header, checksum, header};

const FILE_MAGIC: [u8; 8] = *b"AYNILOG1";
/// Bytes before the first record.
pub const PREAMBLE_BYTES: u64 = 40;

/// What a log file must be.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// Name, part of the file's identity and of messages.
    pub name: &'static str,
    /// The network.
    pub chain: ChainId,
    /// Largest payload in bytes; a longer one is refused on append and corrupt on disk.
    pub payload_bytes_max: u32,
}

impl LogKind {
    fn identity(&self) -> [u8; 32] {
        derive("ayni 2026 record log v1", &[self.name.as_bytes(), self.chain.as_bytes()])
    }

    fn preamble(&self) -> Vec<u8> {
        [FILE_MAGIC.as_slice(), &self.identity()].concat()
    }
}

/// A last record that was cut off because it was short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Its length now.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
}

/// An open log.
#[derive(Debug)]
pub struct RecordLog {
    file: File,
    path: PathBuf,
    kind: LogKind,
    /// Where each record begins.
    offsets: Vec<u64>,
    /// Length of the file: where the next record begins.
    end: u64,
    /// Checksum of the last record.
    last: [u8; 32],
    poisoned: bool,
}

impl RecordLog {
    /// Opens or creates the log at `path`, checks every record and shows it to `visit`
    /// (index from 0, payload).
    pub fn open(
        path: &Path,
        kind: LogKind,
        visit: impl FnMut(u64, &[u8]),
    ) -> Result<(Self, Option<TornTail>), RecordError> {
        durable::remove_if_present(&durable::temporary(path))?;
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::create(path, kind)?, None));
            }
            Err(e) => return Err(at("open", path)(e).into()),
        };
        let length = file.metadata().map_err(at("read", path))?.len();
        let mut log = Self {
            file,
            path: path.to_path_buf(),
            kind,
            offsets: Vec::new(),
            end: PREAMBLE_BYTES,
            last: kind.identity(),
            poisoned: false,
        };
        let torn_preamble = log.check_preamble(length)?;
        if torn_preamble {
            let torn = TornTail { path: path.to_path_buf(), offset: 0, bytes: length };
            return Ok((Self::create(path, kind)?, Some(torn)));
        }
        log.scan(length, visit)?;
        if log.end == length {
            return Ok((log, None));
        }
        log.file
            .set_len(log.end)
            .and_then(|()| log.file.sync_all())
            .map_err(at("cut the torn tail off", path))?;
        let torn = TornTail { path: path.to_path_buf(), offset: log.end, bytes: length - log.end };
        Ok((log, Some(torn)))
    }

    /// Replaces all records by `payloads`, in one step and durably. After a failure the log takes
    /// no more records: its file may have been replaced under it.
    pub fn rewrite<'p>(
        &mut self,
        payloads: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<(), RecordError> {
        self.check_usable()?;
        self.poisoned = true;
        *self = Self::write_new(&self.path, self.kind, payloads)?;
        Ok(())
    }

    fn create(path: &Path, kind: LogKind) -> Result<Self, RecordError> {
        if let Some(parent) = durable::parent_of(path) {
            durable::create_dir(parent)?;
        }
        Self::write_new(path, kind, std::iter::empty())
    }

    /// Writes a log beside `path`, then renames it into place.
    fn write_new<'p>(
        path: &Path,
        kind: LogKind,
        payloads: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<Self, RecordError> {
        let next = durable::temporary(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&next)
            .map_err(at("create", &next))?;
        file.write_all_at(&kind.preamble(), 0).map_err(at("write", &next))?;
        let mut log = Self {
            file,
            path: next.clone(),
            kind,
            offsets: Vec::new(),
            end: PREAMBLE_BYTES,
            last: kind.identity(),
            poisoned: false,
        };
        for payload in payloads {
            log.append(payload)?;
        }
        log.file.sync_all().map_err(at("sync", &next))?;
        fs::rename(&next, path).map_err(at("rename into place", path))?;
        durable::sync_parent(path)?;
        log.path = path.to_path_buf();
        Ok(log)
    }

    /// Appends a record and returns its index. Not durable before [`Self::sync`].
    ///
    /// After any failure the file has its previous length again (as far as the disk allows) and
    /// the log takes no more records.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, RecordError> {
        self.check_usable()?;
        let too_large =
            || RecordError::TooLarge { actual: payload.len(), max: self.kind.payload_bytes_max };
        let length = u32::try_from(payload.len()).map_err(|_| too_large())?;
        if length > self.kind.payload_bytes_max {
            return Err(too_large());
        }
        let checksum = checksum(&self.last, length, payload);
        let mut bytes = Vec::with_capacity(payload.len() + 48);
        bytes.extend_from_slice(&header(&self.last, length, &checksum));
        bytes.extend_from_slice(payload);
        if let Err(source) = self.file.write_all_at(&bytes, self.end) {
            self.poisoned = true;
            // If this fails too, the next open finds a short record and cuts it off.
            if let Err(error) = self.file.set_len(self.end) {
                tracing::error!(path = %self.path.display(), %error, "cannot undo a failed append");
            }
            return Err(at("append to", &self.path)(source).into());
        }
        self.offsets.push(self.end);
        self.end += HEADER_BYTES + u64::from(length);
        self.last = checksum;
        Ok(self.count() - 1)
    }

    /// Makes all records durable (`fdatasync`).
    pub fn sync(&mut self) -> Result<(), RecordError> {
        self.check_usable()?;
        self.file.sync_data().map_err(|source| {
            // The kernel may have dropped the pages that it could not write.
            self.poisoned = true;
            at("sync", &self.path)(source).into()
        })
    }

    /// Reads record `index` and checks it again; `None` past the end.
    pub fn read(&self, index: u64) -> Result<Option<Vec<u8>>, RecordError> {
        let Ok(slot) = usize::try_from(index) else { return Ok(None) };
        let Some(&offset) = self.offsets.get(slot) else { return Ok(None) };
        let previous = match slot.checked_sub(1).and_then(|s| self.offsets.get(s)) {
            Some(&before) => {
                let mut header = [0; 48];
                self.file.read_exact_at(&mut header, before).map_err(at("read", &self.path))?;
                Header::split(&header).checksum
            }
            None => self.kind.identity(),
        };
        let mut header = [0; 48];
        self.file.read_exact_at(&mut header, offset).map_err(at("read", &self.path))?;
        let corrupt = |what| RecordError::Corrupt { path: self.path.clone(), offset, index, what };
        let header = Header::split(&header);
        let length = header.length(&previous, self.kind.payload_bytes_max).map_err(corrupt)?;
        let mut payload = vec![0; length as usize];
        self.file
            .read_exact_at(&mut payload, offset + HEADER_BYTES)
            .map_err(at("read", &self.path))?;
        if checksum(&previous, length, &payload) != header.checksum {
            return Err(corrupt("the checksum does not match"));
        }
        Ok(Some(payload))
    }

    /// Number of records.
    pub fn count(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_usable(&self) -> Result<(), RecordError> {
        if self.poisoned {
            return Err(RecordError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }

    /// Whether the preamble is short. A whole one that differs is an error.
    fn check_preamble(&self, length: u64) -> Result<bool, RecordError> {
        let expected = self.kind.preamble();
        let present = usize::try_from(length.min(PREAMBLE_BYTES)).unwrap_or(expected.len());
        let mut found = vec![0; present];
        self.file.read_exact_at(&mut found, 0).map_err(at("read", &self.path))?;
        if !expected.starts_with(&found) {
            return Err(RecordError::WrongFile { path: self.path.clone(), kind: self.kind.name });
        }
        Ok(present < expected.len())
    }

    /// Checks records from the start; leaves `end` after the last complete one.
    fn scan(&mut self, length: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<(), RecordError> {
        let mut reader = BufReader::with_capacity(1 << 18, &self.file);
        io::Seek::seek(&mut reader, io::SeekFrom::Start(PREAMBLE_BYTES))
            .map_err(at("read", &self.path))?;
        let mut payload = Vec::new();
        while length - self.end >= HEADER_BYTES {
            let (offset, index) = (self.end, self.offsets.len() as u64);
            let corrupt =
                |what| RecordError::Corrupt { path: self.path.clone(), offset, index, what };
            let mut header = [0; 48];
            reader.read_exact(&mut header).map_err(at("read", &self.path))?;
            let header = Header::split(&header);
            let size = header.length(&self.last, self.kind.payload_bytes_max).map_err(corrupt)?;
            if length - offset - HEADER_BYTES < u64::from(size) {
                break;
            }
            payload.resize(size as usize, 0);
            reader.read_exact(&mut payload).map_err(at("read", &self.path))?;
            if checksum(&self.last, size, &payload) != header.checksum {
                return Err(corrupt("the checksum does not match"));
            }
            visit(index, &payload);
            self.offsets.push(offset);
            self.end = offset + HEADER_BYTES + u64::from(size);
            self.last = header.checksum;
        }
        Ok(())
    }
}
