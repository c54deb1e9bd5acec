//! Whether what a worker answers fits what it was asked.
//!
//! Invariant: an outcome that passes has the kind and the counts of its request, so that callers
//! may index rows by variants and windows.

use protocol::limits;
use protocol::worker::{WorkerDescription, WorkerFailure, WorkerOutcome, WorkerRequest};

/// Longest failure message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of notes or reasons in one answer.
const LINES_BYTES_MAX: usize = 64 * 1024;
/// Longest text in a description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 256;

/// What a request is called in status and logs.
pub(super) const fn name(request: &WorkerRequest) -> &'static str {
    match request {
        WorkerRequest::Describe => "describe",
        WorkerRequest::Initialize { .. } => "initialize",
        WorkerRequest::Train(_) => "train",
        WorkerRequest::Evaluate(_) => "evaluate",
        WorkerRequest::Merge(_) => "merge",
        WorkerRequest::Generate(_) => "generate",
        WorkerRequest::Compress(_) => "compress",
        WorkerRequest::Replay(_) => "replay",
        WorkerRequest::Import(_) => "import",
        WorkerRequest::Export(_) => "export",
        WorkerRequest::Ingest(_) => "ingest",
        WorkerRequest::Compare(_) => "compare",
    }
}

/// Checks an outcome against its request; says what is wrong.
pub(super) fn check(request: &WorkerRequest, outcome: &WorkerOutcome) -> Result<(), String> {
    match (request, outcome) {
        (WorkerRequest::Describe, WorkerOutcome::Described(description)) => {
            check_description(description)
        }
        (WorkerRequest::Evaluate(job), WorkerOutcome::Evaluated { losses, faults }) => {
            if losses.len() != job.variants.len() {
                return Err(format!("{} rows for {} variants", losses.len(), job.variants.len()));
            }
            if losses.iter().flatten().any(|row| row.len() != job.windows.len()) {
                return Err("a row of losses without one loss per window".to_owned());
            }
            if faults.len() != job.submitted.len() {
                return Err(format!("{} faults for {} deltas", faults.len(), job.submitted.len()));
            }
            Ok(())
        }
        (WorkerRequest::Generate(job), WorkerOutcome::Generated { texts, .. }) => {
            if texts.len() != job.prompts.len() {
                return Err(format!("{} texts for {} prompts", texts.len(), job.prompts.len()));
            }
            let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
            if u32::try_from(longest).is_ok_and(|length| length <= job.bytes) {
                Ok(())
            } else {
                Err(format!("{longest} bytes of text where {} were asked for", job.bytes))
            }
        }
        (WorkerRequest::Replay(job), WorkerOutcome::Replayed { states }) => {
            if u32::try_from(states.len()) == Ok(job.steps) {
                Ok(())
            } else {
                Err(format!("{} states of {} steps", states.len(), job.steps))
            }
        }
        (WorkerRequest::Import(_), WorkerOutcome::Imported { architecture, notes, .. }) => {
            architecture.validate().map_err(|error| error.to_string())?;
            check_lines("notes", notes.iter())
        }
        (WorkerRequest::Ingest(_), WorkerOutcome::Ingested(ingested)) => {
            if ingested.shards.len() > limits::DATASET_SHARDS_MAX {
                return Err(format!("{} shards", ingested.shards.len()));
            }
            check_lines("reasons", ingested.rejected.iter().map(|(reason, _)| reason))?;
            check_lines("examples", ingested.examples.iter())
        }
        (WorkerRequest::Compare(_), WorkerOutcome::Compared { tensors }) => {
            check_lines("names", tensors.iter().map(|tensor| &tensor.name))
        }
        (WorkerRequest::Initialize { .. }, WorkerOutcome::Initialized { .. })
        | (WorkerRequest::Train(_), WorkerOutcome::Trained(_))
        | (WorkerRequest::Compress(_), WorkerOutcome::Compressed(_))
        | (WorkerRequest::Export(_), WorkerOutcome::Exported)
        | (WorkerRequest::Merge(_), WorkerOutcome::Merged { .. }) => Ok(()),
        _ => Err(format!("an answer of another kind than \"{}\"", name(request))),
    }
}

fn check_description(description: &WorkerDescription) -> Result<(), String> {
    let longest = description.version.len().max(description.device.len());
    if longest > DESCRIPTION_BYTES_MAX {
        return Err(format!("a description of {longest} bytes"));
    }
    Ok(())
}

/// Checks lines that people will read.
fn check_lines<'a>(what: &str, lines: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let bytes: usize = lines.map(|line| line.len().saturating_add(1)).sum();
    if bytes > LINES_BYTES_MAX {
        return Err(format!("{bytes} bytes of {what}"));
    }
    Ok(())
}

/// Cuts an overlong message.
pub(super) fn bounded(mut failure: WorkerFailure) -> WorkerFailure {
    let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| failure.message.is_char_boundary(*end));
    failure.message.truncate(end.unwrap_or(0));
    failure
}

#[cfg(test)]
mod tests {
    use protocol::ids::ContentHash;
    use protocol::worker::FailureKind;

    use super::*;

    #[test]
    fn another_kind_is_refused() {
        let merged = WorkerOutcome::Merged {
            checkpoint: ContentHash::of(b"a"),
            outer_state: ContentHash::of(b"b"),
            momentum: None,
            aggregate: None,
        };
        assert!(check(&WorkerRequest::Describe, &merged).is_err());
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let message = "é".repeat(MESSAGE_BYTES_MAX);
        let failure = bounded(WorkerFailure { kind: FailureKind::Internal, message });
        assert_eq!(failure.message.len(), MESSAGE_BYTES_MAX);
        let message = format!("a{}", "é".repeat(MESSAGE_BYTES_MAX));
        let failure = bounded(WorkerFailure { kind: FailureKind::Internal, message });
        assert_eq!(failure.message.len(), MESSAGE_BYTES_MAX - 1);
        let message = "short".to_owned();
        let failure = bounded(WorkerFailure { kind: FailureKind::Internal, message });
        assert_eq!(failure.message, "short");
    }
}
