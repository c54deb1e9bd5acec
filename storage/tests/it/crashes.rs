//! Processes that die: killed at random points, or out of space in the middle of a write.
//!
//! The child is this test binary, run again for one test with [`CHILD`] set. It writes a line for
//! everything that it may regard as stored; the parent holds the directory to those lines.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ayni_storage::block_log::BlockLog;
use ayni_storage::signer_guard::{Decision, GuardEntry, Refusal, SignerGuard, Step};
use ayni_storage::state::LedgerState;
use ayni_storage::{BlobStore, FileError};
use protocol::amount::Height;
use protocol::ids::{BlockHash, ContentHash};

use crate::support::{
    CHAIN, Draw, block, body, changes, expected_root, last_segment, locking, open, replay, start,
};

pub(crate) const CHILD: &str = "AYNI_STORAGE_TEST_CHILD";
pub(crate) const RUN: &str = "AYNI_STORAGE_TEST_RUN";

/// Says a line to the parent, past the test harness, which leaves its own line unfinished.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{line}").and_then(|()| out.flush()).unwrap();
}

/// The directory that a child was told to work in; `None` in an ordinary test run.
pub(crate) fn child_dir() -> Option<std::path::PathBuf> {
    env::var_os(CHILD).map(Into::into)
}

/// The arguments that make this test binary run one test.
fn only(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

pub(crate) fn spawn(test: &str, dir: &Path, run: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(only(test)).env(CHILD, dir).env(RUN, run.to_string());
    start(command.stdout(Stdio::piped()).stderr(Stdio::null()))
}

/// As [`spawn`], to its end, with files limited to `blocks` of 512 bytes: a write past that fails
/// half-way, as on a full disk.
fn run_with_small_files(test: &str, dir: &Path, blocks: u64) -> Vec<String> {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(env::current_exe().unwrap()).args(only(test));
    command.env(CHILD, dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = start(&mut command).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

/// Child: appends blocks as a validator does, for ever. Each run wants to sign another value.
#[test]
fn child_validator() {
    let Some(dir) = child_dir() else { return };
    let run: u8 = env::var(RUN).unwrap().parse().unwrap();
    let mut store = open(&dir).store;
    replay(&mut store);
    let guard = store.guard();
    loop {
        let height = store.tip().map_or(0, |tip| tip.height.get()) + 1;
        let value = Some(BlockHash::from_bytes([run; 32]));
        let entry =
            GuardEntry { height: Height::new(height), round: 0, step: Step::Prevote, value };
        if guard.check(&entry).unwrap() == Decision::Sign {
            say(&format!("signed {height} {run}"));
        }
        let proposal = body(height, u32::from(run), run, 2000);
        store.proposals_mut().insert(&proposal).unwrap();
        say(&format!("proposed {height} {run}"));
        store.append_decided(&block(height, 5000), &changes(height)).unwrap();
        say(&format!("decided {height} 0"));
        if height.is_multiple_of(16) {
            store.flush().unwrap();
        }
    }
}

/// What a killed child had acknowledged.
#[derive(Default)]
struct Acknowledged {
    decided: u64,
    proposed: Option<(u64, u8)>,
    signed: Vec<(u64, u8)>,
}

fn run_and_kill(dir: &Path, run: u64, lines: u64) -> Acknowledged {
    let mut child = spawn("crashes::child_validator", dir, run);
    let mut acknowledged = Acknowledged::default();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let [kind @ ("signed" | "proposed" | "decided"), height, value] = words[..] else {
            continue;
        };
        let (height, value) = (height.parse().unwrap(), value.parse().unwrap());
        match kind {
            "signed" => acknowledged.signed.push((height, value)),
            "proposed" => acknowledged.proposed = Some((height, value)),
            _ => acknowledged.decided = height,
        }
        seen += 1;
        if seen == lines {
            // SIGKILL. The child is already writing the next thing; what it still said before it
            // died is read too.
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(!status.success() && seen >= lines, "the child ended by itself: {status}");
    acknowledged
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut draw = Draw(2026);
    let mut signed: BTreeMap<u64, u8> = BTreeMap::new();
    for run in 0..20 {
        let acknowledged = run_and_kill(dir.path(), run, 1 + draw.below(120));
        for (height, value) in &acknowledged.signed {
            let first = *signed.entry(*height).or_insert(*value);
            assert_eq!(first, *value, "run {run} signed twice at height {height}");
        }
        let mut opened = open(dir.path());
        let tip = opened.store.tip().map_or(0, |tip| tip.height.get());
        assert!(tip >= acknowledged.decided, "run {run}: {tip} < {}", acknowledged.decided);
        replay(&mut opened.store);
        opened.store.verify().unwrap();
        assert_eq!(opened.store.state().root(), expected_root(tip));
        for height in 1..=tip {
            let stored = opened.store.blocks().get(Height::new(height)).unwrap().unwrap();
            assert_eq!(stored, block(height, 5000));
        }
        if let Some((height, value)) = acknowledged.proposed.filter(|(height, _)| *height > tip) {
            let stored = opened.store.proposals().for_round(Height::new(height), value.into());
            assert_eq!(stored.unwrap(), [body(height, value.into(), value, 2000)]);
        }
        if let Some((height, value)) = acknowledged.signed.last().filter(|(h, _)| *h > tip) {
            let entry = GuardEntry {
                height: Height::new(*height),
                round: 0,
                step: Step::Prevote,
                value: None,
            };
            let conflict = Refusal::Conflict(Some(BlockHash::from_bytes([*value; 32])));
            let decision = opened.store.guard().check(&entry).unwrap();
            assert_eq!(decision, Decision::Refuse(conflict));
        }
    }
}

/// Child: appends blocks until the file may not grow, then shows that the log takes no more.
#[test]
fn child_full_block_log() {
    let Some(dir) = child_dir() else { return };
    let (mut log, _) = BlockLog::open(&dir, &CHAIN).unwrap();
    let start = log.tip().map_or(0, |tip| tip.height.get()) + 1;
    for height in start.. {
        let length = log.bytes();
        match log.append(&block(height, 7001)) {
            Ok(_) => say(&format!("decided {height}")),
            Err(error) => {
                let on_disk = std::fs::metadata(last_segment(&dir)).unwrap().len();
                assert_eq!(on_disk, length, "the failed append was not undone");
                let again = log.append(&block(height, 10)).unwrap_err().to_string();
                assert!(again.contains("an earlier write"), "{again}");
                say(&format!("failed {error}"));
                return;
            }
        }
    }
}

#[test]
fn a_full_disk_loses_no_block() {
    let dir = tempfile::tempdir().unwrap();
    let said = run_with_small_files("crashes::child_full_block_log", dir.path(), 200);
    let decided = said.iter().filter(|line| line.starts_with("decided")).count() as u64;
    assert!(decided >= 10 && said.iter().any(|line| line.contains("failed cannot append to")));
    // Space is back.
    let (mut log, torn) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    assert_eq!(torn, None);
    assert_eq!(log.tip().unwrap().height, Height::new(decided));
    log.append(&block(decided + 1, 7001)).unwrap();
}

/// Child: signs until the file may not grow. A value that was not recorded is not signed.
#[test]
fn child_full_guard() {
    let Some(dir) = child_dir() else { return };
    let (guard, _) = SignerGuard::open(&dir.join("signed.log"), &CHAIN).unwrap();
    for height in 1.. {
        let entry = GuardEntry {
            height: Height::new(height),
            round: 0,
            step: Step::Precommit,
            value: None,
        };
        match guard.check(&entry) {
            Ok(decision) => {
                assert_eq!(decision, Decision::Sign);
                say(&format!("signed {height}"));
            }
            Err(_) => {
                assert!(guard.check(&entry).is_err(), "signs after a failed write");
                assert!(guard.raise_floor(Height::new(height)).is_err());
                return;
            }
        }
    }
}

#[test]
fn a_full_disk_stops_signing() {
    let dir = tempfile::tempdir().unwrap();
    let said = run_with_small_files("crashes::child_full_guard", dir.path(), 8);
    let signed = said.iter().filter(|line| line.starts_with("signed")).count() as u64;
    assert!(signed > 20);
    let (guard, torn) =
        locking(|| SignerGuard::open(&dir.path().join("signed.log"), &CHAIN)).unwrap();
    assert_eq!((torn, guard.highest()), (None, Some(Height::new(signed))));
}

/// Child: stores blobs of growing size until a file is too large.
#[test]
fn child_full_blobs() {
    let Some(dir) = child_dir() else { return };
    let store = BlobStore::open(&dir).unwrap();
    for size in (10_000..).step_by(20_000) {
        match store.put_bytes(&vec![1; size]) {
            Ok(hash) => say(&format!("stored {hash}")),
            Err(ayni_storage::BlobError::DiskFull { source: error, .. }) => {
                assert!(FileError::is_out_of_space(&error), "{error}");
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_disk_leaves_only_whole_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let said = run_with_small_files("crashes::child_full_blobs", dir.path(), 200);
    let stored: Vec<ContentHash> = said
        .iter()
        .filter_map(|line| line.strip_prefix("stored "))
        .map(|hash| hash.parse().unwrap())
        .collect();
    assert!(stored.len() > 3);
    let store = BlobStore::open(dir.path()).unwrap();
    assert_eq!(store.list().len(), stored.len());
    for hash in &stored {
        assert_eq!(store.verify(hash).unwrap(), ayni_storage::blobs::Verification::Intact);
    }
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0);
}
