//! The bytes of a record's header and the hashes that protect it.
//!
//! Invariant: a header whose check matches states the length that was written.

const RECORD_MAGIC: [u8; 4] = *b"AYR1";
/// Bytes of a record before its payload.
pub const HEADER_BYTES: u64 = 48;

/// A record's header, in parts.
pub(super) struct Header {
    magic: [u8; 4],
    length: [u8; 4],
    check: [u8; 8],
    pub(super) checksum: [u8; 32],
}

impl Header {
    pub(super) fn split(bytes: &[u8; 48]) -> Self {
        let mut header = Self { magic: [0; 4], length: [0; 4], check: [0; 8], checksum: [0; 32] };
        header.magic.copy_from_slice(&bytes[..4]);
        header.length.copy_from_slice(&bytes[4..8]);
        header.check.copy_from_slice(&bytes[8..16]);
        header.checksum.copy_from_slice(&bytes[16..]);
        header
    }

    /// The payload's length, once the header is known to be what was written.
    pub(super) fn length(&self, previous: &[u8; 32], max: u32) -> Result<u32, &'static str> {
        if self.magic != RECORD_MAGIC {
            return Err("no record begins here");
        }
        let length = u32::from_le_bytes(self.length);
        if header_check(previous, length) != self.check {
            return Err("the length does not match its check");
        }
        if length > max {
            return Err("the length is over the limit");
        }
        Ok(length)
    }
}

fn header_check(previous: &[u8; 32], length: u32) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_keyed(previous);
    hasher.update(b"header");
    hasher.update(&length.to_le_bytes());
    let mut check = [0; 8];
    hasher.finalize_xof().fill(&mut check);
    check
}

pub(super) fn checksum(previous: &[u8; 32], length: u32, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(previous);
    hasher.update(b"record");
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// The header of a record with this payload.
pub(super) fn header(previous: &[u8; 32], length: u32, checksum: &[u8; 32]) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..4].copy_from_slice(&RECORD_MAGIC);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&header_check(previous, length));
    bytes[16..].copy_from_slice(checksum);
    bytes
}
