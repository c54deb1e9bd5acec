//! What travels on a blob stream.
//!
//! Everything is a frame: a little-endian `u32` length, then that many bytes.
//!
//! ```text
//! fetcher   BlobRequest
//! server    BlobAnswer, and if it is Found:
//!           the last group of 16 KiB, then parts of 256 KiB from the requested offset on, each
//!           as a bao encoding of its own (data with the hashes that tie it to the root)
//! fetcher   the next BlobRequest on the same stream, or the end
//! ```
//!
//! The last group comes first because it alone proves the size. A part is the unit of
//! verification: at most one unverified part is in memory, and none is ever on disk.

use std::io;

use bao_tree::{ChunkNum, ChunkRanges};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use protocol::codec::{self, Canonical};
use protocol::ids::ContentHash;
use protocol::limits;
use serde::{Deserialize, Serialize};

/// Bytes of one group.
pub(super) const GROUP_BYTES: u64 = 1024 << limits::CHUNK_GROUP_LOG;
/// Bytes of data in one part. Raising it delays the discovery of a lie and costs both ends memory.
pub(super) const PART_BYTES: u64 = 16 * GROUP_BYTES;
/// Largest frame of a part: its data, a pair of hashes per inner node, and a path to the root.
pub(super) const PART_FRAME_BYTES_MAX: usize = (PART_BYTES + 64 * (16 + 64)) as usize;

/// A question for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlobRequest {
    /// The blob.
    pub(super) hash: ContentHash,
    /// Where the parts begin, a multiple of [`PART_BYTES`]. The last group is sent in any case.
    pub(super) offset: u64,
}

impl Canonical for BlobRequest {
    const BYTES_MAX: usize = 32 + 9;
}

/// The answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum BlobAnswer {
    /// Not here, or not for everybody yet.
    Missing,
    /// Parts follow.
    Found {
        /// Length of the blob in bytes: unproven until the last group is verified.
        size: u64,
    },
}

impl Canonical for BlobAnswer {
    const BYTES_MAX: usize = 1 + 9;
}

/// Bytes of a blob that one encoding covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Part {
    /// The last group of a blob: all of a small one.
    pub(super) const fn last(size: u64) -> Self {
        Self { start: size.saturating_sub(1) / GROUP_BYTES * GROUP_BYTES, end: size }
    }

    /// The part that begins at `offset`; `None` when only the last group is left.
    pub(super) fn at(offset: u64, size: u64) -> Option<Self> {
        let end = Self::last(size).start;
        (offset < end).then(|| Self { start: offset, end: end.min(offset + PART_BYTES) })
    }

    pub(super) const fn length(self) -> u64 {
        self.end - self.start
    }

    /// As bao-tree spells it. Starts lie on groups, so no group is sent in half.
    pub(super) fn ranges(self) -> ChunkRanges {
        if self.end == 0 {
            // The empty blob has one empty chunk.
            return ChunkRanges::all();
        }
        ChunkRanges::from(ChunkNum::full_chunks(self.start)..ChunkNum::chunks(self.end))
    }
}

/// Writes a frame and flushes it.
pub(super) async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|error| invalid(error.to_string()))?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Writes a value as a frame.
pub(super) async fn write_value<V: Canonical>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &V,
) -> io::Result<()> {
    write_frame(stream, &codec::encode(value)).await
}

/// Reads a frame of at most `max_bytes`. `None` when the stream ended before it; an error of kind
/// `InvalidData` is the other side's fault.
pub(super) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    max_bytes: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let Some((first, rest)) = length.split_first_mut() else { return Ok(None) };
    if stream.read(std::slice::from_mut(first)).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(rest).await?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > max_bytes {
        return Err(invalid(format!("a frame of {length} bytes where {max_bytes} are allowed")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// Reads a value.
pub(super) async fn read_value<V: Canonical>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<V>> {
    let Some(bytes) = read_frame(stream, V::BYTES_MAX).await? else { return Ok(None) };
    codec::decode(&bytes).map(Some).map_err(|error| invalid(error.to_string()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn parts(size: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut offset = 0;
        while let Some(part) = Part::at(offset, size) {
            offset = part.end;
            parts.push(part);
        }
        parts.push(Part::last(size));
        parts
    }

    #[test]
    fn parts_cover_every_byte_once() {
        let sizes = [0, 1, GROUP_BYTES, GROUP_BYTES + 1, PART_BYTES, PART_BYTES + GROUP_BYTES];
        for size in sizes.into_iter().chain([PART_BYTES + GROUP_BYTES + 1, 10 * PART_BYTES - 7]) {
            let mut next = 0;
            for part in parts(size) {
                assert_eq!(part.start, next, "size {size}");
                assert!(part.length() <= PART_BYTES);
                next = part.end;
            }
            assert_eq!(next, size);
        }
    }

    #[test]
    fn values_fit_their_limits() {
        let request = BlobRequest { hash: ContentHash::of(b"x"), offset: u64::MAX };
        assert!(codec::encode_checked(&request).is_ok());
        assert!(codec::encode_checked(&BlobAnswer::Found { size: u64::MAX }).is_ok());
    }

    #[test]
    fn frames_are_bounded() {
        let read = |bytes: &[u8]| block_on(read_frame(&mut Cursor::new(bytes), 4));
        assert_eq!(read(&[]).expect("the end"), None);
        assert_eq!(read(&[2, 0, 0, 0, 7, 8]).expect("a frame"), Some(vec![7, 8]));
        let error = read(&[5, 0, 0, 0, 1, 2, 3, 4, 5]).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        for torn in [&[1u8][..], &[1, 0, 0, 0], &[255, 255]] {
            assert_eq!(read(torn).expect_err("torn").kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
