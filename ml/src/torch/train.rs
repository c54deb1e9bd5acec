//! Inner training of one round: H steps of the optimizer from the head.
//!
//! Nothing of the result depends on a clock: not on when the run was interrupted, resumed or
//! reported. The state before the first step and after every step is hashed; the Merkle root of
//! these hashes is what a member commits to.

use std::time::Instant;

use protocol::ids::ContentHash;
use protocol::merkle;
use protocol::model::{Architecture, RoundParameters};
use protocol::worker::{FileName, InnerRun, Progress, TrainJob, TrainOutcome, WorkerOutcome};
use tch::{Device, TchError};

use super::backward::gradients;
use super::model::{Model, Options};
use super::optimizer::Optimizer;
use super::resume::Resume;
use super::{Machine, batch, schedule, state};
use crate::arithmetic::{count, nanonats};
use crate::checkpoint::Checkpoint;
use crate::data::{Shards, Source};
use crate::error::JobError;
use crate::jobs::{Report, check_architecture, check_parameters, read_checkpoint};
use crate::memory;
use crate::tensors::{architecture_specs, index, tensor_specs};

/// Steps of one job. The hashes of all states are kept in memory until the end.
pub const STEPS_MAX: u32 = 1_000_000;

/// Runs a training job.
pub fn run(
    machine: &Machine<'_>,
    job: &TrainJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    let (checkpointing, memory_bytes) = check(machine, &job.run)?;
    let run = &job.run;
    let specs = tensor_specs(&run.spec);
    let head = read_checkpoint(machine.directory, &job.checkpoint, &specs)?;
    let tokenizer = machine.tokenizer(&run.spec, &run.files)?;
    let shards = Shards::open(machine.directory, &run.shards)?;
    let mut resume = match &job.resume {
        Some(name) => Some(Resume::new(machine, name, run, &head, &shards)?),
        None => None,
    };
    let source = Source::new(&run.spec, shards, tokenizer.as_deref(), run.seed)?;
    let model = model(machine, run, &head)?;
    drop(head);
    let mut trainer = Trainer::new(&model, &source, run, checkpointing)?;
    let mut trace = Trace::default();
    if let Some(resume) = &resume {
        resume.restore(&mut trainer, &mut trace)?;
    }
    let resumed_at = trainer.step;
    if trace.states.is_empty() {
        trace.states.push(trainer.state_hash()?);
    }
    let mut clock = Clock::start();
    while trainer.step < run.steps {
        if let Some(states) = &job.states
            && trainer.step.is_multiple_of(states.every.max(1))
        {
            write_state(machine, &trainer, &state_name(&states.prefix, trainer.step)?)?;
        }
        let step = trainer.advance()?;
        trace.states.push(trainer.state_hash()?);
        trace.losses.push(step.loss);
        trace.units = trace.units.saturating_add(step.units);
        report(clock.progress(&trainer, &step)?)?;
        if let Some(resume) = &mut resume
            && trainer.step < run.steps
        {
            resume.save_if_due(&trainer, &trace)?;
        }
    }
    if let Some(states) = &job.states {
        let leaves: Vec<u8> = trace.states.iter().flat_map(|hash| *hash.as_bytes()).collect();
        machine.directory.write(&suffixed(&states.prefix, "leaves")?, &leaves)?;
    }
    machine.directory.write(&job.checkpoint_out, &model.to_checkpoint()?.to_bytes())?;
    if let Some(name) = &job.resume {
        machine.directory.remove(name)?;
    }
    let (loss_first_nanonats, loss_last_nanonats) = trace.ends()?;
    Ok(WorkerOutcome::Trained(TrainOutcome {
        loss_first_nanonats,
        loss_last_nanonats,
        bytes_trained: trace.units,
        elapsed_ms: u64::try_from(clock.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        step_states: merkle::root(&trace.states),
        determinism: machine.determinism(),
        memory_bytes,
        resumed_at,
    }))
}

/// Checks what a run asks for; says whether it needs activation checkpointing, and its memory.
pub fn check(machine: &Machine<'_>, run: &InnerRun) -> Result<(bool, u64), JobError> {
    check_architecture(&run.spec)?;
    check_parameters(&run.parameters)?;
    if !(1..=STEPS_MAX).contains(&run.steps) {
        return Err(JobError::Request(format!("steps: 1 to {STEPS_MAX}")));
    }
    // What a device other than the processor has, only its allocator knows.
    let available = match machine.device {
        Device::Cpu => machine.memory.available(),
        _ => (u64::MAX, "the device"),
    };
    let (checkpointing, estimate) = memory::plan(&run.spec, &run.parameters, available)?;
    Ok((checkpointing, estimate.bytes()))
}

/// The model of a run with the given trained weights.
pub fn model(
    machine: &Machine<'_>,
    run: &InnerRun,
    weights: &Checkpoint,
) -> Result<Model, JobError> {
    let base = match (&run.spec.adapter, &run.files.base) {
        (Some(_), Some(name)) => {
            let specs = architecture_specs(&run.spec.architecture);
            Some(read_checkpoint(machine.directory, name, &specs)?)
        }
        _ => None,
    };
    let precision = run.parameters.precision;
    let options = Options { trainable: true, device: machine.device, precision };
    Model::new(&run.spec, weights, base.as_ref(), options)
}

/// A run between its steps.
pub struct Trainer<'a> {
    /// The model.
    pub model: &'a Model,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u32,
    source: &'a Source<'a>,
    architecture: Architecture,
    parameters: RoundParameters,
    steps: u32,
    steps_before: u64,
    checkpointing: bool,
}

/// What one step gave.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Nats per byte, or per record.
    pub loss: f64,
    /// Bytes, or records.
    pub units: u64,
}

impl<'a> Trainer<'a> {
    /// Before the first step.
    pub fn new(
        model: &'a Model,
        source: &'a Source<'a>,
        run: &InnerRun,
        checkpointing: bool,
    ) -> Result<Self, TchError> {
        Ok(Self {
            model,
            optimizer: Optimizer::new(model, &run.parameters)?,
            step: 0,
            source,
            architecture: run.spec.architecture,
            parameters: run.parameters.clone(),
            steps: run.steps,
            steps_before: run.steps_before,
            checkpointing,
        })
    }

    /// Takes the next step.
    pub fn advance(&mut self) -> Result<Step, JobError> {
        let rows = index(self.parameters.batch);
        let examples = self.source.step(u64::from(self.step), rows)?;
        let batch = batch::of(&self.architecture, &examples, self.model.device())?;
        let micro = i64::from(self.parameters.micro_batch);
        let (loss, gradients) = gradients(self.model, &batch, micro, self.checkpointing)?;
        if !loss.is_finite() {
            return Err(JobError::Diverged("the loss is not finite"));
        }
        let rate = schedule::rate(&self.parameters, self.steps, self.steps_before, self.step);
        self.optimizer.step(self.model, &gradients, rate)?;
        self.step += 1;
        // A token may be several bytes; the loss is told per byte.
        let units = usize::try_from(examples.units.max(1)).unwrap_or(usize::MAX);
        let loss = loss * count(examples.target.len()) / count(units);
        Ok(Step { loss, units: examples.units })
    }

    /// Hash of the present state.
    pub fn state_hash(&self) -> Result<ContentHash, TchError> {
        state::hash(self.model, &self.optimizer)
    }
}

/// What is kept of the steps.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Hashes of the state before the first step and after each.
    pub states: Vec<ContentHash>,
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Bytes, or records, of all steps.
    pub units: u64,
}

impl Trace {
    /// Mean loss of the first and last tenth in nano-nats.
    fn ends(&self) -> Result<(u64, u64), JobError> {
        let tenth = (self.losses.len() / 10).max(1);
        let mean = |losses: &[f64]| nanonats(losses.iter().sum::<f64>() / count(losses.len()));
        let last = self.losses.len().saturating_sub(tenth);
        mean(&self.losses[..tenth])
            .zip(mean(&self.losses[last..]))
            .ok_or(JobError::Diverged("the loss is not finite"))
    }
}

/// Tells the speed between reports.
struct Clock {
    started: Instant,
    before: Instant,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { started: now, before: now }
    }

    fn progress(&mut self, trainer: &Trainer<'_>, step: &Step) -> Result<Progress, JobError> {
        let now = Instant::now();
        let micros = now.duration_since(self.before).as_micros().max(1);
        self.before = now;
        let per_second = u128::from(step.units) * 1_000_000 / micros;
        let diverged = JobError::Diverged("the loss is not finite");
        Ok(Progress {
            done: u64::from(trainer.step),
            total: u64::from(trainer.steps),
            loss_nanonats: Some(nanonats(step.loss).ok_or(diverged)?),
            per_second: Some(u64::try_from(per_second).unwrap_or(u64::MAX)),
            prompt: 0,
            text: Vec::new(),
        })
    }
}

/// Name of the file with the state before a step.
fn state_name(prefix: &FileName, step: u32) -> Result<FileName, JobError> {
    suffixed(prefix, &step.to_string())
}

fn suffixed(prefix: &FileName, suffix: &str) -> Result<FileName, JobError> {
    FileName::new(format!("{}.{suffix}", prefix.as_str()))
        .map_err(|error| JobError::Request(error.to_string()))
}

/// Writes the present state to a file.
pub fn write_state(
    machine: &Machine<'_>,
    trainer: &Trainer<'_>,
    name: &FileName,
) -> Result<(), JobError> {
    let mut file = machine.directory.create(name)?;
    state::write(trainer.model, &trainer.optimizer, &mut file)?;
    Ok(file.commit(false)?)
}
