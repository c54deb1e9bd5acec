//! Shards as files of the job directory, read by position.

use std::os::unix::fs::FileExt;

use protocol::ids::ContentHash;
use protocol::worker::FileName;

use super::DataError;
use crate::error::JobError;
use crate::files::{FileError, JobDirectory};

/// Shards of one job. Their names and lengths are all that is kept of them.
const SHARDS_MAX: usize = 65_536;
/// Bytes read at once where a whole shard is read.
const CHUNK_BYTES: usize = 1 << 20;

/// The shards of a job.
pub struct Shards<'a> {
    place: Place<'a>,
    lengths: Vec<u64>,
}

enum Place<'a> {
    Files { directory: &'a JobDirectory, names: Vec<FileName> },
    Memory(Vec<Vec<u8>>),
}

impl<'a> Shards<'a> {
    /// Shards that are files.
    pub fn open(directory: &'a JobDirectory, names: &[FileName]) -> Result<Self, JobError> {
        if names.len() > SHARDS_MAX {
            return Err(JobError::Request(format!("shards: at most {SHARDS_MAX}")));
        }
        let lengths = names
            .iter()
            .map(|name| directory.file(name).map(|(_, length)| length))
            .collect::<Result<_, FileError>>()?;
        Ok(Self { place: Place::Files { directory, names: names.to_vec() }, lengths })
    }

    /// Shards in memory.
    pub fn in_memory(shards: Vec<Vec<u8>>) -> Self {
        let lengths = shards.iter().map(|s| u64::try_from(s.len()).unwrap_or(u64::MAX)).collect();
        Self { place: Place::Memory(shards), lengths }
    }

    /// Length of each shard.
    pub fn lengths(&self) -> &[u64] {
        &self.lengths
    }

    /// What to call a shard in a message.
    pub fn name(&self, shard: usize) -> String {
        match &self.place {
            Place::Files { names, .. } => names[shard].as_str().to_owned(),
            Place::Memory(_) => format!("shard {shard}"),
        }
    }

    /// Fills `buffer` from position `at` of a shard; all of it must be there.
    pub fn read(&self, shard: usize, at: u64, buffer: &mut [u8]) -> Result<(), JobError> {
        match &self.place {
            // Opened for every read: a job may have more shards than a process may open files.
            Place::Files { directory, names } => {
                let name = &names[shard];
                let (file, length) = directory.file(name)?;
                if length != self.lengths[shard] {
                    return Err(DataError::Changed(name.as_str().to_owned()).into());
                }
                file.read_exact_at(buffer, at)
                    .map_err(|source| FileError::Io { name: name.as_str().to_owned(), source })?;
            }
            Place::Memory(shards) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                let found = shards[shard].get(start..start.saturating_add(buffer.len()));
                let found = found.ok_or_else(|| DataError::Changed(self.name(shard)))?;
                buffer.copy_from_slice(found);
            }
        }
        Ok(())
    }

    /// Hash of the lengths and contents of all shards, in their order.
    pub fn hash(&self) -> Result<ContentHash, JobError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0u8; CHUNK_BYTES];
        for (shard, length) in self.lengths.iter().enumerate() {
            hasher.update(&length.to_le_bytes());
            let mut at = 0;
            while at < *length {
                let left = usize::try_from(length - at).unwrap_or(usize::MAX);
                let part = &mut buffer[..left.min(CHUNK_BYTES)];
                self.read(shard, at, part)?;
                hasher.update(part);
                at += u64::try_from(part.len()).unwrap_or(u64::MAX);
            }
        }
        Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
    }
}
