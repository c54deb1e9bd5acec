//! A worker of the demo's own, for what no node may do for it: one node training alone.
//!
//! The process is killed when the [`Worker`] is dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::codec;
use protocol::model::{ModelSpec, OuterState, RoundParameters};
use protocol::worker::{
    EvaluateJob, FileName, InnerRun, ModelFiles, OuterFiles, Progress, TrainJob, Variant,
    WORKER_PROTOCOL_VERSION, WorkerDescription, WorkerOutcome, WorkerReply, WorkerRequest,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::frames;

/// Longest silence of a worker in mid-job before it counts as hung.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Names in the job directory.
const INITIAL: &str = "initial.safetensors";
const TRAINED: &str = "trained.safetensors";
const OUTER_STATE: &str = "outer-state.bin";
const SUITE: &str = "suite.txt";

/// A running worker process.
pub struct Worker {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
    folder: PathBuf,
}

impl Worker {
    /// Starts `command`, which must already name its job directory `folder`.
    pub fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the worker could not be started")?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the worker's pipes are missing");
        };
        Ok(Self { child, requests, replies, folder: folder.to_owned() })
    }

    /// Runs one job to its end; `watch` sees its progress. After an error the worker is out of
    /// step and must be dropped. Not cancel-safe.
    pub async fn run(
        &mut self,
        request: &WorkerRequest,
        mut watch: impl FnMut(&Progress),
    ) -> Result<WorkerOutcome> {
        frames::write(&mut self.requests, &codec::encode_checked(request)?)
            .await
            .context("the worker does not take requests")?;
        loop {
            let frame = timeout(SILENCE_MAX, frames::read(&mut self.replies))
                .await
                .with_context(|| format!("the worker was silent for {SILENCE_MAX:?}"))??;
            let Some(frame) = frame else {
                let status = self.child.wait().await?;
                bail!("the worker ended in mid-job ({status}); what it said is above");
            };
            match codec::decode(&frame).context("the worker's reply makes no sense")? {
                WorkerReply::Progress(progress) => watch(&progress),
                WorkerReply::Done(outcome) => return Ok(outcome),
                WorkerReply::Failed(failure) => {
                    bail!("the worker's job failed ({:?}): {}", failure.kind, failure.message)
                }
            }
        }
    }

    /// Who it is; refuses another version of the conversation.
    pub async fn describe(&mut self) -> Result<WorkerDescription> {
        match self.run(&WorkerRequest::Describe, |_| {}).await? {
            WorkerOutcome::Described(it) if it.protocol_version == WORKER_PROTOCOL_VERSION => {
                Ok(it)
            }
            WorkerOutcome::Described(it) => bail!(
                "the worker speaks version {} and this program {WORKER_PROTOCOL_VERSION}: build \
                 both with `cargo build --release --workspace --bins`",
                it.protocol_version
            ),
            other => bail!("the worker answered something else: {other:?}"),
        }
    }

    /// The initial checkpoint of a specification, written into the job directory; gives its
    /// bytes.
    pub async fn initial_checkpoint(&mut self, spec: &ModelSpec) -> Result<Vec<u8>> {
        let checkpoint_out = FileName::new(INITIAL)?;
        let request = WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out };
        match self.run(&request, |_| {}).await? {
            WorkerOutcome::Initialized { .. } => {
                let path = self.folder.join(INITIAL);
                std::fs::read(&path).with_context(|| format!("{} is missing", path.display()))
            }
            other => bail!("the worker answered something else: {other:?}"),
        }
    }

    /// One node alone: initial weights, `steps` inner steps on `texts`, then the mean loss on
    /// `windows` of the suite in nats per byte.
    pub async fn train_alone(
        &mut self,
        job: &Alone<'_>,
        mut watch: impl FnMut(&Progress),
    ) -> Result<f64> {
        self.initial_checkpoint(job.spec).await?;
        let mut texts = Vec::with_capacity(job.texts.len());
        for (index, text) in job.texts.iter().enumerate() {
            let name = FileName::new(format!("alone-{index}.txt"))?;
            std::fs::copy(text, self.folder.join(name.as_str()))
                .with_context(|| format!("{} cannot be copied", text.display()))?;
            texts.push(name);
        }
        let request = WorkerRequest::Train(TrainJob {
            run: InnerRun {
                spec: job.spec.clone(),
                files: ModelFiles::default(),
                parameters: job.parameters.clone(),
                steps: job.steps,
                steps_before: 0,
                seed: job.seed,
                shards: texts,
            },
            checkpoint: FileName::new(INITIAL)?,
            checkpoint_out: FileName::new(TRAINED)?,
            resume: None,
            states: None,
        });
        let WorkerOutcome::Trained(_) = self.run(&request, &mut watch).await? else {
            bail!("the worker answered something else than a training result");
        };
        self.evaluate(job, TRAINED).await
    }

    /// Mean loss of a checkpoint in the job directory on the windows of `job`.
    async fn evaluate(&mut self, job: &Alone<'_>, checkpoint: &str) -> Result<f64> {
        std::fs::copy(job.suite, self.folder.join(SUITE))
            .with_context(|| format!("{} cannot be copied", job.suite.display()))?;
        let state = codec::encode(&OuterState::default());
        std::fs::write(self.folder.join(OUTER_STATE), state)?;
        let request = WorkerRequest::Evaluate(EvaluateJob {
            spec: job.spec.clone(),
            parameters: job.parameters.clone(),
            files: ModelFiles::default(),
            checkpoint: FileName::new(checkpoint)?,
            outer: OuterFiles {
                state: FileName::new(OUTER_STATE)?,
                momentum: None,
                aggregate: None,
            },
            suite: FileName::new(SUITE)?,
            windows: job.windows.to_vec(),
            submitted: Vec::new(),
            divisor: 1,
            variants: vec![Variant { weights_ppm: Vec::new() }],
        });
        match self.run(&request, |_| {}).await? {
            WorkerOutcome::Evaluated { losses, .. } => match losses.as_slice() {
                [Some(row)] if row.len() == job.windows.len() => mean_nats(row),
                _ => bail!("the worker's losses do not fit the question"),
            },
            other => bail!("the worker answered something else: {other:?}"),
        }
    }

    /// Ends the worker: closes its input, on which it exits by itself.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.requests);
        match timeout(SILENCE_MAX, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("the worker ended with {status}");
                }
                Ok(())
            }
            Err(_) => self.child.kill().await.context("the hung worker cannot be killed"),
        }
    }
}

/// One node training alone.
#[derive(Clone, Copy, Debug)]
pub struct Alone<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// Parameters of the network's rounds.
    pub parameters: &'a RoundParameters,
    /// Inner steps in all.
    pub steps: u32,
    /// Seed of the window order.
    pub seed: u64,
    /// Its texts.
    pub texts: &'a [PathBuf],
    /// The evaluation suite.
    pub suite: &'a Path,
    /// Windows to report on.
    pub windows: &'a [u64],
}

/// Mean of losses in nano-nats, in nats.
pub fn mean_nats(nanonats: &[u64]) -> Result<f64> {
    if nanonats.is_empty() {
        bail!("no loss to take the mean of");
    }
    let sum: u128 = nanonats.iter().copied().map(u128::from).sum();
    Ok(sum as f64 / nanonats.len() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that says what it was told to say, whatever it is asked.
    fn scripted(replies: &[WorkerReply], then: &str) -> (Worker, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        for reply in replies {
            let frame = codec::encode(reply);
            bytes.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
            bytes.extend(frame);
        }
        std::fs::write(folder.path().join("replies"), bytes).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("cat replies; {then}")).current_dir(folder.path());
        (Worker::start(command, folder.path()).unwrap(), folder)
    }

    fn run<T>(future: impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = T>>>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async { future().await })
    }

    fn described(protocol_version: u32) -> WorkerReply {
        WorkerReply::Done(WorkerOutcome::Described(WorkerDescription {
            protocol_version,
            version: "test".into(),
            device: "cpu".into(),
            fingerprint: Default::default(),
            torch: false,
            sandbox: Default::default(),
        }))
    }

    fn describe(replies: Vec<WorkerReply>, then: &'static str) -> Result<WorkerDescription> {
        run(move || {
            Box::pin(async move {
                let (mut worker, _folder) = scripted(&replies, then);
                let description = worker.describe().await?;
                worker.stop().await?;
                Ok(description)
            })
        })
    }

    #[test]
    fn progress_is_passed_over_and_the_outcome_given() {
        let progress =
            Progress { done: 1, total: 2, text: b"so far".to_vec(), ..Progress::default() };
        let replies = vec![WorkerReply::Progress(progress), described(WORKER_PROTOCOL_VERSION)];
        assert_eq!(describe(replies, "cat >requests").expect("described").device, "cpu");
    }

    #[test]
    fn bad_workers_are_errors_that_say_why() {
        let failure = protocol::worker::WorkerFailure {
            kind: protocol::worker::FailureKind::OutOfMemory,
            message: "no room".into(),
        };
        for (replies, then, expect) in [
            (vec![described(99)], "cat >requests", "speaks version 99"),
            (vec![WorkerReply::Failed(failure)], "cat >requests", "OutOfMemory): no room"),
            (vec![], "head -c 5 >requests; exit 3", "ended in mid-job (exit status: 3)"),
            (vec![], "printf '\\001\\000\\000\\000\\377'; cat >requests", "makes no sense"),
        ] {
            let message = format!("{:#}", describe(replies, then).expect_err(expect));
            assert!(message.contains(expect), "{message}");
        }
    }

    #[test]
    fn means_are_in_nats() {
        assert_eq!(mean_nats(&[1_000_000_000, 2_000_000_000]).expect("two"), 1.5);
        assert!(mean_nats(&[]).is_err());
    }
}
