//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) over the flat parameters, with
//! the gradient clipped to norm 1 and the decay on matrices only. Its state lives for one round.

use tch::{Kind, TchError, Tensor};

use super::model::{Model, dimension};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.95;
const EPSILON: f64 = 1e-8;
/// Largest norm of a gradient over all parameters.
const GRADIENT_NORM_MAX: f64 = 1.0;

/// The optimizer's state.
pub struct AdamW {
    first: Tensor,
    second: Tensor,
    /// 1 for values of matrices, 0 elsewhere; none without decay.
    decayed: Option<Tensor>,
    weight_decay: f64,
    beta1_power: f64,
    beta2_power: f64,
}

impl AdamW {
    /// A fresh state for a model.
    pub fn new(model: &Model, weight_decay: f64) -> Result<Self, TchError> {
        let decayed = if weight_decay > 0.0 {
            let options = (Kind::Float, model.flat().device());
            let mut parts = Vec::with_capacity(model.specs().len());
            for spec in model.specs() {
                let size = [dimension(spec.len())];
                let matrix = spec.shape.len() > 1;
                parts.push(if matrix {
                    Tensor::f_ones(size, options)?
                } else {
                    Tensor::f_zeros(size, options)?
                });
            }
            Some(Tensor::f_cat(&parts, 0)?)
        } else {
            None
        };
        Ok(Self {
            first: model.flat().f_zeros_like()?,
            second: model.flat().f_zeros_like()?,
            decayed,
            weight_decay,
            beta1_power: 1.0,
            beta2_power: 1.0,
        })
    }

    /// One step down `loss` at the given rate. The caller holds no gradient guard.
    pub fn step(&mut self, model: &Model, loss: &Tensor, rate: f64) -> Result<(), TchError> {
        let gradients = Tensor::f_run_backward(&[loss], model.parameters(), false, false)?;
        let _guard = tch::no_grad_guard();
        let mut flat = Vec::with_capacity(gradients.len());
        for gradient in &gradients {
            flat.push(gradient.f_reshape([-1])?);
        }
        let mut gradient = Tensor::f_cat(&flat, 0)?;
        let norm = gradient.f_norm()?.f_double_value(&[])?;
        if norm > GRADIENT_NORM_MAX {
            let _ = gradient.f_mul_scalar_(GRADIENT_NORM_MAX / norm)?;
        }
        self.beta1_power *= BETA1;
        self.beta2_power *= BETA2;
        let _ = self.first.f_lerp_(&gradient, 1.0 - BETA1)?;
        let _ = self.second.f_lerp_(&gradient.f_square()?, 1.0 - BETA2)?;

        let mut parameters = model.flat().shallow_clone();
        if let Some(decayed) = &self.decayed {
            let shrink = parameters.f_mul(decayed)?.f_mul_scalar(rate * self.weight_decay)?;
            let _ = parameters.f_sub_(&shrink)?;
        }
        let mut denominator = self.second.f_sqrt()?;
        let _ = denominator.f_mul_scalar_(1.0 / (1.0 - self.beta2_power).sqrt())?;
        let _ = denominator.f_add_scalar_(EPSILON)?;
        let mut step = self.first.f_div(&denominator)?;
        let _ = step.f_mul_scalar_(rate / (1.0 - self.beta1_power))?;
        let _ = parameters.f_sub_(&step)?;
        Ok(())
    }
}
