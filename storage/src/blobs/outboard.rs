//! Computing a blob's hash and hash tree in one pass over its file.
//!
//! Invariant: the hash is that of exactly `size` bytes; a file that is shorter is an error.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use protocol::ids::ContentHash;

use super::tree::{TreeBuilder, outboard_bytes};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Hashes the first `size` bytes of `data`; writes the tree to `to` and syncs it, unless it is
/// empty: then no file is made.
pub(super) fn write_outboard(data: impl Read, size: u64, to: &Path) -> io::Result<ContentHash> {
    if outboard_bytes(size) == 0 {
        return hash_tree(data, size, io::sink());
    }
    let mut writer = BufWriter::new(File::create(to)?);
    let hash = hash_tree(data, size, &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(hash)
}

/// Hashes the first `size` bytes of `data` and writes the tree to `to`.
pub(super) fn hash_tree(
    mut data: impl Read,
    size: u64,
    mut to: impl Write,
) -> io::Result<ContentHash> {
    let (mut buffer, mut pairs) = (vec![0; BUFFER_BYTES], Vec::new());
    let mut builder = TreeBuilder::new();
    while builder.size() < size {
        let left = usize::try_from(size - builder.size()).unwrap_or(usize::MAX);
        let bytes = buffer.get_mut(..left.min(BUFFER_BYTES)).unwrap_or_default();
        data.read_exact(bytes)?;
        builder.update(bytes, &mut pairs);
        to.write_all(&pairs)?;
        pairs.clear();
    }
    let (hash, _) = builder.finish(&mut pairs);
    to.write_all(&pairs)?;
    Ok(hash)
}
