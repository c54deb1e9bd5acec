//! A worker as its daemon holds it: a process, two pipes and a directory.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ayni_ml::frames::{read_frame, write_frame};
use protocol::worker::{
    FailureKind, FileName, Progress, WorkerOutcome, WorkerReply, WorkerRequest,
};
use tempfile::TempDir;

/// A running worker with its directory.
pub(crate) struct Process {
    child: Child,
    arguments: Vec<String>,
    input: Option<ChildStdin>,
    output: ChildStdout,
    folder: TempDir,
}

impl Process {
    pub(crate) fn start() -> Self {
        Self::start_with(&["--threads", "1"])
    }

    /// A worker with other arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::start_in(tempfile::tempdir().expect("a folder"), arguments)
    }

    fn start_in(folder: TempDir, arguments: Vec<String>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ayni-worker"))
            .arg("--dir")
            .arg(folder.path())
            .args(["--nice", "0"])
            .args(&arguments)
            .env("RUST_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let input = child.stdin.take();
        let output = child.stdout.take().expect("piped");
        Self { child, arguments, input, output, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> FileName {
        std::fs::write(self.path().join(name), bytes).expect("written");
        file(name)
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).expect("the worker wrote it")
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("open");
        input.write_all(bytes).expect("the worker reads");
        input.flush().expect("the worker reads");
    }

    pub(crate) fn reply(&mut self) -> (Vec<Progress>, WorkerReply) {
        let mut steps = Vec::new();
        loop {
            let frame = read_frame::<WorkerReply>(&mut self.output).expect("a frame");
            match frame.expect("a reply").expect("canonical") {
                WorkerReply::Progress(progress) => steps.push(progress),
                last => return (steps, last),
            }
        }
    }

    pub(crate) fn ask(&mut self, request: WorkerRequest) -> (Vec<Progress>, WorkerReply) {
        write_frame(self.input.as_mut().expect("open"), &request).expect("the worker reads");
        self.reply()
    }

    pub(crate) fn done(&mut self, request: WorkerRequest) -> WorkerOutcome {
        match self.ask(request).1 {
            WorkerReply::Done(outcome) => outcome,
            other => panic!("expected success, got {other:?}"),
        }
    }

    pub(crate) fn fails(&mut self, request: WorkerRequest) -> (FailureKind, String) {
        match self.ask(request).1 {
            WorkerReply::Failed(failure) => (failure.kind, failure.message),
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    /// Sends a request and does not wait for its reply.
    pub(crate) fn ask_without_waiting(&mut self, request: WorkerRequest) {
        write_frame(self.input.as_mut().expect("open"), &request).expect("the worker reads");
    }

    /// Waits for the next step of the job in progress.
    pub(crate) fn next_progress(&mut self) -> Progress {
        match read_frame::<WorkerReply>(&mut self.output).expect("a frame").expect("a reply") {
            Ok(WorkerReply::Progress(progress)) => progress,
            other => panic!("expected progress, got {other:?}"),
        }
    }

    /// Kills the worker without warning and starts another on the same files.
    pub(crate) fn kill_and_restart(mut self) -> Self {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
        Self::start_in(self.folder, self.arguments)
    }

    /// Ends the input and waits; true for a clean exit without further output.
    pub(crate) fn finish(mut self) -> bool {
        drop(self.input.take());
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("readable");
        self.child.wait().expect("waited for").success() && rest.is_empty()
    }
}

pub(crate) fn file(name: &str) -> FileName {
    FileName::new(name).expect("a plain name")
}
