//! What must be kept: names and pins.
//!
//! A name stands for a blob and keeps it. A pin keeps a blob for ever or until a time. Either
//! keeps, of a collection, all of its chunks. Both may come before the blob.
//!
//! **Invariant.** A change is durable when it returns. When the file is damaged, nothing is
//! collected and nothing is changed until [`BlobStore::fsck`] has mended it: a pin must not get
//! lost silently.
//! Deliberately absent: a clock. Times are seconds since 1970 and arguments.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use protocol::ids::ContentHash;

use super::BlobError;
use super::store::BlobStore;
use crate::durable::{self, FileError, at};

/// Bytes of a name: a path of some folders.
pub const NAME_BYTES_MAX: usize = 255;
/// Names and pins together: the file is written as a whole at every change, and 65,536 are 4 MiB.
pub const PINS_MAX: usize = 65_536;

/// How long a pin keeps its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// Until this time, in seconds since 1970.
    Until(u64),
    /// Until it is unpinned.
    Forever,
}

impl Retention {
    /// Whether it has ended at `now`, in seconds since 1970.
    pub const fn has_ended(self, now: u64) -> bool {
        match self {
            Self::Forever => false,
            Self::Until(time) => time <= now,
        }
    }
}

/// A name for people: 1 to 255 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// `None` when it is none.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        (fits && !text.chars().any(char::is_control)).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All names and pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Pins by blob.
    pub pins: BTreeMap<ContentHash, Retention>,
    /// Blobs by name.
    pub names: BTreeMap<Name, ContentHash>,
}

/// The names and pins of a store, and their file.
#[derive(Debug)]
pub(super) struct PinFile {
    path: PathBuf,
    /// `None` while the file is damaged.
    pins: Option<Pins>,
}

impl PinFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, FileError> {
        let pins = match fs::read(&path) {
            Ok(bytes) => Pins::decode(&bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Some(Pins::default()),
            Err(e) => return Err(at("read", &path)(e)),
        };
        if pins.is_none() {
            tracing::error!(path = %path.display(), "the file of names and pins is damaged");
        }
        Ok(Self { path, pins })
    }

    pub(super) fn get(&self) -> Result<&Pins, BlobError> {
        self.pins.as_ref().ok_or_else(|| BlobError::PinsDamaged { path: self.path.clone() })
    }

    /// Changes them durably, or not at all.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Pins)) -> Result<(), BlobError> {
        let mut next = self.get()?.clone();
        change(&mut next);
        if Some(&next) == self.pins.as_ref() {
            return Ok(());
        }
        let count = next.pins.len() + next.names.len();
        if count > PINS_MAX {
            return Err(BlobError::TooManyPins { max: PINS_MAX });
        }
        durable::replace(&self.path, &next.encode())?;
        self.pins = Some(next);
        Ok(())
    }

    /// Keeps a copy of a damaged file and goes on with what can be read of it; how many names and
    /// pins that are.
    pub(super) fn mend(&mut self) -> Result<usize, BlobError> {
        let bytes = fs::read(&self.path).map_err(at("read", &self.path))?;
        let pins = Pins::salvage(&bytes);
        durable::replace(&self.path.with_extension("damaged"), &bytes)?;
        durable::replace(&self.path, &pins.encode())?;
        let count = pins.pins.len() + pins.names.len();
        self.pins = Some(pins);
        Ok(count)
    }
}

impl BlobStore {
    /// Pins blobs, durably and all together. A pin that is there already gets longer, never
    /// shorter: unpin first.
    pub fn pin(&self, pins: &[(ContentHash, Retention)]) -> Result<(), BlobError> {
        self.keep(pins.iter().map(|(hash, _)| *hash));
        self.pin_file().change(|all| {
            for (hash, retention) in pins {
                let until = all.pins.entry(*hash).or_insert(*retention);
                *until = (*until).max(*retention);
            }
        })
    }

    /// Removes a pin; whether there was one. The blob stays until garbage is collected.
    pub fn unpin(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        let mut had = false;
        self.pin_file().change(|all| had = all.pins.remove(hash).is_some())?;
        Ok(had)
    }

    /// Names a blob; what had the name before loses it.
    pub fn set_name(&self, name: Name, hash: ContentHash) -> Result<(), BlobError> {
        self.keep([hash]);
        self.pin_file().change(|all| {
            all.names.insert(name, hash);
        })
    }

    /// Removes a name; what it stood for.
    pub fn remove_name(&self, name: &Name) -> Result<Option<ContentHash>, BlobError> {
        let mut had = None;
        self.pin_file().change(|all| had = all.names.remove(name))?;
        Ok(had)
    }

    /// All names and pins.
    pub fn pins(&self) -> Result<Pins, BlobError> {
        self.pin_file().get().cloned()
    }
}
