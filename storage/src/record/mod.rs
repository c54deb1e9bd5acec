//! An append-only file of records, each chained to the one before: the shape of the block log,
//! the proposal log and the signer guard.
//!
//! ```text
//! file   = magic "AYNILOG" (7) | schema digit (1) | identity (32): what kind, of which network
//! record = magic "AYR1" (4) | length u32 LE | header check (8) | checksum (32) | payload
//! end    = "AYNI/end" (8), only in kinds with an end mark; the next record is written over it
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
//! With an end mark every cut is noticed. Without, a file that was cut exactly between records
//! looks whole: whoever owns the log compares its tip with something else.
//!
//! Deliberately absent: repair.

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

const FILE_MAGIC: [u8; 7] = *b"AYNILOG";
/// Bytes before the first record.
pub const PREAMBLE_BYTES: u64 = 40;

const END_MARK: [u8; 8] = *b"AYNI/end";

/// What a log file must be.
#[derive(Clone, Copy, Debug)]
pub struct LogKind {
    /// Name, part of the file's identity and of messages.
    pub name: &'static str,
    /// Version of what the payloads mean, 1 to 9. Raised when an older program could misread them.
    pub schema: u8,
    /// The network.
    pub chain: ChainId,
    /// Whether the file ends with a mark, so that one cut between records is noticed.
    pub end_mark: bool,
    /// Largest payload in bytes; a longer one is refused on append and corrupt on disk.
    pub payload_bytes_max: u32,
}

impl LogKind {
    const fn end_mark(&self) -> &'static [u8] {
        if self.end_mark { &END_MARK } else { &[] }
    }

    pub(crate) fn identity(&self) -> [u8; 32] {
        derive("ayni 2026 record log v1", &[self.name.as_bytes(), self.chain.as_bytes()])
    }

    fn preamble(&self) -> Vec<u8> {
        assert!((1..=9).contains(&self.schema), "a schema is one digit");
        [FILE_MAGIC.as_slice(), &[b'0' + self.schema], &self.identity()].concat()
    }

    /// Whether the first bytes of a file are those of this kind; all of them or, with `short`, as
    /// many as there are.
    fn check_preamble(&self, path: &Path, found: &[u8], short: bool) -> Result<(), RecordError> {
        if found.get(..7) == Some(&FILE_MAGIC) {
            let digit = found.get(7).copied().unwrap_or_default();
            if digit.is_ascii_digit() && digit > b'0' + self.schema {
                return Err(RecordError::Newer {
                    path: path.to_path_buf(),
                    kind: self.name,
                    found: digit - b'0',
                    known: self.schema,
                });
            }
        }
        let expected = self.preamble();
        if found == expected || (short && expected.starts_with(found)) {
            return Ok(());
        }
        Err(RecordError::WrongFile { path: path.to_path_buf(), kind: self.name })
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
        let mut log = Self::unscanned(file, path, kind);
        let torn_preamble = log.check_preamble(length)?;
        if torn_preamble {
            let torn = TornTail { path: path.to_path_buf(), offset: 0, bytes: length };
            return Ok((Self::create(path, kind)?, Some(torn)));
        }
        log.scan(length, visit)?;
        if log.ends_at(length)? {
            return Ok((log, None));
        }
        let torn = log.cut(length)?;
        Ok((log, Some(torn)))
    }

    /// As [`Self::open`], for a file that must be there and whole: a short last record is damage.
    pub(crate) fn open_whole(
        path: &Path,
        kind: LogKind,
        visit: impl FnMut(u64, &[u8]),
    ) -> Result<Self, RecordError> {
        let file = File::open(path).map_err(at("open", path))?;
        let length = file.metadata().map_err(at("read", path))?.len();
        let mut log = Self::unscanned(file, path, kind);
        if length < PREAMBLE_BYTES {
            return Err(RecordError::WrongFile { path: path.to_path_buf(), kind: kind.name });
        }
        log.check_preamble(length)?;
        log.scan(length, visit)?;
        if !log.ends_at(length)? {
            return Err(log.corrupt_end());
        }
        Ok(log)
    }

    /// What can be read of a file that may be damaged: shows the whole records to `visit`. Changes
    /// nothing.
    pub(crate) fn survey(
        path: &Path,
        kind: LogKind,
        visit: impl FnMut(u64, &[u8]),
    ) -> Result<Surveyed, RecordError> {
        let file = File::open(path).map_err(at("open", path))?;
        let length = file.metadata().map_err(at("read", path))?.len();
        let mut log = Self::unscanned(file, path, kind);
        let begun = if length < PREAMBLE_BYTES {
            Err(RecordError::WrongFile { path: path.to_path_buf(), kind: kind.name })
        } else {
            log.check_preamble(length).map(|_| ())
        };
        let wrong = match begun.and_then(|()| log.scan(length, visit)) {
            Ok(()) if log.ends_at(length)? => None,
            Ok(()) => Some(log.corrupt_end()),
            Err(wrong @ (RecordError::Corrupt { .. } | RecordError::WrongFile { .. })) => {
                Some(wrong)
            }
            Err(error) => return Err(error),
        };
        Ok(Surveyed { last: log.last, wrong })
    }

    fn unscanned(file: File, path: &Path, kind: LogKind) -> Self {
        Self {
            file,
            path: path.to_path_buf(),
            kind,
            offsets: Vec::new(),
            end: PREAMBLE_BYTES,
            last: kind.identity(),
            poisoned: false,
        }
    }

    /// Whether nothing but the end mark follows the last whole record.
    fn ends_at(&self, length: u64) -> Result<bool, RecordError> {
        let mark = self.kind.end_mark();
        if length - self.end != mark.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; mark.len()];
        self.file.read_exact_at(&mut found, self.end).map_err(at("read", &self.path))?;
        Ok(found == mark)
    }

    fn corrupt_end(&self) -> RecordError {
        RecordError::Corrupt {
            path: self.path.clone(),
            offset: self.end,
            index: self.count(),
            what: "it ends in the middle of a record",
        }
    }

    fn cut(&self, length: u64) -> Result<TornTail, RecordError> {
        self.file
            .set_len(self.end)
            .and_then(|()| self.file.write_all_at(self.kind.end_mark(), self.end))
            .and_then(|()| self.file.sync_all())
            .map_err(at("cut the torn tail off", &self.path))?;
        Ok(TornTail { path: self.path.clone(), offset: self.end, bytes: length - self.end })
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
    pub(crate) fn write_new<'p>(
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
        let empty = [kind.preamble().as_slice(), kind.end_mark()].concat();
        file.write_all_at(&empty, 0).map_err(at("write", &next))?;
        let mut log = Self::unscanned(file, &next, kind);
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
        bytes.extend_from_slice(self.kind.end_mark());
        if let Err(source) = self.file.write_all_at(&bytes, self.end) {
            self.poisoned = true;
            // If this fails too, the next open finds a short record and cuts it off.
            let mark = self.kind.end_mark();
            let undone = self.file.set_len(self.end + mark.len() as u64);
            if let Err(error) = undone.and_then(|()| self.file.write_all_at(mark, self.end)) {
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
        let before = slot.checked_sub(1).and_then(|s| self.offsets.get(s)).copied();
        let place = Place { index, offset, before };
        read_at(&self.file, &self.path, &self.kind, &place).map(Some)
    }

    /// Where each record begins.
    pub(crate) fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Checksum of the last record; of an empty log, its identity.
    pub(crate) const fn last_checksum(&self) -> [u8; 32] {
        self.last
    }

    /// Number of records.
    pub fn count(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.end + self.kind.end_mark().len() as u64
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
        let mut found = vec![0; usize::try_from(length.min(PREAMBLE_BYTES)).unwrap_or_default()];
        self.file.read_exact_at(&mut found, 0).map_err(at("read", &self.path))?;
        self.kind.check_preamble(&self.path, &found, true)?;
        Ok(length < PREAMBLE_BYTES)
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

/// See [`RecordLog::survey`].
pub(crate) struct Surveyed {
    /// Checksum of the last whole record.
    pub(crate) last: [u8; 32],
    /// What is wrong after it, if the file does not end there.
    pub(crate) wrong: Option<RecordError>,
}

/// Where a record is.
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) offset: u64,
    /// Where the record before it begins; `None` for the first.
    pub(crate) before: Option<u64>,
}

/// Reads one record and checks it.
pub(crate) fn read_at(
    file: &File,
    path: &Path,
    kind: &LogKind,
    place: &Place,
) -> Result<Vec<u8>, RecordError> {
    let Place { index, offset, before } = *place;
    let corrupt = |what| RecordError::Corrupt { path: path.to_path_buf(), offset, index, what };
    let read = |bytes: &mut [u8], offset| match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(corrupt("the file ends in it")),
        Err(e) => Err(RecordError::from(at("read", path)(e))),
    };
    let mut header = [0; 48];
    let previous = match before {
        Some(before) => {
            read(&mut header, before)?;
            Header::split(&header).checksum
        }
        None => kind.identity(),
    };
    read(&mut header, offset)?;
    let header = Header::split(&header);
    let length = header.length(&previous, kind.payload_bytes_max).map_err(corrupt)?;
    let mut payload = vec![0; length as usize];
    read(&mut payload, offset.saturating_add(HEADER_BYTES))?;
    if checksum(&previous, length, &payload) != header.checksum {
        return Err(corrupt("the checksum does not match"));
    }
    Ok(payload)
}

/// The schema that a file states, if it is there and begins as a log.
pub(crate) fn schema_of(path: &Path) -> Result<Option<u8>, RecordError> {
    let mut found = [0; 8];
    match File::open(path).and_then(|file| file.read_exact_at(&mut found, 0)) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            return Ok(None);
        }
        Err(e) => return Err(at("read", path)(e).into()),
    }
    let digit = found[7];
    Ok((found.starts_with(&FILE_MAGIC) && digit.is_ascii_digit()).then(|| digit - b'0'))
}

/// Checks that a file begins as a log of this kind.
pub(crate) fn check_file(file: &File, path: &Path, kind: &LogKind) -> Result<(), RecordError> {
    let mut found = [0; PREAMBLE_BYTES as usize];
    match file.read_exact_at(&mut found, 0) {
        Ok(()) => kind.check_preamble(path, &found, false),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(RecordError::WrongFile { path: path.to_path_buf(), kind: kind.name })
        }
        Err(e) => Err(at("read", path)(e).into()),
    }
}
