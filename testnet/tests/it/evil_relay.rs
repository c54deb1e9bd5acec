//! The evil worker as a process around a child that echoes.
//!
//! The child is `cat`: what comes back has passed the relay in both directions, once as a
//! request and once as a reply.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use protocol::codec;
use protocol::model::{Architecture, ModelSpec, RoundParameters};
use protocol::worker::{
    FileName, InnerRun, ModelFiles, TrainJob, WorkerOutcome, WorkerReply, WorkerRequest,
};
use tempfile::TempDir;

/// Kills the relay when a test fails.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Relay {
    /// Starts the relay around a shell script that ignores its arguments.
    fn start(folder: &Path, script: &str) -> Self {
        let worker = folder.join("worker.sh");
        fs::write(&worker, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ayni-testnet"))
            .args(["evil-worker", "--poison-round", "2", "--worker"])
            .arg(&worker)
            .arg("--dir")
            .arg(folder)
            .arg("--memory")
            .arg(folder.join("rounds.json"))
            .args(["--threads", "1", "--nice", "10"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Sends a frame and gives what comes back.
    fn echo(&mut self, frame: &[u8]) -> Vec<u8> {
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(&u32::try_from(frame.len()).unwrap().to_le_bytes()).unwrap();
        input.write_all(frame).unwrap();
        input.flush().unwrap();
        let output = self.0.stdout.as_mut().unwrap();
        let mut length = [0; 4];
        output.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
        output.read_exact(&mut frame).unwrap();
        frame
    }
}

fn name(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

fn train(round: u64) -> Vec<u8> {
    codec::encode(&WorkerRequest::Train(TrainJob {
        run: InnerRun {
            spec: ModelSpec {
                name: "m".into(),
                architecture: Architecture::BytesGpt {
                    layers: 1,
                    width: 16,
                    heads: 1,
                    context: 16,
                },
                tokenizer: None,
                adapter: None,
                seed: 1,
                imported: false,
                initial_checkpoint: Default::default(),
                evaluation_suite: Default::default(),
                evaluation_suite_bytes: 1_000,
                licence: "MIT".into(),
            },
            files: ModelFiles::default(),
            parameters: RoundParameters::default(),
            steps: 30,
            steps_before: 0,
            seed: round,
            shards: vec![name("text")],
        },
        checkpoint: name("c"),
        checkpoint_out: name("t"),
        resume: None,
        states: None,
    }))
}

fn evaluated(losses: &[u64]) -> Vec<u8> {
    codec::encode(&WorkerReply::Done(WorkerOutcome::Evaluated {
        losses: losses.iter().map(|loss| Some(vec![*loss])).collect(),
        faults: Vec::new(),
    }))
}

fn job_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text"), b"abc\n").unwrap();
    folder
}

#[test]
fn one_round_is_poisoned_and_its_reviews_lie() {
    let folder = job_folder();
    let mut relay = Relay::start(folder.path(), "exec cat");
    let describe = codec::encode(&WorkerRequest::Describe);
    let honest = evaluated(&[200, 150]);

    assert_eq!(relay.echo(&describe), describe);
    assert_eq!(relay.echo(&train(1)), train(1), "round 1 is honest");
    assert_eq!(relay.echo(&honest), honest);

    let poisoned = relay.echo(&train(2));
    let Ok(WorkerRequest::Train(job)) = codec::decode(&poisoned) else { panic!("a training job") };
    assert_eq!(job.run.shards, [name("inverted-0")]);
    assert_eq!(fs::read(folder.path().join("inverted-0")).unwrap(), [158, 157, 156, 245]);
    assert_eq!(fs::read(folder.path().join("text")).unwrap(), b"abc\n", "the text is untouched");
    assert_eq!(relay.echo(&honest), evaluated(&[200, 220]));

    assert_eq!(relay.echo(&train(3)), train(3), "round 3 is honest again");
    assert_eq!(relay.echo(&honest), honest);
}

#[test]
fn the_end_of_the_daemon_ends_an_idle_child() {
    let folder = job_folder();
    let mut relay = Relay::start(folder.path(), "exec cat");
    relay.echo(b"hello");
    drop(relay.0.stdin.take());
    assert_eq!(relay.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_child_that_does_not_end_is_killed() {
    let folder = job_folder();
    // It prints its own id as a frame of 8 digits, then waits for ever, deaf to its input.
    let script = "printf '\\010\\000\\000\\000%08d' $$; exec tail -f /dev/null";
    let mut relay = Relay::start(folder.path(), script);
    let mut frame = [0; 12];
    relay.0.stdout.as_mut().unwrap().read_exact(&mut frame).unwrap();
    let id: u32 = std::str::from_utf8(&frame[4..]).unwrap().parse().unwrap();
    drop(relay.0.stdin.take());
    assert_eq!(relay.0.wait().unwrap().code(), Some(137), "killed, as a shell would say it");
    assert!(!Path::new(&format!("/proc/{id}")).exists(), "the child is gone");
}

#[test]
fn the_childs_exit_status_and_arguments_are_passed_on() {
    let folder = job_folder();
    let script = r#"[ "$1 $2 $3 $4" = "--dir $(dirname "$0") --threads 1" ] && [ "$5 $6 $#" = "--nice 10 6" ] && exit 7; exit 8"#;
    let mut relay = Relay::start(folder.path(), script);
    assert_eq!(relay.0.wait().unwrap().code(), Some(7));
}

#[test]
fn a_missing_worker_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_ayni-testnet"))
        .args(["evil-worker", "--worker", "/no/such/worker", "--dir", "/tmp"])
        .args(["--memory", "/no/such/memory"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/worker"));
}
