//! Plain text: a file is a document.

use std::fs::File;
use std::io::Read;

use super::{DOCUMENT_BYTES_MAX, Sink};
use crate::error::JobError;
use crate::files::FileError;

/// Reads one file.
pub(super) fn read(
    name: &str,
    file: File,
    length: u64,
    sink: &mut Sink<'_, '_>,
) -> Result<(), JobError> {
    let max = u64::try_from(DOCUMENT_BYTES_MAX).unwrap_or(u64::MAX);
    if length > max {
        return sink.reject(|| name.to_owned(), "longer than 1 MiB");
    }
    let mut text = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut text)
        .map_err(|source| FileError::Io { name: name.to_owned(), source })?;
    sink.text(|| name.to_owned(), &text)
}
