//! Our side of a pair: the trainer as the worker runs it, in a fresh process.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use protocol::model::Precision;
use serde_json::json;
use tch::Device;

use super::train::{BATCH, CONTEXT, STEPS, WARMUP, run_of, source, spec};
use crate::figures::{CommandError, Figures};
use crate::initialize::initial_checkpoint;
use crate::jobs::DeviceChoice;
use crate::torch::model::{Model, Options as ModelOptions};
use crate::torch::train::Trainer;
use crate::torch::{device, prepare_thread};

/// How to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Threads for arithmetic.
    #[arg(long)]
    pub threads: u16,
    /// f32 or bf16.
    #[arg(long)]
    pub precision: String,
    /// Hash the state after every step, as training for a round does.
    #[arg(long)]
    pub hash: bool,
    /// Where to compute: auto, cpu or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceChoice,
    /// Folder of the comparison; unused by this side, which makes its own data.
    pub folder: Option<PathBuf>,
}

/// Trains and prints the loss of every step and the speed.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let device = device::resolve(options.device)?;
    prepare_thread(options.threads);
    let precision = match options.precision.as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(CommandError::Failed(format!("{other:?} is neither f32 nor bf16"))),
    };
    let (spec, source) = (spec(), source()?);
    let run = run_of(&spec, precision);
    let how = ModelOptions { trainable: true, device, precision };
    let model = Model::new(&spec, &initial_checkpoint(&spec), None, how)?;
    let mut trainer =
        Trainer::new(&model, &source, &run, false).map_err(crate::error::JobError::from)?;
    let mut losses = Vec::new();
    let mut started = Instant::now();
    for step in 0..STEPS {
        if step == WARMUP {
            synchronize(device);
            started = Instant::now();
        }
        losses.push(trainer.advance()?.loss);
        if options.hash {
            trainer.state_hash().map_err(crate::error::JobError::from)?;
        }
    }
    synchronize(device);
    let tokens = f64::from((STEPS - WARMUP) * BATCH * CONTEXT);
    let speed = tokens / started.elapsed().as_secs_f64();
    let json = json!({ "losses": losses, "tokens_per_second": speed });
    Ok(Figures { table: json.to_string(), json, missed: Vec::new() })
}

/// Waits for a device that computes on its own.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
    }
}
