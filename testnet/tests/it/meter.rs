//! The meter around a worker that says what it was told to say.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use protocol::codec::{self, Canonical};
use protocol::worker::{Progress, WorkerOutcome, WorkerReply, WorkerRequest};

fn frame(message: &impl Canonical) -> Vec<u8> {
    let bytes = codec::encode(message);
    let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(bytes);
    frame
}

/// A meter whose worker answers whatever it is asked with `replies`, and then does `then`.
fn start(folder: &Path, replies: &[u8], then: &str) -> Child {
    fs::write(folder.join("replies"), replies).unwrap();
    let worker = folder.join("worker.sh");
    let script =
        format!("#!/bin/sh\nhead -c 5 >/dev/null\ncat {}/replies\n{then}\n", folder.display());
    fs::write(&worker, script).unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ayni-testnet"))
        .args(["meter-worker", "--worker"])
        .arg(&worker)
        .arg("--record")
        .arg(folder.join("record"))
        .arg("--dir")
        .arg(folder)
        .args(["--threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the record says happened, line by line.
fn events(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("record")).unwrap();
    let event = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].take();
    text.lines().map(event).collect()
}

#[test]
fn frames_pass_unchanged_and_jobs_are_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let progress = Progress { done: 3, total: 4, ..Progress::default() };
    let mut replies = frame(&WorkerReply::Progress(progress));
    replies.extend(frame(&WorkerReply::Done(WorkerOutcome::Exported)));
    let mut meter = start(folder.path(), &replies, "cat >/dev/null");
    let mut input = meter.stdin.take().unwrap();
    input.write_all(&frame(&WorkerRequest::Describe)).unwrap();
    let mut answered = vec![0; replies.len()];
    meter.stdout.as_mut().unwrap().read_exact(&mut answered).unwrap();
    assert_eq!(answered, replies);
    // An idle worker ends by itself.
    drop(input);
    assert!(meter.wait().unwrap().success());
    let began = serde_json::json!({ "began": { "kind": "start", "round": null, "seed": null } });
    let expect = [
        "started".into(),
        began,
        serde_json::json!({ "did": 3 }),
        serde_json::json!({ "ended": true }),
    ];
    assert_eq!(events(folder.path()), expect);
}

#[test]
fn a_daemon_that_is_gone_ends_a_busy_worker() {
    let folder = tempfile::tempdir().unwrap();
    let mut meter = start(folder.path(), &[], "exec sleep 1000");
    let mut input = meter.stdin.take().unwrap();
    input.write_all(&frame(&WorkerRequest::Describe)).unwrap();
    drop(input);
    assert_eq!(meter.wait().unwrap().code(), Some(128 + 9));
    assert_eq!(events(folder.path()).len(), 2);
}
