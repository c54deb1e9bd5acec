//! Llama (Touvron et al. 2023, arXiv 2302.13971): RMSNorm, rotary positions (Su et al., arXiv
//! 2104.09864) in Hugging Face's half-split form, grouped-query attention, SwiGLU, no biases.

use std::cell::RefCell;

use protocol::model::Architecture;
use tch::{Device, Kind, TchError, Tensor};

use super::gpt::logits;
use crate::torch::cache::{Cache, CacheShape, Decoder, Span};
use crate::torch::layers::{Attend, Linear, RmsNorm, Weights, attention};
use crate::torch::model::{Batch, Network};

/// The network.
pub(super) struct Llama {
    embedding: Tensor,
    blocks: Vec<Block>,
    final_norm: RmsNorm,
    head: Linear,
    rotary: Rotary,
    shape: CacheShape,
}

struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
    norm1: RmsNorm,
    norm2: RmsNorm,
    trained: Vec<usize>,
}

impl Llama {
    pub(super) fn new(weights: &Weights<'_>, shape: &Architecture) -> Result<Self, TchError> {
        let Architecture::Llama {
            layers,
            width,
            heads,
            kv_heads,
            context,
            rope_theta,
            norm_epsilon_ppb,
            tied,
            ..
        } = *shape
        else {
            unreachable!("called for this architecture only")
        };
        let epsilon = f64::from(norm_epsilon_ppb) / 1e9;
        let norm = |name: &str| RmsNorm::new(weights.tensor(&format!("{name}.weight")), epsilon);
        let blocks = (0..layers)
            .map(|block| {
                let part = |name: &str| format!("blocks.{block:02}.{name}");
                let linear = |name: &str| weights.linear(&part(name));
                Ok(Block {
                    query: linear("attention.query")?,
                    key: linear("attention.key")?,
                    value: linear("attention.value")?,
                    out: linear("attention.out")?,
                    gate: linear("mlp.gate")?,
                    up: linear("mlp.up")?,
                    down: linear("mlp.down")?,
                    norm1: norm(&part("norm1")),
                    norm2: norm(&part("norm2")),
                    trained: weights.trained(&part("")),
                })
            })
            .collect::<Result<Vec<_>, TchError>>()?;
        let embedding = weights.tensor("embed.token");
        let head = i64::from(width / heads);
        let rotary = Rotary::new(head, rope_theta, embedding.device());
        let shape = CacheShape {
            layers: blocks.len(),
            heads: i64::from(kv_heads),
            head,
            context: i64::from(context),
        };
        Ok(Self {
            blocks,
            final_norm: norm("final_norm"),
            head: weights.linear_of(if tied { "embed.token" } else { "head.weight" }),
            embedding,
            rotary,
            shape,
        })
    }

    fn embed(&self, tokens: &Tensor) -> Result<Tensor, TchError> {
        Tensor::f_embedding(&self.embedding, tokens, -1, false, false)
    }

    fn block(
        &self,
        block: &Block,
        stream: &Tensor,
        angles: &Angles,
        attend: Attend<'_>,
    ) -> Result<Tensor, TchError> {
        let (batch, length, _) = stream.size3()?;
        let input = block.norm1.forward(stream)?;
        let heads = |linear: &Linear| {
            linear.forward(&input)?.f_view([batch, length, -1, self.shape.head])?.f_transpose(1, 2)
        };
        let query = angles.turn(&heads(&block.query)?)?;
        let key = angles.turn(&heads(&block.key)?)?;
        let attended = attention(&query, &key, &heads(&block.value)?, attend)?;
        let stream = stream.f_add(&block.out.forward(&attended)?)?;
        let input = block.norm2.forward(&stream)?;
        let gate = block.gate.forward(&input)?.f_silu()?;
        let inner = gate.f_mul(&block.up.forward(&input)?)?;
        stream.f_add(&block.down.forward(&inner)?)
    }
}

impl Network for Llama {
    fn stages(&self) -> usize {
        self.blocks.len()
    }

    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let (_, length) = batch.input.size2()?;
        if length > self.shape.context {
            let context = self.shape.context;
            return Err(TchError::Shape(format!("{length} tokens in a context of {context}")));
        }
        self.embed(&batch.input)
    }

    fn stage(&self, index: usize, stream: &Tensor, _: &Batch) -> Result<Tensor, TchError> {
        let angles = self.rotary.from(0, stream.size3()?.1)?;
        self.block(&self.blocks[index], stream, &angles, Attend::Causal)
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

impl Decoder for Llama {
    fn cache_shape(&self) -> CacheShape {
        self.shape
    }

    fn advance(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor, TchError> {
        let (_, length) = tokens.size2()?;
        let span = cache.span(length)?;
        let angles = self.rotary.of(&span)?;
        let mut stream = self.embed(tokens)?;
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            stream = self.block(block, &stream, &angles, Attend::Cached(layer, &span))?;
        }
        let last = stream.f_narrow(1, length - 1, 1)?;
        logits(&self.head, &self.final_norm.forward(&last)?)
    }
}

/// Cosines and sines of all positions so far, made when they are first needed: a long context
/// must not cost memory that a short text does not use.
struct Rotary {
    head: i64,
    theta: i64,
    device: Device,
    /// For the positions from 0 on, `[positions, head / 2]` each.
    table: RefCell<Option<Angles>>,
}

/// Cosine and sine per position and pair.
struct Angles {
    cosine: Tensor,
    sine: Tensor,
}

impl Rotary {
    fn new(head: i64, theta: u32, device: Device) -> Self {
        Self { head, theta: i64::from(theta), device, table: RefCell::new(None) }
    }

    /// Those of `length` positions from `start` on, the same for all rows.
    fn from(&self, start: i64, length: i64) -> Result<Angles, TchError> {
        self.grow(start + length)?;
        let table = self.table.borrow();
        let table = table.as_ref().expect("grown just now");
        Ok(Angles {
            cosine: table.cosine.f_narrow(0, start, length)?,
            sine: table.sine.f_narrow(0, start, length)?,
        })
    }

    fn of(&self, span: &Span) -> Result<Angles, TchError> {
        let Some(positions) = &span.positions else {
            return self.from(span.start, span.length);
        };
        self.grow(span.start + span.length)?;
        let table = self.table.borrow();
        let table = table.as_ref().expect("grown just now");
        let each = |table: &Tensor| {
            Tensor::f_embedding(table, positions, -1, false, false)?.f_unsqueeze(1)
        };
        Ok(Angles { cosine: each(&table.cosine)?, sine: each(&table.sine)? })
    }

    /// Frequencies theta^(-2i / head) in f32, as Hugging Face computes them.
    fn grow(&self, positions: i64) -> Result<(), TchError> {
        let mut table = self.table.borrow_mut();
        if table.as_ref().is_some_and(|table| table.cosine.size()[0] >= positions) {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let options = (Kind::Float, Device::Cpu);
        let powers = Tensor::f_arange_start_step(0, self.head, 2, options)?
            .f_div_scalar(self.head as f64)?;
        let frequencies = Tensor::f_pow_scalar(self.theta, &powers)?.f_reciprocal()?;
        let count = u64::try_from(positions).unwrap_or(0).next_power_of_two();
        let count = i64::try_from(count).expect("contexts are bounded");
        let angles = Tensor::f_arange(count, options)?
            .f_unsqueeze(1)?
            .f_mul(&frequencies.f_unsqueeze(0)?)?;
        *table = Some(Angles {
            cosine: angles.f_cos()?.f_to(self.device)?,
            sine: angles.f_sin()?.f_to(self.device)?,
        });
        Ok(())
    }
}

impl Angles {
    /// Turns the pairs (i, i + head / 2) of `[batch, heads, length, head]`.
    fn turn(&self, states: &Tensor) -> Result<Tensor, TchError> {
        let kind = states.kind();
        let half = states.size4()?.3 / 2;
        let (first, second) = (states.f_narrow(3, 0, half)?, states.f_narrow(3, half, half)?);
        let turned = Tensor::f_cat(
            &[
                first.f_mul(&self.cosine)?.f_sub(&second.f_mul(&self.sine)?)?,
                second.f_mul(&self.cosine)?.f_add(&first.f_mul(&self.sine)?)?,
            ],
            3,
        )?;
        if turned.kind() == kind { Ok(turned) } else { turned.f_to_kind(kind) }
    }
}
