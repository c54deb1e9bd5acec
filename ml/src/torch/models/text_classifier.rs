//! Classifier of texts: a transformer in which every token sees the whole text, the mean of its
//! last states over the text, one linear layer.

use tch::{Kind, TchError, Tensor};

use super::gpt::{Block, Embedding};
use crate::torch::layers::{Attend, LayerNorm, Linear, Weights};
use crate::torch::model::{Batch, Network};

/// The network.
pub(super) struct TextClassifier {
    embedding: Embedding,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    head: Linear,
}

impl TextClassifier {
    pub(super) fn new(weights: &Weights<'_>, layers: u32, heads: u32) -> Result<Self, TchError> {
        Ok(Self {
            embedding: Embedding::new(weights),
            blocks: Block::all(weights, layers, heads, "tanh")?,
            final_norm: weights.norm("final_norm"),
            head: weights.linear("head")?,
        })
    }
}

/// Which tokens are text, `[batch, length]`; the rest is padding.
fn text(batch: &Batch) -> Result<Tensor, TchError> {
    let Some(lengths) = &batch.lengths else {
        return Err(TchError::Shape("texts to classify without their lengths".into()));
    };
    let (_, length) = batch.input.size2()?;
    let columns = Tensor::f_arange(length, (Kind::Int64, lengths.device()))?;
    columns.f_unsqueeze(0)?.f_lt_tensor(&lengths.f_clamp_min(1)?.f_unsqueeze(1)?)
}

impl Network for TextClassifier {
    fn stages(&self) -> usize {
        self.blocks.len()
    }

    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError> {
        self.embedding.forward(&batch.input)
    }

    fn stage(&self, index: usize, stream: &Tensor, batch: &Batch) -> Result<Tensor, TchError> {
        let visible = text(batch)?.f_unsqueeze(1)?.f_unsqueeze(1)?;
        self.blocks[index].forward(stream, Attend::Masked(&visible))
    }

    fn end(&self, stream: &Tensor, batch: &Batch) -> Result<Tensor, TchError> {
        let states = self.final_norm.forward(stream)?;
        let text = text(batch)?.f_to_kind(states.kind())?.f_unsqueeze(2)?;
        let sum = states.f_mul(&text)?.f_sum_dim_intlist([1i64].as_slice(), false, None)?;
        let count = text.f_sum_dim_intlist([1i64].as_slice(), false, None)?;
        self.head.forward(&sum.f_div(&count)?)?.f_to_kind(Kind::Float)
    }

    fn stage_parameters(&self, index: usize) -> Vec<usize> {
        self.blocks[index].trained.clone()
    }
}
