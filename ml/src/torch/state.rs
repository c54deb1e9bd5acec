//! The state of a run between two steps: weights, moments, how many steps they have seen.
//!
//! Its bytes are a header, then three flat arrays of f32 in the order of the model's tensors. Its
//! hash is BLAKE3 of these bytes, which is what the Merkle root of a run commits to: a state in a
//! file can be checked by whoever holds the root. Read back, a state goes on bit for bit.

use std::io::{self, Read, Write};

use protocol::ids::ContentHash;
use tch::{TchError, Tensor};

use super::foreign::with_bytes;
use super::model::{Model, dimension};
use super::optimizer::Optimizer;
use crate::error::JobError;

/// First bytes of a state: format and version.
const MAGIC: [u8; 16] = *b"ayni step state1";
/// Magic, steps taken, values in each array.
const HEADER_BYTES: usize = 32;
/// Values read at once.
const CHUNK_VALUES: usize = 1 << 18;

/// Length of the states of a model with so many trained parameters.
pub fn state_bytes(parameters: usize) -> u64 {
    u64::try_from(HEADER_BYTES + 3 * 4 * parameters).unwrap_or(u64::MAX)
}

/// Hash of the present state.
pub fn hash(model: &Model, optimizer: &Optimizer) -> Result<ContentHash, TchError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header(model, optimizer));
    for part in parts(model, optimizer) {
        with_bytes(part, |bytes| {
            hasher.update(bytes);
        })?;
    }
    Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
}

/// Writes the present state.
pub fn write(
    model: &Model,
    optimizer: &Optimizer,
    output: &mut impl Write,
) -> Result<(), JobError> {
    let failed = |source| JobError::Request(format!("a state cannot be written: {source}"));
    output.write_all(&header(model, optimizer)).map_err(failed)?;
    for part in parts(model, optimizer) {
        with_bytes(part, |bytes| output.write_all(bytes))?.map_err(failed)?;
    }
    Ok(())
}

/// Reads a state of this model into it. After an error the model is of no more use.
pub fn read(
    model: &Model,
    optimizer: &mut Optimizer,
    input: &mut impl Read,
) -> Result<(), JobError> {
    let bad = |what: &str| JobError::Request(format!("not a state of this model: {what}"));
    let mut head = [0u8; HEADER_BYTES];
    input.read_exact(&mut head).map_err(|error| bad(&error.to_string()))?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (steps, values) = rest.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    if magic != MAGIC {
        return Err(bad("another format"));
    }
    if number(values) != u64::try_from(model.flat().numel()).unwrap_or(u64::MAX) {
        return Err(bad("another number of parameters"));
    }
    // Steps are multiplied up one by one, so a stranger's number must not be taken as it is.
    let steps = number(steps);
    if steps > u64::from(super::train::STEPS_MAX) {
        return Err(bad("more steps than a run has"));
    }
    for part in parts(model, optimizer) {
        fill(part, input).map_err(|error| bad(&error))?;
    }
    optimizer.set_steps(steps);
    Ok(())
}

fn parts<'a>(model: &'a Model, optimizer: &'a Optimizer) -> [&'a Tensor; 3] {
    [model.flat(), optimizer.first(), optimizer.second()]
}

fn header(model: &Model, optimizer: &Optimizer) -> [u8; HEADER_BYTES] {
    let mut header = [0u8; HEADER_BYTES];
    header[..16].copy_from_slice(&MAGIC);
    header[16..24].copy_from_slice(&optimizer.steps().to_le_bytes());
    let values = u64::try_from(model.flat().numel()).unwrap_or(u64::MAX);
    header[24..].copy_from_slice(&values.to_le_bytes());
    header
}

/// Fills a flat tensor with finite values.
fn fill(tensor: &Tensor, input: &mut impl Read) -> Result<(), String> {
    let _guard = tch::no_grad_guard();
    let total = tensor.numel();
    let mut bytes = vec![0u8; 4 * CHUNK_VALUES.min(total)];
    let mut at = 0;
    while at < total {
        let count = CHUNK_VALUES.min(total - at);
        let bytes = &mut bytes[..4 * count];
        input.read_exact(bytes).map_err(|error: io::Error| error.to_string())?;
        let (groups, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = groups.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err("a value is not finite".into());
        }
        let copied = Tensor::f_from_slice(&values).and_then(|values| {
            tensor.f_narrow(0, dimension(at), dimension(count))?.f_copy_(&values)
        });
        copied.map_err(|error| error.to_string())?;
        at += count;
    }
    Ok(())
}
