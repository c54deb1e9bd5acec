//! The block log in segments: opening without reading, damage, migration, pruning.

use std::fs;
use std::path::Path;

use ayni_storage::block_log::{BlockLog, BlockLogError};
use ayni_storage::record::{LogKind, RecordError, RecordLog};
use ayni_storage::repair;
use ayni_storage::state::LedgerState;
use protocol::amount::Height;
use protocol::codec;
use protocol::ids::ChainId;

use crate::support::{CHAIN, Place, block, expected_root, extend, open_raw, replay, segments};

/// A log of blocks 1 to `to`, seven to a segment.
fn log(dir: &Path, to: u64) -> BlockLog {
    let (log, _) = BlockLog::open(dir, &CHAIN).unwrap();
    let mut log = log.with_segment_bytes(7 * 600);
    let from = log.tip().map_or(0, |tip| tip.height.get()) + 1;
    for height in from..=to {
        log.append(&block(height, 500)).unwrap();
    }
    log
}

fn heights(log: &BlockLog) -> Vec<u64> {
    log.range(Height::ZERO, u64::MAX).map(|b| b.unwrap().certificate.height.get()).collect()
}

#[test]
fn blocks_come_back_from_every_segment() {
    let dir = tempfile::tempdir().unwrap();
    let written = log(dir.path(), 50);
    assert!(written.segments() > 5, "{}", written.segments());
    let bytes = written.bytes();
    drop(written);
    let (opened, torn) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    assert_eq!((torn, opened.bytes()), (None, bytes));
    assert_eq!(heights(&opened), (1..=50).collect::<Vec<_>>());
    assert_eq!(opened.get(Height::new(23)).unwrap(), Some(block(23, 500)));
    assert_eq!(opened.get(Height::new(51)).unwrap(), None);
    opened.check().unwrap();
    drop(opened);
    assert_eq!(heights(&log(dir.path(), 60)).len(), 60);
}

/// Opening does not read the blocks of sealed segments: damage there is found when it is read.
#[test]
fn damage_in_a_sealed_segment_is_found_when_read() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 50));
    let path = &segments(dir.path())[2];
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
    let (opened, _) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    let bad: Vec<u64> = (1..=50).filter(|h| opened.get(Height::new(*h)).is_err()).collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    let found = opened.check().unwrap_err();
    assert!(matches!(found, BlockLogError::Record(RecordError::Corrupt { .. })), "{found}");
}

#[test]
fn a_sealed_segment_that_changed_its_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 50));
    let path = &segments(dir.path())[1];
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 10]).unwrap();
    let refused = BlockLog::open(dir.path(), &CHAIN).unwrap_err();
    assert!(matches!(refused, BlockLogError::Inconsistent { .. }), "{refused}");
}

#[test]
fn a_missing_or_foreign_segment_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(log(ours.path(), 50));
    let (log, _) = BlockLog::open(theirs.path(), &CHAIN).unwrap();
    let mut log = log.with_segment_bytes(7 * 600);
    for height in 1..=50 {
        // Other blocks of the same length.
        let mut other = block(height, 500);
        other.block.reverse();
        log.append(&other).unwrap();
    }
    drop(log);
    let (mine, other) = (&segments(ours.path())[3], &segments(theirs.path())[3]);
    assert_eq!(mine.file_name(), other.file_name());
    let whole = fs::read(mine).unwrap();
    for (from, to) in
        [(other, mine), (&other.with_extension("index"), &mine.with_extension("index"))]
    {
        fs::copy(from, to).unwrap();
    }
    let refused = BlockLog::open(ours.path(), &CHAIN).unwrap_err().to_string();
    assert!(refused.contains("continues another log"), "{refused}");
    fs::write(mine, whole).unwrap();
    fs::remove_file(mine.with_extension("index")).unwrap();
    BlockLog::open(ours.path(), &CHAIN).unwrap();
    fs::remove_file(mine).unwrap();
    let refused = BlockLog::open(ours.path(), &CHAIN).unwrap_err().to_string();
    assert!(refused.contains("a segment is missing"), "{refused}");
}

/// Every bit of an index: made again, or harmless because the records check themselves.
#[test]
fn a_damaged_index_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 20));
    let index = segments(dir.path())[0].with_extension("index");
    let whole = fs::read(&index).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&index, bytes).unwrap();
        let (opened, _) = BlockLog::open(dir.path(), &CHAIN).unwrap();
        assert_eq!(heights(&opened), (1..=20).collect::<Vec<_>>(), "byte {at}");
        assert_eq!(fs::read(&index).unwrap(), whole, "byte {at} was not repaired");
    }
    for length in [0, 40, whole.len() - 1] {
        fs::write(&index, &whole[..length]).unwrap();
        BlockLog::open(dir.path(), &CHAIN).unwrap();
        assert_eq!(fs::read(&index).unwrap(), whole);
    }
}

/// A crash between sealing a segment and making the next leaves an index beside the last one.
#[test]
fn a_crash_while_sealing_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 50));
    let last = segments(dir.path()).pop().unwrap();
    fs::remove_file(&last).unwrap();
    fs::write(last.with_extension("blocks.tmp"), b"half").unwrap();
    let opened = log(dir.path(), 50);
    assert_eq!(heights(&opened), (1..=50).collect::<Vec<_>>());
    opened.check().unwrap();
}

/// The format of schema 1: one log file, no heads.
fn write_schema_1(dir: &Path, blocks: u64) -> RecordLog {
    let kind = LogKind {
        name: "block log",
        schema: 1,
        end_mark: false,
        chain: CHAIN,
        payload_bytes_max: 2 * 1024 * 1024,
    };
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("CHAIN"), format!("schema = 1\nchain = {CHAIN}\n")).unwrap();
    let (mut old, _) = RecordLog::open(&dir.join("blocks.log"), kind, |_, _| {}).unwrap();
    for height in 1..=blocks {
        let block = block(height, 300);
        let hash = block.certificate.block;
        let body = codec::encode(&block);
        let record = [height.to_le_bytes().as_slice(), hash.as_bytes(), body.as_slice()].concat();
        old.append(&record).unwrap();
    }
    old.sync().unwrap();
    old
}

#[test]
fn a_directory_of_schema_1_is_migrated() {
    let place = Place::new();
    drop(write_schema_1(&place.data(), 30));
    let mut opened = place.open();
    assert_eq!(replay(&mut opened.store), 30);
    assert_eq!(opened.store.state().root(), expected_root(30));
    assert_eq!(heights(opened.store.blocks()), (1..=30).collect::<Vec<_>>());
    assert!(!place.data().join("blocks.log").exists());
    let chain = fs::read_to_string(place.data().join("CHAIN")).unwrap();
    assert_eq!(chain, format!("schema = 2\nchain = {CHAIN}\n"));
    extend(&mut opened.store, 35);
    drop(opened);
    assert_eq!(place.open().store.tip().unwrap().height, Height::new(35));
}

/// Wherever a migration is cut off, it begins again from the old log.
#[test]
fn an_interrupted_migration_is_done_again() {
    for left_behind in ["blocks.migrating", "blocks"] {
        let place = Place::new();
        drop(write_schema_1(&place.data(), 10));
        // Half of a copy.
        let half = tempfile::tempdir().unwrap();
        drop(log(half.path(), 5));
        fs::rename(half.path().join("blocks"), place.data().join(left_behind)).unwrap();
        let opened = place.open();
        let found = opened.store.blocks().get(Height::new(3)).unwrap();
        assert_eq!(found, Some(block(3, 300)), "{left_behind}");
        assert_eq!(opened.store.tip().unwrap().height, Height::new(10));
    }
}

#[test]
fn a_damaged_old_log_is_not_migrated() {
    let place = Place::new();
    drop(write_schema_1(&place.data(), 10));
    let path = place.data().join("blocks.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[500] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = place.refusal(&CHAIN).to_string();
    assert!(refused.contains("cannot be brought to the present schema"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(!place.data().join("blocks").exists());
}

/// Every store says what it is and refuses what a newer program wrote.
#[test]
fn newer_schemas_are_refused() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    extend(&mut opened.store, 3);
    drop(opened);
    let block_log = segments(&place.data()).remove(0);
    for file in [block_log, place.data().join("proposals.log"), place.guard()] {
        let whole = fs::read(&file).unwrap();
        let mut newer = whole.clone();
        newer[7] += 1;
        fs::write(&file, newer).unwrap();
        let refused = place.refusal(&CHAIN);
        let mut text = refused.to_string();
        let mut error: &dyn std::error::Error = &refused;
        while let Some(source) = error.source() {
            text = format!("{text}: {source}");
            error = source;
        }
        assert!(text.contains("upgrade the program"), "{}: {text}", file.display());
        fs::write(&file, whole).unwrap();
    }
    let state = open_raw(&place.data().join("state"));
    state.insert(b"s", &[9]).unwrap();
    state.flush().unwrap();
    drop(state);
    ayni_storage::state::wait_released(&place.data().join("state")).unwrap();
    let refused = place.refusal(&CHAIN);
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.contains("schema 9"), "{source}");
}

#[test]
fn repair_cuts_only_what_is_damaged_and_keeps_it_aside() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    opened.store = opened.store.with_segment_bytes(3_000);
    extend(&mut opened.store, 40);
    drop(opened);
    let whole = repair::examine(&place.data(), &CHAIN).unwrap();
    assert_eq!(whole.good.unwrap().height, Height::new(40));
    assert!(whole.damage.is_none());

    let files = segments(&place.data());
    let damaged = &files[files.len() / 2];
    let mut bytes = fs::read(damaged).unwrap();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(damaged, &bytes).unwrap();
    let (found, aside) = repair::cut_damage(&place.data(), &CHAIN).unwrap();
    let (good, aside) = (found.good.unwrap().height, aside.unwrap());
    assert!(good > Height::new(10) && good < Height::new(30), "{good}");
    assert!(found.damage.unwrap().contains("checksum"));
    assert_eq!(fs::read(aside.join(damaged.file_name().unwrap())).unwrap(), bytes);
    assert_eq!(fs::read_dir(&aside).unwrap().count(), files.len() - files.len() / 2);

    let mut opened = place.open();
    assert_eq!(opened.store.tip().unwrap().height, good);
    assert!(opened.recovery.lost_until >= Some(Height::new(40)), "{:?}", opened.recovery);
    replay(&mut opened.store);
    assert_eq!(opened.store.state().root(), expected_root(good.get()));
    extend(&mut opened.store, 40);
    assert_eq!(opened.store.state().root(), expected_root(40));
    opened.store.verify().unwrap();
}

#[test]
fn another_networks_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(log(dir.path(), 20));
    let refused = BlockLog::open(dir.path(), &ChainId::from_bytes([1; 32])).unwrap_err();
    assert!(matches!(refused, BlockLogError::Record(RecordError::WrongFile { .. })), "{refused}");
}
