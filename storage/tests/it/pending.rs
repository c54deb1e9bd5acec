//! Acknowledged transactions survive; damage costs what comes after it, and nothing else.

use std::fs;

use ayni_storage::mempool_log::MempoolLog;
use protocol::ids::ChainId;

const CHAIN: ChainId = ChainId::from_bytes([3; 32]);

fn transactions(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n as u8; 1 + n * 37 % 2_000]).collect()
}

fn slices(list: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    list.iter().map(Vec::as_slice)
}

#[test]
fn what_was_appended_is_restored_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let all = transactions(6_000);
    {
        let (mut log, restored) = MempoolLog::open(dir.path(), &CHAIN).expect("a new log");
        assert!(restored.transactions.is_empty());
        // The second is longer than one record may be.
        log.append(slices(&all[..10])).expect("disk");
        log.append(slices(&all[10..])).expect("disk");
    }
    let (mut log, restored) = MempoolLog::open(dir.path(), &CHAIN).expect("the same log");
    assert_eq!((restored.transactions, restored.damaged), (all.clone(), None));
    let before = log.bytes();
    log.rewrite(slices(&all[5..8])).expect("disk");
    assert!(log.bytes() < before);
    log.append(slices(&all[..1])).expect("disk");
    drop(log);
    let (_, restored) = MempoolLog::open(dir.path(), &CHAIN).expect("the same log");
    assert_eq!(restored.transactions, [&all[5..8], &all[..1]].concat());
}

#[test]
fn a_torn_tail_is_cut_off_and_damage_is_moved_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("mempool.log");
    let all = transactions(30);
    {
        let (mut log, _) = MempoolLog::open(dir.path(), &CHAIN).expect("a new log");
        for one in &all {
            log.append([one.as_slice()]).expect("disk");
        }
    }
    let whole = fs::read(&path).expect("readable");
    let last = 48 + 4 + all[29].len();
    // Into the mark at the end, before it (as an older program leaves the file), into the last
    // record, exactly before that record.
    for (cut, kept) in [(3, 30), (8, 30), (8 + 3, 29), (8 + last, 29)] {
        fs::write(&path, &whole[..whole.len() - cut]).expect("writable");
        let (_, restored) = MempoolLog::open(dir.path(), &CHAIN).expect("torn is no damage");
        assert_eq!((restored.transactions, restored.damaged), (all[..kept].to_vec(), None));
        assert!(restored.torn.is_some(), "{cut} bytes were cut off without a word");
        let (_, again) = MempoolLog::open(dir.path(), &CHAIN).expect("mended");
        assert_eq!((again.transactions.len(), again.torn), (kept, None));
    }

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&path, &flipped).expect("writable");
    let (mut log, restored) = MempoolLog::open(dir.path(), &CHAIN).expect("moved aside");
    let count = restored.transactions.len();
    assert!(count > 0 && count < 30, "{count} before the damage");
    assert_eq!(restored.transactions, all[..count].to_vec());
    assert_eq!(fs::read(restored.damaged.expect("moved")).expect("kept"), flipped);
    log.append([all[0].as_slice()]).expect("a fresh file");
}
