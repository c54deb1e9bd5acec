//! The byte-level GPT: decoder-only, pre-norm, learned positions, GELU, untied head without bias.
//!
//! All parameters live in one flat tensor in name order; the model's tensors are views of it, so
//! that the optimizer and the state hash take one pass each. Views are detached leaves that share
//! the flat tensor's memory: writing the flat tensor changes the model.

use protocol::model::{Architecture, ModelSpec};
use tch::{Kind, TchError, Tensor};

use crate::checkpoint::{self, Checkpoint};
use crate::error::JobError;
use crate::tensors::{TensorSpec, VOCABULARY, tensor_specs};

const NORM_EPSILON: f64 = 1e-5;

/// A model in memory.
pub struct Gpt {
    /// Every parameter, in name order.
    flat: Tensor,
    /// The model's tensors, in name order: views of `flat`.
    parameters: Vec<Tensor>,
    specs: Vec<TensorSpec>,
    blocks: Vec<Block>,
    embed_position: Tensor,
    embed_token: Tensor,
    final_norm: Norm,
    head: Tensor,
    width: i64,
    heads: i64,
    context: i64,
}

struct Norm {
    bias: Tensor,
    weight: Tensor,
}

struct Linear {
    bias: Tensor,
    weight: Tensor,
}

struct Block {
    out: Linear,
    qkv: Linear,
    down: Linear,
    up: Linear,
    norm1: Norm,
    norm2: Norm,
}

impl Gpt {
    /// Copies a checkpoint of this model into memory. With `trainable`, gradients are kept.
    pub fn new(
        spec: &ModelSpec,
        checkpoint: &Checkpoint,
        trainable: bool,
    ) -> Result<Self, JobError> {
        let specs = tensor_specs(spec);
        let fits = checkpoint.tensors.iter().map(|tensor| &tensor.spec).eq(&specs);
        if !fits {
            return Err(JobError::Request("the checkpoint is not of this model".into()));
        }
        let values: Vec<f32> =
            checkpoint.tensors.iter().flat_map(|tensor| &tensor.values).copied().collect();
        let flat = Tensor::f_from_slice(&values)?;
        let mut parameters = Vec::with_capacity(specs.len());
        let mut offset = 0;
        for spec in &specs {
            let len = dimension(spec.len());
            let shape: Vec<i64> = spec.shape.iter().copied().map(dimension).collect();
            let view = flat.f_narrow(0, offset, len)?.f_view(shape.as_slice())?.f_detach()?;
            parameters.push(view.f_set_requires_grad(trainable)?);
            offset += len;
        }
        Self::assemble(spec, specs, flat, parameters)
    }

    fn assemble(
        spec: &ModelSpec,
        specs: Vec<TensorSpec>,
        flat: Tensor,
        parameters: Vec<Tensor>,
    ) -> Result<Self, JobError> {
        let Architecture::BytesGpt { layers, width, heads, context } = spec.architecture else {
            unreachable!("only this architecture is built yet")
        };
        let find = |name: &str| {
            let index = specs.binary_search_by(|spec| spec.name.as_str().cmp(name));
            let index = index.expect("every tensor of the architecture has a specification");
            // An alias, not a copy: same memory, same gradient.
            parameters[index].shallow_clone()
        };
        let pair = |name: &str| (find(&format!("{name}.bias")), find(&format!("{name}.weight")));
        let norm = |name: &str| {
            let (bias, weight) = pair(name);
            Norm { bias, weight }
        };
        let linear = |name: &str| {
            let (bias, weight) = pair(name);
            Linear { bias, weight }
        };
        let blocks = (0..layers)
            .map(|block| {
                let part = |name: &str| format!("blocks.{block:02}.{name}");
                Block {
                    out: linear(&part("attention.out")),
                    qkv: linear(&part("attention.qkv")),
                    down: linear(&part("mlp.down")),
                    up: linear(&part("mlp.up")),
                    norm1: norm(&part("norm1")),
                    norm2: norm(&part("norm2")),
                }
            })
            .collect();
        Ok(Self {
            blocks,
            embed_position: find("embed.position"),
            embed_token: find("embed.token"),
            final_norm: norm("final_norm"),
            head: find("head.weight"),
            width: i64::from(width),
            heads: i64::from(heads),
            context: i64::from(context),
            flat,
            parameters,
            specs,
        })
    }

    /// The flat tensor of all parameters.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The model's tensors, in name order.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Names and shapes of [`Gpt::parameters`].
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Logits of the byte after each input byte. `input`: `[batch, length]`, i64, at most
    /// `context` long; result `[batch * length, 256]`.
    pub fn logits(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let (batch, length) = input.size2()?;
        if length > self.context {
            return Err(TchError::Shape(format!(
                "{length} bytes in a context of {}",
                self.context
            )));
        }
        let positions = self.embed_position.f_narrow(0, 0, length)?;
        let tokens = Tensor::f_embedding(&self.embed_token, input, -1, false, false)?;
        let mut stream = tokens.f_add(&positions)?;
        for block in &self.blocks {
            stream = self.block(block, stream, batch, length)?;
        }
        let stream = self.norm(&self.final_norm, &stream)?;
        let logits = stream.f_linear::<Tensor>(&self.head, None)?;
        logits.f_view([batch * length, dimension(VOCABULARY)])
    }

    /// Cross entropy in nats. `window`: `[batch, length + 1]`, i64; inputs are all but the last
    /// byte, targets all but the first. Mean over everything, or `[batch * length]` each.
    pub fn loss(&self, window: &Tensor, reduction: tch::Reduction) -> Result<Tensor, TchError> {
        let (_, bytes) = window.size2()?;
        let input = window.f_narrow(1, 0, bytes - 1)?.f_contiguous()?;
        let target = window.f_narrow(1, 1, bytes - 1)?.f_contiguous()?.f_view([-1])?;
        self.logits(&input)?.f_cross_entropy_loss::<Tensor>(&target, None, reduction, -100, 0.0)
    }

    fn norm(&self, norm: &Norm, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm([self.width], Some(&norm.weight), Some(&norm.bias), NORM_EPSILON, false)
    }

    fn block(
        &self,
        block: &Block,
        stream: Tensor,
        batch: i64,
        length: i64,
    ) -> Result<Tensor, TchError> {
        let attended = self.attention(block, &self.norm(&block.norm1, &stream)?, batch, length)?;
        let stream = stream.f_add(&attended)?;
        let up = linear(&block.up, &self.norm(&block.norm2, &stream)?)?;
        let down = linear(&block.down, &up.f_gelu("none")?)?;
        stream.f_add(&down)
    }

    fn attention(
        &self,
        block: &Block,
        input: &Tensor,
        batch: i64,
        length: i64,
    ) -> Result<Tensor, TchError> {
        let head = self.width / self.heads;
        let qkv = linear(&block.qkv, input)?
            .f_view([batch, length, 3, self.heads, head])?
            .f_permute([2, 0, 3, 1, 4])?;
        let (query, key, value) = (qkv.f_get(0)?, qkv.f_get(1)?, qkv.f_get(2)?);
        let attended = Tensor::f_scaled_dot_product_attention::<Tensor>(
            &query, &key, &value, None, 0.0, true, None, false,
        )?;
        let joined = attended.f_transpose(1, 2)?.f_reshape([batch, length, self.width])?;
        linear(&block.out, &joined)
    }

    /// The parameters as a checkpoint.
    pub fn to_checkpoint(&self) -> Result<Checkpoint, TchError> {
        let mut values = vec![0.0f32; self.flat.numel()];
        self.flat.f_copy_data(&mut values, self.flat.numel())?;
        let mut rest = values.as_slice();
        let tensors = self
            .specs
            .iter()
            .map(|spec| {
                let (own, others) = rest.split_at(spec.len());
                rest = others;
                checkpoint::Tensor { spec: spec.clone(), values: own.to_vec() }
            })
            .collect();
        Ok(Checkpoint { tensors })
    }
}

fn linear(linear: &Linear, input: &Tensor) -> Result<Tensor, TchError> {
    input.f_linear(&linear.weight, Some(&linear.bias))
}

/// A checked size as libtorch counts.
pub fn dimension(value: usize) -> i64 {
    i64::try_from(value).expect("sizes are bounded far below 2^63")
}

/// Windows of equal length, one after the other, as `[count, length]` of i64.
pub fn windows_tensor(bytes: &[u8], length: usize) -> Result<Tensor, TchError> {
    if length == 0 || !bytes.len().is_multiple_of(length) {
        return Err(TchError::Shape(format!("{} bytes in windows of {length}", bytes.len())));
    }
    let rows = dimension(bytes.len() / length);
    Tensor::f_from_slice(bytes)?.f_to_kind(Kind::Int64)?.f_view([rows, dimension(length)])
}
