//! The same workers training at the same time without a network: what the machine can do.
//!
//! Each runs the job that a daemon would give it: same model, batch, number of steps, threads and
//! niceness, and the hashes of all states that a delta commits to. It keeps no state on disk,
//! which only others ask for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use protocol::config::WorkerConfig;
use protocol::model::{ModelSpec, RoundParameters};
use protocol::worker::{FileName, InnerRun, ModelFiles, TrainJob, WorkerOutcome, WorkerRequest};
use serde::Serialize;
use tokio::process::Command;
use tokio::time::sleep;

use super::account::{self, Cores, Sample};
use super::record::{self, Job, Kind};
use super::site::metered;
use crate::corpus::Corpus;
use crate::network::process::LOOK;
use crate::worker_client::Worker;
use crate::workspace::Workspace;

/// Names in a job directory.
const HEAD: &str = "initial.safetensors";
const TRAINED: &str = "trained.safetensors";

/// What the workers did alone.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Alone {
    /// Bytes of text trained on a second, by all together while all trained.
    pub(super) tokens_per_s: f64,
    /// In a second of one core, of those that other programs left.
    pub(super) tokens_per_core_s: f64,
    /// Core seconds that other programs took meanwhile, over all.
    pub(super) others_share: f64,
    /// Processor time of an inner step, in milliseconds.
    pub(super) cpu_ms_per_step: f64,
}

/// What is trained.
pub(super) struct Training<'a> {
    pub(super) spec: &'a ModelSpec,
    pub(super) parameters: &'a RoundParameters,
    pub(super) corpus: &'a Corpus,
}

impl Training<'_> {
    /// Bytes of text in an inner step.
    pub(super) fn step_tokens(&self) -> f64 {
        f64::from(self.parameters.batch) * self.spec.window_bytes() as f64
    }
}

/// Trains with as many workers as there are parts of the corpus, in an emptied folder.
pub(super) async fn measure(
    workspace: &Workspace,
    training: &Training<'_>,
    folder: &Path,
) -> Result<Alone> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let mut workers = Vec::new();
    let mut records = Vec::new();
    for index in 0..training.corpus.nodes.len() {
        let (worker, record) = start(workspace, &folder.join(format!("alone-{index}"))).await?;
        workers.push(worker);
        records.push(record);
    }
    // One after the other: until all are ready nobody trains.
    let mut requests = Vec::new();
    for (index, (worker, directory)) in workers.iter_mut().zip(&records).enumerate() {
        worker.initial_checkpoint(training.spec).await?;
        requests.push(request(training, index, directory)?);
    }
    let runs = workers.iter_mut().zip(&requests).map(async |(worker, request)| {
        match worker.run(request, |_| {}).await? {
            WorkerOutcome::Trained(_) => Ok(()),
            other => bail!("the worker answered something else: {other:?}"),
        }
    });
    let mut samples = vec![super::sample(&[])?];
    let runs = futures::future::try_join_all(runs);
    tokio::select! {
        done = runs => drop(done?),
        failed = watch(&mut samples) => failed?,
    }
    samples.push(super::sample(&[])?);
    for worker in workers {
        worker.stop().await?;
    }
    let mut jobs = Vec::new();
    for record in &records {
        let done = record::jobs(&record::lines(&record.with_extension("record"))?)?;
        jobs.extend(done.into_iter().filter(|job| job.task.kind == Kind::Train));
    }
    ensure!(jobs.len() == requests.len(), "the records of the workers are not whole");
    rate(&jobs, &samples, &Cores::for_workers(jobs.len())?, training.step_tokens())
}

/// Reads the machine's counters until it is dropped.
async fn watch(samples: &mut Vec<Sample>) -> Result<()> {
    loop {
        sleep(LOOK).await;
        samples.push(super::sample(&[])?);
    }
}

/// Starts a metered worker in a directory of its own; its record lies beside it.
async fn start(workspace: &Workspace, directory: &Path) -> Result<(Worker, PathBuf)> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{} cannot be created", directory.display()))?;
    let line = metered(workspace, &directory.with_extension("record"))?;
    let (program, arguments) = line.split_first().context("a command has a program")?;
    let defaults = WorkerConfig::default();
    let mut command = Command::new(program);
    command.args(arguments).arg("--dir").arg(directory).args([
        "--threads",
        &defaults.threads.to_string(),
        "--nice",
        &defaults.nice.to_string(),
    ]);
    let mut worker = Worker::start(command, directory)?;
    worker.describe().await?;
    Ok((worker, directory.to_owned()))
}

fn request(training: &Training<'_>, index: usize, directory: &Path) -> Result<WorkerRequest> {
    let mut shards = Vec::new();
    for (number, text) in training.corpus.files(index)?.iter().enumerate() {
        let name = FileName::new(format!("text-{number}.txt"))?;
        std::fs::copy(text, directory.join(name.as_str()))
            .with_context(|| format!("{} cannot be copied", text.display()))?;
        shards.push(name);
    }
    Ok(WorkerRequest::Train(TrainJob {
        run: InnerRun {
            spec: training.spec.clone(),
            files: ModelFiles::default(),
            parameters: training.parameters.clone(),
            steps: training.parameters.inner_steps,
            steps_before: 0,
            seed: u64::try_from(index)?,
            shards,
        },
        checkpoint: FileName::new(HEAD)?,
        checkpoint_out: FileName::new(TRAINED)?,
        resume: None,
        states: None,
    }))
}

/// What all did until the first was done: after that the others have the cores to themselves.
fn rate(jobs: &[Job], samples: &[Sample], cores: &Cores, step_tokens: f64) -> Result<Alone> {
    let begin = jobs.iter().map(|job| job.begin_ms).min().context("nobody trained")?;
    let ends = jobs.iter().filter_map(|job| job.progress.last()).map(|(at, _)| *at);
    let end = ends.min().context("nobody trained")?;
    ensure!(end > begin, "the clock was set back");
    let steps: f64 = jobs.iter().map(|job| job.done_at(end)).sum();
    let all: f64 = jobs.iter().filter_map(Job::steps).map(|(_, last)| last as f64).sum();
    let cpu: f64 = jobs.iter().map(|job| job.cpu_ms as f64).sum();
    let busy = account::at(samples, end)?.busy_ms - account::at(samples, begin)?.busy_ms;
    let ours: f64 = jobs.iter().map(|job| job.cpu_within(begin, end)).sum();
    let (seconds, others) = ((end - begin) as f64 / 1_000.0, (busy - ours).max(0.0) / 1_000.0);
    let available = cores.available(seconds, others);
    ensure!(available > 0.0, "other programs left nothing of the cores");
    Ok(Alone {
        tokens_per_s: steps * step_tokens / seconds,
        tokens_per_core_s: steps * step_tokens / available,
        others_share: others / (seconds * cores.there as f64),
        cpu_ms_per_step: cpu / all.max(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::training::record::Task;

    #[test]
    fn only_the_time_in_which_all_trained_counts() {
        let task = Task { kind: Kind::Train, round: Some(1), seed: Some(1) };
        let job = |progress: Vec<(u64, u64)>| Job {
            task,
            begin_ms: 1_000,
            end_ms: 9_000,
            cpu_ms: 100,
            ended: Some(true),
            progress,
        };
        let jobs = [job(vec![(2_000, 1), (3_000, 2)]), job(vec![(3_000, 1), (3_500, 2)])];
        let sample = |at_ms, busy_ms| Sample { at_ms, daemons_ms: 0.0, busy_ms };
        // Two seconds of two cores were used, of which the workers have 50 ms.
        let samples = [sample(0, 0.0), sample(1_000, 0.0), sample(3_000, 1_050.0)];
        let cores = Cores { there: 2, usable: 2 };
        let rate = |jobs: &[Job]| rate(jobs, &samples, &cores, 10.0);
        let alone = rate(&jobs).expect("trained");
        assert_eq!((alone.tokens_per_s, alone.cpu_ms_per_step), (15.0, 50.0));
        assert_eq!((alone.tokens_per_core_s, alone.others_share), (10.0, 0.25));
        assert!(rate(&[]).is_err());
        assert!(rate(&[job(Vec::new())]).is_err());
    }
}
