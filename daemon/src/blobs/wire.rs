//! What travels on a blob stream. The messages are [`protocol::blobs`]'s.
//!
//! Messages are frames: a little-endian `u32` length, then that many bytes. Parts are not: both
//! ends know how long the encoding of a part is.
//!
//! ```text
//! fetcher   BlobRequest: items, each a blob and what is wanted of it
//! server    for each item, in order: ItemHead, and if it is Found, the parts that
//!           protocol::blobs derives from the wish and the size, each a bao encoding of its own;
//!           or, asked what is here, Holdings
//! fetcher   the next BlobRequest on the same stream, or the end
//! ```
//!
//! Half duplex: nobody writes while the other one does, so that two full windows cannot block each
//! other. A part (512 KiB) is the unit of verification: at most two unverified parts per stream are
//! in memory, and none is ever on disk. Deadlines are on stalls, never on sizes.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use protocol::codec::{self, Canonical};
use tokio::time::timeout;

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// Writes everything; every single write must make progress within `stall`.
pub(super) async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    stall: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(stall, stream.write(bytes)).await.map_err(|_| stalled())??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Writes a value as a frame and flushes it.
pub(super) async fn write_value<V: Canonical>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &V,
    stall: Duration,
) -> io::Result<()> {
    let bytes = codec::encode(value);
    let length = u32::try_from(bytes.len()).map_err(|error| invalid(error.to_string()))?;
    let frame = [&length.to_le_bytes(), bytes.as_slice()].concat();
    write_all(stream, &frame, stall).await?;
    timeout(stall, stream.flush()).await.map_err(|_| stalled())?
}

/// Reads a frame of at most `max_bytes`. `None` when the stream ended before it; an error of kind
/// `InvalidData` is the other side's fault, one of kind `TimedOut` means that nothing arrived
/// within `stall`.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    max_bytes: usize,
    stall: Duration,
) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; LENGTH_BYTES];
    if !fill(stream, &mut length, stall).await? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > max_bytes {
        return Err(invalid(format!("a frame of {length} bytes where {max_bytes} are allowed")));
    }
    let mut bytes = vec![0; length];
    if !fill(stream, &mut bytes, stall).await? && length > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

/// Fills `target`; false when the stream ended before its first byte.
pub(super) async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    target: &mut [u8],
    stall: Duration,
) -> io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match timeout(stall, stream.read(rest)).await.map_err(|_| stalled())?? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(true)
}

/// Reads a value.
pub(super) async fn read_value<V: Canonical>(
    stream: &mut (impl AsyncRead + Unpin),
    stall: Duration,
) -> io::Result<Option<V>> {
    let Some(bytes) = read_frame(stream, V::BYTES_MAX, stall).await? else { return Ok(None) };
    codec::decode(&bytes).map(Some).map_err(|error| invalid(error.to_string()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn stalled() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    const STALL: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn frames_are_bounded() {
        async fn read(bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
            read_frame(&mut Cursor::new(bytes), 4, STALL).await
        }
        assert_eq!(read(&[]).await.expect("the end"), None);
        assert_eq!(read(&[2, 0, 0, 0, 7, 8]).await.expect("a frame"), Some(vec![7, 8]));
        assert_eq!(read(&[0, 0, 0, 0]).await.expect("an empty frame"), Some(vec![]));
        let error = read(&[5, 0, 0, 0, 1, 2, 3, 4, 5]).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        for torn in [&[1u8][..], &[1, 0, 0, 0], &[255, 255]] {
            let error = read(torn).await.expect_err("torn");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_read_and_slowness_does_not() {
        let (near, far) = tokio::io::duplex(1);
        let mut near = tokio_util::compat::TokioAsyncReadCompatExt::compat(near);
        let mut far = tokio_util::compat::TokioAsyncReadCompatExt::compat(far);
        let slow = async {
            // Ten seconds in all, and never five without a byte.
            for byte in [6u8, 0, 0, 0, 1, 2, 3, 4, 5, 6] {
                tokio::time::sleep(Duration::from_secs(1)).await;
                far.write_all(&[byte]).await.expect("written");
            }
            far
        };
        let (read, _far) = tokio::join!(read_frame(&mut near, 9, STALL), slow);
        assert_eq!(read.expect("a frame"), Some(vec![1, 2, 3, 4, 5, 6]));
        let error = read_frame(&mut near, 9, STALL).await.expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
