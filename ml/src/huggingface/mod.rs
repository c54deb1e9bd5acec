//! Models in Hugging Face's format, read and written: `config.json`, safetensors, the tokenizer.
//!
//! What comes in was written by strangers. Only safetensors, never pickles; every name, type and
//! shape is the one that the configuration promises, and a configuration that asks for anything
//! that would change the logits and is not built here is refused with the name of it. Weights in
//! f16 or bf16 become f32.

mod config;
mod fold;
mod names;
mod weights;

use std::collections::HashMap;

use protocol::ids::ContentHash;
use protocol::limits::{MODEL_PARAMETERS_MAX, TOKENIZER_BYTES_MAX};
use protocol::model::{Architecture, ModelSpec};
use protocol::worker::{ExportJob, ImportJob, WorkerOutcome};
use safetensors::tensor::{Dtype, TensorView};

pub use config::ConfigError;
pub use fold::fold;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::jobs::{check_architecture, read_checkpoint};
use crate::tensors::{architecture_specs, tensor_specs};
use crate::tokenizer::{Tokenizer, vocabulary};

/// A `config.json`: a page of text.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Runs an import job.
pub fn import(directory: &JobDirectory, job: &ImportJob) -> Result<WorkerOutcome, JobError> {
    let bytes = directory.read(&job.config, CONFIG_BYTES_MAX)?;
    let named = |error: String| JobError::Request(format!("{}: {error}", job.config.as_str()));
    let mut config = config::parse(&bytes, job.context).map_err(|e| named(e.to_string()))?;
    check_shape(&config.architecture).map_err(|e| named(e.to_string()))?;
    check_tokenizer(directory, job, &config.architecture)?;
    let names = names::names(&config.architecture);
    let mut files = Vec::with_capacity(job.weights.len());
    for name in &job.weights {
        files.push(weights::WeightsFile::open(directory, name)?);
    }
    let positions = config.positions;
    let checkpoint = weights::read(&files, &names, positions, &mut config.notes)?;
    let bytes = checkpoint.to_bytes();
    directory.write(&job.checkpoint_out, &bytes)?;
    Ok(WorkerOutcome::Imported {
        architecture: config.architecture,
        checkpoint: ContentHash::of(&bytes),
        notes: config.notes,
    })
}

/// The shape's own ranges, before anything of its size is allocated.
fn check_shape(architecture: &Architecture) -> Result<(), JobError> {
    let spec = ModelSpec {
        name: "import".into(),
        architecture: *architecture,
        tokenizer: (!architecture.reads_bytes()).then(ContentHash::default),
        adapter: None,
        seed: 0,
        imported: true,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 0,
        licence: String::new(),
    };
    if architecture.parameters() > MODEL_PARAMETERS_MAX {
        return Err(JobError::Request(format!(
            "{} parameters, at most {MODEL_PARAMETERS_MAX} are trained here",
            architecture.parameters()
        )));
    }
    check_architecture(&spec)
}

fn check_tokenizer(
    directory: &JobDirectory,
    job: &ImportJob,
    architecture: &Architecture,
) -> Result<(), JobError> {
    let bad = |text: &str| Err(JobError::Request(text.to_owned()));
    match &job.tokenizer {
        None if architecture.reads_bytes() => Ok(()),
        None => bad("the model needs its tokenizer.json: give it too"),
        Some(_) if architecture.reads_bytes() => {
            bad("a vocabulary of 256 symbols is that of bytes here and takes no tokenizer")
        }
        Some(name) => {
            let json = directory.read(name, TOKENIZER_BYTES_MAX)?;
            Tokenizer::parse(&json, vocabulary(architecture))
                .map(drop)
                .map_err(|error| JobError::Request(format!("{}: {error}", name.as_str())))
        }
    }
}

/// Runs an export job.
pub fn export(directory: &JobDirectory, job: &ExportJob) -> Result<WorkerOutcome, JobError> {
    check_architecture(&job.spec)?;
    let architecture = &job.spec.architecture;
    let config = config::write(architecture).map_err(|e| JobError::Request(e.to_string()))?;
    let head = read_checkpoint(directory, &job.checkpoint, &tensor_specs(&job.spec))?;
    let whole = match &job.spec.adapter {
        None => head,
        Some(adapter) => {
            let file = job.files.base.as_ref().ok_or_else(|| {
                JobError::Request("the checkpoint under the adapter is needed too".into())
            })?;
            let base = read_checkpoint(directory, file, &architecture_specs(architecture))?;
            fold(base, &head, adapter)
        }
    };
    directory.write(&job.weights_out, &serialize(architecture, whole)?)?;
    directory.write(&job.config_out, config.as_bytes())?;
    Ok(WorkerOutcome::Exported)
}

/// `model.safetensors` of a checkpoint, under Hugging Face's names.
fn serialize(architecture: &Architecture, checkpoint: Checkpoint) -> Result<Vec<u8>, JobError> {
    let bad = |error: safetensors::SafeTensorError| JobError::Request(error.to_string());
    let mut tensors = Vec::with_capacity(checkpoint.tensors.len());
    for (name, tensor) in names::names(architecture).into_iter().zip(checkpoint.tensors) {
        let Tensor { spec, mut values } = tensor;
        if name.transposed {
            values = names::transpose(&values, spec.shape[1]);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((name.theirs(), name.their_shape(), bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bad)?))
        })
        .collect::<Result<Vec<_>, JobError>>()?;
    // What `transformers` asks of a file before it reads one.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(bad)
}
