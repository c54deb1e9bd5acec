//! Classifier of rows of numbers: linear layers with ReLU between them.

use tch::{TchError, Tensor};

use crate::torch::layers::{Linear, Weights};
use crate::torch::model::{Batch, Network};

/// The network: a hidden layer is a stage.
pub(super) struct Mlp {
    hidden: Vec<(Linear, Vec<usize>)>,
    head: Linear,
}

impl Mlp {
    pub(super) fn new(weights: &Weights<'_>, layers: u32) -> Result<Self, TchError> {
        let hidden = (0..layers)
            .map(|layer| {
                let name = format!("layers.{layer:02}");
                Ok((weights.linear(&name)?, weights.trained(&name)))
            })
            .collect::<Result<_, TchError>>()?;
        Ok(Self { hidden, head: weights.linear("head")? })
    }
}

impl Network for Mlp {
    fn stages(&self) -> usize {
        self.hidden.len()
    }

    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError> {
        Ok(batch.input.shallow_clone())
    }

    fn stage(&self, index: usize, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        self.hidden[index].0.forward(stream)?.f_relu()
    }

    fn end(&self, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        self.head.forward(stream)?.f_to_kind(tch::Kind::Float)
    }

    fn stage_parameters(&self, index: usize) -> Vec<usize> {
        self.hidden[index].1.clone()
    }
}
