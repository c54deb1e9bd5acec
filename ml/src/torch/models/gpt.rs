//! GPT-2 (Radford et al. 2019) and the byte-level GPT: decoder-only, pre-norm, learned positions.
//!
//! The byte-level one has the exact GELU and a head of its own; GPT-2 has the tanh form.

use tch::{TchError, Tensor};

use crate::torch::cache::{Cache, CacheShape, Decoder};
use crate::torch::layers::{Attend, LayerNorm, Linear, Weights, attention};
use crate::torch::model::{Batch, Network};

/// Where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The byte-level GPT.
    Bytes,
    /// GPT-2 whose head is its token embedding.
    Tied,
    /// GPT-2 with a head of its own.
    Untied,
}

/// Token and position embeddings.
pub(super) struct Embedding {
    token: Tensor,
    position: Tensor,
}

/// One transformer block.
pub(super) struct Block {
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    heads: i64,
    /// libtorch's name of the GELU's form.
    gelu: &'static str,
    /// Its trained tensors.
    pub(super) trained: Vec<usize>,
}

/// The network.
pub(super) struct Gpt {
    embedding: Embedding,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    head: Linear,
    shape: CacheShape,
}

impl Embedding {
    pub(super) fn new(weights: &Weights<'_>) -> Self {
        Self { token: weights.tensor("embed.token"), position: weights.tensor("embed.position") }
    }

    /// Tokens `[batch, length]` from position 0 on.
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        let (_, length) = tokens.size2()?;
        let context = self.position.size2()?.0;
        if length > context {
            return Err(TchError::Shape(format!("{length} tokens in a context of {context}")));
        }
        self.at(tokens, &self.position.f_narrow(0, 0, length)?)
    }

    fn at(&self, tokens: &Tensor, positions: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_embedding(&self.token, tokens, -1, false, false)?.f_add(positions)
    }
}

impl Block {
    /// The blocks of a transformer.
    pub(super) fn all(
        weights: &Weights<'_>,
        layers: u32,
        heads: u32,
        gelu: &'static str,
    ) -> Result<Vec<Self>, TchError> {
        (0..layers)
            .map(|block| {
                let part = |name: &str| format!("blocks.{block:02}.{name}");
                Ok(Self {
                    qkv: weights.linear(&part("attention.qkv"))?,
                    out: weights.linear(&part("attention.out"))?,
                    up: weights.linear(&part("mlp.up"))?,
                    down: weights.linear(&part("mlp.down"))?,
                    norm1: weights.norm(&part("norm1")),
                    norm2: weights.norm(&part("norm2")),
                    heads: i64::from(heads),
                    gelu,
                    trained: weights.trained(&part("")),
                })
            })
            .collect()
    }

    /// `[batch, length, width]` to the same.
    pub(super) fn forward(&self, stream: &Tensor, attend: Attend<'_>) -> Result<Tensor, TchError> {
        let (batch, length, width) = stream.size3()?;
        let heads = [batch, length, self.heads, width / self.heads];
        let of_heads = |part: &Tensor| part.f_view(heads)?.f_transpose(1, 2);
        // Split before it is shaped: the way back is then one concatenation.
        let qkv = self.qkv.forward(&self.norm1.forward(stream)?)?.f_split(width, 2)?;
        let [query, key, value] = qkv.as_slice() else {
            return Err(TchError::Shape("the product has no three parts".into()));
        };
        let (query, key, value) = (of_heads(query)?, of_heads(key)?, of_heads(value)?);
        let attended = self.out.forward(&attention(&query, &key, &value, attend)?)?;
        let stream = stream.f_add(&attended)?;
        let up = self.up.forward(&self.norm2.forward(&stream)?)?.f_gelu(self.gelu)?;
        stream.f_add(&self.down.forward(&up)?)
    }
}

impl Gpt {
    pub(super) fn new(
        weights: &Weights<'_>,
        layers: u32,
        heads: u32,
        context: u32,
        form: Form,
    ) -> Result<Self, TchError> {
        let embedding = Embedding::new(weights);
        let head = if form == Form::Tied { "embed.token" } else { "head.weight" };
        let gelu = if form == Form::Bytes { "none" } else { "tanh" };
        let blocks = Block::all(weights, layers, heads, gelu)?;
        let width = embedding.token.size2()?.1;
        let shape = CacheShape {
            layers: blocks.len(),
            heads: i64::from(heads),
            head: width / i64::from(heads),
            context: i64::from(context),
        };
        let final_norm = weights.norm("final_norm");
        Ok(Self { embedding, blocks, final_norm, head: weights.linear_of(head), shape })
    }
}

impl Network for Gpt {
    fn stages(&self) -> usize {
        self.blocks.len()
    }

    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError> {
        self.embedding.forward(&batch.input)
    }

    fn stage(&self, index: usize, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        self.blocks[index].forward(stream, Attend::Causal)
    }

    fn end(&self, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        logits(&self.head, &self.final_norm.forward(stream)?)
    }

    fn stage_parameters(&self, index: usize) -> Vec<usize> {
        self.blocks[index].trained.clone()
    }

    fn decoder(&self) -> Option<&dyn Decoder> {
        Some(self)
    }
}

impl Decoder for Gpt {
    fn cache_shape(&self) -> CacheShape {
        self.shape
    }

    fn advance(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor, TchError> {
        let (_, length) = tokens.size2()?;
        let span = cache.span(length)?;
        let positions = match &span.positions {
            None => self.embedding.position.f_narrow(0, span.start, length)?,
            Some(each) => Tensor::f_embedding(&self.embedding.position, each, -1, false, false)?,
        };
        let mut stream = self.embedding.at(tokens, &positions)?;
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            stream = block.forward(&stream, Attend::Cached(layer, &span))?;
        }
        let last = stream.f_narrow(1, length - 1, 1)?;
        logits(&self.head, &self.final_norm.forward(&last)?)
    }
}

/// Logits of every row, in f32.
pub(super) fn logits(head: &Linear, stream: &Tensor) -> Result<Tensor, TchError> {
    let (batch, length, _) = stream.size3()?;
    let logits = head.forward(stream)?;
    let vocabulary = logits.size3()?.2;
    let logits = logits.f_view([batch * length, vocabulary])?;
    if logits.kind() == tch::Kind::Float {
        return Ok(logits);
    }
    logits.f_to_kind(tch::Kind::Float)
}
