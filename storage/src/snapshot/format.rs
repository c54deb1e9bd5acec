//! Writing and reading a snapshot as a stream.

use std::io::{Read, Write};

use protocol::amount::Height;
use protocol::ids::{BlockHash, ChainId, ContentHash, StateRoot};

use super::{Head, Info, SCHEMA, SnapshotError};
use crate::state::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

const MAGIC: [u8; 7] = *b"AYNISNP";
const HEAD_BYTES: usize = 8 + 32 + 8 + 32 + 32;
/// In place of a key's length; no key is that long.
const END: u16 = u16::MAX;

const _: () = assert!(KEY_BYTES_MAX < END as usize);

/// Writes a snapshot, entry by entry.
pub struct Writer<W> {
    out: W,
    hasher: blake3::Hasher,
    head: Head,
    entries: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    pub fn new(out: W, head: Head) -> Result<Self, SnapshotError> {
        let mut writer = Self { out, hasher: blake3::Hasher::new(), head, entries: 0, bytes: 0 };
        let height = head.height.get().to_le_bytes();
        let parts: [&[u8]; 6] = [
            &MAGIC,
            &[b'0' + SCHEMA],
            head.chain.as_bytes(),
            &height,
            head.block.as_bytes(),
            head.root.as_bytes(),
        ];
        writer.put(&parts.concat())?;
        Ok(writer)
    }

    /// Adds an entry. Keys must ascend; a reader refuses a file where they do not.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        let too_large =
            SnapshotError::TooLarge { entry: self.entries, key: key.len(), value: value.len() };
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(too_large);
        }
        let lengths = (u16::try_from(key.len()), u32::try_from(value.len()));
        let (Ok(key_bytes), Ok(value_bytes)) = lengths else { return Err(too_large) };
        self.put(&key_bytes.to_le_bytes())?;
        self.put(&value_bytes.to_le_bytes())?;
        self.put(key)?;
        self.put(value)?;
        self.entries += 1;
        Ok(())
    }

    /// Ends it. Not durable: that is up to the owner of `W`, which comes back.
    pub fn finish(mut self) -> Result<(Info, W), SnapshotError> {
        self.put(&END.to_le_bytes())?;
        self.put(&self.entries.to_le_bytes())?;
        self.out.flush()?;
        let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        let info = Info { head: self.head, hash, entries: self.entries, bytes: self.bytes };
        Ok((info, self.out))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(self.out.write_all(bytes)?)
    }
}

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// Reads a snapshot, entry by entry, and checks its form. Holds one entry at a time.
pub struct Reader<R> {
    input: R,
    hasher: blake3::Hasher,
    head: Head,
    key: Vec<u8>,
    value: Vec<u8>,
    before: Vec<u8>,
    entries: u64,
    bytes: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    pub fn new(input: R) -> Result<Self, SnapshotError> {
        let head = Head {
            chain: ChainId::default(),
            height: Height::ZERO,
            block: BlockHash::default(),
            root: StateRoot::default(),
        };
        let mut reader = Self {
            input,
            hasher: blake3::Hasher::new(),
            head,
            key: Vec::new(),
            value: Vec::new(),
            before: Vec::new(),
            entries: 0,
            bytes: 0,
            ended: false,
        };
        let mut bytes = [0; HEAD_BYTES];
        reader.get(&mut bytes).map_err(|error| match error {
            SnapshotError::Truncated(_) => SnapshotError::NotASnapshot,
            other => other,
        })?;
        let (magic, rest) = bytes.split_at(8);
        match magic.split_last() {
            Some((digit, magic)) if *magic == MAGIC && digit.is_ascii_digit() => {
                match digit - b'0' {
                    0 => return Err(SnapshotError::NotASnapshot),
                    schema if schema > SCHEMA => return Err(SnapshotError::Newer(schema)),
                    _ => {}
                }
            }
            _ => return Err(SnapshotError::NotASnapshot),
        }
        let mut height = [0; 8];
        height.copy_from_slice(&rest[32..40]);
        let id = |at: usize| {
            let mut id = [0; 32];
            id.copy_from_slice(&rest[at..at + 32]);
            id
        };
        reader.head = Head {
            chain: ChainId::from_bytes(id(0)),
            height: Height::new(u64::from_le_bytes(height)),
            block: BlockHash::from_bytes(id(40)),
            root: StateRoot::from_bytes(id(72)),
        };
        Ok(reader)
    }

    /// What it is of. Not verified: see [`super::verify`].
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The next key and value; `None` after the last, once the end was found to be in order.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, SnapshotError> {
        if self.ended {
            return Ok(None);
        }
        let mut key = [0; 2];
        self.get(&mut key)?;
        let key = u16::from_le_bytes(key);
        if key == END {
            self.end()?;
            return Ok(None);
        }
        let mut value = [0; 4];
        self.get(&mut value)?;
        let (key, value) = (usize::from(key), u32::from_le_bytes(value) as usize);
        if key > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(SnapshotError::TooLarge { entry: self.entries, key, value });
        }
        std::mem::swap(&mut self.key, &mut self.before);
        let mut bytes = std::mem::take(&mut self.key);
        bytes.resize(key, 0);
        self.get(&mut bytes)?;
        self.key = bytes;
        if self.entries > 0 && self.key <= self.before {
            return Err(SnapshotError::Unsorted(self.entries));
        }
        let mut bytes = std::mem::take(&mut self.value);
        bytes.resize(value, 0);
        self.get(&mut bytes)?;
        self.value = bytes;
        self.entries += 1;
        Ok(Some((&self.key, &self.value)))
    }

    /// Hash and sizes, after [`Self::next_entry`] gave `None`.
    pub fn finish(mut self) -> Result<Info, SnapshotError> {
        while self.next_entry()?.is_some() {}
        let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        Ok(Info { head: self.head, hash, entries: self.entries, bytes: self.bytes })
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        let mut stated = [0; 8];
        self.get(&mut stated)?;
        let stated = u64::from_le_bytes(stated);
        if stated != self.entries {
            return Err(SnapshotError::Count { stated, found: self.entries });
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(SnapshotError::Trailing);
        }
        self.ended = true;
        Ok(())
    }

    fn get(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => SnapshotError::Truncated(self.entries),
            _ => SnapshotError::Io(error),
        })?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
