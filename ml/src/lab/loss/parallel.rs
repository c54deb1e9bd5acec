//! The baseline: data-parallel AdamW. Every member draws its own windows; their mean gradient is
//! that of all these windows as one batch, because the members' batches are of one size.

use protocol::ids::Beacon;
use protocol::model::RoundParameters;
use protocol::training::Draw;
use protocol::worker::FileName;
use tch::Device;

use super::site::{Site, name, text_name};
use super::{Options, Point, WARM_RATE_PPM, WARM_RISE_STEPS, ring_bytes};
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
    let mut run = Run::new(site, options, site.parameters.clone())?;
    let loss = site.loss(&name("head-0")?)?;
    let mut now = Point { loss, ..Point::default() };
    let mut curve = vec![now];
    let step_bytes =
        u64::from(options.workers) * u64::from(options.batch) * u64::from(options.shape.context);
    let sent = ring_bytes(options.workers, site.spec.parameters(), 4) as f64;
    for round in 0..options.rounds {
        run.advance(options.steps)?;
        now.computed += step_bytes * u64::from(options.steps);
        now.sent_bytes += sent * f64::from(options.steps);
        now.integrated = now.computed;
        now.loss = run.measure(site)?;
        eprintln!("round {}: {:.4} nats", round + 1, now.loss);
        curve.push(now);
    }
    Ok(curve)
}

/// Takes the steps before the first round, unless that was done before; leaves the head there.
pub(super) fn warm(site: &mut Site, options: &Options) -> Result<(), CommandError> {
    if options.warm_steps == 0 {
        return Ok(());
    }
    let first = name("head-0")?;
    if let Some(kept) = &options.head
        && kept.exists()
    {
        let bytes =
            std::fs::read(kept).map_err(CommandError::io(format!("reading {}", kept.display())))?;
        read_checkpoint(&bytes, site)?;
        return site.write(&first, &bytes);
    }
    let parameters = RoundParameters {
        learning_rate_ppm: WARM_RATE_PPM,
        warmup_steps: WARM_RISE_STEPS,
        decay_steps: 0,
        ..site.parameters.clone()
    };
    let mut run = Run::new(site, options, parameters)?;
    run.advance(options.warm_steps)?;
    run.write(site, &first)?;
    let Some(kept) = &options.head else { return Ok(()) };
    // Whole or not at all: another cell may be looking for it.
    let part = kept.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::write(&part, site.read(&first)?);
    written
        .and_then(|()| std::fs::rename(&part, kept))
        .map_err(CommandError::io(format!("writing {}", kept.display())))
}

fn read_checkpoint(bytes: &[u8], site: &Site) -> Result<Checkpoint, CommandError> {
    Checkpoint::from_bytes(bytes, &tensor_specs(&site.spec))
        .map_err(|error| CommandError::Failed(error.to_string()))
}

/// A data-parallel run between its steps.
struct Run<'a> {
    options: &'a Options,
    parameters: RoundParameters,
    model: Model,
    optimizer: Optimizer,
    texts: Vec<Windows>,
    done: u32,
}

impl<'a> Run<'a> {
    fn new(
        site: &Site,
        options: &'a Options,
        parameters: RoundParameters,
    ) -> Result<Self, CommandError> {
        let checkpoint = read_checkpoint(&site.read(&name("head-0")?)?, site)?;
        let mut texts = Vec::new();
        for member in 0..options.workers {
            let text = site.read(&text_name(member)?)?;
            texts.push(Windows::new(text, index(options.shape.context), options.seed, member)?);
        }
        let precision = parameters.precision;
        let how = model::Options { trainable: true, device: Device::Cpu, precision };
        let model = Model::new(&site.spec, &checkpoint, None, how)?;
        let optimizer = Optimizer::new(&model, &parameters).map_err(JobError::from)?;
        Ok(Self { options, parameters, model, optimizer, texts, done: 0 })
    }

    fn advance(&mut self, steps: u32) -> Result<(), JobError> {
        for _ in 0..steps {
            let rate = rate(&self.parameters, self.options.steps, 0, self.done);
            self.step(rate)?;
            self.done += 1;
        }
        Ok(())
    }

    /// One step on windows of every member.
    fn step(&mut self, rate: f64) -> Result<(), JobError> {
        let (batch, context) = (self.options.batch, index(self.options.shape.context));
        let mut bytes = Vec::with_capacity(self.texts.len() * index(batch) * (context + 1));
        for text in &mut self.texts {
            for _ in 0..batch {
                text.draw(&mut bytes);
            }
        }
        let windows = Batch::of_windows(&windows_tensor(&bytes, context + 1)?)?;
        let (loss, gradients) = gradients(&self.model, &windows, 0, false)?;
        if !loss.is_finite() {
            return Err(JobError::Diverged("the loss is not finite"));
        }
        self.optimizer.step(&self.model, &gradients, rate)?;
        Ok(())
    }

    fn write(&self, site: &Site, head: &FileName) -> Result<(), CommandError> {
        let checkpoint = self.model.to_checkpoint().map_err(JobError::from)?;
        site.write(head, &checkpoint.to_bytes())
    }

    fn measure(&self, site: &mut Site) -> Result<f64, CommandError> {
        let head = name("head-dp")?;
        self.write(site, &head)?;
        site.loss(&head)
    }
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
