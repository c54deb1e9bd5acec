//! `ayni-worker lab transformers`: the same model here and in Hugging Face's transformers.
//!
//! transformers writes checkpoints with random weights; they are imported, their logits compared,
//! fine-tuned for 20 steps, exported, loaded in transformers again and compared again. The text
//! is this file.

use std::path::{Path, PathBuf};

use clap::Args;
use protocol::ids::ContentHash;
use protocol::model::{Adapter, ModelSpec, RoundParameters};
use protocol::worker::{
    ExportJob, FileName, ImportJob, InnerRun, ModelFiles, SandboxStatus, TrainJob, TrainOutcome,
    WorkerOutcome, WorkerRequest,
};
use serde_json::{Value, json};
use tch::Tensor;

use crate::checkpoint::Checkpoint;
use crate::figures::{CommandError, Figures};
use crate::files::JobDirectory;
use crate::huggingface::fold;
use crate::jobs::{DeviceChoice, Settings, Worker};
use crate::memory::Memory;
use crate::python;
use crate::tensors::{architecture_specs, tensor_specs};
use crate::tokenizer::{Tokenizer, vocabulary};
use crate::torch::model::{Batch, Model, Options, cross_entropy};

/// The other side.
pub(crate) const REFERENCE: &str = include_str!("../../bench/reference.py");
/// What is trained on and tokenized.
const TEXT: &str = include_str!("transformers.rs");
/// Largest difference of two logits over the largest logit: f32 sums in another order.
const DIFFERENCE_MAX: f64 = 1e-4;
/// Steps of fine-tuning.
const STEPS: u32 = 20;
/// The models; each is compared by itself.
const KINDS: [(&str, bool); 6] = [
    ("llama", false),
    ("llama-tied", false),
    ("gpt2", false),
    ("gpt2-untied", false),
    ("llama", true),
    ("gpt2", true),
];

/// How to compare.
#[derive(Clone, Debug, Args)]
pub struct Transformers {
    /// A Python with torch 2.13.0 and transformers; made under target/tools if none is given.
    #[arg(long)]
    python: Option<PathBuf>,
}

/// What was measured of one model.
struct Row {
    name: String,
    /// Of the imported model.
    imported: f64,
    /// Of the exported model.
    exported: f64,
    loss: f64,
    reference_loss: f64,
    tokens_equal: bool,
    trained: TrainOutcome,
}

/// Runs the comparison.
pub(crate) fn run(arguments: &Transformers) -> Result<Figures, CommandError> {
    let python = python::interpreter(arguments.python.as_deref())?;
    let scratch = Scratch::new("transformers")?;
    let directory = JobDirectory::open(&scratch.0).map_err(crate::error::JobError::from)?;
    let settings =
        Settings { threads: 1, device: DeviceChoice::Cpu, sandbox: SandboxStatus::default() };
    let mut worker = Worker::new(directory, Memory::open(), settings)?;
    let mut rows = Vec::new();
    for (kind, adapted) in KINDS {
        eprintln!("{kind}{}", if adapted { " with an adapter" } else { "" });
        rows.push(
            Case { worker: &mut worker, folder: &scratch.0, python: &python }.run(kind, adapted)?,
        );
    }
    Ok(figures(&rows))
}

/// One model on its way.
struct Case<'a> {
    worker: &'a mut Worker,
    folder: &'a Path,
    python: &'a Path,
}

impl Case<'_> {
    fn run(&mut self, kind: &str, adapted: bool) -> Result<Row, CommandError> {
        for entry in std::fs::read_dir(self.folder).map_err(CommandError::io("the scratch"))? {
            let path = entry.map_err(CommandError::io("the scratch"))?.path();
            if path.is_file() {
                std::fs::remove_file(&path).map_err(CommandError::io("the scratch"))?;
            }
        }
        self.write("text", TEXT.as_bytes())?;
        let folder = self.folder.to_string_lossy().into_owned();
        let reference = python::answer(self.python, REFERENCE, &["make", &folder, kind, "tiny"])?;
        let spec = self.import(&reference)?;
        let tokens = self.tokens()?;
        let whole = self.checkpoint("head", &spec)?;
        let (logits, loss) = logits(&spec, &whole, &tokens)?;
        let tokens_equal = self.tokens_equal(&reference, &spec)?;

        let (spec, base) = self.adapt(spec, adapted)?;
        let trained = self.train(&spec, base.as_ref())?;
        let after = self.checkpoint("trained", &spec)?;
        let after = match &spec.adapter {
            Some(adapter) => fold(whole, &after, adapter),
            None => after,
        };
        let plain = ModelSpec { adapter: None, ..spec.clone() };
        let (ours, _) = self::logits(&plain, &after, &tokens)?;
        let exported = self.export(&spec, base)?;
        Ok(Row {
            name: format!("{kind}{}", if adapted { ", adapter" } else { "" }),
            imported: difference(&logits, &numbers(&reference["logits"]))?,
            exported: difference(&ours, &numbers(&exported["logits"]))?,
            loss,
            reference_loss: reference["loss"].as_f64().unwrap_or(f64::NAN),
            tokens_equal,
            trained,
        })
    }

    fn import(&mut self, reference: &Value) -> Result<ModelSpec, CommandError> {
        let weights = reference["files"].as_array().into_iter().flatten();
        let weights: Vec<FileName> =
            weights.filter_map(Value::as_str).map(name).collect::<Result<_, _>>()?;
        let job = ImportJob {
            config: name("config.json")?,
            tokenizer: Some(name("tokenizer.json")?),
            weights,
            context: None,
            checkpoint_out: name("head")?,
        };
        match self.ask(WorkerRequest::Import(job))? {
            WorkerOutcome::Imported { architecture, checkpoint, .. } => Ok(ModelSpec {
                name: "imported".into(),
                architecture,
                tokenizer: Some(ContentHash::of(&self.read("tokenizer.json")?)),
                adapter: None,
                seed: 1,
                imported: true,
                initial_checkpoint: checkpoint,
                evaluation_suite: ContentHash::default(),
                evaluation_suite_bytes: 0,
                licence: "CC0-1.0".into(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    fn tokens(&self) -> Result<Tensor, CommandError> {
        let rows: Vec<Vec<i64>> = serde_json::from_slice(&self.read("tokens.json")?)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok(Tensor::from_slice2(&rows))
    }

    fn tokens_equal(&self, reference: &Value, spec: &ModelSpec) -> Result<bool, CommandError> {
        let json = self.read("tokenizer.json")?;
        let failed =
            |error: crate::tokenizer::TokenizerError| CommandError::Failed(error.to_string());
        let tokenizer = Tokenizer::parse(&json, vocabulary(&spec.architecture)).map_err(failed)?;
        let probe = reference["probe"].as_str().unwrap_or("");
        let ours = tokenizer.encode(probe.as_bytes()).map_err(failed)?;
        let theirs = numbers(&reference["probe_tokens"]);
        let back = tokenizer.decode(&ours).map_err(failed)?;
        Ok(back == probe.as_bytes() && ours.iter().map(|token| f64::from(*token)).eq(theirs))
    }

    /// With an adapter, the imported weights are its base and its own begin as made from a seed.
    fn adapt(
        &mut self,
        spec: ModelSpec,
        adapted: bool,
    ) -> Result<(ModelSpec, Option<FileName>), CommandError> {
        if !adapted {
            return Ok((spec, None));
        }
        let base = self.folder.join("base");
        std::fs::rename(self.folder.join("head"), base).map_err(CommandError::io("the base"))?;
        let adapter = Adapter { base: spec.initial_checkpoint, rank: 4, alpha: 8 };
        let spec = ModelSpec { adapter: Some(adapter), imported: false, ..spec };
        let checkpoint_out = name("head")?;
        self.ask(WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out })?;
        Ok((spec, Some(name("base")?)))
    }

    fn train(
        &mut self,
        spec: &ModelSpec,
        base: Option<&FileName>,
    ) -> Result<TrainOutcome, CommandError> {
        let parameters = RoundParameters {
            inner_steps: STEPS,
            batch: 4,
            // An adapter begins at zero and is small: it bears a larger rate.
            learning_rate_ppm: if base.is_some() { 20_000 } else { 2_000 },
            ..RoundParameters::default()
        };
        let run = InnerRun {
            spec: spec.clone(),
            files: files(base)?,
            parameters,
            steps: STEPS,
            steps_before: 0,
            seed: 1,
            shards: vec![name("text")?],
        };
        let job = TrainJob {
            run,
            checkpoint: name("head")?,
            checkpoint_out: name("trained")?,
            resume: None,
            states: None,
        };
        match self.ask(WorkerRequest::Train(job))? {
            WorkerOutcome::Trained(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// Exports the trained model; transformers' answer about it.
    fn export(&mut self, spec: &ModelSpec, base: Option<FileName>) -> Result<Value, CommandError> {
        let job = ExportJob {
            spec: spec.clone(),
            files: files(base.as_ref())?,
            checkpoint: name("trained")?,
            config_out: name("config.json")?,
            weights_out: name("model.safetensors")?,
        };
        self.ask(WorkerRequest::Export(job))?;
        let exported = self.folder.join("exported");
        std::fs::create_dir_all(&exported).map_err(CommandError::io("the export"))?;
        for file in ["config.json", "model.safetensors", "tokens.json"] {
            std::fs::copy(self.folder.join(file), exported.join(file))
                .map_err(CommandError::io(file))?;
        }
        python::answer(self.python, REFERENCE, &["logits", &exported.to_string_lossy()])
    }

    fn ask(&mut self, request: WorkerRequest) -> Result<WorkerOutcome, CommandError> {
        Ok(self.worker.run(request, &mut |_| Ok(()))?)
    }

    fn checkpoint(&self, file: &str, spec: &ModelSpec) -> Result<Checkpoint, CommandError> {
        Checkpoint::from_bytes(&self.read(file)?, &tensor_specs(spec))
            .map_err(|error| CommandError::Failed(error.to_string()))
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, CommandError> {
        std::fs::read(self.folder.join(file)).map_err(CommandError::io(file))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), CommandError> {
        std::fs::write(self.folder.join(file), bytes).map_err(CommandError::io(file))
    }
}

fn files(base: Option<&FileName>) -> Result<ModelFiles, CommandError> {
    Ok(ModelFiles { tokenizer: Some(name("tokenizer.json")?), base: base.cloned() })
}

fn unexpected(outcome: &WorkerOutcome) -> CommandError {
    CommandError::Failed(format!("the job gave {outcome:?}"))
}

fn name(text: &str) -> Result<FileName, CommandError> {
    FileName::new(text).map_err(|error| CommandError::Failed(error.to_string()))
}

/// All logits for rows of tokens, and the mean loss of predicting each token from those before.
fn logits(
    spec: &ModelSpec,
    checkpoint: &Checkpoint,
    tokens: &Tensor,
) -> Result<(Vec<f64>, f64), CommandError> {
    assert_eq!(tensor_specs(spec), architecture_specs(&spec.architecture), "a whole model");
    let torch = |error: tch::TchError| CommandError::Job(error.into());
    let _guard = tch::no_grad_guard();
    let model = Model::new(spec, checkpoint, None, Options::inference())?;
    let (rows, length) = tokens.size2().map_err(torch)?;
    let last = Tensor::f_full(
        [rows, 1],
        crate::torch::model::IGNORED,
        (tch::Kind::Int64, tch::Device::Cpu),
    )
    .map_err(torch)?;
    let next = tokens.f_narrow(1, 1, length - 1).map_err(torch)?;
    let target = Tensor::f_cat(&[next, last], 1).map_err(torch)?;
    let batch = Batch { input: tokens.shallow_clone(), target, lengths: None };
    let logits = model.logits(&batch).map_err(torch)?;
    let loss = cross_entropy(&logits, &batch, tch::Reduction::Mean).map_err(torch)?;
    let mut values = vec![0.0f32; logits.numel()];
    logits.f_copy_data(&mut values, logits.numel()).map_err(torch)?;
    let loss = loss.f_double_value(&[]).map_err(torch)?;
    Ok((values.into_iter().map(f64::from).collect(), loss))
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// Largest difference over the largest value.
fn difference(ours: &[f64], theirs: &[f64]) -> Result<f64, CommandError> {
    if ours.len() != theirs.len() || ours.is_empty() {
        let text = format!("{} logits here, {} there", ours.len(), theirs.len());
        return Err(CommandError::Failed(text));
    }
    let scale = theirs.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let most = ours.iter().zip(theirs).fold(0.0f64, |most, (x, y)| most.max((x - y).abs()));
    Ok(most / scale)
}

fn figures(rows: &[Row]) -> Figures {
    let mut table = vec![
        ["model", "loss", "loss there", "logits differ", "20 steps", "exported differ", "tokens"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let (mut cells, mut missed) = (Vec::new(), Vec::new());
    for row in rows {
        let nats = |nanonats: u64| format!("{:.3}", nanonats as f64 / 1e9);
        let (first, last) = (row.trained.loss_first_nanonats, row.trained.loss_last_nanonats);
        table.push(vec![
            row.name.clone(),
            format!("{:.5}", row.loss),
            format!("{:.5}", row.reference_loss),
            format!("{:.1e}", row.imported),
            format!("{} to {}", nats(first), nats(last)),
            format!("{:.1e}", row.exported),
            if row.tokens_equal { "equal" } else { "differ" }.into(),
        ]);
        cells.push(json!({
            "model": row.name, "loss": row.loss, "reference_loss": row.reference_loss,
            "logits_difference": row.imported, "exported_difference": row.exported,
            "tokens_equal": row.tokens_equal,
            "trained_first_nanonats": first, "trained_last_nanonats": last,
        }));
        for (what, value) in [("imported", row.imported), ("exported", row.exported)] {
            // Not a plain comparison: NaN misses the aim too.
            if !matches!(value.partial_cmp(&DIFFERENCE_MAX), Some(std::cmp::Ordering::Less)) {
                missed.push(format!("{}: {what} logits differ by {value:.1e}", row.name));
            }
        }
        if !row.tokens_equal {
            missed.push(format!("{}: tokens differ", row.name));
        }
        if last >= first {
            missed.push(format!("{}: {STEPS} steps did not lower the loss", row.name));
        }
    }
    let mut text = Figures::align(&table);
    text.push_str(
        "toy scale: two layers of width 64; differences over the largest logit, aim 1e-4\n",
    );
    Figures { table: text, json: json!({"models": cells, "aim": DIFFERENCE_MAX}), missed }
}

/// A folder that goes with its owner.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// A new folder below the system's for temporary files.
    pub(crate) fn new(purpose: &str) -> Result<Self, CommandError> {
        let name = format!("ayni-{purpose}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(CommandError::io(path.display().to_string()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}
