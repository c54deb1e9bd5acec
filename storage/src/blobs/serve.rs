//! A blob opened for sending parts of it.
//!
//! Invariant: what is encoded from it was checked against its hash first; a damaged file gives an
//! error, never wrong bytes. It stays readable when the blob is deleted meanwhile.

use bao_tree::BaoTree;
use bao_tree::io::outboard::PostOrderOutboard;
use protocol::ids::ContentHash;

use super::{BLOCK_SIZE, BlobFile, bao_hash};

/// Data and hash tree for `bao_tree::io::{fsm, sync}::encode_ranges_validated`.
#[derive(Clone, Debug)]
pub struct ServedBlob {
    hash: ContentHash,
    size: u64,
    data: BlobFile,
    outboard: BlobFile,
}

impl ServedBlob {
    pub(super) const fn new(
        hash: ContentHash,
        size: u64,
        data: BlobFile,
        outboard: BlobFile,
    ) -> Self {
        Self { hash, size, data, outboard }
    }

    /// The hash.
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The bytes. Use them only through `encode_ranges_validated`.
    pub fn data(&self) -> BlobFile {
        self.data.clone()
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
