//! Storing many blobs together: one sync for all small ones.
//!
//! Invariant: a [`VerifiedBlob`] has the hash that it says, because its bytes were hashed here or
//! came in parts that were verified on arrival. When [`BlobStore::put_batch`] returns, all of the
//! batch is durable.
//! Deliberately absent: blobs larger than memory (see [`PartialBlob`](super::PartialBlob)).

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::PoisonError;

use bytes::Bytes;
use protocol::blobs::bytes_of;
use protocol::ids::ContentHash;

use super::BlobError;
use super::index::{Entry, Place};
use super::part::{Frame, VerifiedPart};
use super::received::TempFile;
use super::small::SMALL_BYTES_MAX;
use super::store::{Arrived, BlobStore};
use super::tree::{PAIR_BYTES, Subtree, TreeBuilder, outboard_bytes};
use crate::durable::at;

/// Small blobs of one batch are written together up to so many bytes; then they are synced.
const BATCH_BYTES: usize = 8 << 20;

/// A whole blob in memory, whose hash is known to be right.
#[derive(Debug)]
pub struct VerifiedBlob {
    hash: ContentHash,
    size: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Bytes),
    /// All of its parts, in order.
    Parts(Vec<VerifiedPart<Bytes>>),
}

impl VerifiedBlob {
    /// Hashes bytes.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let (hash, size) = (ContentHash::of(&bytes), bytes.len() as u64);
        Self { hash, size, content: Content::Bytes(bytes) }
    }

    /// Puts together what was verified on arrival; hashes nothing. The parts may be given in any
    /// order and must be all of one blob.
    pub fn from_parts<F: Frame>(parts: Vec<VerifiedPart<F>>) -> Result<Self, BlobError> {
        let mut parts: Vec<_> = parts.into_iter().map(VerifiedPart::with_bytes).collect();
        parts.sort_by_key(|part| part.range().start());
        let Some((hash, size)) = parts.first().map(|part| (part.hash(), part.size())) else {
            return Err(BlobError::Incomplete { have: 0, size: 0 });
        };
        let (mut next, mut have) = (0, 0);
        let mut whole: Vec<VerifiedPart<Bytes>> = Vec::with_capacity(parts.len());
        for part in parts {
            if part.hash() != hash {
                return Err(BlobError::OtherBlob { expected: hash, found: part.hash() });
            }
            if part.range().start() > next || part.size() != size {
                return Err(BlobError::Incomplete { have, size });
            }
            if part.range().end() > next {
                have += part.bytes();
                next = part.range().end();
                whole.push(part);
            }
        }
        if next < Subtree::of(size).groups {
            return Err(BlobError::Incomplete { have, size });
        }
        Ok(Self { hash, size, content: Content::Parts(whole) })
    }

    /// Its hash.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The bytes: without a copy unless they came in several pieces.
    pub fn bytes(&self) -> Bytes {
        match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Parts(parts) => match &parts[..] {
                [part] if part.range().groups() == 1 => part.frame().clone(),
                _ => self
                    .slices()
                    .fold(Vec::new(), |mut all, (offset, bytes)| {
                        // Parts may overlap.
                        all.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
                        all.extend_from_slice(bytes);
                        all
                    })
                    .into(),
            },
        }
    }

    /// Pieces and where they lie, in ascending order.
    fn slices(&self) -> Box<dyn Iterator<Item = (u64, &[u8])> + '_> {
        match &self.content {
            Content::Bytes(bytes) => Box::new(std::iter::once((0, &bytes[..]))),
            Content::Parts(parts) => Box::new(parts.iter().flat_map(|part| {
                let start = bytes_of(part.range(), part.size()).start;
                part.slices().scan(start, |at, bytes| {
                    let offset = *at;
                    *at += bytes.len() as u64;
                    Some((offset, bytes))
                })
            })),
        }
    }

    /// The hash tree, in post order.
    fn tree(&self) -> Vec<u8> {
        let mut tree = Vec::new();
        match &self.content {
            Content::Bytes(bytes) => {
                let mut builder = TreeBuilder::new();
                builder.update(bytes, &mut tree);
                builder.finish(&mut tree);
            }
            Content::Parts(parts) => {
                tree.resize(usize::try_from(outboard_bytes(self.size)).unwrap_or_default(), 0);
                for (place, pair) in parts.iter().flat_map(VerifiedPart::pairs) {
                    let at = place as usize * PAIR_BYTES;
                    if let Some(target) = tree.get_mut(at..at + PAIR_BYTES) {
                        target.copy_from_slice(pair);
                    }
                }
            }
        }
        tree
    }
}

/// A file of a batch, written and not yet durable.
struct Waiting {
    hash: ContentHash,
    size: u64,
    temp: TempFile,
    tree: Option<PathBuf>,
}

impl BlobStore {
    /// Stores blobs, and syncs once for all small ones. When it fails, some may be stored.
    pub fn put_batch(&self, blobs: &[VerifiedBlob]) -> Result<(), BlobError> {
        let mut new: Vec<&VerifiedBlob> = Vec::with_capacity(blobs.len());
        {
            let mut index = self.index();
            new.extend(blobs.iter().filter(|blob| !index.wanted(&blob.hash)));
        }
        new.sort_by_key(|blob| blob.hash);
        new.dedup_by_key(|blob| blob.hash);
        self.room_for(new.iter().fold(0, |sum, blob| sum.saturating_add(blob.size)))?;
        let (small, large): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|blob| blob.size <= SMALL_BYTES_MAX);
        let (mut together, mut bytes) = (Vec::new(), 0);
        for blob in small {
            let content = blob.bytes();
            bytes += content.len();
            together.push((blob.hash, content));
            if bytes >= BATCH_BYTES {
                self.put_small(&together)?;
                (together, bytes) = (Vec::new(), 0);
            }
        }
        self.put_small(&together)?;
        let waiting: Vec<Waiting> =
            large.into_iter().map(|blob| self.write_waiting(blob)).collect::<Result<_, _>>()?;
        for file in &waiting {
            file.temp.file.sync_data().map_err(at("sync", file.temp.path()))?;
            if let Some(tree) = &file.tree {
                let synced = std::fs::File::open(tree).and_then(|file| file.sync_data());
                synced.map_err(at("sync", tree))?;
            }
        }
        let files = waiting.iter().map(|file| Arrived {
            hash: file.hash,
            size: file.size,
            data: file.temp.path().to_path_buf(),
            tree: file.temp.outboard_path(),
        });
        self.move_all_in(&files.collect::<Vec<_>>())
    }

    /// Stores small blobs and lists them.
    pub(super) fn put_small(&self, blobs: &[(ContentHash, Bytes)]) -> Result<(), BlobError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let given: Vec<(ContentHash, &[u8])> =
            blobs.iter().map(|(hash, bytes)| (*hash, &bytes[..])).collect();
        let _listed = self.rewriting().read().unwrap_or_else(PoisonError::into_inner);
        let places = self.small().put(&given)?;
        let mut index = self.index();
        for ((hash, bytes), place) in given.into_iter().zip(places) {
            let size = bytes.len() as u64;
            let entry = Entry { size, place: Place::Small(place) };
            // Somebody stored the same meanwhile: this record is dead.
            if let Some(Entry { place: Place::Small(before), .. }) = index.insert(hash, entry) {
                self.small().delete(&hash, bytes.len() as u32, before);
            }
        }
        Ok(())
    }

    /// Writes a blob's files to `tmp`.
    fn write_waiting(&self, blob: &VerifiedBlob) -> Result<Waiting, BlobError> {
        let temp = self.temporary()?;
        for (offset, bytes) in blob.slices() {
            temp.file.write_all_at(bytes, offset).map_err(at("write", temp.path()))?;
        }
        let tree = (outboard_bytes(blob.size) > 0).then(|| temp.outboard_path());
        if let Some(path) = &tree {
            std::fs::write(path, blob.tree()).map_err(at("write", path))?;
        }
        Ok(Waiting { hash: blob.hash, size: blob.size, temp, tree })
    }
}
