use super::*;
use protocol::ids::ContentHash;
#[derive(Debug)]
pub struct VerifiedBlob {
    hash: ContentHash,
    size: u64,
    parts: Vec<VerifiedPart<Vec<u8>>>,
}
impl VerifiedBlob {
    pub fn from_parts(
        hash: ContentHash,
        size: u64,
        mut parts: Vec<VerifiedPart<Vec<u8>>>,
    ) -> Result<Self, BlobError> {
        parts.sort_by_key(|p| p.range());
        Ok(Self { hash, size, parts })
    }
    pub fn hash(&self) -> ContentHash {
        self.hash
    }
    pub fn size(&self) -> u64 {
        self.size
    }
}
impl BlobStore {
    pub fn put_batch(&self, b: Vec<VerifiedBlob>) -> Result<(), BlobError> {
        for b in b {
            let mut v = Vec::new();
            for p in &b.parts {
                for s in p.slices() {
                    v.extend_from_slice(s)
                }
            }
            self.put_bytes(&v)?;
        }
        Ok(())
    }
    pub fn hold(&self, _h: &ContentHash) -> u8 {
        0
    }
}
