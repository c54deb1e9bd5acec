//! How a delta's tensors are sent: it follows from the model, the round's parameters, the round
//! and the delta's seed, never from the payload.

use protocol::model::{Compression, RoundParameters};

use super::{CHUNK, LEVELS};
use crate::tensors::{TensorSpec, index};

/// Tensors of fewer values are sent whole, at two bits a value: gains and biases of narrow
/// layers, of which a few large values say little. More would cost more than 0.165 bits per
/// parameter at a million parameters and k=64.
pub const SMALL_VALUES: usize = 512;
/// Bits of a level.
pub(super) const LEVEL_BITS: u32 = 2;
/// Bytes of the four levels in bfloat16.
pub(super) const CODEBOOK_BYTES: usize = 2 * LEVELS;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"AYD\x02";

/// How one tensor is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Not in this round: it belongs to another fragment.
    Absent,
    /// The largest of each chunk, with their positions.
    Largest,
    /// Some of each chunk, drawn by lot, without their positions.
    Drawn,
    /// All values at two bits.
    Quantized,
    /// All values as f32.
    Full,
}

/// How a delta of a round is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(super) parts: Vec<(Part, usize)>,
    pub(super) keep: u32,
    /// Rice parameter of the gaps.
    pub(super) rice: u32,
    pub(super) round: u32,
    pub(super) seed: u64,
    header: [u8; HEADER_BYTES],
}

impl Plan {
    /// The plan for a model's tensors. `parameters` are valid.
    pub fn new(specs: &[TensorSpec], parameters: &RoundParameters, round: u32, seed: u64) -> Self {
        let keep = parameters.keep_per_chunk;
        let groups = parameters.fragments.max(1);
        let group = round % groups;
        let fragments = fragments(specs, groups);
        let parts = specs.iter().zip(fragments).map(|(spec, fragment)| {
            let part = if fragment == group { part(spec.len(), parameters) } else { Part::Absent };
            (part, spec.len())
        });
        let compression = match parameters.compression {
            Compression::Sparse => 0u8,
            Compression::Dense => 1,
            Compression::RandomK => 2,
        };
        let tensors = u32::try_from(specs.len()).expect("a model has few tensors");
        let mut header = [0; HEADER_BYTES];
        let (numbers, _) = header.as_chunks_mut::<4>();
        let [groups, ..] = groups.to_le_bytes();
        let [group, ..] = group.to_le_bytes();
        let words =
            [MAGIC, keep.to_le_bytes(), tensors.to_le_bytes(), [compression, groups, group, 0]];
        numbers.copy_from_slice(&words);
        Self { parts: parts.collect(), keep, rice: rice_parameter(keep), round, seed, header }
    }

    /// How each tensor is sent, in name order.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        self.parts.iter().map(|(part, _)| *part)
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of the shortest and of the longest delta.
    pub fn bytes_range(&self) -> (usize, usize) {
        let mut fixed = HEADER_BYTES;
        let (mut bits_min, mut bits_max) = (0, 0);
        for (part, len) in &self.parts {
            let kept = kept_of_tensor(*len, self.keep);
            match part {
                Part::Absent => {}
                Part::Full => fixed += 4 * len,
                Part::Quantized => fixed += CODEBOOK_BYTES + packed_bytes(*len),
                Part::Drawn => {
                    fixed += CODEBOOK_BYTES;
                    bits_min += kept * index(LEVEL_BITS);
                    bits_max += kept * index(LEVEL_BITS);
                }
                Part::Largest => {
                    fixed += CODEBOOK_BYTES;
                    // A value takes a unary zero, low bits and its level; the gaps of a chunk
                    // share the rest of it.
                    let least = kept * index(self.rice + 1 + LEVEL_BITS);
                    bits_min += least;
                    bits_max += least + ((len - kept) >> self.rice);
                }
            }
        }
        (fixed + bits_min.div_ceil(8), fixed + bits_max.div_ceil(8))
    }
}

fn part(len: usize, parameters: &RoundParameters) -> Part {
    let keep = parameters.keep_per_chunk;
    let whole = 2 * CHUNK;
    match parameters.compression {
        Compression::Dense => Part::Full,
        _ if len < SMALL_VALUES => Part::Quantized,
        // A kept value takes about one bit of unary gap beside its zero, low bits and level.
        Compression::Sparse if index(keep * (rice_parameter(keep) + 4)) >= whole => Part::Quantized,
        Compression::Sparse => Part::Largest,
        Compression::RandomK if index(keep) >= CHUNK => Part::Quantized,
        Compression::RandomK => Part::Drawn,
    }
}

/// The fragment of each tensor. From the largest tensor to the smallest, each goes to the fragment
/// that has least: fragments are of nearly equal size, and equal tensors of following blocks are
/// dealt out in turn, which is the strided pattern of Streaming DiLoCo (arXiv 2501.18512).
pub fn fragments(specs: &[TensorSpec], groups: u32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(specs[*i].len()));
    let mut sizes = vec![0usize; index(groups.max(1))];
    let mut fragments = vec![0; specs.len()];
    for i in order {
        let (group, size) = (0u32..)
            .zip(&mut sizes)
            .min_by_key(|(_, size)| **size)
            .expect("there is at least one fragment");
        *size += specs[i].len();
        fragments[i] = group;
    }
    fragments
}

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

/// Values kept of a chunk of `len` values: k of a whole chunk, in proportion and rounded up of
/// the shorter last one.
pub fn kept_of_chunk(len: usize, keep_per_chunk: u32) -> usize {
    (index(keep_per_chunk) * len).div_ceil(CHUNK).min(len)
}

/// Values kept of a whole tensor.
pub fn kept_of_tensor(len: usize, keep_per_chunk: u32) -> usize {
    let whole = len / CHUNK;
    whole * kept_of_chunk(CHUNK, keep_per_chunk) + kept_of_chunk(len % CHUNK, keep_per_chunk)
}

/// Bytes of so many levels, four to a byte.
pub(super) fn packed_bytes(len: usize) -> usize {
    len.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tensor_specs;
    use crate::tensors::tests::spec;

    #[test]
    fn rice_parameters() {
        for (keep, b) in [(1, 11), (64, 5), (100, 5), (256, 3), (1024, 1), (2048, 0), (4096, 0)] {
            assert_eq!(rice_parameter(keep), b, "k = {keep}");
        }
    }

    #[test]
    fn fragments_are_balanced_and_strided() {
        let specs = tensor_specs(&spec(8, 128, 4, 128));
        let fragments = fragments(&specs, 4);
        let mut sizes = [0usize; 4];
        for (spec, fragment) in specs.iter().zip(&fragments) {
            sizes[index(*fragment)] += spec.len();
        }
        let (least, most) = (sizes.iter().min().copied(), sizes.iter().max().copied());
        assert!(most.expect("four") < least.expect("four") * 11 / 10, "{sizes:?}");
        let of_blocks: Vec<u32> = specs
            .iter()
            .zip(&fragments)
            .filter(|(spec, _)| spec.name.contains("mlp") && spec.name.ends_with(".weight"))
            .map(|(_, fragment)| *fragment)
            .collect();
        assert_eq!(of_blocks, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn every_tensor_is_sent_once_in_a_turn() {
        let specs = tensor_specs(&spec(2, 32, 2, 16));
        let parameters = RoundParameters { fragments: 3, ..RoundParameters::default() };
        let mut sent = vec![0; specs.len()];
        for round in 4..7 {
            let plan = Plan::new(&specs, &parameters, round, 0);
            for (sent, part) in sent.iter_mut().zip(plan.parts()) {
                *sent += u32::from(part != Part::Absent);
            }
        }
        assert!(sent.iter().all(|sent| *sent == 1), "{sent:?}");
    }

    /// What the ledger allows is what the format can need, for every way to send.
    #[test]
    fn no_delta_is_longer_than_the_ledger_allows() {
        let of = |bytes: usize| u64::try_from(bytes).expect("64 bits");
        for spec in [spec(1, 16, 1, 16), spec(4, 128, 4, 128), spec(48, 64, 8, 4096)] {
            let specs = tensor_specs(&spec);
            for compression in [Compression::Sparse, Compression::Dense, Compression::RandomK] {
                for keep_per_chunk in [1, 2, 17, 64, 256, 700, 1_024, 2_048, 4_096] {
                    let parameters =
                        RoundParameters { compression, keep_per_chunk, ..Default::default() };
                    let plan = Plan::new(&specs, &parameters, 1, 0);
                    let allowed = parameters.delta_bytes_max(spec.parameters());
                    assert!(
                        of(plan.bytes_range().1) <= allowed,
                        "{compression:?} {keep_per_chunk}"
                    );
                }
            }
        }
    }
}
