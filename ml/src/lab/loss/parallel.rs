//! The baseline: data-parallel AdamW. Every member draws its own windows; their mean gradient is
//! that of all these windows as one batch, because the members' batches are of one size.

use protocol::ids::Beacon;
use protocol::training::Draw;
use tch::Device;

use super::site::{Site, name, text_name};
use super::{Options, Point, ring_bytes};
use crate::checkpoint::Checkpoint;
use crate::error::JobError;
use crate::figures::CommandError;
use crate::tensors::{index, tensor_specs};
use crate::torch::backward::gradients;
use crate::torch::model::{self, Batch, Model, windows_tensor};
use crate::torch::optimizer::Optimizer;
use crate::torch::schedule::rate;

/// Runs as many steps as the rounds have and measures where they end. AdamW keeps its state
/// throughout.
pub(super) fn run(site: &mut Site, options: &Options) -> Result<Vec<Point>, CommandError> {
    let first = name("head-0")?;
    let checkpoint = Checkpoint::from_bytes(&site.read(&first)?, &tensor_specs(&site.spec))
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let context = index(options.shape.context);
    let mut texts = Vec::new();
    for member in 0..options.workers {
        let text = site.read(&text_name(member)?)?;
        texts.push(Windows::new(text, context, options.seed, member)?);
    }
    let parameters = site.parameters.clone();
    let precision = parameters.precision;
    let how = model::Options { trainable: true, device: Device::Cpu, precision };
    let model = Model::new(&site.spec, &checkpoint, None, how)?;
    let mut optimizer = Optimizer::new(&model, &parameters).map_err(JobError::from)?;
    let mut now = Point { loss: site.loss(&first)?, ..Point::default() };
    let mut curve = vec![now];
    let step_bytes =
        u64::from(options.workers) * u64::from(options.batch) * u64::from(options.shape.context);
    let sent = ring_bytes(options.workers, site.spec.parameters(), 4) as f64;
    for round in 0..options.rounds {
        for step in 0..options.steps {
            let before = u64::from(round) * u64::from(options.steps);
            let rate = rate(&parameters, options.steps, before, step);
            take(&model, &mut optimizer, &mut texts, options.batch, context, rate)?;
            now.computed += step_bytes;
            now.sent_bytes += sent;
        }
        now.integrated = now.computed;
        let head = name("head-dp")?;
        site.write(&head, &model.to_checkpoint().map_err(JobError::from)?.to_bytes())?;
        now.loss = site.loss(&head)?;
        eprintln!("round {}: {:.4} nats", round + 1, now.loss);
        curve.push(now);
    }
    Ok(curve)
}

/// One step on windows of every member.
fn take(
    model: &Model,
    optimizer: &mut Optimizer,
    texts: &mut [Windows],
    batch: u32,
    context: usize,
    rate: f64,
) -> Result<(), JobError> {
    let mut bytes = Vec::with_capacity(texts.len() * index(batch) * (context + 1));
    for text in texts {
        for _ in 0..batch {
            text.draw(&mut bytes);
        }
    }
    let windows = Batch::of_windows(&windows_tensor(&bytes, context + 1)?)?;
    let (loss, gradients) = gradients(model, &windows, 0, false)?;
    if !loss.is_finite() {
        return Err(JobError::Diverged("the loss is not finite"));
    }
    optimizer.step(model, &gradients, rate)?;
    Ok(())
}

/// Windows of one member's text, every position alike.
struct Windows {
    text: Vec<u8>,
    length: usize,
    draw: Draw,
}

impl Windows {
    fn new(text: Vec<u8>, context: usize, seed: u64, member: u32) -> Result<Self, CommandError> {
        let length = context + 1;
        if text.len() < length {
            return Err(CommandError::Failed(format!("member {member} has no window of text")));
        }
        let parts: [&[u8]; 2] = [&seed.to_le_bytes(), &member.to_le_bytes()];
        let draw = Draw::new("ayni lab 2026 windows v1", &Beacon::default(), &parts);
        Ok(Self { text, length, draw })
    }

    /// Adds the next window to `bytes`.
    fn draw(&mut self, bytes: &mut Vec<u8>) {
        let starts = self.text.len() - self.length + 1;
        let start = self.draw.below(u64::try_from(starts).unwrap_or(u64::MAX));
        let start = usize::try_from(start).expect("an index into a text in memory");
        bytes.extend_from_slice(&self.text[start..start + self.length]);
    }
}
