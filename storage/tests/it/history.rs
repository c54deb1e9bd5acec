//! The index of transactions: what is found, in which order, and what damage costs.

use std::fs;

use ayni_storage::Tip;
use ayni_storage::ValidatorSets;
use ayni_storage::history::{
    History, HistoryError, IndexedBlock, IndexedTransaction, PAGE_MAX, Position,
};
use ayni_storage::state::wait_released;
use protocol::amount::{Credits, Height, VotingPower};
use protocol::consensus::{Validator, ValidatorSet};
use protocol::ids::{AccountId, BlockHash, TransactionHash};
use protocol::keys::SecretKey;

const ANNA: AccountId = AccountId::from_bytes([1; 32]);
/// Next to Anna in the order of keys.
const BERT: AccountId = AccountId::from_bytes([2; 32]);

fn hash(height: u64, index: u32) -> TransactionHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    bytes[8..12].copy_from_slice(&index.to_le_bytes());
    TransactionHash::from_bytes(bytes)
}

fn at(height: u64, index: u32) -> Position {
    Position { height: Height::new(height), index }
}

fn block_hash(height: u64) -> BlockHash {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&height.to_le_bytes());
    BlockHash::from_bytes(bytes)
}

/// A block with two transactions: one of Anna alone, one from Anna to Bert.
fn block(height: u64) -> IndexedBlock {
    let of = |index, accounts: &[AccountId]| IndexedTransaction {
        hash: hash(height, index),
        accounts: accounts.to_vec(),
    };
    IndexedBlock {
        at: Tip { height: Height::new(height), block: block_hash(height) },
        base_fee: (height > 1).then_some(Credits::from_micro(height)),
        transactions: vec![of(0, &[ANNA]), of(1, &[ANNA, BERT])],
    }
}

fn filled(dir: &std::path::Path, to: u64) -> History {
    let (mut history, _) = History::open(dir).unwrap();
    let blocks: Vec<_> = (1..=to).map(block).collect();
    // As they come: most are written on the way, the rest is gathered.
    blocks.chunks(64).for_each(|blocks| history.add(blocks).unwrap());
    history
}

#[test]
fn transactions_are_found_by_hash_and_by_account_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let history = filled(&path, 300);
    assert_eq!(history.transaction(&hash(7, 1)).unwrap(), Some(at(7, 1)));
    assert_eq!(history.transaction(&hash(301, 0)).unwrap(), None);
    assert_eq!(history.block(&block_hash(256)).unwrap(), Some(Height::new(256)));
    assert_eq!(history.base_fee(Height::new(1)).unwrap(), None);
    assert_eq!(history.base_fee(Height::new(2)).unwrap(), Some(Credits::from_micro(2)));
    let newest = history.of_account(&ANNA, None, 3).unwrap();
    assert_eq!(newest, [at(300, 1), at(300, 0), at(299, 1)]);
    let older = history.of_account(&ANNA, newest.last().copied(), 2).unwrap();
    assert_eq!(older, [at(299, 0), at(298, 1)]);
    assert_eq!(history.of_account(&BERT, Some(at(2, 0)), 9).unwrap(), [at(1, 1)]);
    assert_eq!(history.of_account(&BERT, None, usize::MAX).unwrap().len(), PAGE_MAX);
    assert!(history.of_account(&AccountId::default(), None, 9).unwrap().is_empty());
    drop(history);
    wait_released(&path).unwrap();
    let (again, anew) = History::open(&path).unwrap();
    assert!(!anew);
    let written = again.tip().unwrap().expect("most were written").height;
    assert_eq!(written, Height::new(256));
    assert_eq!(again.transaction(&hash(300, 0)).unwrap(), None);
}

#[test]
fn every_page_is_found_wherever_it_is_cut_and_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    let mut history = filled(&path, 290);
    history.write().unwrap();
    drop(history);
    wait_released(&path).unwrap();
    let (mut history, _) = History::open(&path).unwrap();
    history.add(&(291..=300).map(block).collect::<Vec<_>>()).unwrap();
    for height in 1..=300 {
        for index in 0..2 {
            assert_eq!(history.transaction(&hash(height, index)).unwrap(), Some(at(height, index)));
        }
        assert_eq!(history.block(&block_hash(height)).unwrap(), Some(Height::new(height)));
    }
    let all: Vec<_> = (1..=300).rev().flat_map(|height| [at(height, 1), at(height, 0)]).collect();
    for length in [1, 7, 100, PAGE_MAX] {
        let mut found: Vec<Position> = Vec::new();
        loop {
            let page = history.of_account(&ANNA, found.last().copied(), length).unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, all, "pages of {length}");
    }
}

#[test]
fn blocks_are_added_in_order_and_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = filled(dir.path(), 2);
    for gap in [vec![block(4)], vec![block(3), block(5)], vec![block(2)]] {
        let refused = history.add(&gap).unwrap_err();
        assert!(matches!(refused, HistoryError::OutOfOrder { .. }), "{refused}");
    }
    assert_eq!(history.transaction(&hash(3, 0)).unwrap(), None);
    history.add(&[block(3)]).unwrap();
    let mut history = history.rebuild().unwrap();
    assert_eq!(history.tip().unwrap(), None);
    // The log of a pruned node begins later.
    history.add(&[block(90)]).unwrap();
    assert_eq!(history.transaction(&hash(3, 0)).unwrap(), None);
}

#[test]
fn another_schema_or_damage_means_a_new_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    filled(&path, 2).write().unwrap();
    wait_released(&path).unwrap();
    {
        let db = sled::open(&path).unwrap();
        db.insert(b"s", &3_u32.to_le_bytes()).unwrap();
        db.flush().unwrap();
    }
    let (history, anew) = History::open(&path).unwrap();
    assert!(anew && history.tip().unwrap().is_none());
    drop(history);
    wait_released(&path).unwrap();
    filled(&path, 2).write().unwrap();
    wait_released(&path).unwrap();
    let length = fs::metadata(path.join("db")).unwrap().len();
    fs::write(path.join("db"), vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
    let (mut history, _) = History::open(&path).unwrap();
    assert!(history.tip().unwrap().is_none(), "nothing is claimed that is not there");
    history.add(&[block(1)]).unwrap();
}

#[test]
fn validator_sets_are_kept_and_checked_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let set = |seed: u8| {
        let key = SecretKey::from_seed(&[seed; 32]).public();
        ValidatorSet::new(vec![Validator { key, power: VotingPower::new(seed.into()) }]).unwrap()
    };
    let sets = ValidatorSets::open(dir.path()).unwrap();
    for seed in [1, 1, 2, 1] {
        sets.remember(&set(seed)).unwrap();
    }
    drop(sets);
    let sets = ValidatorSets::open(dir.path()).unwrap();
    assert_eq!(sets.get(&set(1).hash()).unwrap(), Some(set(1)));
    assert_eq!(sets.get(&set(3).hash()).unwrap(), None);
    drop(sets);
    {
        let db = sled::open(dir.path()).unwrap();
        let other = db.get(set(2).hash().as_bytes()).unwrap().unwrap();
        db.insert(set(1).hash().as_bytes(), other).unwrap();
        db.flush().unwrap();
    }
    let sets = ValidatorSets::open(dir.path()).unwrap();
    assert_eq!(sets.get(&set(1).hash()).unwrap(), None, "a false set is none");
}
