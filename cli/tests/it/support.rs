//! Running the program, and a stand-in for the daemon that says what a test wants.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tempfile::TempDir;

/// The program with an environment that only the test decides.
pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ayni"));
    command.env_clear().arg("--home").arg(home);
    command
}

/// Runs it to its end.
pub(crate) fn ayni(home: &Path, arguments: &[&str]) -> Output {
    command(home).args(arguments).output().expect("the program starts")
}

/// Runs it and expects this exit code and these words on standard error.
pub(crate) fn refused(home: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let output = ayni(home, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?} must say {word:?}: {error}");
    }
}

/// Runs it, expects success, and gives standard output.
pub(crate) fn accepted(home: &Path, arguments: &[&str]) -> String {
    let output = ayni(home, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("the program prints UTF-8")
}

/// A folder with a node in `home`.
pub(crate) fn with_node() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let home = dir.path().join("home");
    accepted(&home, &["init"]);
    (dir, home)
}

/// Listens at a socket and gives every request the same answer; none: it never answers.
pub(crate) struct StandIn {
    pub(crate) socket: PathBuf,
    /// Head and body of each request as it arrives.
    pub(crate) requests: Receiver<String>,
}

impl StandIn {
    pub(crate) fn new(dir: &Path, answer: Option<(u16, &str)>) -> Self {
        let socket = dir.join("stand-in.sock");
        let listener = UnixListener::bind(&socket).expect("free path");
        let (sender, requests) = sync_channel(16);
        let answer = answer.map(|(status, body)| {
            let length = body.len();
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}")
        });
        thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                read_request(&mut stream, &sender);
                if let Some(answer) = &answer {
                    stream.write_all(answer.as_bytes()).expect("the program reads");
                } else {
                    open.push(stream);
                }
            }
        });
        Self { socket, requests }
    }
}

fn read_request(stream: &mut UnixStream, sender: &SyncSender<String>) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("a request");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |digits| digits.parse().expect("a number"));
        if body.len() >= length {
            break;
        }
    }
    // A test that does not look at the requests has dropped the receiver.
    let _ = sender.try_send(text);
}
