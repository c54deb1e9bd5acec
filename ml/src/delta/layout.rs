//! A delta's bytes, version 2. Little-endian.
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | `AYD` and the version, 2 |
//! | 4 | values kept per chunk of 4,096 (k) |
//! | 4 | tensors |
//! | 4 | compression (0 largest, 1 full, 2 drawn), fragments, this fragment, 0 |
//! | 8 each | levels, bfloat16, of every tensor sent in levels; unused levels are +0.0 |
//! | 4 each | values, f32, of every tensor sent in full |
//! | 2 bits each | levels of every tensor sent whole at two bits, each padded to a byte |
//! | rest | bits of the other tensors, least significant first, padded to a byte |
//!
//! The last bits go through tensors, chunks and kept values in ascending order: Rice(b) of the gap
//! to the previous kept value of the chunk (of the position itself for the first), then two bits
//! of level; positions drawn by lot have no gaps. b follows from k ([`super::plan`]). Which tensor
//! is sent how, and how many values of it, follows from the [`Plan`], so a payload has nothing to
//! lie about but gaps, levels and values. All padding is zero, so a delta has one spelling.

use super::bits::{BitReader, BitWriter};
use super::plan::{CODEBOOK_BYTES, LEVEL_BITS, packed_bytes};
use super::select::Lot;
use super::{
    CHUNK, Delta, DeltaError, DeltaTensor, LEVELS, Part, Plan, Quantized, Sparse, counts, entry,
    kept_of_chunk, kept_of_tensor, split,
};
use crate::arithmetic::{from_bfloat16, to_bfloat16};
use crate::tensors::index;

/// The canonical bytes of a delta that [`Delta::compress`] or [`decode`] made with this plan.
pub fn encode(delta: &Delta, plan: &Plan) -> Vec<u8> {
    assert_eq!(delta.tensors.len(), plan.parts.len(), "a delta of this plan");
    let (mut levels, mut values, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    let mut bits = BitWriter::default();
    for (tensor, (part, _)) in delta.tensors.iter().zip(&plan.parts) {
        match (tensor, part) {
            (DeltaTensor::Absent, Part::Absent) => {}
            (DeltaTensor::Full(full), Part::Full) => {
                values.extend(full.iter().flat_map(|value| value.to_le_bytes()));
            }
            (DeltaTensor::Quantized(quantized), Part::Quantized) => {
                write_codebook(&mut levels, &quantized.codebook);
                packed.extend_from_slice(&quantized.packed);
            }
            (DeltaTensor::Sparse(sparse), Part::Drawn | Part::Largest) => {
                write_codebook(&mut levels, &sparse.codebook);
                let rice = (*part == Part::Largest).then_some(plan.rice);
                write_entries(&mut bits, sparse, rice);
            }
            _ => unreachable!("a delta of this plan"),
        }
    }
    [plan.header(), &levels, &values, &packed, &bits.finish()].concat()
}

fn write_codebook(bytes: &mut Vec<u8>, codebook: &[f32; LEVELS]) {
    bytes.extend(codebook.iter().flat_map(|level| to_bfloat16(*level).to_le_bytes()));
}

fn write_entries(bits: &mut BitWriter, sparse: &Sparse, rice: Option<u32>) {
    for chunk in sparse.entries.chunks(sparse.kept.max(1)) {
        let mut first_free = 0;
        for (position, level) in chunk.iter().map(|entry| split(*entry)) {
            let small = |value: usize| u32::try_from(value).expect("below a chunk");
            if let Some(b) = rice {
                bits.put_rice(small(position - first_free), b);
            }
            bits.put(small(level), LEVEL_BITS);
            first_free = position + 1;
        }
    }
}

/// Parses a stranger's delta of this plan. Refuses everything but the canonical bytes of a delta,
/// and allocates in proportion to `bytes` only.
pub fn decode(bytes: &[u8], plan: &Plan) -> Result<Delta, DeltaError> {
    let (min, max) = plan.bytes_range();
    if !(min..=max).contains(&bytes.len()) {
        return Err(DeltaError::Length { actual: bytes.len(), min, max });
    }
    let rest = bytes.strip_prefix(plan.header()).ok_or(DeltaError::Header)?;
    let mut sections = Sections::split(rest, plan);
    let mut lot = Lot::new(plan.seed, plan.round);
    let mut tensors = Vec::with_capacity(plan.parts.len());
    for (i, (part, len)) in plan.parts.iter().enumerate() {
        tensors.push(match part {
            Part::Absent => DeltaTensor::Absent,
            Part::Full => sections.full(*len).ok_or(DeltaError::NotFinite(i))?,
            Part::Quantized => {
                let codebook = sections.codebook().ok_or(DeltaError::Codebook(i))?;
                sections.quantized(codebook, *len).ok_or(DeltaError::NotCanonical)?
            }
            Part::Largest | Part::Drawn => {
                let codebook = sections.codebook().ok_or(DeltaError::Codebook(i))?;
                let lot = (*part == Part::Drawn).then_some(&mut lot);
                let sparse = sections.sparse(plan, *len, codebook, lot);
                let sparse = sparse.ok_or(DeltaError::Position(i))?;
                if sections.bits.is_past_end() {
                    return Err(DeltaError::Truncated);
                }
                if !unused_are_zero(&sparse.codebook, &sparse.counts) {
                    return Err(DeltaError::NotCanonical);
                }
                DeltaTensor::Sparse(sparse)
            }
        });
    }
    if sections.bits.is_finished() { Ok(Delta { tensors }) } else { Err(DeltaError::NotCanonical) }
}

/// What is left to read of each section.
struct Sections<'a> {
    levels: &'a [u8],
    values: &'a [u8],
    packed: &'a [u8],
    bits: BitReader<'a>,
}

impl<'a> Sections<'a> {
    /// `rest` is long enough: see [`Plan::bytes_range`].
    fn split(rest: &'a [u8], plan: &Plan) -> Self {
        let sum = |bytes: fn(Part, usize) -> usize| -> usize {
            plan.parts.iter().map(|(part, len)| bytes(*part, *len)).sum()
        };
        let (levels, rest) = rest.split_at(sum(|part, _| match part {
            Part::Absent | Part::Full => 0,
            Part::Largest | Part::Drawn | Part::Quantized => CODEBOOK_BYTES,
        }));
        let (values, rest) =
            rest.split_at(sum(|part, len| if part == Part::Full { 4 * len } else { 0 }));
        let (packed, bits) = rest.split_at(sum(|part, len| match part {
            Part::Quantized => packed_bytes(len),
            _ => 0,
        }));
        Self { levels, values, packed, bits: BitReader::new(bits) }
    }

    fn codebook(&mut self) -> Option<[f32; LEVELS]> {
        let (own, rest) = self.levels.split_first_chunk::<CODEBOOK_BYTES>()?;
        self.levels = rest;
        let (levels, _) = own.as_chunks::<2>();
        let mut codebook = [0.0; LEVELS];
        for (level, bytes) in codebook.iter_mut().zip(levels) {
            *level = from_bfloat16(u16::from_le_bytes(*bytes));
        }
        codebook.iter().all(|level| level.is_finite()).then_some(codebook)
    }

    fn full(&mut self, len: usize) -> Option<DeltaTensor> {
        let (own, rest) = self.values.split_at_checked(4 * len)?;
        self.values = rest;
        let (groups, _) = own.as_chunks::<4>();
        let values: Vec<f32> = groups.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        values.iter().all(|value| value.is_finite()).then_some(DeltaTensor::Full(values))
    }

    /// `None` for a second spelling.
    fn quantized(&mut self, codebook: [f32; LEVELS], len: usize) -> Option<DeltaTensor> {
        let (packed, rest) = self.packed.split_at_checked(packed_bytes(len))?;
        self.packed = rest;
        let counts = counts(Quantized::codes(packed, len));
        let unused = packed
            .last()
            .is_some_and(|last| !len.is_multiple_of(4) && last >> (2 * (len % 4)) != 0);
        let canonical = !unused && unused_are_zero(&codebook, &counts);
        let packed = packed.to_vec();
        canonical.then_some(DeltaTensor::Quantized(Quantized { codebook, counts, packed, len }))
    }

    /// `None` for a position beyond its chunk. The caller checks for the end of the bits.
    fn sparse(
        &mut self,
        plan: &Plan,
        len: usize,
        codebook: [f32; LEVELS],
        mut lot: Option<&mut Lot>,
    ) -> Option<Sparse> {
        let mut entries = Vec::with_capacity(kept_of_tensor(len, plan.keep));
        let mut counts = [0usize; LEVELS];
        for start in (0..len).step_by(CHUNK) {
            let chunk = (len - start).min(CHUNK);
            let kept = kept_of_chunk(chunk, plan.keep);
            if let Some(lot) = &mut lot {
                for position in lot.draw(chunk, kept) {
                    let level = self.bits.take(LEVEL_BITS);
                    counts[index(level)] += 1;
                    entries.push(entry(position, u8::try_from(level).ok()?));
                }
                continue;
            }
            let end = u32::try_from(chunk).ok()?;
            let mut first_free = 0;
            for _ in 0..kept {
                // `first_free` may be `end` when a hostile gap used up the chunk.
                let max = (end - first_free).checked_sub(1)?;
                let (gap, level) = self.bits.take_rice(plan.rice, LEVEL_BITS, max)?;
                let position = first_free + gap;
                counts[index(level)] += 1;
                entries.push(entry(u16::try_from(position).ok()?, u8::try_from(level).ok()?));
                first_free = position + 1;
            }
            if self.bits.is_past_end() {
                break;
            }
        }
        Some(Sparse { codebook, counts, entries, kept: kept_of_chunk(CHUNK, plan.keep) })
    }
}

fn unused_are_zero(codebook: &[f32; LEVELS], counts: &[usize; LEVELS]) -> bool {
    codebook.iter().zip(counts).all(|(level, used)| *used > 0 || level.to_bits() == 0)
}
