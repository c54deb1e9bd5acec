//! A blob opened for sending parts of it.
//!
//! Invariant: what is encoded from it was checked against its hash first; a damaged file gives an
//! error, never wrong bytes. It stays readable when the blob is deleted meanwhile.

use std::sync::{Arc, RwLock};

use bao_tree::BaoTree;
use bao_tree::io::outboard::PostOrderOutboard;
use protocol::blobs::{GroupRange, GroupRanges};
use protocol::ids::ContentHash;

use super::{BLOCK_SIZE, BlobFile, bao_hash};

/// What has been verified of a blob that still arrives: shared with its writer.
pub(super) type SharedRanges = Arc<RwLock<GroupRanges>>;

/// Data and hash tree for [`encode_part`](super::encode_part).
#[derive(Clone, Debug)]
pub struct ServedBlob {
    hash: ContentHash,
    size: u64,
    data: BlobFile,
    outboard: BlobFile,
    /// What is here, of a partial blob; everything, of a whole one.
    verified: Option<SharedRanges>,
}

impl ServedBlob {
    pub(super) const fn new(
        hash: ContentHash,
        size: u64,
        data: BlobFile,
        outboard: BlobFile,
    ) -> Self {
        Self { hash, size, data, outboard, verified: None }
    }

    /// Of a blob that still arrives.
    pub(super) fn partial(self, verified: SharedRanges) -> Self {
        Self { verified: Some(verified), ..self }
    }

    /// To look for groups that nobody claims.
    pub(super) fn unrestricted(self) -> Self {
        Self { verified: None, ..self }
    }

    /// The hash.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether these groups are here now. More of a partial blob may be here later.
    pub fn has(&self, range: GroupRange) -> bool {
        let Some(verified) = &self.verified else { return true };
        verified.read().is_ok_and(|verified| verified.contains_all(range))
    }

    /// Whether only some of the blob may be here.
    pub const fn is_partial(&self) -> bool {
        self.verified.is_some()
    }

    /// The bytes. Use them only through `encode_ranges_validated`.
    pub fn data(&self) -> BlobFile {
        self.data.clone()
    }

    pub(super) const fn data_ref(&self) -> &BlobFile {
        &self.data
    }

    pub(super) const fn pairs_ref(&self) -> &BlobFile {
        &self.outboard
    }

    /// The hash tree.
    pub fn outboard(&self) -> PostOrderOutboard<BlobFile> {
        PostOrderOutboard {
            root: bao_hash(&self.hash),
            tree: BaoTree::new(self.size, BLOCK_SIZE),
            data: self.outboard.clone(),
        }
    }
}
