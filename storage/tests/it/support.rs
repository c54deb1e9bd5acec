//! Blocks, bodies and directories for tests. Blocks carry arbitrary bytes: storage parses none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock};

use ayni_storage::ledger::{LedgerStore, OpenError, Opened, Replay};
use ayni_storage::state::{self, LedgerState, StateStore};
use protocol::amount::{Height, TimestampMs};
use protocol::block::{Block, DecidedBlock, Header};
use protocol::codec;
use protocol::consensus::{BodyOffer, CommitCertificate, ProposalBody};
use protocol::ids::{Beacon, BlockHash, ChainId, ContentHash, StateRoot, ValidatorId};
use protocol::keys::Signature;
use protocol::store::StateChanges;

/// The network of all tests.
pub(crate) const CHAIN: ChainId = ChainId::from_bytes([42; 32]);

/// A data directory and a guard beside it, removed at the end.
pub(crate) struct Place {
    root: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn guard(&self) -> PathBuf {
        self.root.path().join("guard").join("signed.log")
    }

    pub(crate) fn open(&self) -> Opened {
        open(self.root.path())
    }

    /// Why it does not open for `chain`.
    pub(crate) fn refusal(&self, chain: &ChainId) -> OpenError {
        locking(|| LedgerStore::open(&self.data(), chain, &self.guard())).unwrap_err()
    }
}

/// Held for writing while a child process is started: until it has replaced itself by its
/// program, it shares our open files and with them their locks.
static STARTING: RwLock<()> = RwLock::new(());

/// Runs `f`, which takes locks, while no child process is being started.
pub(crate) fn locking<T>(f: impl FnOnce() -> T) -> T {
    let _guard = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    f()
}

/// Starts a child process.
pub(crate) fn start(command: &mut Command) -> Child {
    let _guard = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// Opens a state.
pub(crate) fn open_state(dir: &Path) -> StateStore {
    locking(|| state::wait_released(dir).map(|()| StateStore::open(dir))).unwrap().unwrap()
}

/// Opens the index of a state by itself.
pub(crate) fn open_raw(dir: &Path) -> sled::Db {
    locking(|| state::wait_released(dir).map(|()| sled::open(dir))).unwrap().unwrap()
}

/// Opens the ledger below `root`.
pub(crate) fn open(root: &Path) -> Opened {
    let guard = root.join("guard").join("signed.log");
    let state = root.join("data").join("state");
    locking(|| state::wait_released(&state)).unwrap();
    locking(|| LedgerStore::open(&root.join("data"), &CHAIN, &guard)).unwrap()
}

/// A deterministic stream of numbers (SplitMix64) for tests that draw.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The segment of the block log that takes blocks.
pub(crate) fn last_segment(data: &Path) -> PathBuf {
    segments(data).pop().unwrap()
}

/// The segments of the block log, in order.
pub(crate) fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("blocks")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "blocks"));
    files.sort();
    files
}

/// A block of `size` bytes.
pub(crate) fn block(height: u64, size: usize) -> DecidedBlock {
    let bytes: Vec<u8> = (0..size).map(|i| (height as usize * 31 + i) as u8).collect();
    let hash = BlockHash::from_bytes(*ContentHash::of(&bytes).as_bytes());
    let certificate = CommitCertificate {
        height: Height::new(height),
        round: 0,
        block: hash,
        signatures: Vec::new(),
    };
    DecidedBlock { block: bytes, certificate }
}

/// A block with a real header, which commits `state`: the root after its parent.
pub(crate) fn headed_block(height: u64, state: StateRoot, parent: &BlockHash) -> DecidedBlock {
    let header = Header {
        chain: CHAIN,
        rules_version: 1,
        height: Height::new(height),
        proposer: ValidatorId::default(),
        time: TimestampMs::new(height),
        parent: *parent,
        parent_certificate: ContentHash::default(),
        transactions: ContentHash::default(),
        state,
        next_validators: ContentHash::default(),
        beacon: Beacon::default(),
        beacon_proof: Vec::new(),
        snapshot: None,
    };
    let block = header.hash();
    let body =
        Block { header, transactions: Vec::new(), parent_certificate: None, evidence: Vec::new() };
    let height = Height::new(height);
    let certificate = CommitCertificate { height, round: 0, block, signatures: Vec::new() };
    DecidedBlock { block: codec::encode(&body), certificate }
}

/// Appends blocks with real headers up to and including `to`.
pub(crate) fn grow(store: &mut LedgerStore, to: u64) {
    let from = store.tip().map_or(0, |tip| tip.height.get()) + 1;
    for height in from..=to {
        let parent = store.tip().map_or(BlockHash::default(), |tip| tip.block);
        let block = headed_block(height, store.state().root(), &parent);
        store.append_decided(&block, &changes(height)).unwrap();
    }
}

/// A proposal body of `size` bytes, different for every `seed`.
pub(crate) fn body(height: u64, round: u32, seed: u8, size: usize) -> ProposalBody {
    let bytes = vec![seed; size];
    let block = BlockHash::from_bytes(*ContentHash::of(&bytes).as_bytes());
    ProposalBody {
        offer: BodyOffer { height: Height::new(height), round, block },
        proposer: ValidatorId::from_bytes([3; 32]),
        block: bytes,
        signature: Signature::from_bytes([5; 64]),
    }
}

/// The changes that the block at `height` makes: a few keys written, one deleted.
pub(crate) fn changes(height: u64) -> StateChanges {
    let mut draw = Draw(height);
    let mut changes = BTreeMap::new();
    for _ in 0..8 {
        let key = format!("account/{:03}", draw.below(200)).into_bytes();
        let value = (draw.below(5) > 0).then(|| draw.next().to_le_bytes().repeat(4));
        changes.insert(key, value);
    }
    changes.insert(b"height".to_vec(), Some(height.to_le_bytes().to_vec()));
    changes
}

/// Replays whatever is missing; returns how many blocks that were.
pub(crate) fn replay(store: &mut LedgerStore) -> u64 {
    let mut blocks = 0;
    while let Some(step) = store.next_replay().unwrap() {
        match step {
            Replay::Genesis => {
                store.commit_genesis(&changes(0)).unwrap();
            }
            Replay::Block(block) => {
                store.commit_replayed(&changes(block.certificate.height.get())).unwrap();
                blocks += 1;
            }
        }
    }
    blocks
}

/// Appends blocks up to and including `to`.
pub(crate) fn extend(store: &mut LedgerStore, to: u64) {
    let from = store.tip().map_or(0, |tip| tip.height.get()) + 1;
    for height in from..=to {
        store.append_decided(&block(height, 300), &changes(height)).unwrap();
    }
}

/// The root that a state at `height` must have, computed in memory.
pub(crate) fn expected_root(height: u64) -> StateRoot {
    let mut state = ayni_storage::MemoryStateStore::new();
    for h in 0..=height {
        state.commit(Height::new(h), &changes(h), BlockHash::default()).unwrap();
    }
    state.root()
}
