//! Weights as named tensors and as canonical bytes.
//!
//! The bytes are safetensors with sorted names, f32 little-endian and no metadata. A model's
//! specification fixes every name and shape, so it fixes the whole header too: a file is accepted
//! only if its header is the expected one, byte for byte. That refuses wrong types, duplicates,
//! gaps, metadata and second spellings without parsing a stranger's JSON, and makes equal weights
//! equal bytes. The `safetensors` crate reads and writes the same bytes (tested).

use std::fmt::Write as _;

use protocol::ids::ContentHash;
use thiserror::Error;

use crate::tensors::TensorSpec;

/// Bytes of one value.
const VALUE_BYTES: usize = 4;

/// The weights of a model, in name order.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The tensors, sorted by name.
    pub tensors: Vec<Tensor>,
}

/// One tensor in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name and shape.
    pub spec: TensorSpec,
    /// The values; as many as the shape says.
    pub values: Vec<f32>,
}

/// Why bytes are not a checkpoint of a model.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum CheckpointError {
    /// The file has another length than the model's checkpoints.
    #[error("{actual} bytes where a checkpoint of this model has {expected}")]
    Length {
        /// Bytes received.
        actual: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Other names, shapes or types, or another spelling of them.
    #[error("the header is not the one of this model's checkpoints")]
    Header,
    /// NaN or infinity.
    #[error("tensor {name} holds a value that is not finite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
}

impl Checkpoint {
    /// A checkpoint in which every value is zero.
    pub fn zeros(specs: &[TensorSpec]) -> Self {
        let tensors = specs
            .iter()
            .map(|spec| Tensor { spec: spec.clone(), values: vec![0.0; spec.len()] })
            .collect();
        Self { tensors }
    }

    /// Length in bytes of every checkpoint with these tensors: what a reader must expect, and a
    /// cap to apply before reading.
    pub fn bytes_expected(specs: &[TensorSpec]) -> usize {
        let values: usize = specs.iter().map(TensorSpec::len).sum();
        header(specs).len() + VALUE_BYTES * values
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let specs: Vec<TensorSpec> = self.tensors.iter().map(|t| t.spec.clone()).collect();
        let mut bytes = Vec::with_capacity(Self::bytes_expected(&specs));
        bytes.extend_from_slice(&header(&specs));
        for tensor in &self.tensors {
            assert_eq!(tensor.values.len(), tensor.spec.len(), "a tensor is as long as its shape");
            for value in &tensor.values {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }

    /// Parses canonical bytes of a model with the given tensors.
    pub fn from_bytes(bytes: &[u8], specs: &[TensorSpec]) -> Result<Self, CheckpointError> {
        let expected = Self::bytes_expected(specs);
        if bytes.len() != expected {
            return Err(CheckpointError::Length { actual: bytes.len(), expected });
        }
        let mut rest = bytes.strip_prefix(&*header(specs)).ok_or(CheckpointError::Header)?;
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in specs {
            let (own, others) = rest.split_at(VALUE_BYTES * spec.len());
            rest = others;
            let (groups, _) = own.as_chunks::<VALUE_BYTES>();
            let values: Vec<f32> = groups.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if !values.iter().all(|value| value.is_finite()) {
                return Err(CheckpointError::NotFinite { name: spec.name.clone() });
            }
            tensors.push(Tensor { spec: spec.clone(), values });
        }
        Ok(Self { tensors })
    }

    /// BLAKE3 of the canonical bytes.
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(&self.to_bytes())
    }

    /// Values in all tensors.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(|t| t.values.len()).sum()
    }

    /// Whether there are no values at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The safetensors header: length, then JSON padded with spaces to a multiple of 8 bytes, as the
/// `safetensors` crate writes it.
fn header(specs: &[TensorSpec]) -> Vec<u8> {
    let mut json = String::from("{");
    let mut offset = 0usize;
    for (i, spec) in specs.iter().enumerate() {
        let end = offset + VALUE_BYTES * spec.len();
        let comma = if i == 0 { "" } else { "," };
        let shape: Vec<String> = spec.shape.iter().map(usize::to_string).collect();
        write!(
            json,
            r#"{comma}"{}":{{"dtype":"F32","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
            spec.name,
            shape.join(",")
        )
        .expect("writing to a string does not fail");
        offset = end;
    }
    json.push('}');
    let len = json.len().next_multiple_of(8);
    let len_bytes = u64::try_from(len).expect("usize has at most 64 bits").to_le_bytes();
    let mut bytes = len_bytes.to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(8 + len, b' ');
    bytes
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView};

    use super::*;
    use crate::tensors::tensor_specs;
    use crate::tensors::tests::spec;

    fn sample() -> (Vec<TensorSpec>, Checkpoint) {
        let specs = tensor_specs(&spec(2, 16, 2, 16));
        let mut checkpoint = Checkpoint::zeros(&specs);
        for (i, tensor) in checkpoint.tensors.iter_mut().enumerate() {
            tensor.values[0] = f32::from(u8::try_from(i).expect("few tensors")) - 3.5;
        }
        (specs, checkpoint)
    }

    #[test]
    fn round_trip_and_the_other_implementation() {
        let (specs, checkpoint) = sample();
        let bytes = checkpoint.to_bytes();
        assert_eq!(Checkpoint::from_bytes(&bytes, &specs), Ok(checkpoint.clone()));

        let read = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        assert_eq!(read.len(), specs.len());
        let views = checkpoint.tensors.iter().map(|t| {
            let data = read.tensor(&t.spec.name).expect("present").data();
            let view = TensorView::new(Dtype::F32, t.spec.shape.clone(), data).expect("fits");
            (t.spec.name.clone(), view)
        });
        assert_eq!(safetensors::serialize(views, None).expect("serializes"), bytes);
    }

    #[test]
    fn refusals() {
        let (specs, checkpoint) = sample();
        let bytes = checkpoint.to_bytes();
        let parse = |bytes: &[u8]| Checkpoint::from_bytes(bytes, &specs);

        assert!(matches!(parse(&bytes[1..]), Err(CheckpointError::Length { .. })));
        assert!(matches!(parse(&[]), Err(CheckpointError::Length { .. })));
        let mut other = bytes.clone();
        other[12] ^= 1;
        assert_eq!(parse(&other), Err(CheckpointError::Header));
        let mut infinite = bytes;
        let end = infinite.len();
        infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(matches!(parse(&infinite), Err(CheckpointError::NotFinite { .. })));
    }
}
