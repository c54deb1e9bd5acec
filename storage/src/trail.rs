//! The trail of a chain ([`protocol::proof::trail`]) in a file.
//!
//! ```text
//! DIR/trail = "AYNITRL1" (8) | BLAKE3 of the rest (32) | trail
//! ```
//!
//! Invariant: a file that reads back is one that was written whole. A damaged one is an absence:
//! the node works without, and only cannot prove to others what it has deleted.
//! Deliberately absent: verifying signatures, which was done before a bridge was kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::codec::{self, Canonical};
use protocol::ids::ContentHash;
use protocol::proof::trail::Trail;

use crate::durable::{self, FileError, at};

const MAGIC: [u8; 8] = *b"AYNITRL1";
const HEAD_BYTES: usize = MAGIC.len() + 32;

/// Where a data directory keeps its trail.
fn path(dir: &Path) -> PathBuf {
    dir.join("trail")
}

/// Reads the trail of a data directory; `None` if there is none that can be used.
pub fn load(dir: &Path) -> Result<Option<Trail>, FileError> {
    let path = path(dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at("read", &path)(e)),
    };
    let trail = parse(&bytes);
    if trail.is_none() {
        tracing::error!(path = %path.display(), "the trail of the chain is damaged and is not used");
    }
    Ok(trail)
}

fn parse(bytes: &[u8]) -> Option<Trail> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let (magic, hash) = head.split_at(MAGIC.len());
    if *magic != MAGIC || *hash != *ContentHash::of(rest).as_bytes() {
        return None;
    }
    codec::decode(rest).ok()
}

/// Replaces the trail. Durable when this returns.
pub fn save(dir: &Path, trail: &Trail) -> Result<(), FileError> {
    let rest = codec::encode(trail);
    debug_assert!(rest.len() <= Trail::BYTES_MAX);
    let hash = ContentHash::of(&rest);
    durable::replace(&path(dir), &[&MAGIC[..], hash.as_bytes(), &rest].concat())
}

#[cfg(test)]
mod tests {
    use protocol::proof::trail::TrailStart;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_an_absence() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("readable"), None);
        let trail = Trail::new(TrailStart::Genesis);
        save(dir.path(), &trail).expect("saved");
        assert_eq!(load(dir.path()).expect("readable"), Some(trail));
        let whole = fs::read(path(dir.path())).expect("a file");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(path(dir.path()), &bytes).expect("written");
            assert_eq!(load(dir.path()).expect("readable"), None, "byte {at}");
            fs::write(path(dir.path()), &whole[..at]).expect("written");
            assert_eq!(load(dir.path()).expect("readable"), None, "cut to {at}");
        }
    }
}
