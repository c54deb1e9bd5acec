//! The worker's fingerprint: which arithmetic it has. Processors with other vector instructions
//! round sums differently; equal fingerprints compute equal states (design 10).

use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, RoundParameters};

use super::model::{Model, Options};
use super::train;
use crate::error::JobError;
use crate::initialize::initial_checkpoint;
use crate::sample::Windows;

/// Steps of the fixed run.
const STEPS: u32 = 5;
const CONTEXT: u32 = 64;

/// Hash of the states of a fixed 5-step run of a small model. Every number here is part of the
/// result: changing one gives every worker another fingerprint.
pub fn fingerprint() -> Result<ContentHash, JobError> {
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
    let parameters = RoundParameters { batch: 8, ..RoundParameters::default() };
    let context = crate::tensors::index(CONTEXT);
    // Bytes of every value, in an order without pattern.
    let text: Vec<u8> = (0u8..64).flat_map(|i| *ContentHash::of(&[i]).as_bytes()).collect();
    let mut windows = Windows::new(vec![text], context, 1)?;
    let options = Options { trainable: true, ..Options::inference() };
    let model = Model::new(&spec, &initial_checkpoint(&spec), None, options)?;
    let outcome = train::steps(&model, &mut windows, context, &parameters, STEPS, &mut |_| Ok(()))?;
    Ok(outcome.step_states)
}
