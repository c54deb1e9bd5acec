//! The worker's fingerprint: which arithmetic it has. Processors with other vector instructions
//! round sums differently; equal fingerprints compute equal states (design 10).
//!
//! It covers the device, and products in f32 and in bfloat16. Convolutions are not part of it.

use protocol::ids::{ContentHash, derive};
use protocol::model::{Architecture, ModelSpec, Precision, RoundParameters};
use protocol::worker::{InnerRun, ModelFiles};
use tch::Device;

use super::device;
use super::model::{Model, Options};
use super::train::Trainer;
use crate::data::{Shards, Source};
use crate::error::JobError;
use crate::initialize::initial_checkpoint;

/// Steps of the fixed runs.
const STEPS: u32 = 5;
const CONTEXT: u32 = 64;

/// Hash of the device and the last states of two fixed 5-step runs of a small model. Every number
/// here is part of the result: changing one gives every worker another fingerprint.
pub fn fingerprint(device: Device) -> Result<ContentHash, JobError> {
    let single = run(device, Precision::F32)?;
    let half = run(device, Precision::Bf16)?;
    let kind = match device {
        Device::Cpu => "cpu".to_owned(),
        // Another device computes otherwise; which one of several like it does not matter.
        other => device::name(other).split(':').next().unwrap_or_default().to_owned(),
    };
    let parts: [&[u8]; 3] = [kind.as_bytes(), single.as_bytes(), half.as_bytes()];
    Ok(ContentHash::from_bytes(derive("ayni 2026 worker fingerprint v2", &parts)))
}

fn run(device: Device, precision: Precision) -> Result<ContentHash, JobError> {
    let spec = ModelSpec {
        name: "fingerprint".into(),
        architecture: Architecture::BytesGpt { layers: 2, width: 64, heads: 4, context: CONTEXT },
        tokenizer: None,
        adapter: None,
        seed: 1,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 0,
        licence: String::new(),
    };
    let parameters = RoundParameters { batch: 8, precision, ..RoundParameters::default() };
    // Bytes of every value, in an order without pattern.
    let text: Vec<u8> = (0u8..64).flat_map(|i| *ContentHash::of(&[i]).as_bytes()).collect();
    let source = Source::new(&spec, Shards::in_memory(vec![text]), None, 1)?;
    let options = Options { trainable: true, device, precision };
    let model = Model::new(&spec, &initial_checkpoint(&spec), None, options)?;
    let run = InnerRun {
        spec,
        files: ModelFiles::default(),
        parameters,
        steps: STEPS,
        steps_before: 0,
        seed: 1,
        shards: vec![],
    };
    let mut trainer = Trainer::new(&model, &source, &run, false)?;
    for _ in 0..STEPS {
        trainer.advance()?;
    }
    Ok(trainer.state_hash()?)
}
