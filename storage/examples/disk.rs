//! Measures what a ledger takes on disk as its chain grows, pruned and not.
//!
//! ```sh
//! cargo run --release -p ayni-storage --example disk -- 100000
//! ```
//!
//! Synthetic blocks of about 4 KB, each changing 20 of 10,000 accounts; every 10,000 blocks a
//! snapshot is taken and the log pruned behind the last but one. Prints what lies on the disk, how
//! many tree nodes there are (stale ones must not add up) and how long opening takes.

#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use ayni_storage::state::{LedgerState as _, wait_released};
use ayni_storage::{LedgerStore, Retention};
use protocol::amount::{Height, TimestampMs};
use protocol::block::{Block, DecidedBlock, Header};
use protocol::codec;
use protocol::consensus::{CommitCertificate, CommitSignature};
use protocol::ids::{Beacon, BlockHash, ChainId, ContentHash, StateRoot, ValidatorId};
use protocol::keys::Signature;
use protocol::store::StateChanges;

const CHAIN: ChainId = ChainId::from_bytes([1; 32]);
const ACCOUNTS: u64 = 10_000;
const CHANGES_PER_BLOCK: u64 = 20;
const SNAPSHOT_EVERY: u64 = 10_000;

fn changes(height: u64) -> StateChanges {
    if height == 0 {
        return (0..ACCOUNTS).map(|n| entry(n, 0)).collect();
    }
    let mut draw = height;
    let accounts = (0..CHANGES_PER_BLOCK).map(|_| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (draw >> 33) % ACCOUNTS
    });
    accounts.map(|account| entry(account, height)).collect()
}

fn entry(account: u64, height: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let value = [account.to_le_bytes(), height.to_le_bytes()].concat().repeat(4);
    (format!("account/{account:08}").into_bytes(), Some(value))
}

fn block(height: u64, state: StateRoot) -> DecidedBlock {
    let header = Header {
        chain: CHAIN,
        rules_version: 1,
        height: Height::new(height),
        proposer: ValidatorId::default(),
        time: TimestampMs::new(height),
        parent: BlockHash::default(),
        parent_certificate: ContentHash::default(),
        transactions: ContentHash::default(),
        state,
        next_validators: ContentHash::default(),
        beacon: Beacon::default(),
        beacon_proof: Vec::new(),
        snapshot: None,
    };
    let hash = header.hash();
    let body =
        Block { header, transactions: Vec::new(), parent_certificate: None, evidence: Vec::new() };
    let signature = CommitSignature {
        validator: ValidatorId::default(),
        signature: Signature::from_bytes([9; 64]),
    };
    let certificate = CommitCertificate {
        height: Height::new(height),
        round: 0,
        block: hash,
        signatures: vec![signature; 40],
    };
    DecidedBlock { block: codec::encode(&body), certificate }
}

fn size(path: &Path) -> Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{:02}", bytes / 1_000_000, bytes / 10_000 % 100)
}

fn open(dir: &Path) -> Result<LedgerStore> {
    wait_released(&dir.join("state"))?;
    Ok(LedgerStore::open(dir, &CHAIN, &dir.join("signed.log"))?.store)
}

fn main() -> Result<()> {
    let blocks: u64 = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path();
    let mut store = open(dir)?;
    store.commit_genesis(&changes(0))?;
    let first_nodes = store.state().node_count();
    let mut written = 0;
    let start = Instant::now();
    println!(
        "   height  blocks MB  state MB  snapshots MB  tree nodes  open ms   if never pruned MB"
    );
    for height in 1..=blocks {
        let block = block(height, store.state().root());
        written += codec::encode(&block).len() as u64 + 88;
        store.append_decided(&block, &changes(height))?;
        if height % SNAPSHOT_EVERY == 1 && height > 1 {
            store.prune(Retention::Snapshots(2))?;
        }
        if height.is_multiple_of(SNAPSHOT_EVERY) {
            store.snapshots().take(&store.view())?;
            store.flush()?;
            drop(store);
            wait_released(&dir.join("state"))?;
            let opening = Instant::now();
            store = open(dir)?;
            let opened_ms = opening.elapsed().as_millis();
            println!(
                "{height:9} {:>10} {:>9} {:>13} {:>11} {opened_ms:>8} {:>20}",
                megabytes(size(&dir.join("blocks"))?),
                megabytes(size(&dir.join("state"))?),
                megabytes(size(&dir.join("snapshots"))?),
                store.state().node_count(),
                megabytes(written),
            );
        }
    }
    let nodes = store.state().node_count();
    println!("{blocks} blocks in {} s", start.elapsed().as_secs());
    store.verify()?;
    // The same accounts with other values: the tree has as many nodes as at genesis.
    ensure!(nodes == first_nodes, "{nodes} tree nodes, {first_nodes} at genesis: stale ones stay");
    Ok(())
}
