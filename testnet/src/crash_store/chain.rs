//! A chain made of nothing: deterministic blocks and changes for the stores, which check no rules.
//!
//! Every header commits the true root after its parent, so that pruning can be tested; all else is
//! drawn from the seed. Nobody signed anything.

use anyhow::{Context as _, Result};
use protocol::amount::{Height, TimestampMs};
use protocol::block::{Block, DecidedBlock, Header};
use protocol::codec;
use protocol::consensus::{BodyOffer, CommitCertificate, CommitSignature, ProposalBody};
use protocol::ids::{Beacon, BlockHash, ChainId, ContentHash, StateRoot, ValidatorId};
use protocol::keys::Signature;
use protocol::store::StateChanges;
use storage::state::LedgerState as _;
use storage::{LedgerStore, MemoryStateStore, Replay};

/// The network of these chains.
pub const CHAIN: ChainId = ChainId::from_bytes([0x5c; 32]);
/// Accounts that the changes touch.
const ACCOUNTS: u64 = 400;

/// A stream of numbers that depends on its seed alone (SplitMix64, Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }
}

/// What the block at `height` changes: a dozen accounts, one in six of them deleted.
pub fn changes(seed: u64, height: u64) -> StateChanges {
    let mut draw = Draw(seed ^ height.wrapping_mul(0x9e37));
    let mut changes = StateChanges::new();
    for _ in 0..12 {
        let key = format!("account/{:04}", draw.below(ACCOUNTS)).into_bytes();
        let length = 1 + usize::try_from(draw.below(12)).unwrap_or(0);
        let value = (draw.below(6) > 0).then(|| draw.number().to_le_bytes().repeat(length));
        changes.insert(key, value);
    }
    changes.insert(b"height".to_vec(), Some(height.to_le_bytes().to_vec()));
    changes
}

/// The block at `height` on a state with this root.
pub fn block(seed: u64, height: u64, state: StateRoot, parent: BlockHash) -> DecidedBlock {
    let mut draw = Draw(seed ^ height.wrapping_mul(0x51ed));
    let header = Header {
        chain: CHAIN,
        rules_version: 1,
        height: Height::new(height),
        proposer: ValidatorId::default(),
        time: TimestampMs::new(height),
        parent,
        parent_certificate: ContentHash::default(),
        transactions: ContentHash::of(&seed.to_le_bytes()),
        state,
        next_validators: ContentHash::default(),
        beacon: Beacon::default(),
        beacon_proof: Vec::new(),
        snapshot: None,
    };
    let block = header.hash();
    let body =
        Block { header, transactions: Vec::new(), parent_certificate: None, evidence: Vec::new() };
    let signatures = (0..draw.below(30)).map(|_| {
        let byte = draw.number().to_le_bytes()[0];
        let validator = ValidatorId::from_bytes([byte; 32]);
        CommitSignature { validator, signature: Signature::from_bytes([byte; 64]) }
    });
    let signatures = signatures.collect();
    let height = Height::new(height);
    let certificate = CommitCertificate { height, round: 0, block, signatures };
    DecidedBlock { block: codec::encode(&body), certificate }
}

/// A body offered at (height, round), different for every `run`.
pub fn body(height: u64, run: u32) -> ProposalBody {
    let block = ContentHash::of(&[height.to_le_bytes().as_slice(), &run.to_le_bytes()].concat());
    let block_hash = BlockHash::from_bytes(*block.as_bytes());
    ProposalBody {
        offer: BodyOffer { height: Height::new(height), round: run, block: block_hash },
        proposer: ValidatorId::default(),
        block: block.as_bytes().repeat(40),
        signature: Signature::from_bytes([7; 64]),
    }
}

/// The chain as it must be, in memory.
#[derive(Debug)]
pub struct Reference {
    seed: u64,
    state: MemoryStateStore,
    roots: Vec<StateRoot>,
    blocks: Vec<DecidedBlock>,
}

impl Reference {
    /// Genesis.
    pub fn new(seed: u64) -> Result<Self> {
        let mut state = MemoryStateStore::new();
        let root = state.commit(Height::ZERO, &changes(seed, 0), BlockHash::default())?;
        Ok(Self { seed, state, roots: vec![root], blocks: Vec::new() })
    }

    /// The root after `height`.
    pub fn root(&mut self, height: u64) -> Result<StateRoot> {
        self.extend(height)?;
        self.roots.get(usize::try_from(height)?).copied().context("the reference has the height")
    }

    /// The block at `height`, from 1.
    pub fn block(&mut self, height: u64) -> Result<DecidedBlock> {
        self.extend(height)?;
        let index = usize::try_from(height)?.checked_sub(1).context("blocks begin at height 1")?;
        self.blocks.get(index).cloned().context("the reference has the height")
    }

    fn extend(&mut self, to: u64) -> Result<()> {
        for height in self.blocks.len() as u64 + 1..=to {
            let parent = self.blocks.last().map_or(BlockHash::default(), |b| b.certificate.block);
            let block = block(self.seed, height, self.state.root(), parent);
            let hash = block.certificate.block;
            let root = self.state.commit(Height::new(height), &changes(self.seed, height), hash)?;
            self.roots.push(root);
            self.blocks.push(block);
        }
        Ok(())
    }
}

/// Height of a store's log, 0 if it is empty.
pub fn height_of(store: &LedgerStore) -> u64 {
    store.tip().map_or(0, |tip| tip.height.get())
}

/// Applies what the state of `store` lacks; returns how many blocks that were.
pub fn replay(store: &mut LedgerStore, seed: u64) -> Result<u64> {
    let mut blocks = 0;
    while let Some(next) = store.next_replay()? {
        match next {
            Replay::Genesis => {
                store.commit_genesis(&changes(seed, 0))?;
            }
            Replay::Block(block) => {
                store.commit_replayed(&changes(seed, block.certificate.height.get()))?;
                blocks += 1;
            }
        }
    }
    Ok(blocks)
}

/// Appends the block after the last.
pub fn append_next(store: &mut LedgerStore, seed: u64) -> Result<u64> {
    let height = height_of(store) + 1;
    let parent = store.tip().map_or(BlockHash::default(), |tip| tip.block);
    let block = block(seed, height, store.state().root(), parent);
    store.append_decided(&block, &changes(seed, height))?;
    Ok(height)
}
