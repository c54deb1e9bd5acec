//! Length-prefixed frames: a little-endian `u32`, then that many bytes of canonical encoding.
//!
//! A frame that does not decode leaves the stream intact and is only answered with a failure; a
//! length over the limit or a stream that ends inside a frame cannot be recovered from.

use std::io::{ErrorKind, Read, Write};

use protocol::codec::{self, Canonical, CodecError};
use protocol::limits::WORKER_FRAME_BYTES_MAX;
use thiserror::Error;

/// Why no further frame can be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// A length over the limit.
    #[error("a frame of {0} bytes, at most {WORKER_FRAME_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// The other side went away, in the middle of a frame or not.
    #[error("the pipe failed")]
    Io(#[from] std::io::Error),
}

/// Reads one frame. `None` at the end of the stream; the inner error is a frame that does not
/// decode, after which the next one can be read.
pub fn read_frame<T: Canonical>(
    reader: &mut impl Read,
) -> Result<Option<Result<T, CodecError>>, FrameError> {
    let mut length = [0u8; 4];
    if !read_start(reader, &mut length)? {
        return Ok(None);
    }
    let length = crate::tensors::index(u32::from_le_bytes(length));
    if length > WORKER_FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(Some(codec::decode(&bytes)))
}

/// Writes one frame and flushes it.
pub fn write_frame<T: Canonical>(writer: &mut impl Write, value: &T) -> Result<(), FrameError> {
    let bytes = codec::encode(value);
    if bytes.len() > WORKER_FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(bytes.len()));
    }
    let length = u32::try_from(bytes.len()).map_err(|_| FrameError::TooLarge(bytes.len()))?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(&bytes)?;
    writer.flush()?;
    Ok(())
}

/// Fills `buffer`, or returns false if the stream ended before its first byte.
fn read_start(reader: &mut impl Read, buffer: &mut [u8]) -> Result<bool, std::io::Error> {
    let first = loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(false);
    }
    reader.read_exact(&mut buffer[first..])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use protocol::worker::WorkerRequest;

    use super::*;

    #[test]
    fn round_trip_and_the_end() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &WorkerRequest::Describe).expect("written");
        assert_eq!(bytes, [1, 0, 0, 0, 0]);
        let mut reader = bytes.as_slice();
        let frame = read_frame::<WorkerRequest>(&mut reader).expect("read");
        assert_eq!(frame, Some(Ok(WorkerRequest::Describe)));
        assert_eq!(read_frame::<WorkerRequest>(&mut reader).expect("read"), None);
    }

    #[test]
    fn bad_frames() {
        let read = |bytes: &[u8]| read_frame::<WorkerRequest>(&mut &*bytes);
        assert!(matches!(read(&[1, 0, 0, 0, 99]), Ok(Some(Err(_)))));
        assert!(matches!(read(&[0, 0, 0, 0]), Ok(Some(Err(_)))));
        assert!(matches!(read(&[255; 4]), Err(FrameError::TooLarge(_))));
        assert!(matches!(read(&[1, 0]), Err(FrameError::Io(_))));
        assert!(matches!(read(&[2, 0, 0, 0, 0]), Err(FrameError::Io(_))));
    }
}
