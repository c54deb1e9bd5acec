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

/// Ceiling on what a decoder may claim for containers. Above every [`Canonical::BYTES_MAX`], with
/// room for the integers of the largest: each claims its full width.
const CLAIM_BYTES_MAX: usize = 32 * 1024 * 1024;

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
    let value: T = decode_own(bytes)?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// Parses bytes that this process has encoded itself and that nobody else can have written: the
/// check for a second spelling, which costs as much as the parsing, is left out.
pub fn decode_own<T: Canonical>(bytes: &[u8]) -> Result<T, CodecError> {
    check_len::<T>(bytes)?;
    let (value, used): (T, usize) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len().saturating_sub(used)));
    }
    Ok(value)
}

/// BLAKE3 of the canonical bytes.
pub fn hash<T: Canonical>(value: &T) -> ContentHash {
    ContentHash::of(&encode(value))
}

/// For fields of raw bytes, as `#[serde(with = "crate::codec::raw")]`: the same encoding as a list
/// of bytes, copied as a whole instead of byte by byte.
pub mod raw {
    use std::fmt;

    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    /// See the module.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// See the module.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(Raw)
    }

    struct Raw;

    impl<'de> Visitor<'de> for Raw {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = list.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
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

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Raw {
        number: u64,
        #[serde(with = "raw")]
        bytes: Vec<u8>,
    }

    impl Canonical for Raw {
        const BYTES_MAX: usize = 1024;
    }

    #[test]
    fn raw_bytes_are_encoded_as_a_list_of_bytes() {
        for length in [0, 3, 300] {
            let list = Sample { number: 300, bytes: vec![7; length] };
            let raw = Raw { number: 300, bytes: vec![7; length] };
            assert_eq!(encode(&list), encode(&raw));
            assert_eq!(decode::<Raw>(&encode(&raw)), Ok(raw));
        }
        assert!(decode::<Raw>(&[0, 253, 0, 0, 0, 0, 0, 0, 0, 64]).is_err());
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
