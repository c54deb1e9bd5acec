//! The file `CHAIN`: which network a data directory belongs to, in which format.
//!
//! Invariant: nothing else in the directory is opened before this file was checked.
//! Deliberately absent: migrating ([`crate::migrate`] does, and then raises the schema here).
//!
//! | Schema | Block log |
//! |---|---|
//! | 1 | one file, `blocks.log` |
//! | 2 | segments, folder `blocks` |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::ids::ChainId;
use thiserror::Error;

use crate::durable::{self, FileError, at};

/// Format of the data directory. Raised when an older program could misread a newer directory.
pub const SCHEMA_VERSION: u32 = 2;

/// Why a data directory was refused.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Another network's directory.
    #[error(
        "{} holds data of network {found}, but this node is configured for {expected}: choose \
         another data directory or the other network's configuration",
        dir.display()
    )]
    OtherChain {
        /// The directory.
        dir: PathBuf,
        /// The network it belongs to.
        found: ChainId,
        /// The network of this node.
        expected: ChainId,
    },
    /// Written by a newer program.
    #[error(
        "{} was written with schema {found}, this program knows up to {SCHEMA_VERSION}: upgrade \
         the program",
        dir.display()
    )]
    NewerSchema {
        /// The directory.
        dir: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// The file is not two lines `schema = N`, `chain = HEX`.
    #[error("{} is damaged: restore it or start with an empty data directory", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Checks that `dir` belongs to `chain` and returns its schema. A directory without `CHAIN` is
/// claimed for the chain, with the present schema.
pub fn claim(dir: &Path, chain: &ChainId) -> Result<u32, IdentityError> {
    let path = dir.join("CHAIN");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // Somebody removed the file from a directory of schema 1: migrating writes it.
            if dir.join("blocks.log").exists() && !dir.join("blocks").exists() {
                return Ok(1);
            }
            write(dir, chain)?;
            return Ok(SCHEMA_VERSION);
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Err(IdentityError::Malformed { path });
        }
        Err(e) => return Err(at("read", &path)(e).into()),
    };
    let Some((schema, found)) = parse(&text) else {
        return Err(IdentityError::Malformed { path });
    };
    if schema > SCHEMA_VERSION {
        return Err(IdentityError::NewerSchema { dir: dir.to_path_buf(), found: schema });
    }
    // A newer schema may spell the chain differently, so the chain is parsed after it.
    let Ok(found) = found.parse::<ChainId>() else {
        return Err(IdentityError::Malformed { path });
    };
    // To the letter: a changed byte is damage even where it means the same.
    if schema == 0 || text != content(schema, &found) {
        return Err(IdentityError::Malformed { path });
    }
    if found != *chain {
        return Err(IdentityError::OtherChain { dir: dir.to_path_buf(), found, expected: *chain });
    }
    Ok(schema)
}

/// The network that a directory belongs to; `None` if it belongs to none yet.
pub fn read(dir: &Path) -> Result<Option<ChainId>, IdentityError> {
    let path = dir.join("CHAIN");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at("read", &path)(e).into()),
    };
    let chain = parse(&text).and_then(|(_, chain)| chain.parse().ok());
    chain.map(Some).ok_or(IdentityError::Malformed { path })
}

/// Marks `dir` as one of `chain` in the present schema.
pub(crate) fn write(dir: &Path, chain: &ChainId) -> Result<(), FileError> {
    durable::replace(&dir.join("CHAIN"), content(SCHEMA_VERSION, chain).as_bytes())
}

fn content(schema: u32, chain: &ChainId) -> String {
    format!("schema = {schema}\nchain = {chain}\n")
}

fn parse(text: &str) -> Option<(u32, &str)> {
    let mut lines = text.lines();
    let schema = lines.next()?.strip_prefix("schema = ")?.parse().ok()?;
    let chain = lines.next()?.strip_prefix("chain = ")?;
    Some((schema, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_networks_and_newer_schemas_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mine = ChainId::from_bytes([1; 32]);
        claim(dir.path(), &mine).unwrap();
        claim(dir.path(), &mine).unwrap();

        let other = claim(dir.path(), &ChainId::from_bytes([2; 32])).unwrap_err();
        assert!(matches!(other, IdentityError::OtherChain { .. }), "{other}");

        fs::write(dir.path().join("CHAIN"), "schema = 3\nchain = later\n").unwrap();
        let newer = claim(dir.path(), &mine).unwrap_err();
        assert!(matches!(newer, IdentityError::NewerSchema { found: 3, .. }), "{newer}");

        // The same number in other letters: something changed the file.
        let shouted = content(2, &ChainId::from_bytes([0xab; 32])).replace("ab", "AB");
        for text in [shouted.as_str(), "", "schema = 1\n", "schema = 0\nchain = 00", "\u{0}"] {
            fs::write(dir.path().join("CHAIN"), text).unwrap();
            let damaged = claim(dir.path(), &mine).unwrap_err();
            assert!(matches!(damaged, IdentityError::Malformed { .. }), "{damaged}");
        }
    }
}
