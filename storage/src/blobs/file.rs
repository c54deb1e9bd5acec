//! A blob's file as bao-tree reads it, from blocking and from async code.
//!
//! Invariant: reads are positioned, so clones share the file and no cursor.
//! Deliberately absent: writing, and a thread pool: an async read is one blocking `pread` of at
//! most a chunk group (16 KiB), usually from the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bao_tree::io::fsm::AsyncSliceReader;
use bao_tree::io::sync::{ReadAt, Size};
use bytes::Bytes;

/// Most bytes that one read returns; bao-tree asks for a group or a hash pair.
const READ_BYTES_MAX: usize = 1 << 20;

/// A read-only file that is cheap to clone; empty for a blob without a hash tree.
#[derive(Clone, Debug)]
pub struct BlobFile(Option<Arc<File>>);

impl BlobFile {
    pub(super) fn new(file: File) -> Self {
        Self(Some(Arc::new(file)))
    }

    pub(super) const fn empty() -> Self {
        Self(None)
    }

    fn length(&self) -> io::Result<u64> {
        match &self.0 {
            Some(file) => Ok(file.metadata()?.len()),
            None => Ok(0),
        }
    }
}

impl ReadAt for BlobFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Some(file) => FileExt::read_at(&**file, buffer, offset),
            None => Ok(0),
        }
    }
}

impl Size for BlobFile {
    fn size(&self) -> io::Result<Option<u64>> {
        self.length().map(Some)
    }
}

impl AsyncSliceReader for BlobFile {
    async fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; len.min(READ_BYTES_MAX)];
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match ReadAt::read_at(self, offset.saturating_add(filled as u64), rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    }

    async fn size(&mut self) -> io::Result<u64> {
        self.length()
    }
}
