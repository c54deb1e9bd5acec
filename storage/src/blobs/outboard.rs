//! Computing a blob's hash and hash tree in one pass over its file.
//!
//! Invariant: the hash is that of exactly `size` bytes; a file that is shorter is an error.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use bao_tree::BaoTree;
use bao_tree::io::sync::outboard_post_order;
use protocol::ids::ContentHash;

use super::BLOCK_SIZE;

/// Bytes of the hash tree of a blob; none for a single group.
pub(super) fn outboard_size(size: u64) -> u64 {
    BaoTree::new(size, BLOCK_SIZE).outboard_size()
}

/// Hashes the first `size` bytes of `data`; writes the tree to `to` and syncs it, unless it is
/// empty: then no file is made.
pub(super) fn write_outboard(data: impl Read, size: u64, to: &Path) -> io::Result<ContentHash> {
    if outboard_size(size) == 0 {
        return hash_tree(data, size, io::sink());
    }
    let mut writer = BufWriter::new(File::create(to)?);
    let hash = hash_tree(data, size, &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(hash)
}

/// Hashes the first `size` bytes of `data` and writes the tree to `to`.
pub(super) fn hash_tree(data: impl Read, size: u64, to: impl Write) -> io::Result<ContentHash> {
    let reader = BufReader::with_capacity(1 << 18, data.take(size));
    let root = outboard_post_order(reader, BaoTree::new(size, BLOCK_SIZE), to)?;
    Ok(ContentHash::from_bytes(*root.as_bytes()))
}
