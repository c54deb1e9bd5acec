//! The file that keeps names and pins.
//!
//! ```text
//! magic "AYNIPINS" (8) | version 1 (1) | records | BLAKE3 of all before (32)
//! record = kind (1: pin, 2: name) | until u64 LE, seconds since 1970, all ones: for ever
//!        | blob (32) | length of the name u16 LE | name | check (8): of the record before it
//! ```
//!
//! Invariant: a file that is not what was written is never read as if it were: losing a pin is
//! losing the blob. What can still be read of a damaged file is read only when somebody asks for
//! it to be mended.

use std::collections::BTreeMap;

use protocol::ids::ContentHash;

use super::{Name, Pins, Retention};

const MAGIC: [u8; 8] = *b"AYNIPINS";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;
const PIN: u8 = 1;
const NAME: u8 = 2;
const FOREVER: u64 = u64::MAX;

impl Pins {
    /// Bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        for (hash, retention) in &self.pins {
            let until = match retention {
                Retention::Forever => FOREVER,
                Retention::Until(time) => *time,
            };
            write(&mut bytes, PIN, until, hash, "");
        }
        for (name, hash) in &self.names {
            write(&mut bytes, NAME, FOREVER, hash, name.as_str());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes());
        bytes
    }

    /// `None` when these are not the bytes of such a file, all of them.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if blake3::hash(body).as_bytes() != checksum {
            return None;
        }
        let (pins, rest) = Self::read(body)?;
        rest.is_empty().then_some(pins)
    }

    /// What can be read of a damaged file: the records before the damage.
    pub fn salvage(bytes: &[u8]) -> Self {
        Self::read(bytes).map(|(pins, _)| pins).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (mut pins, mut names) = (BTreeMap::new(), BTreeMap::new());
        while let Some((record, after)) = record(rest) {
            match record {
                Record::Pin(hash, retention) => drop(pins.insert(hash, retention)),
                Record::Name(name, hash) => drop(names.insert(name, hash)),
            }
            rest = after;
        }
        Some((Self { pins, names }, rest))
    }
}

enum Record {
    Pin(ContentHash, Retention),
    Name(Name, ContentHash),
}

fn write(bytes: &mut Vec<u8>, kind: u8, until: u64, hash: &ContentHash, name: &str) {
    let start = bytes.len();
    bytes.push(kind);
    bytes.extend(until.to_le_bytes());
    bytes.extend(hash.as_bytes());
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes.extend(name.as_bytes());
    let check = check(&bytes[start..]);
    bytes.extend(check);
}

fn record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (until, rest) = rest.split_first_chunk::<8>()?;
    let (hash, rest) = rest.split_first_chunk::<32>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (found, rest) = rest.split_first_chunk::<CHECK_BYTES>()?;
    let record = bytes.get(..bytes.len() - rest.len() - CHECK_BYTES)?;
    if check(record) != *found {
        return None;
    }
    let (until, hash) = (u64::from_le_bytes(*until), ContentHash::from_bytes(*hash));
    let record = match (*kind, until, name) {
        (PIN, FOREVER, []) => Record::Pin(hash, Retention::Forever),
        (PIN, until, []) => Record::Pin(hash, Retention::Until(until)),
        (NAME, FOREVER, name) => Record::Name(Name::new(str::from_utf8(name).ok()?)?, hash),
        _ => return None,
    };
    Some((record, rest))
}

fn check(record: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_or_nothing() {
        let hash = |text: &str| ContentHash::of(text.as_bytes());
        let pins = [
            (hash("a"), Retention::Forever),
            (hash("b"), Retention::Until(7)),
            (hash("c"), Retention::Until(0)),
        ];
        let names = [("data/train", "a"), ("ü", "d")];
        let names = names.map(|(name, blob)| (Name::new(name).expect("a name"), hash(blob)));
        let pins = Pins { pins: pins.into(), names: names.into() };
        let bytes = pins.encode();
        assert_eq!(Pins::decode(&bytes), Some(pins.clone()));
        assert_eq!(Pins::salvage(&bytes), pins);
        for at in 0..bytes.len() {
            assert_eq!(Pins::decode(&bytes[..at]), None, "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Pins::decode(&damaged), None, "byte {at}");
            for found in [Pins::salvage(&damaged), Pins::salvage(&bytes[..at])] {
                assert!(found.pins.iter().all(|(hash, until)| pins.pins.get(hash) == Some(until)));
                assert!(found.names.iter().all(|(name, hash)| pins.names.get(name) == Some(hash)));
            }
        }
    }
}
