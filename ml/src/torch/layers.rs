//! Layers that architectures share. Each holds aliases of a model's tensors.
//!
//! With bfloat16 the matrix products and what lies between two of them are bfloat16; weights,
//! norms and the residual stream stay f32, as under PyTorch's autocast.

use protocol::model::Precision;
use tch::{Kind, TchError, Tensor};

use super::cache::{LayerCache, Span};
use crate::tensors::TensorSpec;

/// Epsilon of the layer norms, as in GPT-2.
pub const NORM_EPSILON: f64 = 1e-5;

/// The tensors of which a network is built, found by name.
pub struct Weights<'a> {
    specs: &'a [TensorSpec],
    tensors: &'a [Tensor],
    adapter: Option<Adapted<'a>>,
    precision: Precision,
}

/// The trained tensors of an adapter.
struct Adapted<'a> {
    specs: &'a [TensorSpec],
    tensors: &'a [Tensor],
    scale: f64,
}

impl<'a> Weights<'a> {
    /// The tensors of an architecture, in name order.
    pub fn new(specs: &'a [TensorSpec], tensors: &'a [Tensor], precision: Precision) -> Self {
        Self { specs, tensors, adapter: None, precision }
    }

    /// The same with an adapter on its matrices.
    pub fn adapted(self, specs: &'a [TensorSpec], tensors: &'a [Tensor], scale: f64) -> Self {
        Self { adapter: Some(Adapted { specs, tensors, scale }), ..self }
    }

    /// One tensor: an alias with the same memory and the same gradient.
    pub fn tensor(&self, name: &str) -> Tensor {
        find(self.specs, self.tensors, name)
            .expect("every tensor of the architecture has a specification")
    }

    /// A linear layer inside a block, with its adapter if there is one.
    pub fn linear(&self, name: &str) -> Result<Linear, TchError> {
        let adapter = self.adapter.as_ref().and_then(|adapter| {
            let part = |part: &str| find(adapter.specs, adapter.tensors, &format!("{name}.{part}"));
            Some(LowRank { down: part("lora_a")?, up: part("lora_b")?, scale: adapter.scale })
        });
        let mut weight = self.tensor(&format!("{name}.weight"));
        if self.adapter.is_some() && self.precision == Precision::Bf16 {
            // Frozen: cast once, not in every step.
            weight = weight.f_to_kind(Kind::BFloat16)?;
        }
        let bias = find(self.specs, self.tensors, &format!("{name}.bias"));
        Ok(Linear { weight, bias, adapter, precision: self.precision })
    }

    /// A linear layer of some tensor, without bias.
    pub fn linear_of(&self, weight: &str) -> Linear {
        Linear { weight: self.tensor(weight), bias: None, adapter: None, precision: self.precision }
    }

    /// A norm.
    pub fn norm(&self, name: &str) -> LayerNorm {
        LayerNorm {
            weight: self.tensor(&format!("{name}.weight")),
            bias: self.tensor(&format!("{name}.bias")),
        }
    }

    /// Indices of the trained tensors whose name begins so.
    pub fn trained(&self, prefix: &str) -> Vec<usize> {
        let specs = self.adapter.as_ref().map_or(self.specs, |adapter| adapter.specs);
        (0..specs.len()).filter(|index| specs[*index].name.starts_with(prefix)).collect()
    }
}

fn find(specs: &[TensorSpec], tensors: &[Tensor], name: &str) -> Option<Tensor> {
    let index = specs.binary_search_by(|spec| spec.name.as_str().cmp(name)).ok()?;
    Some(tensors[index].shallow_clone())
}

/// y = W x + b, with an adapter + scale B (A x).
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapter: Option<LowRank>,
    precision: Precision,
}

struct LowRank {
    down: Tensor,
    up: Tensor,
    scale: f64,
}

impl Linear {
    /// Applies the layer to the last dimension. With bfloat16 the result is bfloat16.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        if self.precision == Precision::Bf16 && input.kind() != Kind::BFloat16 {
            return self.product(&input.f_to_kind(Kind::BFloat16)?);
        }
        self.product(input)
    }

    fn product(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let result = self.plain(input, &self.weight, self.bias.as_ref())?;
        let Some(adapter) = &self.adapter else {
            return Ok(result);
        };
        let inner = self.plain(input, &adapter.down, None)?;
        let outer = self.plain(&inner, &adapter.up, None)?;
        result.f_add(&outer.f_mul_scalar(adapter.scale)?)
    }

    fn plain(
        &self,
        input: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor, TchError> {
        if self.precision == Precision::F32 {
            return input.f_linear(weight, bias);
        }
        let cast = |tensor: &Tensor| tensor.f_to_kind(Kind::BFloat16);
        input.f_linear(&cast(weight)?, bias.map(cast).transpose()?)
    }
}

/// Layer norm with weight and bias.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Applies the norm to the last dimension.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let shape = self.weight.size();
        input.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), NORM_EPSILON, false)
    }
}

/// x / sqrt(mean(x²) + epsilon) * weight (Zhang and Sennrich, arXiv 1910.07467).
pub struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    /// A norm of some weight.
    pub fn new(weight: Tensor, epsilon: f64) -> Self {
        Self { weight, epsilon }
    }

    /// Applies the norm to the last dimension.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_rms_norm(self.weight.size(), Some(&self.weight), self.epsilon)
    }
}

/// Which tokens see which.
pub enum Attend<'a> {
    /// Each sees itself and those before it.
    Causal,
    /// Each sees those that the mask allows: `[batch, 1, 1, length]`, true for visible.
    Masked(&'a Tensor),
    /// New tokens see themselves and those in the cache, to which they are added.
    Cached(&'a mut LayerCache, &'a Span),
}

/// Scaled dot product attention. `query`: `[batch, heads, length, head]`; `key` and `value` have
/// as many heads, or fewer that groups of the query's share. Result
/// `[batch, length, heads * head]`.
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    attend: Attend<'_>,
) -> Result<Tensor, TchError> {
    let (batch, heads, length, head) = query.size4()?;
    let attended = match attend {
        Attend::Causal => product(query, key, value, None, true)?,
        Attend::Masked(mask) => product(query, key, value, Some(mask), false)?,
        Attend::Cached(cache, span) => {
            let (keys, values) = cache.extend(key, value, span)?;
            if length == 1 {
                // The heads of a group are like several queries of one shared head.
                let shared = keys.size4()?.1;
                let grouped = query.f_reshape([batch, shared, heads / shared, head])?;
                product(&grouped, &keys, &values, span.mask.as_ref(), false)?
                    .f_reshape([batch, heads, 1, head])?
            } else {
                product(query, key, value, span.mask.as_ref(), span.mask.is_none())?
            }
        }
    };
    attended.f_transpose(1, 2)?.f_reshape([batch, length, heads * head])
}

fn product(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    causal: bool,
) -> Result<Tensor, TchError> {
    let heads = query.size4()?.1;
    let (key, value) = (repeat(key, heads)?, repeat(value, heads)?);
    Tensor::f_scaled_dot_product_attention(query, &key, &value, mask, 0.0, causal, None, false)
}

/// Each shared head once for every head of its group.
fn repeat(shared: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let (batch, groups, length, head) = shared.size4()?;
    if groups == heads {
        return Ok(shared.shallow_clone());
    }
    shared
        .f_unsqueeze(2)?
        .f_expand([batch, groups, heads / groups, length, head], false)?
        .f_reshape([batch, heads, length, head])
}
