//! The worker: takes requests, runs each as a job, replies.
//!
//! A job that fails or panics is answered with a failure and leaves nothing behind; the next one
//! starts from files again. Every name, size and number of a request is checked here, before
//! anything is read or allocated.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use protocol::ids::ContentHash;
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use protocol::worker::{
    FileName, Progress, SandboxStatus, WORKER_PROTOCOL_VERSION, WorkerDescription, WorkerOutcome,
    WorkerReply, WorkerRequest,
};

use crate::checkpoint::Checkpoint;
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::frames::{FrameError, read_frame, write_frame};
use crate::initialize::initial_checkpoint;
use crate::memory::Memory;
use crate::tensors::TensorSpec;

/// Where a job reports its progress. An error stops the job.
pub type Report<'a> = dyn FnMut(Progress) -> Result<(), JobError> + 'a;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, or the processor.
    Auto,
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA device.
    Cuda(u16),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda = || text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => cuda().map(Self::Cuda).ok_or_else(|| "auto, cpu or cuda:NUMBER".into()),
        }
    }
}

/// How the worker computes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads for arithmetic, at least 1.
    pub threads: u16,
    /// The device.
    pub device: DeviceChoice,
    /// How the process is confined.
    pub sandbox: SandboxStatus,
}

/// Runs jobs in a directory, one at a time, on the thread that made it.
pub struct Worker {
    directory: JobDirectory,
    settings: Settings,
    #[cfg(feature = "torch")]
    device: tch::Device,
    #[cfg_attr(not(feature = "torch"), expect(dead_code, reason = "only training asks"))]
    memory: Memory,
    /// The fingerprint, once computed.
    fingerprint: Option<ContentHash>,
}

impl Worker {
    /// A worker. Sets up the arithmetic of the calling thread, which must be the one that runs
    /// the jobs; only one worker is made per process.
    /// Fails if the device is not there.
    pub fn new(
        directory: JobDirectory,
        memory: Memory,
        settings: Settings,
    ) -> Result<Self, JobError> {
        #[cfg(feature = "torch")]
        let device = crate::torch::device::resolve(settings.device)?;
        #[cfg(feature = "torch")]
        crate::torch::prepare_thread(settings.threads);
        #[cfg(not(feature = "torch"))]
        if let DeviceChoice::Cuda(_) = settings.device {
            return Err(JobError::Unsupported);
        }
        Ok(Self {
            directory,
            settings,
            #[cfg(feature = "torch")]
            device,
            memory,
            fingerprint: None,
        })
    }

    #[cfg(feature = "torch")]
    fn machine(&self) -> crate::torch::Machine<'_> {
        crate::torch::Machine {
            directory: &self.directory,
            threads: self.settings.threads,
            device: self.device,
            memory: &self.memory,
        }
    }

    /// Answers requests until the input ends or the daemon is gone. Fails on a broken stream.
    pub fn serve(
        &mut self,
        input: &mut impl Read,
        output: &mut impl Write,
    ) -> Result<(), FrameError> {
        loop {
            let request = match read_frame::<WorkerRequest>(input) {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => request,
                Err(error) => {
                    // Said once for the log on the other side; the stream is lost either way.
                    let failure = JobError::Request(error.to_string()).to_failure();
                    write_frame(output, &WorkerReply::Failed(failure))?;
                    return Err(error);
                }
            };
            let result = match request {
                Ok(request) => self.run(request, &mut |progress| {
                    write_frame(output, &WorkerReply::Progress(progress)).map_err(|e| match e {
                        FrameError::Io(error) => JobError::Disconnected(error),
                        FrameError::TooLarge(_) => JobError::Request(e.to_string()),
                    })
                }),
                Err(error) => Err(JobError::Request(error.to_string())),
            };
            let reply = match result {
                Ok(outcome) => WorkerReply::Done(outcome),
                Err(JobError::Disconnected(error)) => {
                    tracing::info!(%error, "the daemon is gone");
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "job failed");
                    WorkerReply::Failed(error.to_failure())
                }
            };
            write_frame(output, &reply)?;
            crate::allocator::give_back();
        }
    }

    /// Runs one job. A panic is caught and becomes a failure.
    pub fn run(
        &mut self,
        request: WorkerRequest,
        report: &mut Report<'_>,
    ) -> Result<WorkerOutcome, JobError> {
        // Jobs hold no state across requests but the fingerprint, which is set last.
        catch_unwind(AssertUnwindSafe(|| self.dispatch(request, report))).unwrap_or_else(|panic| {
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(JobError::Panicked(words.unwrap_or("no message").to_owned()))
        })
    }

    fn dispatch(
        &mut self,
        request: WorkerRequest,
        report: &mut Report<'_>,
    ) -> Result<WorkerOutcome, JobError> {
        match request {
            WorkerRequest::Describe => self.describe(),
            WorkerRequest::Initialize { spec, checkpoint_out } => {
                self.initialize(&spec, &checkpoint_out)
            }
            WorkerRequest::Compare(job) => crate::compare::run(&self.directory, &job),
            WorkerRequest::Merge(job) => {
                crate::merge::job::run(&self.directory, &job, self.settings.threads)
            }
            WorkerRequest::Compress(job) => crate::delta::job::run(&self.directory, &job),
            WorkerRequest::Import(job) => crate::huggingface::import(&self.directory, &job),
            WorkerRequest::Export(job) => crate::huggingface::export(&self.directory, &job),
            WorkerRequest::Ingest(job) => crate::data::ingest::run(&self.directory, &job, report),
            #[cfg(feature = "torch")]
            WorkerRequest::Train(job) => crate::torch::train::run(&self.machine(), &job, report),
            #[cfg(feature = "torch")]
            WorkerRequest::Replay(job) => crate::torch::replay::run(&self.machine(), &job, report),
            #[cfg(feature = "torch")]
            WorkerRequest::Evaluate(job) => {
                crate::torch::evaluate::run(&self.machine(), &job, report)
            }
            #[cfg(feature = "torch")]
            WorkerRequest::Generate(job) => {
                crate::torch::generate::run(&self.machine(), &job, report)
            }
            #[cfg(not(feature = "torch"))]
            WorkerRequest::Train(_)
            | WorkerRequest::Replay(_)
            | WorkerRequest::Evaluate(_)
            | WorkerRequest::Generate(_) => {
                let _ = report;
                Err(JobError::Unsupported)
            }
        }
    }

    fn describe(&mut self) -> Result<WorkerOutcome, JobError> {
        let fingerprint = match self.fingerprint {
            Some(fingerprint) => fingerprint,
            None => self.compute_fingerprint()?,
        };
        self.fingerprint = Some(fingerprint);
        Ok(WorkerOutcome::Described(WorkerDescription {
            protocol_version: WORKER_PROTOCOL_VERSION,
            version: version(),
            device: self.describe_device(),
            fingerprint,
            torch: cfg!(feature = "torch"),
            sandbox: self.settings.sandbox,
        }))
    }

    #[cfg(feature = "torch")]
    fn compute_fingerprint(&self) -> Result<ContentHash, JobError> {
        crate::torch::fingerprint::fingerprint(self.device)
    }

    /// Without libtorch everything is exact, so all such workers compute alike.
    #[cfg(not(feature = "torch"))]
    fn compute_fingerprint(&self) -> Result<ContentHash, JobError> {
        Ok(ContentHash::of(b"ayni worker without torch, version 1"))
    }

    #[cfg(feature = "torch")]
    fn describe_device(&self) -> String {
        self.machine().describe()
    }

    #[cfg(not(feature = "torch"))]
    fn describe_device(&self) -> String {
        format!("cpu, {} thread(s)", self.settings.threads)
    }

    fn initialize(&self, spec: &ModelSpec, out: &FileName) -> Result<WorkerOutcome, JobError> {
        check_architecture(spec)?;
        let bytes = initial_checkpoint(spec).to_bytes();
        self.directory.write(out, &bytes)?;
        let checkpoint = ContentHash::of(&bytes);
        Ok(WorkerOutcome::Initialized { checkpoint, parameters: spec.parameters() })
    }
}

fn version() -> String {
    let program = concat!("ayni-worker ", env!("CARGO_PKG_VERSION"));
    if cfg!(feature = "torch") { format!("{program}, libtorch 2.13.0") } else { program.into() }
}

/// Checks the shape of a model; the rest of its specification is the ledger's business.
pub fn check_architecture(spec: &ModelSpec) -> Result<(), JobError> {
    let shape_only = ModelSpec {
        name: "shape".into(),
        evaluation_suite_bytes: 1 << 20,
        licence: "none".into(),
        ..spec.clone()
    };
    shape_only.validate().map_err(|error| JobError::Request(error.to_string()))
}

/// Checks a shape that comes without a model.
pub fn check_shape(architecture: &Architecture) -> Result<(), JobError> {
    check_architecture(&ModelSpec {
        name: String::new(),
        architecture: *architecture,
        tokenizer: (!architecture.reads_bytes()).then(ContentHash::default),
        adapter: None,
        seed: 0,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 0,
        licence: String::new(),
    })
}

/// Checks the parameters of a round.
pub fn check_parameters(parameters: &RoundParameters) -> Result<(), JobError> {
    parameters.validate().map_err(|error| JobError::Request(error.to_string()))
}

/// Reads a checkpoint, or error feedback, of the model with these tensors.
pub fn read_checkpoint(
    directory: &JobDirectory,
    name: &FileName,
    specs: &[TensorSpec],
) -> Result<Checkpoint, JobError> {
    let max = u64::try_from(Checkpoint::bytes_expected(specs)).unwrap_or(u64::MAX);
    let bytes = directory.read(name, max)?;
    Checkpoint::from_bytes(&bytes, specs)
        .map_err(|source| JobError::Checkpoint { name: name.as_str().to_owned(), source })
}
