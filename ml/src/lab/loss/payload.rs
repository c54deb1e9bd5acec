//! `lab payload`: what a delta of a model weighs. Its values come from a few real steps, because
//! where the largest ones lie decides how well their positions are coded.

use std::path::PathBuf;

use clap::Args;
use protocol::model::RoundParameters;

use super::members::train;
use super::site::Site;
use super::{Arm, Shape};
use crate::figures::{CommandError, Figures};
use crate::lab::faults::Faults;

/// What is weighed.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Folder with the text of a member, `node-0`, and `suite.txt`.
    #[arg(long)]
    pub data: PathBuf,
    /// Values kept of every chunk of 4,096.
    #[arg(long, default_value_t = 64)]
    pub keep: u32,
    /// Inner steps before.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub steps: u32,
    /// Shape of the byte-level GPT.
    #[command(flatten)]
    pub shape: Shape,
}

/// Trains, compresses, weighs.
pub fn run(options: &Options) -> Result<Figures, CommandError> {
    let cell = super::Options {
        arm: Arm::Sparse64,
        data: options.data.clone(),
        workers: 1,
        rounds: 1,
        warm_steps: 0,
        head: None,
        steps: options.steps,
        batch: 4,
        learning_rate_ppm: 1_000,
        outer_learning_rate_ppm: None,
        outer_momentum_ppm: None,
        seed: 1,
        windows: 16,
        shape: options.shape,
        faults: Faults::default(),
    };
    let parameters = RoundParameters { keep_per_chunk: options.keep, ..cell.arm.parameters(&cell) };
    let mut site = Site::new(&cell, parameters)?;
    let outputs = train(&mut site, &cell, 0, 0, None)?;
    let bytes = site.bytes_of(&outputs.payload)?;
    let parameters = site.spec.parameters();
    let bits = 8.0 * bytes as f64 / parameters as f64;
    let json = serde_json::json!({
        "parameters": parameters,
        "payload_bytes": bytes,
        "bits_per_parameter": bits,
        "keep_per_chunk": options.keep,
    });
    let table = format!("{parameters} parameters, {bytes} bytes, {bits:.4} bits per parameter");
    Ok(Figures { table, json, missed: Vec::new() })
}
