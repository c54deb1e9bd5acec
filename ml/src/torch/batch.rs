//! Examples as tensors.

use protocol::model::{Architecture, InputKind};
use tch::{Device, TchError, Tensor};

use super::model::{Batch, dimension};
use crate::data::{Examples, Input};

/// The tensors of some examples.
pub fn of(
    architecture: &Architecture,
    examples: &Examples,
    device: Device,
) -> Result<Batch, TchError> {
    let rows = dimension(examples.rows);
    let input = match &examples.input {
        Input::Tokens(tokens) => Tensor::f_from_slice(tokens)?,
        Input::Numbers(numbers) => Tensor::f_from_slice(numbers)?,
        Input::Pixels(pixels) => Tensor::f_from_slice(pixels)?,
    };
    let input = input.f_view([rows, -1])?;
    let target = Tensor::f_from_slice(&examples.target)?;
    let target = match architecture.input() {
        InputKind::Text { .. } => target.f_view([rows, -1])?,
        InputKind::Records { .. } => target,
    };
    let lengths = examples.lengths.as_deref().map(Tensor::f_from_slice).transpose()?;
    let batch = Batch { input, target, lengths };
    if device == Device::Cpu { Ok(batch) } else { batch.to_device(device) }
}
