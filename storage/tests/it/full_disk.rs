//! A disk that is full: a small tmpfs in a namespace of its own.
//!
//! The parent runs this test binary again under `unshare`; where that is not permitted the test
//! says so and ends. The files-limit tests in `crashes` cover a full disk everywhere.

#![expect(clippy::print_stdout, reason = "the child and a skipped test say so")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ayni_storage::signer_guard::{Decision, GuardEntry, Step};
use ayni_storage::state::{LedgerState, wait_released};
use ayni_storage::{LedgerStore, Retention};
use protocol::amount::Height;

use crate::support::{body, changes, expected_root, headed_block, open, replay, start};

const CHILD: &str = "AYNI_STORAGE_FULL_DISK";
const PASSED: &str = "the full disk was survived";

fn vote(height: u64) -> GuardEntry {
    GuardEntry { height: Height::new(height), round: 0, step: Step::Precommit, value: None }
}

/// Appends as a validator does until something fails; returns the last acknowledged height.
fn fill(store: &mut LedgerStore) -> (u64, String) {
    let guard = store.guard();
    loop {
        let tip = store.tip().map_or(0, |tip| tip.height.get());
        let parent = store.tip().map(|tip| tip.block).unwrap_or_default();
        let block = headed_block(tip + 1, store.state().root(), &parent);
        let step = guard
            .check(&vote(tip + 1))
            .map_err(|error| describe(&error))
            .and_then(|_| {
                let body = body(tip + 1, 0, 1, 20_000);
                store.proposals_mut().insert(&body).map_err(|error| describe(&error))
            })
            .and_then(|_| {
                store.append_decided(&block, &changes(tip + 1)).map_err(|error| describe(&error))
            })
            .and_then(|_| store.flush().map_err(|error| describe(&error)));
        if let Err(error) = step {
            let tip = store.tip().map_or(0, |tip| tip.height.get());
            return (tip, error);
        }
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Child: on a file system of a few megabytes.
#[test]
fn child_full_disk() {
    let Some(root) = env::var_os(CHILD).map(PathBuf::from) else { return };
    let ballast = root.join("ballast");
    let mut store = open(&root).store.with_segment_bytes(20_000);
    replay(&mut store);
    for round in 0..4_u64 {
        // Leave a drawn, small amount of space.
        let free = space(&root).saturating_sub(60_000 + round * 47_000);
        fs::write(&ballast, vec![1; free as usize]).unwrap();
        let (acknowledged, error) = fill(&mut store);
        assert!(error.contains("No space left"), "{error}");
        // Nothing is signed on a disk that takes no record of it: either the guard itself failed,
        // or it has no room for the next entries.
        let guard = store.guard();
        let mut refused = false;
        for height in acknowledged + 1..acknowledged + 20_000 {
            match guard.check(&vote(height)) {
                Ok(Decision::Sign) => {}
                Ok(Decision::Refuse(_)) => {}
                Err(_) => {
                    assert!(guard.check(&vote(height)).is_err(), "signs after a failed write");
                    refused = true;
                    break;
                }
            }
        }
        assert!(refused, "the guard signs on a full disk");
        drop((guard, store));
        wait_released(&root.join("data/state")).unwrap();

        // Space is back.
        fs::remove_file(&ballast).unwrap();
        let mut opened = open(&root);
        replay(&mut opened.store);
        let tip = opened.store.tip().map_or(0, |tip| tip.height.get());
        assert!(tip >= acknowledged, "round {round}: {tip} < {acknowledged}");
        assert_eq!(opened.store.state().root(), expected_root(tip));
        opened.store.verify().unwrap();
        store = opened.store.with_segment_bytes(20_000);
        // It goes on, and a snapshot and pruning work too.
        for _ in 0..5 {
            let parent = store.tip().unwrap().block;
            let height = store.tip().unwrap().height.get() + 1;
            let block = headed_block(height, store.state().root(), &parent);
            store.append_decided(&block, &changes(height)).unwrap();
        }
        store.snapshots().take(&store.view()).unwrap();
        store.prune(Retention::Snapshots(1)).unwrap();
    }
    println!("\n{PASSED}");
}

/// Free bytes of the file system.
fn space(root: &Path) -> u64 {
    let found = rustix::fs::statvfs(root).unwrap();
    found.f_bavail * found.f_frsize
}

#[test]
fn a_small_file_system_fills_up_and_empties() {
    on_a_small_disk("full_disk::child_full_disk", CHILD, 6, PASSED);
}

/// Runs a child test on a file system of so many MiB, in a namespace of its own. The variable
/// tells it where that is; it must say `passed`. Where no namespace is permitted this says so.
pub(crate) fn on_a_small_disk(test: &str, variable: &str, mib: u32, passed: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mount =
        format!("mount -t tmpfs -o size={mib}m tmpfs \"${variable}\" && exec \"$0\" \"$@\"");
    let namespaces: &[&[&str]] = if rustix::process::geteuid().is_root() {
        &[&["--mount"], &["--user", "--map-root-user", "--mount"]]
    } else {
        &[&["--user", "--map-root-user", "--mount"]]
    };
    for flags in namespaces {
        let mut permitted = Command::new("unshare");
        permitted.args(*flags).args(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs \"$0\""]);
        permitted.arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(tried) = permitted.status() else { continue };
        if !tried.success() {
            continue;
        }
        let mut command = Command::new("unshare");
        command.args(*flags).args(["sh", "-c", &mount]).arg(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]);
        command.env(variable, dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = start(&mut command).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(passed), "{said}\n{errors}");
        return;
    }
    println!("skipped: this machine permits no mount namespace, so no small file system");
}

/// The error chain of a full disk is recognised, so that a caller can tell people what to do.
#[test]
fn a_full_disk_is_told_from_damage() {
    let full = ayni_storage::FileError {
        operation: "write",
        path: "x".into(),
        source: std::io::Error::from(std::io::ErrorKind::StorageFull),
    };
    let error = ayni_storage::block_log::BlockLogError::File(full);
    assert!(error.is_out_of_space());
    assert!(!ayni_storage::block_log::BlockLogError::Poisoned.is_out_of_space());
}
