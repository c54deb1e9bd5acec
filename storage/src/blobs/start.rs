//! A look at how a blob begins.
//!
//! Deliberately absent: verification. It is for telling kinds of blobs apart in a list; whoever
//! uses the bytes reads them with [`BlobStore::read_all`].

use protocol::ids::ContentHash;

use super::BlobError;
use super::store::BlobStore;
use crate::durable::at;

impl BlobStore {
    /// The first bytes of a blob, at most `length`, as they lie on the disk.
    pub fn read_start(&self, hash: &ContentHash, length: usize) -> Result<Vec<u8>, BlobError> {
        let size = self.size(hash).ok_or(BlobError::NotFound(*hash))?;
        let served = self.open_for_serving(hash)?;
        let mut start = vec![0; length.min(usize::try_from(size).unwrap_or(usize::MAX))];
        let read = served.data_ref().read_exact_at(&mut start, 0);
        read.map_err(at("read", &self.path(hash, "data")))?;
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_begin_as_they_were_stored() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open(dir.path()).expect("a store");
        let large = vec![7; 100_000];
        for bytes in [&b"small"[..], &large] {
            let hash = store.put_bytes(bytes).expect("writable");
            let start = store.read_start(&hash, 18).expect("stored");
            assert_eq!(start, bytes[..bytes.len().min(18)]);
        }
        assert!(store.read_start(&ContentHash::of(b"none"), 1).is_err());
    }
}
