//! A delta's bytes, version 1. Little-endian.
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | `AYD` and the version, 1 |
//! | 4 | values kept per chunk of 4,096 (k) |
//! | 4 | tensors (t) |
//! | 16 t | per tensor its four levels, f32; unused levels are +0.0 |
//! | rest | bits, least significant first, padded with zeros to a byte |
//!
//! The bits go through tensors, chunks and kept values in ascending order: Rice(b) of the gap to
//! the previous kept value of the chunk (of the position itself for the first), then two bits of
//! level. b follows from k ([`rice_parameter`]). The counts follow from the model and k, so a
//! payload has nothing to lie about but gaps, levels and their bits.

use protocol::limits::DELTA_BYTES_MAX;

use super::bits::{BitReader, BitWriter};
use super::{CHUNK, Delta, DeltaError, LEVELS, SparseTensor, kept_of_chunk, kept_of_tensor};
use crate::tensors::{TensorSpec, index};

const MAGIC: [u8; 4] = *b"AYD\x01";
const CODEBOOK_BYTES: usize = 4 * LEVELS;
const LEVEL_BITS: u32 = 2;

/// The Rice parameter for k kept values per chunk: the smallest b with k * 2^b >= 1,970. Gaps are
/// nearly geometric with p = k/4096, for which the best b is the smallest with
/// 2^b >= -ln(golden ratio - 1)/p = 0.481 * 4096/k (Kiely, "Selecting the
/// Golomb parameter in Rice coding", 2004).
pub fn rice_parameter(keep_per_chunk: u32) -> u32 {
    let mut b = 0;
    while u64::from(keep_per_chunk) << b < 1_970 && b < 12 {
        b += 1;
    }
    b
}

fn header(specs: &[TensorSpec], keep_per_chunk: u32) -> Vec<u8> {
    let tensors = u32::try_from(specs.len()).expect("a model has few tensors");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&keep_per_chunk.to_le_bytes());
    bytes.extend_from_slice(&tensors.to_le_bytes());
    bytes
}

/// The canonical bytes of a delta that [`Delta::compress`] or [`decode`] made for these tensors
/// and this k.
pub fn encode(
    delta: &Delta,
    specs: &[TensorSpec],
    keep_per_chunk: u32,
) -> Result<Vec<u8>, DeltaError> {
    assert_eq!(delta.tensors.len(), specs.len(), "a delta has the model's tensors");
    let mut bytes = header(specs, keep_per_chunk);
    for tensor in &delta.tensors {
        for level in tensor.codebook {
            bytes.extend_from_slice(&level.to_le_bytes());
        }
    }
    let b = rice_parameter(keep_per_chunk);
    let mut bits = BitWriter::default();
    for tensor in &delta.tensors {
        let mut previous: Option<u32> = None;
        for (position, code) in tensor.positions.iter().zip(&tensor.codes) {
            let start = position - position % chunk_u32();
            let first_free = previous.map_or(start, |p| start.max(p + 1));
            bits.put_rice(position - first_free, b);
            bits.put(u32::from(*code), LEVEL_BITS);
            previous = Some(*position);
        }
    }
    bytes.extend_from_slice(&bits.finish());
    let max = bytes_max();
    if bytes.len() > max {
        return Err(DeltaError::Length { actual: bytes.len(), min: 0, max });
    }
    Ok(bytes)
}

/// Parses a stranger's delta for these tensors and this k. Refuses everything but the canonical
/// bytes of a delta, and allocates in proportion to `bytes` only.
pub fn decode(
    bytes: &[u8],
    specs: &[TensorSpec],
    keep_per_chunk: u32,
) -> Result<Delta, DeltaError> {
    let header = header(specs, keep_per_chunk);
    let b = rice_parameter(keep_per_chunk);
    let kept: usize = specs.iter().map(|spec| kept_of_tensor(spec, keep_per_chunk)).sum();
    let fixed = header.len() + CODEBOOK_BYTES * specs.len();
    // A kept value takes at least one unary bit, b low bits and its level.
    let min = fixed + (kept * index(b + 1 + LEVEL_BITS)).div_ceil(8);
    if !(min..=bytes_max()).contains(&bytes.len()) {
        return Err(DeltaError::Length { actual: bytes.len(), min, max: bytes_max() });
    }
    let rest = bytes.strip_prefix(&*header).ok_or(DeltaError::Header)?;
    let (codebooks, bits) = rest.split_at(CODEBOOK_BYTES * specs.len());
    let (codebooks, _) = codebooks.as_chunks::<CODEBOOK_BYTES>();
    let mut reader = BitReader::new(bits);
    let mut tensors = Vec::with_capacity(specs.len());
    for (i, (spec, codebook)) in specs.iter().zip(codebooks).enumerate() {
        let codebook = read_codebook(codebook).ok_or(DeltaError::Codebook(i))?;
        let tensor = read_tensor(&mut reader, spec, keep_per_chunk, codebook)
            .ok_or(DeltaError::Position(i))?;
        if !unused_levels_are_zero(&tensor) {
            return Err(DeltaError::NotCanonical);
        }
        tensors.push(tensor);
    }
    let delta = Delta { tensors };
    // One spelling per delta: this also refuses set padding bits and trailing bytes.
    if encode(&delta, specs, keep_per_chunk)? != bytes {
        return Err(DeltaError::NotCanonical);
    }
    Ok(delta)
}

fn read_codebook(bytes: &[u8; CODEBOOK_BYTES]) -> Option<[f32; LEVELS]> {
    let (levels, _) = bytes.as_chunks::<4>();
    let mut codebook = [0.0; LEVELS];
    for (level, bytes) in codebook.iter_mut().zip(levels) {
        *level = f32::from_le_bytes(*bytes);
    }
    codebook.iter().all(|level| level.is_finite()).then_some(codebook)
}

fn read_tensor(
    reader: &mut BitReader<'_>,
    spec: &TensorSpec,
    keep_per_chunk: u32,
    codebook: [f32; LEVELS],
) -> Option<SparseTensor> {
    let b = rice_parameter(keep_per_chunk);
    let kept = kept_of_tensor(spec, keep_per_chunk);
    let mut positions = Vec::with_capacity(kept);
    let mut codes = Vec::with_capacity(kept);
    let len = u32::try_from(spec.len()).ok()?;
    for start in (0..len).step_by(CHUNK) {
        let end = start.saturating_add(chunk_u32()).min(len);
        let mut first_free = start;
        for _ in 0..kept_of_chunk(index(end - start), keep_per_chunk) {
            // `first_free` may be `end` when a hostile gap used up the chunk.
            let max = (end - first_free).checked_sub(1)?;
            let position = first_free + reader.take_rice(b, max)?;
            positions.push(position);
            codes.push(u8::try_from(reader.take(LEVEL_BITS)?).ok()?);
            first_free = position + 1;
        }
    }
    Some(SparseTensor { codebook, positions, codes })
}

fn unused_levels_are_zero(tensor: &SparseTensor) -> bool {
    let mut used = [false; LEVELS];
    for code in &tensor.codes {
        used[usize::from(*code)] = true;
    }
    used.iter().zip(tensor.codebook).all(|(used, level)| *used || level.to_bits() == 0)
}

fn chunk_u32() -> u32 {
    u32::try_from(CHUNK).expect("a small constant")
}

fn bytes_max() -> usize {
    usize::try_from(DELTA_BYTES_MAX).expect("fits memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rice_parameters() {
        for (keep, b) in [(1, 11), (64, 5), (100, 5), (256, 3), (1024, 1), (2048, 0), (4096, 0)] {
            assert_eq!(rice_parameter(keep), b, "k = {keep}");
        }
    }
}
