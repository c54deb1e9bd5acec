//! Files of known formats become shards: texts, each ended by a NUL byte, or records.
//!
//! **Invariant.** A file is a stranger's: it is read once, piece by piece, in bounded memory. What
//! cannot be used is counted with its reason and, for the first few, its place; it never ends the
//! job, unless the file as a whole is not of its format. Equal documents are taken once, and the
//! hash of a document's content decides on which side of the held-out split it goes, so that no
//! document is on both.
//!
//! Deliberately absent: archives, guessing of formats, names of classes (labels are numbers).

mod columns;
mod idx;
mod images;
mod parquet;
mod sink;
mod tables;
mod text;

use std::fs::File;

use protocol::limits::SHARD_BYTES_MAX;
use protocol::model::{Architecture, InputKind};
use protocol::worker::{DataFormat, IngestJob, Progress, WorkerOutcome};

use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::Report;

pub(super) use columns::{Cell, Columns};
pub(super) use sink::Sink;

/// Longest document. A longer one does not fit a published shard.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024 - 1;
const _: () = assert!((DOCUMENT_BYTES_MAX as u64) < SHARD_BYTES_MAX);
/// Documents between two reports.
const REPORT_DOCUMENTS: u64 = 1_000;
/// Part of a million.
const PPM: u32 = 1_000_000;

/// What the documents are for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Texts.
    Text,
    /// Records of so many numbers.
    Numbers { inputs: usize, classes: u32 },
    /// Records of images.
    Image { height: u32, width: u32, channels: u32, classes: u32 },
    /// Records of texts with room for so many bytes.
    TextRecord { bytes: usize, classes: u32 },
}

impl Target {
    fn of(architecture: Option<&Architecture>) -> Result<Self, JobError> {
        let Some(architecture) = architecture else { return Ok(Self::Text) };
        let InputKind::Records { bytes, classes } = architecture.input() else {
            return Ok(Self::Text);
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(match *architecture {
            Architecture::Mlp { inputs, .. } => {
                Self::Numbers { inputs: crate::tensors::index(inputs), classes }
            }
            Architecture::Cnn { height, width, channels, .. } => {
                Self::Image { height, width, channels, classes }
            }
            // Length and label take two bytes each.
            _ => Self::TextRecord { bytes: bytes.saturating_sub(4), classes },
        })
    }

    /// Classes of the labels; none for texts.
    pub(super) fn classes(&self) -> Option<u32> {
        match *self {
            Self::Text => None,
            Self::Numbers { classes, .. }
            | Self::Image { classes, .. }
            | Self::TextRecord { classes, .. } => Some(classes),
        }
    }
}

/// Runs an ingest job.
pub fn run(
    directory: &JobDirectory,
    job: &IngestJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    let bad = |what: &str| Err(JobError::Request(what.to_owned()));
    if job.held_out_ppm > PPM {
        return bad("held_out_ppm: at most 1,000,000");
    }
    if !(4_096..=SHARD_BYTES_MAX).contains(&job.shard_bytes) {
        return bad("shard_bytes: 4,096 to 1 MiB");
    }
    if let Some(architecture) = &job.architecture {
        crate::jobs::check_shape(architecture)?;
    }
    let target = Target::of(job.architecture.as_ref())?;
    let image = matches!(target, Target::Image { .. });
    match job.format {
        DataFormat::Images | DataFormat::Idx if !image => {
            return bad("images need an architecture that reads images");
        }
        DataFormat::Text if !matches!(target, Target::Text) => {
            return bad("plain text has no labels: give JSONL, CSV or Parquet for a classifier");
        }
        DataFormat::Jsonl | DataFormat::Csv | DataFormat::Parquet if image => {
            return bad("images come as PNG, JPEG or IDX");
        }
        DataFormat::Idx if job.inputs.len() != 2 => {
            return bad("IDX is a pair of files: images, then labels");
        }
        _ => {}
    }
    let total = u64::try_from(job.inputs.len()).unwrap_or(u64::MAX);
    let mut sink = Sink::new(directory, job, target, report, total)?;
    if job.format == DataFormat::Idx {
        let open = |index: usize| directory.file(&job.inputs[index]);
        let ((images, _), (labels, _)) = (open(0)?, open(1)?);
        idx::read(job.inputs[0].as_str(), images, labels, &mut sink)?;
    } else {
        for name in &job.inputs {
            let (file, length) = directory.file(name)?;
            read(job, name.as_str(), file, length, &mut sink)?;
            sink.file_done()?;
        }
    }
    sink.finish().map(WorkerOutcome::Ingested)
}

fn read(
    job: &IngestJob,
    name: &str,
    file: File,
    length: u64,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let columns = || Columns::new(job, sink.target());
    match job.format {
        DataFormat::Text => text::read(name, file, length, sink),
        DataFormat::Jsonl => {
            let columns = columns()?;
            tables::jsonl(name, file, &columns, sink)
        }
        DataFormat::Csv => {
            let columns = columns()?;
            tables::csv(name, file, &columns, sink)
        }
        DataFormat::Parquet => {
            let columns = columns()?;
            parquet::read(name, file, length, &columns, sink)
        }
        DataFormat::Images => images::read(name, file, length, sink),
        DataFormat::Idx => Ok(()),
    }
}

/// A report of so many files done.
fn progress(done: u64, total: u64) -> Progress {
    Progress { done, total, loss_nanonats: None, per_second: None, prompt: 0, text: Vec::new() }
}
