//! Files cut short: a prefix of whole records comes back, and the log goes on from there.

use std::fs;

use ayni_storage::block_log::BlockLog;
use ayni_storage::record::{LogKind, PREAMBLE_BYTES, RecordLog};
use proptest::prelude::*;
use protocol::amount::Height;

use crate::support::{CHAIN, block, last_segment};

const KIND: LogKind =
    LogKind { name: "test", schema: 1, end_mark: false, chain: CHAIN, payload_bytes_max: 4096 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_cut_leaves_a_prefix(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut log, _) = RecordLog::open(&path, KIND, |_, _| {}).unwrap();
        let mut ends = vec![log.bytes()];
        for payload in &payloads {
            log.append(payload).unwrap();
            ends.push(log.bytes());
        }
        log.sync().unwrap();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut found = Vec::new();
            let (mut log, torn) =
                RecordLog::open(&path, KIND, |_, payload| found.push(payload.to_vec())).unwrap();
            let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
            prop_assert_eq!(&found[..], &payloads[..kept]);
            prop_assert_eq!(torn.is_some(), !ends.contains(&(cut as u64)));
            if let Some(torn) = torn {
                let start = if cut < PREAMBLE_BYTES as usize { 0 } else { ends[kept] };
                prop_assert_eq!(torn.offset, start);
                prop_assert_eq!(torn.bytes, cut as u64 - start);
            }
            log.append(b"after").unwrap();
            log.sync().unwrap();
            drop(log);
            let mut again = Vec::new();
            RecordLog::open(&path, KIND, |_, payload| again.push(payload.to_vec())).unwrap();
            prop_assert_eq!(again.len(), kept + 1);
        }
    }
}

#[test]
fn a_cut_block_log_goes_on_with_the_lost_height() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    for height in 1..=5 {
        log.append(&block(height, 100)).unwrap();
    }
    let bytes = log.bytes();
    drop(log);
    let path = last_segment(dir.path());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes - 1).unwrap();
    let (mut log, torn) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    assert!(torn.is_some());
    assert_eq!(log.tip().unwrap().height, Height::new(4));
    assert_eq!(log.get(Height::new(5)).unwrap(), None);
    log.append(&block(5, 100)).unwrap();
    let heights: Vec<u64> =
        log.range(Height::new(2), 3).map(|block| block.unwrap().certificate.height.get()).collect();
    assert_eq!(heights, [2, 3, 4]);
}

#[test]
fn heights_have_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = BlockLog::open(dir.path(), &CHAIN).unwrap();
    for wrong in [0, 2] {
        let refused = log.append(&block(wrong, 10)).unwrap_err().to_string();
        assert_eq!(refused, format!("block {wrong} does not follow: the log expects height 1"));
    }
    log.append(&block(1, 10)).unwrap();
    assert!(log.append(&block(1, 10)).is_err());
    assert_eq!(log.get(Height::ZERO).unwrap(), None);
    assert_eq!(log.get(Height::new(1)).unwrap(), Some(block(1, 10)));
    assert_eq!(log.hash_at(Height::new(1)).unwrap(), Some(block(1, 10).certificate.block));
}
