//! Flipped bits: detected, never rolled back silently, and the state is rebuilt.

use std::fs;

use ayni_storage::block_log::{BlockLog, BlockLogError};
use ayni_storage::ledger::{OpenError, ReplayCause, StateDamage, StateRecovery};
use ayni_storage::record::{LogKind, RecordError, RecordLog};
use ayni_storage::state::LedgerState;
use protocol::amount::Height;

use crate::support::{CHAIN, Draw, Place, block, expected_root, extend, last_segment, replay};

const KIND: LogKind =
    LogKind { name: "test", schema: 1, end_mark: false, chain: CHAIN, payload_bytes_max: 4096 };

/// How often the state is damaged.
const FLIPS: u32 = 60;

#[test]
fn every_flipped_bit_of_a_log_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, _) = RecordLog::open(&path, KIND, |_, _| {}).unwrap();
    for payload in [b"first".as_slice(), b"", b"third record", b"the last"] {
        log.append(payload).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        match RecordLog::open(&path, KIND, |_, _| {}) {
            Err(RecordError::Corrupt { offset, .. }) => assert!(offset <= (bit / 8) as u64),
            Err(RecordError::WrongFile { .. }) => assert!(bit / 8 < 40),
            Err(RecordError::Newer { .. }) => assert_eq!(bit / 8, 7),
            other => panic!("bit {bit} was not detected: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), flipped, "a damaged log is left as it is");
    }
}

#[test]
fn a_bit_that_flips_under_an_open_log_is_found_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    for height in 1..=3 {
        log.append(&block(height, 50)).unwrap();
    }
    let path = last_segment(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    // Preamble 40, head 88, three records of one length: the last byte of the second.
    let second = 128 + (bytes.len() - 128) / 3 * 2 - 1;
    bytes[second] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let results: Vec<bool> = (1..=3).map(|h| log.get(Height::new(h)).is_ok()).collect();
    assert_eq!(results, [true, false, true]);
}

#[test]
fn logs_of_other_kinds_and_networks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    RecordLog::open(&path, KIND, |_, _| {}).unwrap();
    for other in [
        LogKind { name: "other", ..KIND },
        LogKind { chain: protocol::ids::ChainId::from_bytes([1; 32]), ..KIND },
    ] {
        let refused = RecordLog::open(&path, other, |_, _| {}).unwrap_err();
        assert!(matches!(refused, RecordError::WrongFile { .. }), "{refused}");
    }
}

#[test]
fn a_damaged_block_log_stops_the_node() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 10);
    drop(opened);
    let path = last_segment(&place.data());
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    fs::write(&path, &bytes).unwrap();
    let refused = place.refusal(&CHAIN);
    let OpenError::BlockLog(BlockLogError::Record(RecordError::Corrupt { index, .. })) = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(index, 10, "after the segment's head");
}

/// One flipped bit anywhere in sled's files, many times: the node always ends at the right root.
#[test]
fn a_damaged_state_is_rebuilt_to_the_same_root() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    // Several batches: of a single one sled keeps all or nothing.
    for height in [10, 20, 30, 40] {
        extend(&mut opened.store, height);
        opened.store.flush().unwrap();
    }
    drop(opened);
    let root = expected_root(40);
    let mut draw = Draw(7);
    let mut noticed = 0;
    for _ in 0..FLIPS {
        let path = place.data().join("state").join("db");
        let mut bytes = fs::read(&path).unwrap();
        // sled writes 512 KiB segments that are mostly empty: aim at what is used.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        bytes[draw.below(used) as usize] ^= 1 << draw.below(8);
        fs::write(&path, &bytes).unwrap();
        let mut opened = place.open();
        // sled may see the damage, or go back to an older state without a word: the log tells.
        if opened.recovery.state != StateRecovery::UpToDate {
            noticed += 1;
        }
        replay(&mut opened.store);
        assert_eq!(opened.store.state().root(), root);
        opened.store.verify().unwrap();
        opened.store.flush().unwrap();
    }
    assert!(noticed > 0, "no flip was noticed: the test aims at the wrong bytes");
}

/// sled opens a cut file as an older state without a word: the log tells.
#[test]
fn a_cut_state_is_brought_to_the_same_root() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 40);
    drop(opened);
    let root = expected_root(40);
    let mut draw = Draw(11);
    for _ in 0..20 {
        let path = place.data().join("state").join("db");
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(draw.below(length)).unwrap();
        drop(file);
        let mut opened = place.open();
        replay(&mut opened.store);
        assert_eq!(opened.store.state().root(), root);
        opened.store.verify().unwrap();
    }
}

#[test]
fn a_state_that_is_not_a_database_is_set_aside() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 5);
    drop(opened);
    for file in ["db", "conf"] {
        fs::write(place.data().join("state").join(file), b"no database").unwrap();
    }
    let mut opened = place.open();
    let StateRecovery::NeedsReplay { from: None, cause: ReplayCause::SetAside { damage, aside } } =
        &opened.recovery.state
    else {
        panic!("{:?}", opened.recovery);
    };
    assert!(matches!(damage, StateDamage::Unreadable(_)));
    assert!(aside.ends_with("state.damaged-0") && aside.is_dir());
    assert_eq!(replay(&mut opened.store), 5);
    assert_eq!(opened.store.state().root(), expected_root(5));
}
