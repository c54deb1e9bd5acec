//! Any model in memory: its parameters, and the network that computes with them.
//!
//! All trained parameters live in one flat tensor in name order; the model's tensors are views of
//! it, so that the optimizer and the state hash take one pass each. Views are detached leaves that
//! share the flat tensor's memory: writing the flat tensor changes the model. The frozen weights
//! under an adapter are no parameters: nothing here changes them.

use protocol::model::{ModelSpec, Precision};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::layers::Weights;
use super::models;
use crate::arithmetic::ratio;
use crate::checkpoint::{self, Checkpoint};
use crate::error::JobError;
use crate::tensors::{TensorSpec, architecture_specs, tensor_specs};

/// Targets that count for nothing, as libtorch's cross entropy has it.
pub const IGNORED: i64 = -100;

/// How a model is put into memory.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether gradients of the parameters are kept.
    pub trainable: bool,
    /// Where it computes.
    pub device: Device,
    /// How its matrix products compute.
    pub precision: Precision,
}

impl Options {
    /// For evaluation and generation on the processor: no gradients, f32.
    pub const fn inference() -> Self {
        Self { trainable: false, device: Device::Cpu, precision: Precision::F32 }
    }
}

/// What a model is asked at once.
#[derive(Debug)]
pub struct Batch {
    /// Tokens `[batch, length]` (i64) of a text; numbers `[batch, inputs]` (f32) of rows; bytes
    /// `[batch, height * width * channels]` (u8) of images.
    pub input: Tensor,
    /// As many as the logits have rows, i64: the token after each one, or the class of each
    /// record. [`IGNORED`] counts for nothing.
    pub target: Tensor,
    /// Tokens `[batch]` (i64, at least 1) in each text, for classifiers of texts; what follows
    /// them is padding.
    pub lengths: Option<Tensor>,
}

impl Batch {
    /// Windows of a text `[batch, length + 1]`, i64: inputs are all but the last token of each,
    /// targets all but the first.
    pub fn of_windows(window: &Tensor) -> Result<Self, TchError> {
        let (_, tokens) = window.size2()?;
        Ok(Self {
            input: window.f_narrow(1, 0, tokens - 1)?.f_contiguous()?,
            target: window.f_narrow(1, 1, tokens - 1)?.f_contiguous()?,
            lengths: None,
        })
    }

    /// The same on another device.
    pub fn to_device(&self, device: Device) -> Result<Self, TchError> {
        Ok(Self {
            input: self.input.f_to(device)?,
            target: self.target.f_to(device)?,
            lengths: self.lengths.as_ref().map(|lengths| lengths.f_to(device)).transpose()?,
        })
    }
}

/// What an architecture computes: a beginning, stages one after the other, an end. Stages can be
/// computed again on their own, which is what activation checkpointing needs.
pub trait Network {
    /// Number of stages.
    fn stages(&self) -> usize;
    /// From the input to the first stage.
    fn begin(&self, batch: &Batch) -> Result<Tensor, TchError>;
    /// One stage.
    fn stage(&self, index: usize, stream: &Tensor, batch: &Batch) -> Result<Tensor, TchError>;
    /// From the last stage to logits `[rows, classes or vocabulary]` in f32.
    fn end(&self, stream: &Tensor, batch: &Batch) -> Result<Tensor, TchError>;
    /// Which of [`Model::parameters`] a stage uses; no other stage, beginning or end does.
    fn stage_parameters(&self, index: usize) -> Vec<usize>;
    /// How it continues a text, if it does.
    fn decoder(&self) -> Option<&dyn super::cache::Decoder> {
        None
    }
}

/// A model in memory.
pub struct Model {
    /// Every trained parameter, in name order.
    flat: Tensor,
    /// The trained tensors, in name order: views of `flat`.
    parameters: Vec<Tensor>,
    specs: Vec<TensorSpec>,
    network: Box<dyn Network>,
}

impl Model {
    /// Copies a checkpoint of this model into memory; `base` is the checkpoint under an adapter.
    pub fn new(
        spec: &ModelSpec,
        checkpoint: &Checkpoint,
        base: Option<&Checkpoint>,
        options: Options,
    ) -> Result<Self, JobError> {
        let specs = tensor_specs(spec);
        let (flat, parameters) = load(&specs, checkpoint, options.device, options.trainable)?;
        let network = match spec.adapter {
            None => {
                let weights = Weights::new(&specs, &parameters, options.precision);
                models::network(&spec.architecture, &weights)?
            }
            Some(adapter) => {
                let base = base.ok_or_else(|| {
                    JobError::Request(
                        "the model is an adapter: the checkpoint of its base is needed too".into(),
                    )
                })?;
                let frozen_specs = architecture_specs(&spec.architecture);
                let (_, frozen) = load(&frozen_specs, base, options.device, false)?;
                let scale = ratio(adapter.alpha) / ratio(adapter.rank);
                let weights = Weights::new(&frozen_specs, &frozen, options.precision).adapted(
                    &specs,
                    &parameters,
                    scale,
                );
                models::network(&spec.architecture, &weights)?
            }
        };
        Ok(Self { flat, parameters, specs, network })
    }

    /// The flat tensor of all trained parameters.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The trained tensors, in name order.
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Names and shapes of [`Model::parameters`].
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// What it computes.
    pub fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// Logits `[rows, classes or vocabulary]`: a row per token of a text, or per record.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let mut stream = self.network.begin(batch)?;
        for stage in 0..self.network.stages() {
            stream = self.network.stage(stage, &stream, batch)?;
        }
        self.network.end(&stream, batch)
    }

    /// Cross entropy in nats: the mean over all targets that count, or one number per row.
    pub fn loss(&self, batch: &Batch, reduction: Reduction) -> Result<Tensor, TchError> {
        cross_entropy(&self.logits(batch)?, batch, reduction)
    }

    /// The trained parameters as a checkpoint.
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

/// Cross entropy of logits in nats.
pub fn cross_entropy(
    logits: &Tensor,
    batch: &Batch,
    reduction: Reduction,
) -> Result<Tensor, TchError> {
    let target = batch.target.f_view([-1])?;
    logits.f_cross_entropy_loss::<Tensor>(&target, None, reduction, IGNORED, 0.0)
}

/// A checkpoint as one flat tensor and its views.
fn load(
    specs: &[TensorSpec],
    checkpoint: &Checkpoint,
    device: Device,
    trainable: bool,
) -> Result<(Tensor, Vec<Tensor>), JobError> {
    if !checkpoint.tensors.iter().map(|tensor| &tensor.spec).eq(specs) {
        return Err(JobError::Request("the checkpoint is not of this model".into()));
    }
    let total = specs.iter().map(TensorSpec::len).sum();
    let flat = Tensor::f_empty([dimension(total)], (Kind::Float, device))?;
    let mut parameters = Vec::with_capacity(specs.len());
    let mut offset = 0;
    for tensor in &checkpoint.tensors {
        let len = dimension(tensor.spec.len());
        let mut own = flat.f_narrow(0, offset, len)?;
        own.f_copy_(&Tensor::f_from_slice(&tensor.values)?)?;
        let shape: Vec<i64> = tensor.spec.shape.iter().copied().map(dimension).collect();
        let view = own.f_view(shape.as_slice())?.f_detach()?;
        parameters.push(view.f_set_requires_grad(trainable)?);
        offset += len;
    }
    Ok((flat, parameters))
}

/// A checked size as libtorch counts.
pub fn dimension(value: usize) -> i64 {
    i64::try_from(value).expect("sizes are bounded far below 2^63")
}

/// Windows of bytes of equal length, one after the other, as `[count, length]` of i64.
pub fn windows_tensor(bytes: &[u8], length: usize) -> Result<Tensor, TchError> {
    if length == 0 || !bytes.len().is_multiple_of(length) {
        return Err(TchError::Shape(format!("{} bytes in windows of {length}", bytes.len())));
    }
    let rows = dimension(bytes.len() / length);
    Tensor::f_from_slice(bytes)?.f_to_kind(Kind::Int64)?.f_view([rows, dimension(length)])
}
