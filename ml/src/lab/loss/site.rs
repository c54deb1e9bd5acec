//! What all arms stand on: the model, the members' texts and a worker's jobs in a folder of their
//! own, which is removed at the end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::codec;
use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, OuterState, RoundParameters};
use protocol::training::report_windows;
use protocol::worker::{
    EvaluateJob, FileName, ModelFiles, OuterFiles, SandboxStatus, Variant, WorkerOutcome,
    WorkerRequest,
};

use super::Options;
use crate::figures::CommandError;
use crate::files::JobDirectory;
use crate::jobs::{DeviceChoice, Settings, Worker};
use crate::memory::Memory;

/// Threads of a cell: whoever runs a grid starts as many cells as there are cores.
const THREADS: u16 = 1;

/// A worker with its folder, the model and the round's parameters.
pub(super) struct Site {
    worker: Worker,
    folder: Scratch,
    /// The model.
    pub(super) spec: ModelSpec,
    /// The round's parameters.
    pub(super) parameters: RoundParameters,
    windows: Vec<u64>,
}

impl Site {
    /// Copies the texts, makes the initial weights as `head-0` and its state as `state-0`.
    pub(super) fn new(
        options: &Options,
        parameters: RoundParameters,
    ) -> Result<Self, CommandError> {
        let folder = Scratch::new()?;
        for member in 0..options.workers {
            let text = member_text(&options.data.join(format!("node-{member}")))?;
            folder.write(&text_name(member)?, &text)?;
        }
        let suite = options.data.join("suite.txt");
        let suite = std::fs::read(&suite).map_err(CommandError::io(suite.display().to_string()))?;
        folder.write(&name("suite")?, &suite)?;
        folder.write(&name("state-0")?, &codec::encode(&OuterState::default()))?;
        let shape = options.shape;
        let spec = ModelSpec {
            name: "lab".into(),
            architecture: Architecture::BytesGpt {
                layers: shape.layers,
                width: shape.width,
                heads: shape.heads,
                context: shape.context,
            },
            tokenizer: None,
            adapter: None,
            seed: options.seed,
            imported: false,
            initial_checkpoint: ContentHash::default(),
            evaluation_suite: ContentHash::of(&suite),
            evaluation_suite_bytes: u64::try_from(suite.len()).unwrap_or(u64::MAX),
            licence: "CC0-1.0".into(),
        };
        spec.validate().map_err(|error| CommandError::Failed(error.to_string()))?;
        parameters.validate().map_err(|error| CommandError::Failed(error.to_string()))?;
        let directory = JobDirectory::open(&folder.path)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        let windows = report_windows(&spec, options.windows);
        let worker = Worker::new(
            directory,
            Memory::open(),
            Settings {
                threads: THREADS,
                device: DeviceChoice::Cpu,
                sandbox: SandboxStatus::default(),
            },
        )?;
        let mut site = Self { worker, folder, spec, parameters, windows };
        let checkpoint_out = name("head-0")?;
        site.job(WorkerRequest::Initialize { spec: site.spec.clone(), checkpoint_out })?;
        Ok(site)
    }

    /// Runs a job.
    pub(super) fn job(&mut self, request: WorkerRequest) -> Result<WorkerOutcome, CommandError> {
        Ok(self.worker.run(request, &mut |_| Ok(()))?)
    }

    /// Held-out loss of a head in nats per byte.
    pub(super) fn loss(&mut self, checkpoint: &FileName) -> Result<f64, CommandError> {
        let job = EvaluateJob {
            spec: self.spec.clone(),
            parameters: self.parameters.clone(),
            files: ModelFiles::default(),
            checkpoint: checkpoint.clone(),
            outer: OuterFiles { state: name("state-0")?, momentum: None, aggregate: None },
            suite: name("suite")?,
            windows: self.windows.clone(),
            submitted: Vec::new(),
            divisor: 1,
            variants: vec![Variant { weights_ppm: Vec::new() }],
        };
        let WorkerOutcome::Evaluated { losses, .. } = self.job(WorkerRequest::Evaluate(job))?
        else {
            return Err(unexpected("evaluation"));
        };
        let row = losses.into_iter().flatten().next().ok_or_else(|| unexpected("evaluation"))?;
        let sum: f64 = row.iter().map(|loss| *loss as f64 / 1e9).sum();
        Ok(sum / row.len() as f64)
    }

    /// Length of a file that a job wrote.
    pub(super) fn bytes_of(&self, file: &FileName) -> Result<u64, CommandError> {
        let path = self.folder.path.join(file.as_str());
        let metadata = std::fs::metadata(&path);
        Ok(metadata.map_err(CommandError::io(path.display().to_string()))?.len())
    }

    /// A file in the folder.
    pub(super) fn read(&self, file: &FileName) -> Result<Vec<u8>, CommandError> {
        let path = self.folder.path.join(file.as_str());
        std::fs::read(&path).map_err(CommandError::io(path.display().to_string()))
    }

    /// Writes a file into the folder.
    pub(super) fn write(&self, file: &FileName, bytes: &[u8]) -> Result<(), CommandError> {
        self.folder.write(file, bytes)
    }
}

/// A job answered with something that is not its outcome.
pub(super) fn unexpected(what: &str) -> CommandError {
    CommandError::Failed(format!("{what} gave another outcome than its own"))
}

/// A plain file name.
pub(super) fn name(text: &str) -> Result<FileName, CommandError> {
    FileName::new(text).map_err(|error| CommandError::Failed(error.to_string()))
}

/// Where a member's text lies.
pub(super) fn text_name(member: u32) -> Result<FileName, CommandError> {
    name(&format!("text-{member}"))
}

/// All text of one member, its files in name order.
fn member_text(folder: &Path) -> Result<Vec<u8>, CommandError> {
    let failed = || CommandError::io(folder.display().to_string());
    let mut files = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .map_err(failed())?;
    files.sort();
    let mut text = Vec::new();
    for file in files {
        text.extend(std::fs::read(&file).map_err(CommandError::io(file.display().to_string()))?);
        text.push(b'\n');
    }
    Ok(text)
}

/// A folder that goes when this goes.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, CommandError> {
        /// Folders that this process has made.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("ayni-lab-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Not one that is there: it would be somebody else's.
        std::fs::create_dir(&path).map_err(CommandError::io(path.display().to_string()))?;
        Ok(Self { path })
    }

    fn write(&self, file: &FileName, bytes: &[u8]) -> Result<(), CommandError> {
        let path = self.path.join(file.as_str());
        std::fs::write(&path, bytes).map_err(CommandError::io(path.display().to_string()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "could not be removed");
        }
    }
}
