//! Text generation, byte by byte, streamed.

use protocol::ids::derive;
use protocol::limits;
use protocol::worker::{GenerateJob, Progress, WorkerOutcome};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tch::Kind;

use super::model::{Batch, Model, Options, windows_tensor};
use crate::arithmetic::ratio;
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::{Report, check_architecture, read_checkpoint};
use crate::tensors::tensor_specs;

/// What the model reads when there is no prompt: the start of a line.
const START: u8 = b'\n';
/// Bytes between two reports: a few per second for a person to watch.
const REPORT_BYTES: usize = 8;
/// Above this, every byte is about equally likely.
const TEMPERATURE_PPM_MAX: u32 = 100_000_000;

/// Runs a generation job.
pub fn run(
    directory: &JobDirectory,
    job: &GenerateJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    check_architecture(&job.spec)?;
    let [prompt] = job.prompts.as_slice() else {
        return Err(JobError::Unsupported);
    };
    if prompt.len() > limits::PROMPT_BYTES_MAX
        || job.bytes > limits::GENERATE_BYTES_MAX
        || job.temperature_ppm > TEMPERATURE_PPM_MAX
    {
        return Err(JobError::Request("prompt, bytes or temperature over the limit".into()));
    }
    let specs = tensor_specs(&job.spec);
    let checkpoint = read_checkpoint(directory, &job.checkpoint, &specs)?;
    let _guard = tch::no_grad_guard();
    let model = Model::new(&job.spec, &checkpoint, None, Options::inference())?;
    let context = usize::try_from(job.spec.window_bytes()).expect("a checked context");
    let key = derive("ayni 2026 generation v1", &[&job.seed.to_le_bytes()]);
    let mut stream = ChaCha20Rng::from_seed(key);

    let mut text = prompt.clone();
    if text.is_empty() {
        text.push(START);
    }
    let prompt = text.len();
    let wanted = crate::tensors::index(job.bytes);
    let mut shown = prompt;
    while text.len() < prompt + wanted {
        let input = &text[text.len().saturating_sub(context)..];
        let next = next_byte(&model, input, job.temperature_ppm, &mut stream)?;
        text.push(next);
        if text.len() - shown >= REPORT_BYTES || text.len() == prompt + wanted {
            report(Progress {
                done: u64::try_from(text.len() - prompt).unwrap_or(u64::MAX),
                total: u64::from(job.bytes),
                loss_nanonats: None,
                per_second: None,
                prompt: 0,
                text: text[shown..].to_vec(),
            })?;
            shown = text.len();
        }
    }
    Ok(WorkerOutcome::Generated {
        texts: vec![text.split_off(prompt)],
        tokens: u64::from(job.bytes),
    })
}

fn next_byte(
    model: &Model,
    input: &[u8],
    temperature_ppm: u32,
    stream: &mut ChaCha20Rng,
) -> Result<u8, JobError> {
    let input = windows_tensor(input, input.len())?;
    let batch = Batch { target: input.shallow_clone(), input, lengths: None };
    let logits = model.logits(&batch)?.f_get(-1)?;
    let logits = logits.f_to_kind(Kind::Double)?;
    let mut weights = vec![0.0f64; 256];
    if temperature_ppm == 0 {
        logits.f_copy_data(&mut weights, 256)?;
        if !weights.iter().all(|logit| logit.is_finite()) {
            return Err(JobError::Diverged("the model's output is not finite"));
        }
        let best =
            weights.iter().enumerate().max_by(|(i, x), (j, y)| x.total_cmp(y).then(j.cmp(i)));
        return Ok(symbol(best.map_or(0, |(index, _)| index)));
    }
    let scaled = logits.f_div_scalar(ratio(temperature_ppm))?;
    scaled.f_softmax(-1, Kind::Double)?.f_copy_data(&mut weights, 256)?;
    if !weights.iter().all(|weight| weight.is_finite()) {
        return Err(JobError::Diverged("the model's output is not finite"));
    }
    // Uniform in [0, 1) from 32 bits, then the first symbol whose cumulated weight exceeds it.
    let mut left = f64::from(stream.next_u32()) / 4_294_967_296.0;
    let mut last = 0;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            last = index;
            if left < *weight {
                break;
            }
            left -= weight;
        }
    }
    Ok(symbol(last))
}

fn symbol(index: usize) -> u8 {
    u8::try_from(index).expect("an index into 256 symbols")
}
