//! The values of the database: sorted lists that are read whole.

use protocol::amount::Height;
use protocol::ids::TransactionHash;

use super::{HistoryError, Position, damaged};

/// Bytes of a position.
pub(super) const POSITION_BYTES: usize = 12;
/// Bytes of a hash without its first, by which the parts are told apart.
const REST_BYTES: usize = 31;
/// Bytes of a transaction in a part.
pub(super) const ENTRY_BYTES: usize = REST_BYTES + POSITION_BYTES;

/// The part of a hash and the rest of it: transactions are kept in 256 parts, by the first byte of
/// their hash, so that a look-up reads a small piece of what was written together.
pub(super) fn part_of(hash: &TransactionHash) -> (u8, &[u8]) {
    let [part, rest @ ..] = hash.as_bytes();
    (*part, rest)
}

pub(super) fn position_bytes(at: Position) -> [u8; POSITION_BYTES] {
    let mut bytes = [0; POSITION_BYTES];
    bytes[..8].copy_from_slice(&at.height.get().to_be_bytes());
    bytes[8..].copy_from_slice(&at.index.to_be_bytes());
    bytes
}

pub(super) fn position(bytes: &[u8]) -> Result<Position, HistoryError> {
    let parsed = bytes.split_first_chunk::<8>().and_then(|(height, index)| {
        let index = u32::from_be_bytes(index.try_into().ok()?);
        Some(Position { height: Height::new(u64::from_be_bytes(*height)), index })
    });
    parsed.ok_or_else(|| damaged("a position has a wrong length"))
}

/// The positions of a page, oldest first.
pub(super) fn positions(page: &[u8]) -> Result<Vec<Position>, HistoryError> {
    if !page.len().is_multiple_of(POSITION_BYTES) {
        return Err(damaged("a list of positions has a wrong length"));
    }
    page.chunks_exact(POSITION_BYTES).map(position).collect()
}

/// Looks a transaction up in a part.
pub(super) fn find(page: &[u8], rest: &[u8]) -> Result<Option<Position>, HistoryError> {
    if !page.len().is_multiple_of(ENTRY_BYTES) {
        return Err(damaged("a list of transactions has a wrong length"));
    }
    let entries: Vec<&[u8]> = page.chunks_exact(ENTRY_BYTES).collect();
    let found = entries.binary_search_by(|entry| entry[..REST_BYTES].cmp(rest));
    found.ok().map(|at| position(&entries[at][REST_BYTES..])).transpose()
}
