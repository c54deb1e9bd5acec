//! The worker's sandbox, tried from inside.

use std::process::Command;

#[test]
fn a_confined_worker_gets_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = tempfile::NamedTempFile::new().expect("a file outside");
    let output = Command::new(env!("CARGO_BIN_EXE_ayni-worker"))
        .args(["--json", "lab", "sandbox", "--dir"])
        .arg(folder.path())
        .arg("--outside")
        .arg(secret.path())
        .output()
        .expect("the worker starts");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let has = |field: &str| said[field].as_bool() == Some(true);
    if said["landlock_abi"].as_u64() == Some(0) {
        // This kernel has no Landlock: the worker must say so, and files are then not protected.
        assert!(!output.status.success(), "an open sandbox is not reported as closed");
        return;
    }
    assert!(has("filtered") && has("no_network"), "{said}");
    let wrong: Vec<_> = said["attempts"]
        .as_array()
        .expect("the attempts")
        .iter()
        .filter(|attempt| attempt["fine"].as_bool() != Some(true))
        .collect();
    assert!(wrong.is_empty() && output.status.success(), "{wrong:?}");
}
