//! Weights out of safetensors files, tensor by tensor: a file is never in memory as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use protocol::limits::WORKER_FILE_BYTES_MAX;
use protocol::worker::FileName;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::names::{Name, transpose};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::JobError;
use crate::files::{FileError, JobDirectory};

/// The header of one file: a line for each tensor.
const HEADER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;

/// One safetensors file whose header was checked.
pub(super) struct WeightsFile {
    file: File,
    name: String,
    /// Where the data begins.
    start: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl WeightsFile {
    /// Reads and checks the header: no overlaps, no gaps, every length that of its shape and
    /// type, the file exactly as long as it says.
    pub(super) fn open(directory: &JobDirectory, name: &FileName) -> Result<Self, JobError> {
        let (file, length) = directory.file(name)?;
        let name = name.as_str().to_owned();
        let bad = |what: String| JobError::Request(format!("{name}: not safetensors: {what}"));
        if length > WORKER_FILE_BYTES_MAX {
            return Err(JobError::File(FileError::TooLarge {
                name,
                actual: length,
                max: WORKER_FILE_BYTES_MAX,
            }));
        }
        let io = |source| FileError::Io { name: name.clone(), source };
        let mut first = [0u8; 8];
        if length < LENGTH_BYTES {
            return Err(bad("shorter than its first number".into()));
        }
        file.read_exact_at(&mut first, 0).map_err(io)?;
        let header = u64::from_le_bytes(first);
        if header > HEADER_BYTES_MAX || header > length - LENGTH_BYTES {
            return Err(bad(format!("a header of {header} bytes")));
        }
        let mut json = vec![0u8; usize::try_from(header).map_err(|e| bad(e.to_string()))?];
        file.read_exact_at(&mut json, LENGTH_BYTES).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        let start = LENGTH_BYTES + header;
        let data = u64::try_from(metadata.data_len()).map_err(|e| bad(e.to_string()))?;
        if start.checked_add(data) != Some(length) {
            return Err(bad(format!("{data} bytes of data in a file of {length}")));
        }
        let tensors =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { file, name, start, tensors })
    }

    /// The values of a tensor as f32, up to `most` of them.
    fn values(&self, name: &str, info: &TensorInfo, most: usize) -> Result<Vec<f32>, JobError> {
        let bad = |what: &str| JobError::Request(format!("{}: {name}: {what}", self.name));
        let size = match info.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => return Err(bad("neither f32 nor f16 nor bf16: quantized weights are not read")),
        };
        let values: usize = info.shape.iter().product();
        let mut bytes = vec![0u8; values.min(most) * size];
        let offset = u64::try_from(info.data_offsets.0).map_err(|e| bad(&e.to_string()))?;
        self.file
            .read_exact_at(&mut bytes, self.start + offset)
            .map_err(|source| FileError::Io { name: self.name.clone(), source })?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
                .collect(),
            _ => bytes.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect(),
        };
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(bad("a value that is not finite"))
        }
    }
}

/// Gathers the tensors of a model. `positions`: rows of the position embedding in the files, of
/// which the first are kept.
pub(super) fn read(
    files: &[WeightsFile],
    names: &[Name],
    positions: Option<usize>,
    notes: &mut Vec<String>,
) -> Result<Checkpoint, JobError> {
    let mut found: BTreeMap<&str, (&WeightsFile, &str, &TensorInfo)> = BTreeMap::new();
    for file in files {
        for (name, info) in &file.tensors {
            let short = ["model.", "transformer."]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(name);
            if found.insert(short, (file, name, info)).is_some() {
                let text = format!("{}: tensor {name:.100} comes twice", file.name);
                return Err(JobError::Request(text));
            }
        }
    }
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let theirs = name.theirs();
        let (file, full, info) = found.remove(name.short.as_str()).ok_or_else(|| {
            JobError::Request(format!("tensor {theirs} is in none of the files: give all of them"))
        })?;
        let mut shape = name.their_shape();
        if let (Some(rows), "embed.position") = (positions, name.ours.name.as_str()) {
            shape[0] = rows;
        }
        if info.shape != shape {
            return Err(JobError::Request(format!(
                "{}: {full}: shape {:?} where the configuration says {shape:?}",
                file.name, info.shape
            )));
        }
        let mut values = file.values(full, info, name.ours.len())?;
        if name.transposed {
            values = transpose(&values, shape[1]);
        }
        tensors.push(Tensor { spec: name.ours.clone(), values });
    }
    refuse_others(found.into_keys(), notes)?;
    Ok(Checkpoint { tensors })
}

/// Tables that old checkpoints carry are made anew here, and a tied head is its embedding; any
/// other tensor would mean another model.
fn refuse_others<'a>(
    names: impl Iterator<Item = &'a str>,
    notes: &mut Vec<String>,
) -> Result<(), JobError> {
    for name in names {
        let table = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"]
            .iter()
            .any(|end| name.ends_with(end));
        if name == "lm_head.weight" {
            notes.push("left out: a head of its own, as the configuration ties it".into());
        } else if !table {
            let text = format!("tensor {name:.100} belongs to no model that is built here");
            return Err(JobError::Request(text));
        }
    }
    Ok(())
}

/// IEEE half precision to single; exact.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 31;
    let fraction = u32::from(bits & 1023);
    match exponent {
        // Subnormal: fraction * 2^-24.
        0 => {
            let magnitude = f32::from(bits & 1023) / 16_777_216.0;
            f32::from_bits(magnitude.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half(bits), value, "{bits:#x}");
        }
        assert_eq!(half(0x8000).to_bits(), (-0.0f32).to_bits());
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
