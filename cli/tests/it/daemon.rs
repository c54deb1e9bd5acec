//! Commands that ask the daemon: exit codes for every way in which that can end.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{StandIn, accepted, ayni, command, refused, with_node};

const ACCOUNT: &str = "abababababababababababababababababababababababababababababababab";

#[test]
fn usage_errors_are_2() {
    let (_dir, home) = with_node();
    refused(&home, &[], 2, &["Usage"]);
    refused(&home, &["statsu"], 2, &["status"]);
    refused(&home, &["credits", "send", ACCOUNT, "1.0000001"], 2, &["six decimals"]);
    refused(&home, &["credits", "send", "ab", "1"], 2, &["64 hexadecimal digits"]);
    refused(&home, &["credits", "send", ACCOUNT, "0"], 2, &["zero"]);
    refused(&home, &["model", "generate", "tiny", "x", "--temperature", "hot"], 2, &["0 to 10"]);
    refused(&home, &["train", "open", "tiny", "--set", "batch=0"], 2, &["batch"]);
    refused(&home, &["--timeout", "0", "status"], 2, &["timeout"]);
    let long = "x".repeat(120);
    refused(&home, &["--socket", &long, "status"], 2, &["120 bytes", "at most 107"]);
}

#[test]
fn without_a_daemon_it_is_3() {
    let (dir, home) = with_node();
    refused(&home, &["status"], 3, &["not running", "ayni node start"]);
    refused(&dir.path().join("none"), &["status"], 3, &["no node in", "ayni init"]);
    // What `kill -9` leaves behind: a note of a socket at which nobody answers.
    fs::write(home.join("socket"), format!("{}\n", dir.path().join("gone").display()))
        .expect("own file");
    refused(&home, &["peers"], 3, &["gone", "not running"]);
    let output = ayni(&home, &["status", "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["exit_code"], 3);
}

#[test]
fn refusals_have_the_exit_code_of_their_reason() {
    let check = |reason: &str, status: u16, code: i32| {
        let (dir, home) = with_node();
        let body = format!(r#"{{"error":{{"code":"{reason}","message":"because","hint":"do"}}}}"#);
        let daemon = StandIn::new(dir.path(), Some((status, &body)));
        let socket = daemon.socket.to_str().expect("UTF-8");
        refused(&home, &["--socket", socket, "status"], code, &["ayni: because", "do"]);
    };
    check("bad_request", 400, 2);
    check("denied", 403, 4);
    check("not_found", 404, 5);
    check("timed_out", 504, 6);
    check("insufficient_funds", 402, 7);
    check("internal", 500, 1);
}

#[test]
fn answers_that_make_no_sense_are_told_apart() {
    for (answer, words) in [((200, "{}"), "not understood"), ((500, "oops"), "HTTP status 500")] {
        let (dir, home) = with_node();
        let daemon = StandIn::new(dir.path(), Some(answer));
        let socket = daemon.socket.to_str().expect("UTF-8");
        refused(&home, &["--socket", socket, "status"], 1, &[words, "same version"]);
    }
}

#[test]
fn silence_is_6_and_ctrl_c_is_130() {
    let (dir, home) = with_node();
    let daemon = StandIn::new(dir.path(), None);
    let socket = daemon.socket.to_str().expect("UTF-8");
    refused(&home, &["--socket", socket, "--timeout", "1", "status"], 6, &["within 1 s"]);
    let first = daemon.requests.recv().expect("the first request");
    assert!(first.starts_with("GET /v1/status HTTP/1.1\r\n"), "{first}");

    let mut child = command(&home)
        .args(["--socket", socket, "status"])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    daemon.requests.recv().expect("the second request");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn the_socket_note_leads_to_the_daemon_and_amounts_are_exact() {
    let (dir, home) = with_node();
    let body = format!(r#"{{"transaction":"{ACCOUNT}","height":7}}"#);
    let daemon = StandIn::new(dir.path(), Some((200, &body)));
    fs::write(home.join("socket"), format!("{}\n", daemon.socket.display())).expect("own file");
    let text = accepted(&home, &["credits", "send", ACCOUNT, "12.000001"]);
    assert!(text.contains("Sent 12.000001 credits") && text.contains("block 7"), "{text}");
    let request = daemon.requests.recv().expect("one request");
    assert!(request.starts_with("POST /v1/credits/send "), "{request}");
    assert!(request.ends_with(&format!(r#"{{"to":"{ACCOUNT}","amount_micro":12000001}}"#)));
}

#[test]
fn a_daemon_that_dies_while_starting_is_reported_with_its_log() {
    let (dir, home) = with_node();
    // Beside a copy of the program, so that it is found before any other. Another process writes
    // both: a file that this one has open for writing, even in a child just forked by another
    // test, cannot be run.
    let program = dir.path().join("ayni");
    let make = r#"cp "$1" "$2/ayni" && printf '#!/bin/sh\necho "port in use, home $2"\nexit 9\n' \
        > "$2/aynid" && chmod 755 "$2/aynid""#;
    let made = Command::new("sh")
        .args(["-c", make, "sh", env!("CARGO_BIN_EXE_ayni")])
        .arg(dir.path())
        .status();
    assert!(made.expect("a shell").success());
    let output = Command::new(&program)
        .arg("--home")
        .arg(&home)
        .args(["node", "start"])
        .output()
        .expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("exit status: 9"), "{error}");
    assert!(error.contains(&format!("port in use, home {}", home.display())), "{error}");
    let log = accepted(&home, &["node", "logs"]);
    assert!(log.contains("port in use"), "{log}");
}

#[test]
fn a_log_that_is_not_there_is_5() {
    let (_dir, home) = with_node();
    refused(&home, &["node", "logs"], 5, &["no log"]);
}

#[test]
fn stake_and_votes_are_asked_for_as_typed() {
    let (dir, home) = with_node();
    let body = format!(r#"{{"transaction":"{ACCOUNT}","height":7}}"#);
    let daemon = StandIn::new(dir.path(), Some((200, &body)));
    let socket = daemon.socket.to_str().expect("UTF-8");
    let check = |arguments: &[&str], path: &str, body: &str, says: &str| {
        let mut all = vec!["--socket", socket];
        all.extend(arguments);
        let text = accepted(&home, &all);
        assert!(text.contains(says) && text.contains("Final in block 7"), "{text}");
        let request = daemon.requests.recv().expect("one request");
        assert!(request.starts_with(&format!("POST {path} ")), "{request}");
        assert!(request.ends_with(body), "{request}");
    };
    let stake = r#"{"action":"stake","amount_micro":5500000}"#;
    check(&["credits", "stake", "5.5"], "/v1/credits/stake", stake, "5.5 credits are at stake");
    let delegate = format!(r#"{{"action":"stake","node":"{ACCOUNT}","amount_micro":1000000}}"#);
    check(&["credits", "delegate", ACCOUNT, "1"], "/v1/credits/stake", &delegate, "node abab");
    let commission = r#"{"action":"commission","commission_ppm":75000}"#;
    check(&["credits", "commission", "7.5"], "/v1/credits/stake", commission, "7.5 %");
    check(&["credits", "claim"], "/v1/credits/stake", r#"{"action":"claim"}"#, "has earned");
    let ballot = r#"{"proposal":3,"choice":"veto","conviction":1}"#;
    let vote = ["gov", "vote", "3", "veto", "--conviction", "1"];
    check(&vote, "/v1/governance/ballots", ballot, "Voted veto on proposal 3");
}

#[test]
fn mistakes_with_stake_and_votes_are_told_before_the_node_is_asked() {
    let (_dir, home) = with_node();
    refused(&home, &["credits", "stake", "0"], 2, &["zero"]);
    refused(&home, &["credits", "commission", "101"], 2, &["not per cent"]);
    refused(&home, &["credits", "claim", "--all", "--node", ACCOUNT], 2, &["cannot be used"]);
    refused(&home, &["credits", "history", "--before", "x"], 2, &["no place in the history"]);
    refused(&home, &["credits", "balance", "--out", "f"], 2, &["--prove"]);
    refused(&home, &["gov", "vote", "1", "maybe"], 2, &["yes, no, abstain, veto"]);
    refused(&home, &["gov", "propose", "param", "quorum_ppm=4"], 2, &["needs a title"]);
    refused(&home, &["gov", "propose", "param", "quorum_ppm"], 2, &["NAME=VALUE"]);
    refused(&home, &["chain", "block", "x"], 2, &["neither a height nor a block hash"]);
    refused(&home, &["chain", "validators", "--height", "soon"], 2, &["or next"]);
    refused(&home, &["chain", "blocks", "--watch", "--from", "1"], 2, &["cannot be used"]);
}

#[test]
fn programs_learn_which_rule_refused() {
    let (dir, home) = with_node();
    let body =
        r#"{"error":{"code":"conflict","message":"too early: jail","rejection":"too_early"}}"#;
    let daemon = StandIn::new(dir.path(), Some((409, body)));
    let socket = daemon.socket.to_str().expect("UTF-8");
    let output = ayni(&home, &["--socket", socket, "--json", "credits", "unjail"]);
    assert_eq!(output.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["error"]["rejection"], "too_early");
    assert_eq!(error["error"]["code"], "conflict");
}
