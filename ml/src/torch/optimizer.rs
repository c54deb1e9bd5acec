//! What takes the inner steps: AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) with
//! the gradient clipped to norm 1 and the decay on matrices only; or Muon for the matrices inside
//! the blocks. Its state lives for one round.
//!
//! The moments are flat tensors beside the flat parameters. A step walks through all of them in
//! blocks that stay in the processor's cache, which takes the place of a fused kernel. The second
//! moment is kept divided by 1 - β₂: it then needs no temporary tensor.

use protocol::model::{InnerOptimizer, RoundParameters};
use tch::{TchError, Tensor};

use super::model::{Model, dimension};
use super::muon;
use crate::arithmetic::ratio;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.95;
const EPSILON: f64 = 1e-8;
/// Largest norm of a gradient over all parameters.
const GRADIENT_NORM_MAX: f64 = 1.0;
/// Values worked on at once: four arrays of them fit the second-level cache of processors in use.
const BLOCK: i64 = 64 * 1024;

/// The optimizer and its state.
pub struct Optimizer {
    first: Tensor,
    second: Tensor,
    parts: Vec<Part>,
    weight_decay: f64,
    /// Steps taken, and the betas to their power.
    steps: u64,
    beta1_power: f64,
    beta2_power: f64,
}

/// A tensor's place in the flat ones.
struct Part {
    offset: i64,
    len: i64,
    decayed: bool,
    /// Rows and columns, if Muon steps it.
    muon: Option<[i64; 2]>,
}

impl Optimizer {
    /// A fresh state for a model.
    pub fn new(model: &Model, parameters: &RoundParameters) -> Result<Self, TchError> {
        let network = model.network();
        let mut inside = vec![false; model.specs().len()];
        for stage in 0..network.stages() {
            for index in network.stage_parameters(stage) {
                inside[index] = true;
            }
        }
        let muon = parameters.optimizer == InnerOptimizer::Muon;
        let mut offset = 0;
        let mut parts = Vec::with_capacity(inside.len());
        for (spec, inside) in model.specs().iter().zip(inside) {
            let len = dimension(spec.len());
            let shape = match spec.shape.as_slice() {
                [rows, columns] if muon && inside => Some([dimension(*rows), dimension(*columns)]),
                _ => None,
            };
            parts.push(Part { offset, len, decayed: spec.shape.len() > 1, muon: shape });
            offset += len;
        }
        Ok(Self {
            first: model.flat().f_zeros_like()?,
            second: model.flat().f_zeros_like()?,
            parts,
            weight_decay: ratio(parameters.weight_decay_ppm),
            steps: 0,
            beta1_power: 1.0,
            beta2_power: 1.0,
        })
    }

    /// The first moment, or Muon's momentum, of every parameter.
    pub fn first(&self) -> &Tensor {
        &self.first
    }

    /// The second moment over 1 - β₂; zero where Muon steps.
    pub fn second(&self) -> &Tensor {
        &self.second
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Says how many steps the moments have seen, after they were written from outside.
    pub fn set_steps(&mut self, steps: u64) {
        (self.steps, self.beta1_power, self.beta2_power) = (0, 1.0, 1.0);
        for _ in 0..steps {
            self.count();
        }
    }

    /// Multiplied up one by one, so that a resumed run has the same rounding.
    fn count(&mut self) {
        self.steps += 1;
        self.beta1_power *= BETA1;
        self.beta2_power *= BETA2;
    }

    /// One step down the gradients, which are in the order of the model's parameters.
    pub fn step(&mut self, model: &Model, gradients: &[Tensor], rate: f64) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        self.count();
        let clip = clip(gradients)?;
        for (part, gradient) in self.parts.iter().zip(gradients) {
            let mut gradient = gradient.f_reshape([-1])?;
            if let Some(factor) = clip {
                let _ = gradient.f_mul_scalar_(factor)?;
            }
            if let Some(shape) = part.muon {
                self.muon(model, part, shape, &gradient, rate)?;
                continue;
            }
            let mut at = 0;
            while at < part.len {
                let len = BLOCK.min(part.len - at);
                self.adamw(model, part, &gradient.f_narrow(0, at, len)?, at, rate)?;
                at += len;
            }
        }
        Ok(())
    }

    /// AdamW on the values of a part from `at` on, as many as the gradient has.
    fn adamw(
        &self,
        model: &Model,
        part: &Part,
        gradient: &Tensor,
        at: i64,
        rate: f64,
    ) -> Result<(), TchError> {
        let (start, len) = (part.offset + at, dimension(gradient.numel()));
        let mut first = self.first.f_narrow(0, start, len)?;
        let mut second = self.second.f_narrow(0, start, len)?;
        let mut values = model.flat().f_narrow(0, start, len)?;
        let _ = first.f_lerp_(gradient, 1.0 - BETA1)?;
        let _ = second.f_mul_scalar_(BETA2)?;
        let _ = second.f_addcmul_(gradient, gradient)?;
        if part.decayed && self.weight_decay > 0.0 {
            let _ = values.f_mul_scalar_(1.0 - rate * self.weight_decay)?;
        }
        // θ -= rate * m̂ / (sqrt(v̂) + ε), with rate and both corrections in the denominator.
        let scale = -(1.0 - self.beta1_power) / rate.max(f64::MIN_POSITIVE);
        let root = ((1.0 - BETA2) / (1.0 - self.beta2_power)).sqrt();
        let mut denominator = second.f_sqrt()?;
        let _ = denominator.f_mul_scalar_(root * scale)?;
        let _ = denominator.f_add_scalar_(EPSILON * scale)?;
        let _ = values.f_addcdiv_(&first, &denominator)?;
        Ok(())
    }

    fn muon(
        &self,
        model: &Model,
        part: &Part,
        shape: [i64; 2],
        gradient: &Tensor,
        rate: f64,
    ) -> Result<(), TchError> {
        let mut momentum = self.first.f_narrow(0, part.offset, part.len)?.f_view(shape)?;
        let update = muon::update(&mut momentum, &gradient.f_view(shape)?)?;
        let mut values = model.flat().f_narrow(0, part.offset, part.len)?.f_view(shape)?;
        if self.weight_decay > 0.0 {
            let _ = values.f_mul_scalar_(1.0 - rate * self.weight_decay)?;
        }
        let _ = values.f_sub_(&update.f_mul_scalar(rate)?)?;
        Ok(())
    }
}

/// By what the gradients are multiplied so that their norm is at most the largest allowed.
fn clip(gradients: &[Tensor]) -> Result<Option<f64>, TchError> {
    let norms = gradients.iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
    // A norm that is not finite is left: the loss of the next step says that the run diverged.
    Ok((norm > GRADIENT_NORM_MAX).then(|| GRADIENT_NORM_MAX / norm))
}
