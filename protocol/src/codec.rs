//! The one place that knows how values become bytes.
//!
//! Canonical encoding is bincode 2 (`standard`, little-endian varints) through serde. Every type
//! that crosses a process, a disk or a hash implements [`Canonical`] and thereby names its size
//! limit. Decoding refuses oversized input, trailing bytes and any encoding that does not
//! re-encode to the same bytes, so a value has exactly one byte string and a hash of received
//! bytes equals a hash of the value.
//!
//! Deliberately absent: any other use of `bincode` in the workspace (the crate is unmaintained,
//! RUSTSEC-2025-0141; this module is the wall around it).

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::ids::ContentHash;

/// Ceiling on what a decoder may claim for containers. Above every [`Canonical::BYTES_MAX`].
const CLAIM_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A type with one canonical byte string and a limit on its length.
pub trait Canonical: Serialize + DeserializeOwned {
    /// Largest accepted encoding in bytes. Raising it lets peers make us hold more memory.
    const BYTES_MAX: usize;
}

/// Why bytes were refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum CodecError {
    /// More bytes than the type allows.
    #[error("{actual} bytes where at most {max} are allowed")]
    TooLarge {
        /// Length received.
        actual: usize,
        /// Length allowed.
        max: usize,
    },
    /// Not an encoding of the type.
    #[error("malformed encoding: {0}")]
    Malformed(String),
    /// A valid value followed by something else.
    #[error("{0} trailing bytes after the value")]
    Trailing(usize),
    /// A second spelling of a value (for example a padded integer).
    #[error("encoding is not canonical")]
    NotCanonical,
}

fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<CLAIM_BYTES_MAX>,
> {
    bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>()
}

/// The canonical bytes of `value`.
///
/// Does not check [`Canonical::BYTES_MAX`]: builders of large values use [`encode_checked`].
pub fn encode<T: Canonical>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, config())
        .expect("canonical types have known lengths and stay under the claim limit")
}

/// Length of the encoding of a part of a canonical value.
pub fn size<T: Serialize>(value: &T) -> usize {
    bincode::serde::encode_to_vec(value, config()).map_or(usize::MAX, |bytes| bytes.len())
}

/// The canonical bytes of `value`, refused if they are over the type's limit.
pub fn encode_checked<T: Canonical>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = encode(value);
    check_len::<T>(&bytes)?;
    Ok(bytes)
}

/// Parses canonical bytes.
pub fn decode<T: Canonical>(bytes: &[u8]) -> Result<T, CodecError> {
    check_len::<T>(bytes)?;
    let (value, used): (T, usize) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len().saturating_sub(used)));
    }
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// BLAKE3 of the canonical bytes.
pub fn hash<T: Canonical>(value: &T) -> ContentHash {
    ContentHash::of(&encode(value))
}

fn check_len<T: Canonical>(bytes: &[u8]) -> Result<(), CodecError> {
    if bytes.len() > T::BYTES_MAX {
        return Err(CodecError::TooLarge { actual: bytes.len(), max: T::BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        bytes: Vec<u8>,
    }

    impl Canonical for Sample {
        const BYTES_MAX: usize = 64;
    }

    #[test]
    fn round_trip_and_refusals() {
        let sample = Sample { number: 300, bytes: vec![1, 2, 3] };
        let bytes = encode(&sample);
        assert_eq!(decode::<Sample>(&bytes).expect("own encoding"), sample);

        let mut trailing = bytes.clone();
        trailing.push(0);
        assert_eq!(decode::<Sample>(&trailing), Err(CodecError::Trailing(1)));

        assert!(matches!(decode::<Sample>(&bytes[..2]), Err(CodecError::Malformed(_))));
        assert!(matches!(
            decode::<Sample>(&[0; 65]),
            Err(CodecError::TooLarge { actual: 65, max: 64 })
        ));
        // 251 announces a two-byte integer; 5 fits in one byte, so this is a second spelling.
        assert_eq!(decode::<Sample>(&[251, 5, 0, 0]), Err(CodecError::NotCanonical));
        // A claimed length of 2^62 must not allocate.
        assert!(matches!(
            decode::<Sample>(&[0, 253, 0, 0, 0, 0, 0, 0, 0, 64]),
            Err(CodecError::Malformed(_))
        ));
    }
}
