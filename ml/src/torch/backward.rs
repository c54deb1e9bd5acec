//! Loss and gradients of a batch, in pieces if it does not fit: some rows at a time, and if need
//! be without keeping what the stages compute.
//!
//! Activation checkpointing keeps only the input of every stage and computes each stage again on
//! the way back (Chen et al., arXiv 1604.06174): about a third more work for activations of one
//! stage instead of all. A stage's vector-Jacobian product is the gradient of (y * g).sum().

use tch::{Kind, Reduction, TchError, Tensor};

use super::model::{Batch, Model, cross_entropy};

/// Mean loss in nats over the targets, and its gradients in the order of the model's parameters.
pub fn gradients(
    model: &Model,
    batch: &Batch,
    micro_batch: i64,
    checkpointing: bool,
) -> Result<(f64, Vec<Tensor>), TchError> {
    let rows = *batch.input.size().first().unwrap_or(&0);
    let micro = if micro_batch == 0 { rows } else { micro_batch.min(rows) };
    if micro == rows {
        return whole(model, batch, checkpointing);
    }
    let (mut loss, mut sums, mut at) = (0.0, Vec::<Tensor>::new(), 0);
    while at < rows {
        let len = micro.min(rows - at);
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch are few")]
        let weight = len as f64 / rows as f64;
        let (own, gradients) = whole(model, &narrow(batch, at, len)?, checkpointing)?;
        loss += own * weight;
        let _guard = tch::no_grad_guard();
        if sums.is_empty() {
            for gradient in gradients {
                sums.push(gradient.f_mul_scalar(weight)?);
            }
        } else {
            for (sum, mut gradient) in sums.iter_mut().zip(gradients) {
                let _ = sum.f_add_(&gradient.f_mul_scalar_(weight)?)?;
            }
        }
        at += len;
    }
    Ok((loss, sums))
}

fn narrow(batch: &Batch, at: i64, len: i64) -> Result<Batch, TchError> {
    Ok(Batch {
        input: batch.input.f_narrow(0, at, len)?,
        target: batch.target.f_narrow(0, at, len)?.f_contiguous()?,
        lengths: batch.lengths.as_ref().map(|l| l.f_narrow(0, at, len)).transpose()?,
    })
}

fn whole(
    model: &Model,
    batch: &Batch,
    checkpointing: bool,
) -> Result<(f64, Vec<Tensor>), TchError> {
    if checkpointing {
        return recomputed(model, batch);
    }
    let loss = model.loss(batch, Reduction::Mean)?;
    let gradients = Tensor::f_run_backward(&[&loss], model.parameters(), false, false)?;
    let gradients = model.parameters().iter().zip(gradients);
    let gradients = gradients.map(|(parameter, own)| or_zeros(own, parameter));
    Ok((loss.f_double_value(&[])?, gradients.collect::<Result<_, _>>()?))
}

/// A parameter that the loss does not depend on has an undefined gradient.
fn or_zeros(gradient: Tensor, parameter: &Tensor) -> Result<Tensor, TchError> {
    if gradient.defined() { Ok(gradient) } else { parameter.f_zeros_like() }
}

fn recomputed(model: &Model, batch: &Batch) -> Result<(f64, Vec<Tensor>), TchError> {
    let network = model.network();
    let parameters = model.parameters();
    let mut inputs = Vec::with_capacity(network.stages());
    let mut stream = {
        let _guard = tch::no_grad_guard();
        let mut stream = network.begin(batch)?;
        for stage in 0..network.stages() {
            let next = network.stage(stage, &stream, batch)?;
            inputs.push(std::mem::replace(&mut stream, next));
        }
        stream
    };
    let mut inside = vec![false; parameters.len()];
    for stage in 0..network.stages() {
        for index in network.stage_parameters(stage) {
            inside[index] = true;
        }
    }
    let outside: Vec<usize> = (0..parameters.len()).filter(|index| !inside[*index]).collect();
    let mut sums: Vec<Option<Tensor>> = parameters.iter().map(|_| None).collect();

    stream = leaf(&stream)?;
    let loss = cross_entropy(&network.end(&stream, batch)?, batch, Reduction::Mean)?;
    let mut above = pull(&loss, &stream, parameters, &outside, &mut sums)?;
    for stage in (0..network.stages()).rev() {
        let Some(input) = inputs.pop() else { break };
        let input = leaf(&input)?;
        let output = network.stage(stage, &input, batch)?;
        let product = dot(&output, &above)?;
        above = pull(&product, &input, parameters, &network.stage_parameters(stage), &mut sums)?;
    }
    let start = network.begin(batch)?;
    if start.requires_grad() {
        let product = dot(&start, &above)?;
        let _ = pull(&product, &start, parameters, &outside, &mut sums)?;
    }
    let value = loss.f_double_value(&[])?;
    let all = sums.into_iter().zip(parameters);
    let gradients = all.map(|(sum, parameter)| match sum {
        Some(sum) => Ok(sum),
        None => parameter.f_zeros_like(),
    });
    Ok((value, gradients.collect::<Result<_, _>>()?))
}

fn leaf(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_set_requires_grad(true)
}

/// (y * g).sum(), in the precision of y.
fn dot(output: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
    output.f_mul(gradient)?.f_sum(Some(Kind::Float))
}

/// Adds the gradients of `value` by some parameters to their sums; gives that by `input`.
fn pull(
    value: &Tensor,
    input: &Tensor,
    parameters: &[Tensor],
    indices: &[usize],
    sums: &mut [Option<Tensor>],
) -> Result<Tensor, TchError> {
    let mut by: Vec<&Tensor> = indices.iter().map(|index| &parameters[*index]).collect();
    by.push(input);
    let mut gradients = Tensor::f_run_backward(&[value], &by, false, false)?;
    let own = gradients.pop().ok_or_else(|| TchError::Shape("no gradient".into()))?;
    let _guard = tch::no_grad_guard();
    for (index, gradient) in indices.iter().zip(gradients) {
        if !gradient.defined() {
            continue;
        }
        sums[*index] = Some(match sums[*index].take() {
            None => gradient,
            Some(mut sum) => sum.f_add_(&gradient)?,
        });
    }
    Ok(own)
}
