//! Frames between a daemon and a worker: a little-endian `u32` length, then that many bytes.

use anyhow::{Context, Result, ensure};
use protocol::limits::WORKER_FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The next frame; none at an orderly end. Not cancel-safe: bytes read so far are lost.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    // Only an end between two frames is orderly.
    if reader.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[1..]).await.context("a frame was cut off")?;
    let length = usize::try_from(u32::from_le_bytes(length))?;
    ensure!(
        length <= WORKER_FRAME_BYTES_MAX,
        "a frame of {length} bytes, of which {WORKER_FRAME_BYTES_MAX} are allowed"
    );
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await.context("a frame was cut off")?;
    Ok(Some(frame))
}

/// Writes and flushes one frame.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, frame: &[u8]) -> Result<()> {
    ensure!(frame.len() <= WORKER_FRAME_BYTES_MAX, "a frame of {} bytes is too long", frame.len());
    let length = u32::try_from(frame.len())?;
    writer.write_all(&length.to_le_bytes()).await?;
    writer.write_all(frame).await?;
    writer.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn frames_survive_the_pipe() {
        run(async {
            let mut pipe = Vec::new();
            for frame in [&b"one"[..], b"", b"three"] {
                write(&mut pipe, frame).await.expect("write");
            }
            let mut reader = &pipe[..];
            for frame in [&b"one"[..], b"", b"three"] {
                assert_eq!(read(&mut reader).await.expect("read").as_deref(), Some(frame));
            }
            assert!(read(&mut reader).await.expect("end").is_none());
        });
    }

    #[test]
    fn torn_and_oversized_frames_are_refused() {
        for bytes in [&[1, 0][..], &[3, 0, 0, 0, 7], &[0, 0, 0, 255]] {
            assert!(run(read(&mut &bytes[..])).is_err(), "{bytes:?}");
        }
        let long = vec![0; WORKER_FRAME_BYTES_MAX + 1];
        assert!(run(write(&mut Vec::new(), &long)).is_err());
    }
}
