//! A blob's bytes as they are read, from blocking and from async code.
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

/// Where the bytes are.
#[derive(Clone, Debug)]
enum Source {
    File(Arc<File>),
    Memory(Bytes),
}

/// Read-only bytes that are cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobFile(Source);

impl BlobFile {
    pub(super) fn new(file: File) -> Self {
        Self::shared(Arc::new(file))
    }

    pub(super) const fn shared(file: Arc<File>) -> Self {
        Self(Source::File(file))
    }

    /// Of a small blob, or of a blob without a hash tree.
    pub(super) const fn memory(bytes: Bytes) -> Self {
        Self(Source::Memory(bytes))
    }

    pub(super) const fn empty() -> Self {
        Self::memory(Bytes::new())
    }

    fn length(&self) -> io::Result<u64> {
        match &self.0 {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `buffer`; bytes that end before are an error of kind `UnexpectedEof`.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Source::File(file) => FileExt::read_exact_at(&**file, buffer, offset),
            Source::Memory(_) => match ReadAt::read_at(self, offset, buffer)? {
                read if read == buffer.len() => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        }
    }
}

impl ReadAt for BlobFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Source::File(file) => FileExt::read_at(&**file, buffer, offset),
            Source::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let rest = bytes.get(from..).unwrap_or_default();
                let length = rest.len().min(buffer.len());
                for (to, from) in buffer.iter_mut().zip(rest) {
                    *to = *from;
                }
                Ok(length)
            }
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
