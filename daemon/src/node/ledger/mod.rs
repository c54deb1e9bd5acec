//! The node's replica of the ledger: the sans-io host and its store behind one lock.
//!
//! **Invariant.** What the engine is told has been made durable first: a body before it is
//! vouched for, a block before its decision is acknowledged. A write that fails ends the
//! process, because a node that goes on could contradict what it signed.
//!
//! All methods block (they sync to disk); async callers use [`Ledger::run`].

mod past;
mod replay;
mod snapshots;
mod trail;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use protocol::amount::{Credits, Height, TimestampMs};
use protocol::block::{Block, BoundBlock, DecidedBlock, Evidence};
use protocol::codec;
use protocol::consensus::{ProposalBody, ValidatorSet};
use protocol::host::{Host, MempoolError, ProposerKeys, Refused, Standing};
use protocol::ids::{AccountId, BlockHash, StateRoot, TransactionHash};
use protocol::keys::PublicKey;
use protocol::ledger::genesis::Genesis;
use protocol::ledger::state::{State, View};
use protocol::proof::StateProof;
use protocol::transaction::VerifiedTransaction;
use storage::{
    LedgerStore, Retention, SignerGuard, StateRecovery, StateView, TreeError, ValidatorSets,
};
use tokio::sync::watch;

use past::{BaseFees, Past};
pub use trail::SNAPSHOTS_KEPT;

use crate::engine::SYNCED_ROUND;

/// Applied transactions that are remembered, so that a submitter learns their height.
const INCLUDED_MAX: usize = 65_536;

/// Blocks that are remembered as they were committed, for those who follow the chain closely.
const RECENT_MAX: usize = 4;

/// Rounds of the height in progress whose stored bodies are offered to the engine again.
const ROUNDS_RECOVERED_MAX: u32 = 256;

/// The last applied block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Height.
    pub height: Height,
    /// Hash.
    pub block: BlockHash,
    /// Root of the state after it.
    pub root: StateRoot,
    /// The proposer's clock.
    pub time: TimestampMs,
    /// Transactions in it.
    pub transactions: u32,
}

/// See the module.
pub struct Ledger {
    inner: Mutex<Inner>,
    view: StateView,
    guard: Arc<SignerGuard>,
    applied: watch::Sender<Applied>,
    included: Mutex<Included>,
    recent: Mutex<VecDeque<Arc<BoundBlock>>>,
    base_fees: Mutex<BaseFees>,
    sets: ValidatorSets,
    lost_until: Option<Height>,
    retention: Retention,
    trail: trail::Keeper,
    snapshots: storage::snapshot::Snapshots,
}

/// A value of the state and the path that proves it.
pub type Proven = Result<(Option<Vec<u8>>, StateProof), TreeError>;

struct Inner {
    host: Host,
    store: LedgerStore,
}

#[derive(Default)]
struct Included {
    heights: BTreeMap<TransactionHash, Height>,
    order: VecDeque<TransactionHash>,
}

/// Ends the process after a failed write to durable storage.
pub(super) fn fatal(what: &str, error: &dyn std::error::Error) -> ! {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    tracing::error!(
        "cannot {what}: {text}; stopping, so that nothing is signed that is not stored. Check the disk and start the node again"
    );
    std::process::exit(1)
}

/// The wall clock, for header times only.
pub fn now() -> TimestampMs {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs::new(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

impl Ledger {
    /// Opens the ledger in `dir` and replays what its state lacks.
    pub fn open(
        dir: &Path,
        guard: &Path,
        genesis: &Genesis,
        retention: Retention,
    ) -> anyhow::Result<Arc<Self>> {
        let chain = genesis.chain_id();
        let opened = storage::LedgerStore::open(dir, &chain, guard).with_context(|| {
            let dir = dir.display();
            format!(
                "cannot open the ledger in {dir} (if a file is damaged: `aynid ledger check \
                     {dir}` says which, `aynid ledger repair {dir}` what can be mended; never \
                     delete the signer guard)"
            )
        })?;
        if !matches!(opened.recovery.state, StateRecovery::UpToDate) {
            tracing::info!(recovery = ?opened.recovery.state, "recovering the ledger state");
        }
        let mut store = opened.store;
        let sets = ValidatorSets::open(&dir.join("validators"))
            .context("cannot open the validators of the past")?;
        let first = genesis.validators().context("the genesis is not valid")?;
        past::remember_set(&sets, &first);
        let trail =
            trail::Keeper::open(dir, first).context("cannot read the trail of the chain")?;
        let mut past = Past { base_fees: BaseFees::new(), sets: &sets };
        let host = replay::replay(&mut store, genesis, &mut past)?;
        let base_fees = past.base_fees;
        let tip = host.tip();
        let time = match store.blocks().get(tip.height).context("cannot read the last block")? {
            Some(decided) => decode_block(&decided)?.header.time,
            None => genesis.time,
        };
        let (applied, _) = watch::channel(Applied {
            height: tip.height,
            block: tip.block,
            root: tip.state,
            time,
            transactions: 0,
        });
        Ok(Arc::new(Self {
            view: store.view(),
            guard: store.guard(),
            applied,
            included: Mutex::default(),
            recent: Mutex::default(),
            base_fees: Mutex::new(base_fees),
            sets,
            lost_until: opened.recovery.lost_until,
            retention,
            trail,
            snapshots: store.snapshots().clone(),
            inner: Mutex::new(Inner { host, store }),
        }))
    }

    /// Runs a blocking method on a thread that may block.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let ledger = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&ledger))
            .await
            .unwrap_or_else(|error| fatal("finish work on the ledger", &error))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside would leave host and store apart; nothing may be signed after that.
        self.inner.lock().unwrap_or_else(|error| fatal("use the ledger after a fault", &error))
    }

    /// The last height at which this node may have voted, if its log has lost blocks.
    pub const fn lost_until(&self) -> Option<Height> {
        self.lost_until
    }

    /// The signer guard.
    pub fn guard(&self) -> Arc<SignerGuard> {
        Arc::clone(&self.guard)
    }

    /// Validators of a height, if they are known: that of the tip and the two after it.
    pub fn validators(&self, height: Height) -> Option<ValidatorSet> {
        self.view.read(|snapshot| {
            let state = State::new(snapshot);
            let tip = state.clock().height;
            match height.get().checked_sub(tip.get())? {
                0 => Some(state.validators_of_tip()),
                1 => Some(state.validators()),
                2 => Some(state.validators_after()),
                _ => None,
            }
        })
    }

    /// Follows the applied blocks.
    pub fn follow(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The last applied block.
    pub fn applied(&self) -> Applied {
        self.applied.borrow().clone()
    }

    /// Reads the state at one height.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> T) -> T {
        self.view.read(|snapshot| f(&View::new(snapshot)))
    }

    /// Audits the whole state: the root and the sums are of one height.
    pub fn audit(&self) -> (StateRoot, protocol::ledger::audit::Audit) {
        self.view.read(|snapshot| (snapshot.root(), protocol::ledger::audit::audit(snapshot)))
    }

    /// Puts transactions into the mempool, in order, as one step.
    pub fn submit_many(
        &self,
        transactions: Vec<VerifiedTransaction>,
    ) -> Vec<Result<TransactionHash, MempoolError>> {
        if transactions.is_empty() {
            return Vec::new();
        }
        let mut inner = self.lock();
        self.view.read(|snapshot| {
            let state = State::new(snapshot);
            let pool = &mut inner.host.mempool;
            transactions.into_iter().map(|t| pool.insert(&state, t)).collect()
        })
    }

    /// Which transactions wait in the mempool.
    pub fn pending(&self, hashes: &[TransactionHash]) -> Vec<bool> {
        let inner = self.lock();
        hashes.iter().map(|hash| inner.host.mempool.contains(hash)).collect()
    }

    /// Which transactions wait in the mempool or were applied not long ago.
    pub fn known(&self, hashes: &[TransactionHash]) -> Vec<bool> {
        let mut known = self.pending(hashes);
        let included = self.included.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, hash) in known.iter_mut().zip(hashes) {
            *known = *known || included.heights.contains_key(hash);
        }
        known
    }

    /// Makes a transaction with the next free nonce of (account, key) and puts it into the
    /// mempool, as one step, so that two submitters never take the same nonce.
    pub fn submit_with(
        &self,
        account: &AccountId,
        key: &PublicKey,
        make: impl FnOnce(u64) -> Option<VerifiedTransaction>,
    ) -> Result<Option<VerifiedTransaction>, MempoolError> {
        let mut inner = self.lock();
        self.view.read(|snapshot| {
            let state = State::new(snapshot);
            let nonce = inner.host.mempool.next_nonce(&state, account, key);
            let Some(transaction) = make(nonce) else { return Ok(None) };
            inner.host.mempool.insert(&state, transaction.clone())?;
            Ok(Some(transaction))
        })
    }

    /// Whether a transaction waits in the mempool.
    pub fn is_pending(&self, hash: &TransactionHash) -> bool {
        self.lock().host.mempool.contains(hash)
    }

    /// Pending transactions and their bytes.
    pub fn mempool_size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.host.mempool.len(), inner.host.mempool.bytes())
    }

    /// Height at which a transaction was applied, if that was not long ago.
    pub fn included(&self, hash: &TransactionHash) -> Option<Height> {
        self.included.lock().unwrap_or_else(PoisonError::into_inner).heights.get(hash).copied()
    }

    /// Height in progress and its validators.
    pub fn next(&self) -> (Height, ValidatorSet) {
        let inner = self.lock();
        (inner.host.height(), inner.host.validators().clone())
    }

    /// Whether a block should be built at once.
    pub fn wants_block(&self) -> bool {
        let inner = self.lock();
        self.view.read(|snapshot| inner.host.wants_block(snapshot))
    }

    /// A block of what is pending, for the height in progress.
    pub fn build(&self, keys: &ProposerKeys) -> Result<BoundBlock, Refused> {
        let mut inner = self.lock();
        self.view.read(|snapshot| inner.host.build(snapshot, now(), keys))
    }

    /// Checks a block for the height in progress.
    pub fn check(&self, block: &BoundBlock, standing: Standing) -> Result<(), Refused> {
        let mut inner = self.lock();
        self.view.read(|snapshot| inner.host.check(snapshot, block, standing))
    }

    /// Stores a body; durable when this returns.
    pub fn store_body(&self, body: &ProposalBody) {
        if let Err(error) = self.lock().store.proposals_mut().insert(body) {
            fatal("store a proposed block", &error);
        }
    }

    /// Stored bodies of a height.
    pub fn stored_bodies(&self, height: Height) -> Vec<ProposalBody> {
        let inner = self.lock();
        let proposals = inner.store.proposals();
        let mut bodies = Vec::new();
        for round in (0..=ROUNDS_RECOVERED_MAX).chain([SYNCED_ROUND]) {
            match proposals.for_round(height, round) {
                Ok(found) => bodies.extend(found),
                Err(error) => fatal("read the proposal log", &error),
            }
        }
        bodies
    }

    /// Commits a decision; durable when this returns.
    pub fn commit(&self, decided: DecidedBlock, block: &Arc<BoundBlock>) -> Result<(), Refused> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (decision, base_fee) = self.view.read(|state| {
            let base_fee = State::new(state).clock().base_fee;
            inner.host.decide(state, decided, block).map(|decision| (decision, base_fee))
        })?;
        let root = match inner.store.append_decided(&decision.decided, &decision.changes) {
            Ok(root) => root,
            Err(error) => fatal("store a decided block", &error),
        };
        self.view.read(|snapshot| inner.host.committed(&decision, root, snapshot));
        self.keep_snapshot(inner);
        self.remember(decision.height, block);
        let mut fees = self.base_fees.lock().unwrap_or_else(PoisonError::into_inner);
        past::remember_base_fee(&mut fees, decision.height, base_fee);
        drop(fees);
        past::remember_set(&self.sets, inner.host.next_validators());
        self.applied.send_replace(Applied {
            height: decision.height,
            block: decision.block,
            root,
            time: block.header().time,
            transactions: u32::try_from(block.transactions().len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    /// Takes the snapshot that is due, and deletes what lies behind older ones.
    fn keep_snapshot(&self, inner: &mut Inner) {
        match snapshots::take_if_due(&inner.store, &mut inner.host) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => fatal("take a snapshot of the state", &error),
        }
        if !self.trail.lead_on(&inner.store, &self.sets) {
            return;
        }
        match inner.store.prune(self.retention) {
            Ok(pruned) => tracing::debug!(?pruned, "what the retention does not ask for"),
            // What is kept too long does no harm.
            Err(error) => tracing::error!(%error, "old blocks were not deleted"),
        }
    }

    /// The first height whose block is kept.
    pub fn first(&self) -> Height {
        self.lock().store.blocks().first().unwrap_or(Height::new(1))
    }

    /// A block that was committed just now, if it is remembered.
    pub fn recent(&self, height: Height) -> Option<Arc<BoundBlock>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|block| block.header().height == height).cloned()
    }

    fn remember(&self, height: Height, block: &Arc<BoundBlock>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        while recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(block));
        drop(recent);
        let mut included = self.included.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in block.transactions() {
            included.heights.insert(*hash, height);
            included.order.push_back(*hash);
        }
        while included.order.len() > INCLUDED_MAX {
            if let Some(oldest) = included.order.pop_front() {
                included.heights.remove(&oldest);
            }
        }
    }

    /// What a byte of a transaction cost at a height, if that was not long ago.
    pub fn base_fee_at(&self, height: Height) -> Option<Credits> {
        self.base_fees.lock().unwrap_or_else(PoisonError::into_inner).get(&height).copied()
    }

    /// A transaction that waits in the mempool.
    pub fn waiting(&self, hash: &TransactionHash) -> Option<VerifiedTransaction> {
        self.lock().host.mempool.get(hash).cloned()
    }

    /// Keeps evidence for our next block.
    pub fn add_evidence(&self, evidence: Evidence) {
        let mut inner = self.lock();
        self.view.read(|snapshot| inner.host.add_evidence(snapshot, evidence));
    }

    /// A decided block.
    pub fn decided(&self, height: Height) -> Option<DecidedBlock> {
        match self.lock().store.blocks().get(height) {
            Ok(found) => found,
            Err(error) => fatal("read the block log", &error),
        }
    }

    /// Hash of the decided block at a height.
    pub fn block_hash(&self, height: Height) -> Option<BlockHash> {
        match self.lock().store.blocks().hash_at(height) {
            Ok(found) => found,
            Err(error) => fatal("read the block log", &error),
        }
    }

    /// Height of the first block that is held: above 1 after pruning, or a start from a snapshot.
    pub fn first_block(&self) -> Option<Height> {
        self.lock().store.blocks().first()
    }

    /// Validators of a height, also of the past, if this node has seen them.
    pub fn past_validators(&self, height: Height) -> Option<ValidatorSet> {
        if let Some(set) = self.validators(height) {
            return Some(set);
        }
        // The set of the genesis has the first two heights; each other is named one block before.
        if height <= Height::new(2) {
            return Some(self.trail.genesis().clone());
        }
        let before = height.minus(1);
        let block = decode_block(&self.decided(before)?).ok()?;
        match self.sets.get(&block.header.next_validators) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the validators of the past cannot be read");
                None
            }
        }
    }

    /// Reads the state, and what it says about a key with the path that proves it.
    pub fn prove<T>(&self, key: &[u8], f: impl FnOnce(&View<'_>) -> T) -> (T, Proven) {
        self.view.read(|snapshot| (f(&View::new(snapshot)), snapshot.prove(key)))
    }

    /// Decided blocks from `start` on, within bounds, but one at least if there is one.
    pub fn decided_range(
        &self,
        start: Height,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<DecidedBlock> {
        let mut found: Vec<DecidedBlock> = Vec::new();
        let mut bytes = 0_usize;
        while found.len() < count_max {
            let next = start.plus(u64::try_from(found.len()).unwrap_or(u64::MAX));
            let Some(decided) = self.decided(next) else { break };
            bytes = bytes.saturating_add(decided.block.len());
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(decided);
        }
        found
    }

    /// Makes the state index durable, so that the next start replays less.
    pub fn flush(&self) {
        if let Err(error) = self.lock().store.flush() {
            fatal("flush the ledger state", &error);
        }
    }
}

/// Decodes a stored block.
pub fn decode_block(decided: &DecidedBlock) -> anyhow::Result<Block> {
    codec::decode(&decided.block).context("a stored block does not decode")
}
