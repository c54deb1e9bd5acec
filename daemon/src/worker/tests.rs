//! The supervisor against workers made of a line of shell, each bad in its own way.

use std::path::PathBuf;

use protocol::codec;
use protocol::ids::ContentHash;
use protocol::limits;
use protocol::model::{Architecture, ModelSpec};
use protocol::worker::{
    FailureKind, FileName, GenerateJob, ModelFiles, SandboxStatus, WORKER_PROTOCOL_VERSION,
    WorkerFailure, WorkerReply,
};
use storage::BlobStore;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// Reads one request, which is written at once and is far smaller than a pipe.
const READ: &str = "dd bs=65536 count=1 of=/dev/null 2>/dev/null";

struct Bench {
    folder: TempDir,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, tracker: TaskTracker::new(), token: CancellationToken::new() }
    }

    /// A file with these replies as frames, for the script to print.
    fn replies(&self, name: &str, replies: &[WorkerReply]) -> String {
        let mut bytes = Vec::new();
        for reply in replies {
            let body = codec::encode(reply);
            bytes.extend_from_slice(&u32::try_from(body.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        self.file(name, &bytes)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A worker that describes itself and then does `then`.
    fn describes_then(&self, then: &str) -> String {
        let described = self.replies("described", &[WorkerReply::Done(description())]);
        format!("{READ}; cat {described}; {then}")
    }

    fn config(&self, script: &str) -> WorkerConfig {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let mut config = WorkerConfig::new(command, self.path("worker"));
        config.pause_min = Duration::from_millis(1);
        config.pause_max = Duration::from_millis(20);
        config
    }

    fn start(&self, script: &str) -> WorkerHandle {
        Worker::start(self.config(script), &self.tracker, self.token.clone())
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(LONG, self.tracker.wait()).await.expect("all tasks end");
    }
}

fn description() -> WorkerOutcome {
    WorkerOutcome::Described(WorkerDescription {
        protocol_version: WORKER_PROTOCOL_VERSION,
        version: "shell".to_owned(),
        device: "pipe".to_owned(),
        fingerprint: ContentHash::of(b"shell"),
        torch: false,
        sandbox: SandboxStatus::default(),
    })
}

fn name(text: &str) -> FileName {
    FileName::new(text).expect("a plain name")
}

fn spec() -> ModelSpec {
    ModelSpec {
        name: "tiny".to_owned(),
        architecture: Architecture::BytesGpt { layers: 1, width: 32, heads: 1, context: 32 },
        tokenizer: None,
        adapter: None,
        seed: 1,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 1,
        licence: "CC0-1.0".to_owned(),
    }
}

fn initialize() -> WorkerRequest {
    WorkerRequest::Initialize { spec: spec(), checkpoint_out: name("out") }
}

fn initialized() -> WorkerOutcome {
    WorkerOutcome::Initialized { checkpoint: ContentHash::of(b"out"), parameters: 7 }
}

async fn until(handle: &WorkerHandle, holds: impl FnMut(&WorkerStatus) -> bool) -> WorkerStatus {
    let mut status = handle.status();
    let seen = tokio::time::timeout(LONG, status.wait_for(holds)).await;
    seen.expect("in time").expect("the supervisor lives").clone()
}

async fn run(handle: &WorkerHandle) -> Result<WorkerOutcome, WorkerError> {
    handle.run(Lane::Duty, initialize(), LONG, None).await
}

#[tokio::test]
async fn answers_with_progress_and_survives_reported_failures() {
    let bench = Bench::new();
    let report = Progress { done: 1, total: 2, text: vec![1], ..Progress::default() };
    let done = [
        WorkerReply::Progress(report.clone()),
        WorkerReply::Progress(report.clone()),
        WorkerReply::Done(initialized()),
    ];
    let failure = WorkerFailure { kind: FailureKind::BadInput, message: "no".to_owned() };
    let failed = bench.replies("failed", &[WorkerReply::Failed(failure.clone())]);
    let done = bench.replies("done", &done);
    let then = format!("{READ}; cat {failed}; {READ}; cat {done}; cat >/dev/null");
    let handle = bench.start(&bench.describes_then(&then));
    assert!(matches!(run(&handle).await, Err(WorkerError::Failed(f)) if f == failure));
    let (sender, mut progress) = mpsc::channel(4);
    let outcome = handle.run(Lane::Interactive, initialize(), LONG, Some(sender)).await;
    assert_eq!(outcome.expect("done"), initialized());
    assert_eq!(progress.recv().await, Some(report.clone()));
    assert_eq!(progress.recv().await, Some(report));
    assert_eq!(progress.recv().await, None);
    let status = until(&handle, |status| status.state == WorkerState::Idle).await;
    assert_eq!(status.restarts, 0, "one process did it all");
    assert_eq!(status.description.expect("described").version, "shell");
    bench.stop().await;
}

#[tokio::test]
async fn a_death_is_reported_with_the_last_words_and_repaired() {
    let bench = Bench::new();
    let done = bench.replies("done", &[WorkerReply::Done(initialized())]);
    let marker = bench.path("died");
    let marker = marker.display();
    let then = format!(
        "{READ}; if [ ! -e {marker} ]; then touch {marker}; echo ERROR out of luck >&2; \
         echo bye >&2; exit 3; fi; \
         cat {done}; cat >/dev/null"
    );
    let handle = bench.start(&bench.describes_then(&then));
    let mut job = handle.job(Lane::Duty).await.expect("a job");
    job.put_bytes(&name("input"), b"kept".to_vec()).await.expect("put");
    let error = job.run(initialize(), LONG, None).await.expect_err("it dies");
    let WorkerError::Died { status } = error else { panic!("{error}") };
    assert!(status.contains("exit status: 3") && status.contains("out of luck"), "{status}");
    assert_eq!(job.read(&name("input"), 9).await.expect("still there"), b"kept");
    assert_eq!(job.run(initialize(), LONG, None).await.expect("the next one"), initialized());
    let status = until(&handle, |status| status.restarts == 1).await;
    assert!(status.last_error.expect("noted").contains("out of luck"));
    drop(job);
    bench.stop().await;
}

#[tokio::test]
async fn nonsense_of_every_kind_kills_the_worker() {
    let merged = WorkerOutcome::Merged {
        checkpoint: ContentHash::of(b"a"),
        outer_state: ContentHash::of(b"b"),
        momentum: None,
        aggregate: None,
    };
    let bench = Bench::new();
    let oversized = u32::try_from(limits::WORKER_FRAME_BYTES_MAX + 1).expect("fits").to_le_bytes();
    let scripts = [
        bench.file("oversized", &oversized),
        bench.file("malformed", &[1, 0, 0, 0, 99]),
        bench.replies("another-kind", &[WorkerReply::Done(merged)]),
    ];
    for script in scripts {
        let handle = bench.start(&bench.describes_then(&format!("{READ}; cat {script}; sleep 60")));
        let error = run(&handle).await.expect_err("nonsense");
        assert!(matches!(error, WorkerError::Nonsense(_)), "{script}: {error}");
        until(&handle, |status| status.restarts > 0 && status.state == WorkerState::Idle).await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn unasked_frames_and_deaths_while_idle_are_noticed() {
    for then in ["printf x; sleep 60", "exit 4"] {
        let bench = Bench::new();
        let handle = bench.start(&bench.describes_then(then));
        until(&handle, |status| status.restarts >= 2 && status.last_error.is_some()).await;
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_late_worker_is_killed_and_replaced() {
    let bench = Bench::new();
    let handle = bench.start(&bench.describes_then("sleep 60"));
    until(&handle, |status| status.state == WorkerState::Idle).await;
    let error = handle.run(Lane::Duty, initialize(), SHORT, None).await.expect_err("late");
    assert!(matches!(error, WorkerError::TimedOut { after } if after == SHORT), "{error}");
    until(&handle, |status| status.restarts == 1 && status.state == WorkerState::Idle).await;
    bench.stop().await;
}

#[tokio::test]
async fn dropping_a_run_kills_the_worker_and_frees_the_lane() {
    let bench = Bench::new();
    let marker = bench.path("second");
    let done = bench.replies("done", &[WorkerReply::Done(initialized())]);
    let report = Progress { done: 1, total: 2, ..Progress::default() };
    let report = bench.replies("report", &[WorkerReply::Progress(report)]);
    let then = format!(
        "{READ}; if [ ! -e {0} ]; then touch {0}; cat {report}; sleep 60; fi; cat {done}; \
         cat >/dev/null",
        marker.display()
    );
    let handle = bench.start(&bench.describes_then(&then));
    let (sender, mut progress) = mpsc::channel(1);
    {
        let run = handle.run(Lane::Duty, initialize(), LONG, Some(sender));
        tokio::pin!(run);
        tokio::select! {
            result = &mut run => panic!("it never answers: {result:?}"),
            report = progress.recv() => assert!(report.is_some(), "it has begun"),
        }
    }
    let result = tokio::time::timeout(LONG, run(&handle)).await.expect("the lane is free");
    assert_eq!(result.expect("the new worker answers"), initialized());
    assert_eq!(handle.status().borrow().restarts, 1);
    assert_eq!(handle.status().borrow().last_error, None, "nobody's fault");
    bench.stop().await;
}

#[tokio::test]
async fn a_program_that_is_missing_or_of_another_version_is_a_status() {
    let bench = Bench::new();
    let mut config = bench.config("");
    config.command = vec!["/nonexistent/ayni-worker".to_owned()];
    config.pause_min = LONG;
    config.pause_max = LONG;
    let handle = Worker::start(config, &bench.tracker, bench.token.clone());
    let failed = |status: &WorkerStatus| matches!(status.state, WorkerState::Failed(_));
    until(&handle, failed).await;
    let error = run(&handle).await.expect_err("there is none");
    assert!(error.to_string().contains("/nonexistent/ayni-worker"), "{error}");
    bench.token.cancel();
    until(&handle, |status| status.state == WorkerState::Stopped).await;
    assert!(matches!(run(&handle).await, Err(WorkerError::Cancelled)));
    bench.stop().await;

    let bench = Bench::new();
    let WorkerOutcome::Described(mut other) = description() else { unreachable!() };
    other.protocol_version += 1;
    let other = bench.replies("other", &[WorkerReply::Done(WorkerOutcome::Described(other))]);
    let handle = bench.start(&format!("{READ}; cat {other}; cat >/dev/null"));
    let status = until(&handle, failed).await;
    assert!(status.last_error.expect("said").contains("version"));
    bench.stop().await;

    assert!(matches!(run(&Worker::disabled()).await, Err(WorkerError::Unavailable(_))));
}

#[tokio::test]
async fn a_worker_that_never_describes_itself_is_given_up() {
    let bench = Bench::new();
    let mut config = bench.config("cat >/dev/null");
    config.start_max = SHORT;
    let handle = Worker::start(config, &bench.tracker, bench.token.clone());
    let status = until(&handle, |status| status.last_error.is_some()).await;
    assert!(status.last_error.expect("said").contains("no description"));
    bench.stop().await;
}

#[tokio::test]
async fn shutdown_is_orderly_and_cancels_the_job() {
    let bench = Bench::new();
    let left = bench.path("left");
    let script = bench.describes_then(&format!("cat >/dev/null; touch {}", left.display()));
    let handle = bench.start(&script);
    until(&handle, |status| status.state == WorkerState::Idle).await;
    bench.token.cancel();
    until(&handle, |status| status.state == WorkerState::Stopped).await;
    assert!(left.exists(), "its input was closed and it was let go");
    bench.stop().await;

    let bench = Bench::new();
    let handle = bench.start(&bench.describes_then("sleep 60"));
    let run = run(&handle);
    tokio::pin!(run);
    tokio::select! {
        _ = &mut run => panic!("it never answers"),
        _ = until(&handle, |status| matches!(status.state, WorkerState::Busy(_))) => {}
    }
    let started = Instant::now();
    bench.token.cancel();
    assert!(matches!(run.await, Err(WorkerError::Cancelled)));
    assert!(started.elapsed() < LONG);
    bench.stop().await;
}

#[tokio::test]
async fn memory_is_limited() {
    let bench = Bench::new();
    let limits = bench.path("limits");
    let script = bench
        .describes_then(&format!("cat /proc/self/limits > {}; cat >/dev/null", limits.display()));
    let mut config = bench.config(&script);
    config.memory_max_mib = 64;
    let handle = Worker::start(config, &bench.tracker, bench.token.clone());
    until(&handle, |status| status.state == WorkerState::Idle).await;
    bench.token.cancel();
    until(&handle, |status| status.state == WorkerState::Stopped).await;
    let text = std::fs::read_to_string(limits).expect("written before it left");
    let line = text.lines().find(|line| line.starts_with("Max data size")).expect("a line");
    assert!(line.contains("67108864"), "{line}");
    bench.stop().await;
}

#[tokio::test]
async fn job_files_go_in_and_out_as_copies() {
    let bench = Bench::new();
    let handle = bench.start(&bench.describes_then("cat >/dev/null"));
    let store = BlobStore::open(&bench.path("store")).expect("a store");
    let blob = store.put_bytes(b"a blob").expect("stored");
    let job = handle.job(Lane::Duty).await.expect("a job");
    assert_eq!(job.put_blob(&name("blob"), &store, blob).await.expect("copied"), 6);
    let private = bench.file("private", b"a text");
    assert_eq!(job.put_file(&name("text"), private.as_ref(), 6).await.expect("copied"), 6);
    assert!(job.put_file(&name("text2"), private.as_ref(), 5).await.is_err(), "too large");
    assert!(job.put_bytes(&name("text"), vec![]).await.is_err(), "nothing is overwritten");
    // What a worker may do to its own directory.
    std::fs::write(job.directory().join("blob"), b"scribble").expect("it is a copy");
    assert_eq!(store.read_all(&blob, 6).expect("untouched"), b"a blob");
    std::os::unix::fs::symlink(&private, job.directory().join("link")).expect("linked");
    std::fs::create_dir(job.directory().join("folder")).expect("made");

    let missing = job.take(&name("missing"), 9).await;
    assert!(matches!(missing, Err(JobFileError::Io { .. })));
    for trap in ["link", "folder"] {
        let error = job.take(&name(trap), 9).await.expect_err(trap);
        assert!(matches!(error, JobFileError::NotRegular { .. }), "{error}");
        assert!(job.keep(&name(trap), &store, 9).await.is_err());
    }
    assert!(matches!(job.read(&name("text"), 5).await, Err(JobFileError::TooLarge { .. })));
    assert!(job.keep(&name("text"), &store, 5).await.is_err());
    let kept = job.keep(&name("text"), &store, 6).await.expect("kept");
    assert_eq!(kept, ContentHash::of(b"a text"));
    let directory = job.directory().to_path_buf();
    drop(job);
    let job = handle.job(Lane::Duty).await.expect("the next job");
    assert_eq!(std::fs::read_dir(directory).expect("listed").count(), 0, "begins empty");
    drop(job);
    bench.stop().await;
}

#[tokio::test]
async fn generated_text_is_bounded_by_the_request() {
    let bench = Bench::new();
    let text = WorkerOutcome::Generated { texts: vec![vec![7; 11]], tokens: 11 };
    let long = bench.replies("long", &[WorkerReply::Done(text)]);
    let handle = bench.start(&bench.describes_then(&format!("{READ}; cat {long}; sleep 60")));
    let request = WorkerRequest::Generate(GenerateJob {
        spec: spec(),
        files: ModelFiles::default(),
        checkpoint: name("head"),
        prompts: vec![b"p".to_vec()],
        bytes: 10,
        temperature_ppm: 0,
        top_p_ppm: 1_000_000,
        stop: Vec::new(),
        seed: 1,
    });
    let error = handle.run(Lane::Interactive, request, LONG, None).await.expect_err("too much");
    assert!(matches!(error, WorkerError::Nonsense(_)), "{error}");
    bench.stop().await;
}
