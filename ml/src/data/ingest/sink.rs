//! Where documents go: equal ones are dropped, the split is made, shards are written, what is
//! refused is counted.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use protocol::ids::ContentHash;
use protocol::worker::{FileName, IngestJob, IngestOutcome};

use super::{DOCUMENT_BYTES_MAX, PPM, REPORT_DOCUMENTS, Target, progress};
use crate::data::tokens::DOCUMENT_END;
use crate::error::JobError;
use crate::files::{FileError, JobDirectory, Pending};
use crate::jobs::Report;

/// Documents of one job: 16 bytes of each one's hash are kept to find equal ones.
const DOCUMENTS_MAX: u64 = 10_000_000;
/// Shards of one job: their lengths go into one reply.
const SHARDS_MAX: usize = 65_536;
/// Refused records whose place is told.
const EXAMPLES_MAX: usize = 20;
/// Longest of these lines.
const EXAMPLE_CHARS_MAX: usize = 200;

/// Takes documents.
pub(in crate::data) struct Sink<'a, 'r> {
    directory: &'a JobDirectory,
    job: &'a IngestJob,
    target: Target,
    report: &'a mut Report<'r>,
    files_done: u64,
    files: u64,
    seen: HashSet<[u8; 16]>,
    train: Option<Shard<'a>>,
    held_out: Option<Shard<'a>>,
    outcome: IngestOutcome,
    rejected: BTreeMap<&'static str, u64>,
}

struct Shard<'a> {
    name: FileName,
    file: Pending<'a>,
    bytes: u64,
    documents: u32,
}

impl<'a, 'r> Sink<'a, 'r> {
    /// An empty sink.
    pub(super) fn new(
        directory: &'a JobDirectory,
        job: &'a IngestJob,
        target: Target,
        report: &'a mut Report<'r>,
        files: u64,
    ) -> Result<Self, JobError> {
        let mut sink = Self {
            directory,
            job,
            target,
            report,
            files_done: 0,
            files,
            seen: HashSet::new(),
            train: None,
            held_out: None,
            outcome: IngestOutcome::default(),
            rejected: BTreeMap::new(),
        };
        sink.held_out = Some(sink.open("held-out.0")?);
        Ok(sink)
    }

    /// What the documents are for.
    pub(super) fn target(&self) -> Target {
        self.target
    }

    /// Counts a record that cannot be used, found at `place`.
    pub(super) fn reject(
        &mut self,
        place: impl FnOnce() -> String,
        reason: &'static str,
    ) -> Result<(), JobError> {
        self.count()?;
        *self.rejected.entry(reason).or_default() += 1;
        if self.outcome.examples.len() < EXAMPLES_MAX {
            let line = format!("{}: {reason}", place());
            self.outcome.examples.push(line.chars().take(EXAMPLE_CHARS_MAX).collect());
        }
        Ok(())
    }

    /// Takes a text.
    pub(super) fn text(
        &mut self,
        place: impl FnOnce() -> String,
        text: &[u8],
    ) -> Result<(), JobError> {
        if let Err(reason) = check_text(text) {
            return self.reject(place, reason);
        }
        let hash = ContentHash::of(text);
        self.take(&hash, &hash, text, &[DOCUMENT_END])
    }

    /// Takes a record: what the model reads, and its label.
    pub(super) fn record(
        &mut self,
        place: impl FnOnce() -> String,
        content: &[u8],
        label: u64,
    ) -> Result<(), JobError> {
        let classes = self.target.classes().unwrap_or(0);
        let Some(label) = u16::try_from(label).ok().filter(|label| u32::from(*label) < classes)
        else {
            return self.reject(place, "its label is not below the number of classes");
        };
        let label = label.to_le_bytes();
        // The label decides nothing about the split: one picture with two labels stays on a side.
        let side = ContentHash::of(content);
        let whole = ContentHash::of(&[content, &label[..]].concat());
        self.take(&side, &whole, content, &label)
    }

    fn take(
        &mut self,
        side: &ContentHash,
        whole: &ContentHash,
        content: &[u8],
        end: &[u8],
    ) -> Result<(), JobError> {
        self.count()?;
        if !self.seen.insert(*whole.as_bytes().first_chunk().expect("32 bytes")) {
            self.outcome.duplicates += 1;
            return Ok(());
        }
        let number = u64::from_le_bytes(*side.as_bytes().first_chunk().expect("32 bytes"));
        let held_out = number % u64::from(PPM) < u64::from(self.job.held_out_ppm);
        let length = u64::try_from(content.len() + end.len()).unwrap_or(u64::MAX);
        if !held_out {
            self.make_room(length)?;
        }
        let shard = if held_out { &mut self.held_out } else { &mut self.train };
        let shard = shard.as_mut().expect("opened when it is needed");
        let write = shard.file.write_all(content).and_then(|()| shard.file.write_all(end));
        let name = shard.name.as_str().to_owned();
        write.map_err(|source| FileError::Io { name, source })?;
        shard.bytes += length;
        shard.documents = shard.documents.saturating_add(1);
        Ok(())
    }

    /// Closes the shard if the next document would make it too long, and opens one.
    fn make_room(&mut self, length: u64) -> Result<(), JobError> {
        let full = |shard: &Shard<'_>| {
            shard.bytes > 0 && shard.bytes.saturating_add(length) > self.job.shard_bytes
        };
        if self.train.as_ref().is_some_and(full) {
            self.close()?;
        }
        if self.train.is_none() {
            if self.outcome.shards.len() >= SHARDS_MAX {
                let text = format!("more than {SHARDS_MAX} shards: choose a larger shard_bytes");
                return Err(JobError::Request(text));
            }
            self.train = Some(self.open(&format!("train.{}", self.outcome.shards.len()))?);
        }
        Ok(())
    }

    fn open(&self, suffix: &str) -> Result<Shard<'a>, JobError> {
        let name = FileName::new(format!("{}.{suffix}", self.job.prefix.as_str()))
            .map_err(|error| JobError::Request(error.to_string()))?;
        let file = self.directory.create(&name)?;
        Ok(Shard { name, file, bytes: 0, documents: 0 })
    }

    fn close(&mut self) -> Result<(), JobError> {
        if let Some(shard) = self.train.take() {
            shard.file.commit(false)?;
            self.outcome.shards.push((shard.bytes, shard.documents));
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), JobError> {
        self.outcome.documents += 1;
        if self.outcome.documents > DOCUMENTS_MAX {
            let text = format!("more than {DOCUMENTS_MAX} documents: ingest in several jobs");
            return Err(JobError::Request(text));
        }
        if self.outcome.documents.is_multiple_of(REPORT_DOCUMENTS) {
            (self.report)(progress(self.files_done, self.files))?;
        }
        Ok(())
    }

    /// Says that another file is done.
    pub(super) fn file_done(&mut self) -> Result<(), JobError> {
        self.files_done += 1;
        (self.report)(progress(self.files_done, self.files))
    }

    /// Closes everything and reports.
    pub(super) fn finish(mut self) -> Result<IngestOutcome, JobError> {
        self.close()?;
        if let Some(shard) = self.held_out.take() {
            self.outcome.held_out_bytes = shard.bytes;
            self.outcome.held_out_documents = u64::from(shard.documents);
            shard.file.commit(false)?;
        }
        let rejected = self.rejected.into_iter();
        self.outcome.rejected =
            rejected.map(|(reason, count)| (reason.to_owned(), count)).collect();
        Ok(self.outcome)
    }
}

fn check_text(text: &[u8]) -> Result<(), &'static str> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err("longer than 1 MiB");
    }
    if text.contains(&DOCUMENT_END) {
        return Err("has a NUL byte inside");
    }
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
    if text.trim().is_empty() { Err("empty") } else { Ok(()) }
}
