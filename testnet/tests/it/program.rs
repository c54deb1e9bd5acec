//! What the program says to bad input.

use std::process::{Command, Output};

fn testnet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ayni-testnet")).args(arguments).output().expect("it starts")
}

#[test]
fn bad_options_are_refused_before_anything_is_built() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let folder = tempfile::tempdir().expect("a folder");
    let (file, folder) = (file.path().to_str().unwrap(), folder.path().to_str().unwrap());
    for (arguments, expect) in [
        (&["demo", "--nodes", "2"][..], "--nodes 2 is too few"),
        (&["up", "--rounds", "1"], "--rounds 1 is too few"),
        (&["demo", "--data", "/no/such/folder"], "does not exist"),
        (&["demo", "--data", file], "is a file, not a folder"),
        (&["demo", "--data", folder], "is empty"),
    ] {
        let output = testnet(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.starts_with("error: ") && message.contains(expect), "{message}");
        assert!(output.stdout.is_empty(), "nothing was begun");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    assert_eq!(testnet(&["demo", "--no-such-option"]).status.code(), Some(2));
    assert_eq!(testnet(&["--help"]).status.code(), Some(0));
}
