//! `ayni data`: what is asked of the daemon, and what is printed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{accepted, ayni, command, refused, with_node};

const HASH: &str = "abababababababababababababababababababababababababababababababab";

/// Answers each request with the first answer whose path it asks for. An answer that ends in `!` is
/// cut off there.
struct Daemon {
    socket: PathBuf,
    requests: Receiver<String>,
}

/// A method and path, the status, and the body.
type Answer = (&'static str, u16, String);

impl Daemon {
    fn new(dir: &Path, answers: Vec<Answer>) -> Self {
        let socket = dir.join("data.sock");
        let listener = UnixListener::bind(&socket).expect("free path");
        let (sender, requests) = sync_channel(64);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let request = read_request(&mut stream);
                let answer = answers.iter().find(|(path, _, _)| request.starts_with(path));
                let (_, status, body) = answer.unwrap_or_else(|| panic!("unexpected: {request}"));
                let _ = sender.try_send(request);
                let kind = if body.starts_with("data:") {
                    "text/event-stream"
                } else {
                    "application/json"
                };
                let length = if body.ends_with("!") { body.len() + 99 } else { body.len() };
                let body = body.trim_end_matches('!');
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
                );
                // A program that was interrupted does not read.
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { socket, requests }
    }

    fn run(&self, home: &Path, arguments: &[&str]) -> (i32, String, String) {
        let mut all = vec!["--socket", self.socket.to_str().expect("UTF-8")];
        all.extend(arguments);
        let output = ayni(home, &all);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("it ends"), text(&output.stdout), text(&output.stderr))
    }
}

fn read_request(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("a request");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: Option<usize> = length.map(|digits| digits.parse().expect("a number"));
        let is_whole = match length {
            Some(length) => body.len() >= length,
            None => !head.contains("chunked") || body.ends_with("0\r\n\r\n"),
        };
        if is_whole || count == 0 {
            return text;
        }
    }
}

fn event(state: &str, kind: &str, rest: &str) -> String {
    let progress = r#"{"done":1,"total":2,"message":"m"}"#;
    format!(r#"data: {{"id":3,"kind":"{kind}","state":"{state}","progress":{progress},{rest}}}"#)
        + "\n\n"
}

fn done(kind: &str, result: &str) -> String {
    event("done", kind, &format!(r#""result":{{"kind":"{kind}",{result}}},"error":null"#))
}

fn started() -> String {
    r#"{"job":3}"#.to_owned()
}

fn got() -> String {
    let node = HASH;
    let result = format!(
        r#""hash":"{HASH}","bytes":2048,"files":3,"collection":true,"bytes_fetched":1024,
        "bytes_had":1024,"sources":[{{"node":"{node}","bytes":1024}}],"target":"/out",
        "pin":null,"elapsed_ms":500"#
    );
    done("get_data", &result.replace('\n', ""))
}

#[test]
fn a_fetch_says_what_came_from_whom() {
    let (dir, home) = with_node();
    let answers =
        vec![("POST /v1/data/get ", 200, started()), ("GET /v1/jobs/3/events ", 200, got())];
    let daemon = Daemon::new(dir.path(), answers);
    let target = dir.path().join("out");
    let target = target.to_str().expect("UTF-8");
    let arguments =
        ["data", "get", HASH, target, "--from", "12D3", "--priority", "bulk", "--max", "9000"];
    let (code, text, error) = daemon.run(&home, &arguments);
    assert_eq!(code, 0, "{error}");
    for word in ["2.0 KiB", "1.0 KiB in 0.5 s, 2.0 KiB/s", "files", "written to  /out"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let request = daemon.requests.recv().expect("one request");
    let body: serde_json::Value =
        serde_json::from_str(request.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    let canonical = fs::canonicalize(dir.path()).expect("there").join("out");
    assert_eq!(body["target"], canonical.to_str().expect("UTF-8"));
    assert_eq!((&body["priority"], &body["bytes_max"]), (&"bulk".into(), &9_000.into()));
    assert_eq!((&body["providers"][0], &body["force"]), (&"12D3".into(), &false.into()));

    let (code, text, _) = daemon.run(&home, &["--json", "data", "get", HASH]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert_eq!((code, &json["bytes_had"]), (0, &1_024.into()));
}

#[test]
fn a_node_that_goes_away_leaves_word_of_what_to_do() {
    let (dir, home) = with_node();
    let running = event("running", "get_data", r#""result":null,"error":null"#) + "!";
    let answers =
        vec![("POST /v1/data/get ", 200, started()), ("GET /v1/jobs/3/events ", 200, running)];
    let daemon = Daemon::new(dir.path(), answers);
    let (code, _, error) = daemon.run(&home, &["data", "get", HASH]);
    assert_eq!(code, 3, "{error}");
    for word in ["connection to the node was lost", "run the same command again", "goes on"] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn ctrl_c_cancels_the_fetch() {
    let (dir, home) = with_node();
    // The stream of events stays open: its end has not been sent.
    let socket = dir.path().join("slow.sock");
    let listener = UnixListener::bind(&socket).expect("free path");
    let (sender, requests) = sync_channel(8);
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let request = read_request(&mut stream);
            let is_stream = request.starts_with("GET");
            let body = if is_stream { String::new() } else { started() };
            let length = if is_stream { 99 } else { body.len() };
            let head = format!("HTTP/1.1 200 x\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(head.as_bytes());
            open.push(stream);
            sender.send(request).expect("the test listens");
        }
    });
    let mut child = command(&home)
        .args(["--socket", socket.to_str().expect("UTF-8"), "data", "get", HASH])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    for path in ["POST /v1/data/get ", "GET /v1/jobs/3/events "] {
        let request = requests.recv().expect("a request");
        assert!(request.starts_with(path), "{request}");
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("it runs");
    let cancel = requests.recv().expect("the cancellation");
    assert!(cancel.starts_with("DELETE /v1/jobs/3 "), "{cancel}");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn data_is_added_by_path_or_sent_to_another_users_node() {
    let (dir, home) = with_node();
    let file = dir.path().join("suite.txt");
    fs::write(&file, "text").expect("writable");
    let path = file.to_str().expect("UTF-8");
    let result = format!(
        r#""hash":"{HASH}","bytes":4,"files":1,"collection":false,"bytes_new":0,"mode":"reflink",
        "pin":"n","announced":false,"skipped":[],"files_skipped":0,"elapsed_ms":1"#
    );
    let answers = vec![
        ("POST /v1/data/add ", 200, started()),
        ("GET /v1/jobs/3/events ", 200, done("add_data", &result.replace('\n', ""))),
    ];
    let daemon = Daemon::new(dir.path(), answers);
    let arguments = ["data", "add", path, "--name", "n", "--reflink", "--no-announce"];
    let (code, text, error) = daemon.run(&home, &arguments);
    assert_eq!(code, 0, "{error}");
    assert_eq!(text.lines().next(), Some(HASH), "the first line is the hash: {text}");
    assert!(text.contains("pinned as n, not announced"), "{text}");
    let request = daemon.requests.recv().expect("one request");
    let body = r#""mode":"reflink","name":"n","chunked":false,"announce":false}"#;
    assert!(request.ends_with(body), "{request}");

    let other = tempfile::tempdir().expect("temporary folder");
    let denied = r#"{"error":{"code":"denied","message":"not your node"}}"#.to_owned();
    let receipt = format!(r#"{{"hash":"{HASH}","bytes":4}}"#);
    let answers = vec![("POST /v1/data/add ", 403, denied), ("POST /v1/data/upload", 200, receipt)];
    let daemon = Daemon::new(other.path(), answers);
    let (code, text, error) = daemon.run(&home, &["data", "add", path, "--name", "n"]);
    assert_eq!(code, 0, "{error}");
    assert!(text.starts_with(HASH) && text.contains("Sent 4 B"), "{text}");
    let upload = daemon.requests.iter().nth(1).expect("two requests");
    assert!(upload.starts_with("POST /v1/data/upload?name=n&announce=true&bytes=4 "), "{upload}");
    assert!(upload.contains("text"), "{upload}");
    // A folder cannot be sent, and what is left in place cannot either.
    let folder = dir.path().to_str().expect("UTF-8");
    assert_eq!(daemon.run(&home, &["data", "add", folder]).0, 4);
    assert_eq!(daemon.run(&home, &["data", "add", path, "--in-place"]).0, 4);
}

#[test]
fn what_is_kept_is_shown_with_its_pins() {
    let (dir, home) = with_node();
    let pin = format!(r#"{{"name":"n","hash":"{HASH}","until_s":1800000000,"announced":true}}"#);
    let blob = format!(r#"{{"hash":"{HASH}","bytes":2048,"collection":true,"pins":[{pin}]}}"#);
    let page = format!(
        r#"{{"blobs":[{blob}],"next":null,"blobs_stored":7,"bytes_stored":4096,"quota_bytes":8192}}"#
    );
    let detail = format!(
        r#"{{"hash":"{HASH}","bytes":32768,"bytes_here":16384,"groups":2,"groups_here":1,
        "pins":[],"needed":false,"collection":null}}"#
    );
    let provider = format!(
        r#"{{"providers":[{{"node":"{HASH}","peer_id":"12D3","bytes":2048,"bytes_held":1024}}]}}"#
    );
    let answers = vec![
        ("GET /v1/data ", 200, r#"{"datasets":[],"private":null}"#.to_owned()),
        ("GET /v1/data/blobs?", 200, page.clone()),
        ("GET /v1/data/blobs ", 200, page),
        ("GET /v1/data/blobs/", 200, detail.replace('\n', "")),
        ("GET /v1/data/providers/", 200, provider),
        ("POST /v1/data/pin ", 200, pin.clone()),
        ("POST /v1/data/unpin ", 200, format!(r#"{{"pins":[{pin}]}}"#)),
    ];
    let daemon = Daemon::new(dir.path(), answers);
    let shows = |arguments: &[&str], words: &[&str]| {
        let (code, text, error) = daemon.run(&home, arguments);
        assert_eq!(code, 0, "{arguments:?}: {error}");
        for word in words {
            assert!(text.contains(word), "{arguments:?} must say {word:?}: {text}");
        }
    };
    let until = "n until 2027-01-15 08:00:00";
    let all = ["Datasets", "No datasets", "Blobs", HASH, "collection", until, "7 blobs stored"];
    shows(&["data", "ls"], &all);
    shows(&["data", "ls", "--pins"], &[HASH, "4.0 KiB of 8.0 KiB"]);
    shows(&["data", "show", HASH], &["16.0 KiB", "1 of 2 groups", "`ayni data gc` removes it"]);
    shows(&["data", "providers", HASH], &["12D3", "1.0 KiB"]);
    shows(&["data", "pin", HASH, "--days", "30"], &["is kept", until]);
    shows(&["data", "unpin", "n"], &["1 pin taken away"]);
    let (_, text, _) = daemon.run(&home, &["data", "ls", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert_eq!(
        (&json["blobs_stored"], json["datasets"].as_array().map(Vec::len)),
        (&7.into(), Some(0))
    );
    let asked: Vec<String> = daemon.requests.try_iter().collect();
    assert!(asked.iter().any(|request| request.starts_with("GET /v1/data/blobs?only=pins ")));
    assert!(asked.iter().any(|request| request.ends_with(r#""lease_s":2592000,"announce":true}"#)));
}

#[test]
fn damage_that_stays_is_a_failure() {
    let (dir, home) = with_node();
    let result = |repaired: u64| {
        format!(
            r#""blobs":5,"bytes":10240,"damage":[{{"hash":"{HASH}","problem":"its bytes are wrong","repaired":{}}}],"damages":1,"repaired":{repaired},"elapsed_ms":1"#,
            repaired == 1
        )
    };
    for (repaired, expect) in [(0, 1), (1, 0)] {
        let dir = tempfile::tempdir_in(dir.path()).expect("temporary folder");
        let answers = vec![
            ("POST /v1/data/verify ", 200, started()),
            ("GET /v1/jobs/3/events ", 200, done("verify_data", &result(repaired))),
        ];
        let daemon = Daemon::new(dir.path(), answers);
        let (code, text, error) = daemon.run(&home, &["data", "verify"]);
        assert_eq!(code, expect, "{error}");
        assert!(text.contains("its bytes are wrong") && text.contains("5 blobs"), "{text}");
        assert_eq!(error.contains("--repair"), repaired == 0, "{error}");
    }
}

#[test]
fn mistakes_with_data_are_told_before_the_node_is_asked() {
    let (dir, home) = with_node();
    let here = dir.path().to_str().expect("UTF-8");
    refused(&home, &["data", "get", "abc"], 2, &["64 hexadecimal digits"]);
    refused(&home, &["data", "get", HASH, here], 1, &["exists already", "--force"]);
    refused(&home, &["data", "get", HASH, "/"], 2, &["does not end in the name"]);
    refused(&home, &["data", "get", HASH, "/no/such/place"], 2, &["make the folder first"]);
    refused(&home, &["data", "get", HASH, "--force"], 2, &["TARGET"]);
    refused(&home, &["data", "get", HASH, "--priority", "soon"], 2, &["bulk", "urgent"]);
    refused(&home, &["data", "add", "/no/such/file"], 2, &["cannot use"]);
    refused(&home, &["data", "add", here, "--name", "a b"], 2, &["1 to 128 characters"]);
    refused(&home, &["data", "add", here, "--in-place", "--reflink"], 2, &["cannot be used"]);
    refused(&home, &["data", "ls", "--pins", "--collections"], 2, &["cannot be used"]);
    refused(&home, &["data", "pin", HASH, "--name", "n", "--days", "3"], 2, &["cannot be used"]);
}

#[test]
fn every_command_of_data_shows_an_example() {
    let (_dir, home) = with_node();
    let commands = [
        "add",
        "get",
        "ls",
        "show",
        "pin",
        "unpin",
        "rm",
        "gc",
        "verify",
        "providers",
        "publish",
        "private",
    ];
    for name in commands {
        let text = accepted(&home, &["data", name, "--help"]);
        assert!(text.contains(&format!("ayni data {name}")), "{text}");
        assert!(text.contains("Example"), "{text}");
    }
}
