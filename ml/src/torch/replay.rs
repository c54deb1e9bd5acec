//! Some inner steps again, from a state that a member committed to.

use std::io::BufReader;

use protocol::worker::{Progress, ReplayJob, WorkerOutcome};

use super::train::{self, Trainer};
use super::{Machine, state};
use crate::checkpoint::Checkpoint;
use crate::data::{Shards, Source};
use crate::error::JobError;
use crate::jobs::Report;
use crate::tensors::tensor_specs;

/// Runs a replay job.
pub fn run(
    machine: &Machine<'_>,
    job: &ReplayJob,
    report: &mut Report<'_>,
) -> Result<WorkerOutcome, JobError> {
    let run = &job.run;
    let (checkpointing, _) = train::check(machine, run)?;
    let end = job.from.saturating_add(job.steps);
    if job.steps == 0 || end > run.steps {
        let steps = run.steps;
        return Err(JobError::Request(format!("steps {} to {end} of {steps}", job.from)));
    }
    let specs = tensor_specs(&run.spec);
    // All weights come from the state.
    let model = train::model(machine, run, &Checkpoint::zeros(&specs))?;
    let tokenizer = machine.tokenizer(&run.spec, &run.files)?;
    let shards = Shards::open(machine.directory, &run.shards)?;
    let source = Source::new(&run.spec, shards, tokenizer.as_deref(), run.seed)?;
    let mut trainer = Trainer::new(&model, &source, run, checkpointing)?;
    let (file, length) = machine.directory.file(&job.state)?;
    if length != state::state_bytes(model.flat().numel()) {
        return Err(JobError::Request("not a state of this model: another length".into()));
    }
    state::read(&model, &mut trainer.optimizer, &mut BufReader::new(file))?;
    if trainer.optimizer.steps() != u64::from(job.from) {
        let found = trainer.optimizer.steps();
        return Err(JobError::Request(format!("the state is that before step {found}")));
    }
    trainer.step = job.from;
    let mut states = Vec::new();
    while trainer.step < end {
        trainer.advance()?;
        states.push(trainer.state_hash()?);
        report(Progress {
            done: u64::from(trainer.step - job.from),
            total: u64::from(job.steps),
            loss_nanonats: None,
            per_second: None,
            prompt: 0,
            text: Vec::new(),
        })?;
    }
    if let Some(name) = &job.state_out {
        train::write_state(machine, &trainer, name)?;
    }
    Ok(WorkerOutcome::Replayed { states })
}
