//! The host of the consensus engine, without I/O: builds values, checks values, decides.
//!
//! `daemon` maps the engine's messages to a [`Host`]; the simulator can run the same code. The
//! host never touches a disk: it hands out what must be durable (a [`Decision`] before it is
//! acknowledged) and is told when it is. Bodies that were offered and not yet decided are
//! remembered by the engine's loop (`daemon::engine`).

mod mempool;

use std::borrow::Cow;
use std::collections::BTreeMap;

use thiserror::Error;

pub use mempool::{Bounds, Candidates, Lane, Mempool, MempoolError, Spent};

use crate::amount::{Height, TimestampMs};
use crate::block::{Block, BoundBlock, DecidedBlock, Evidence, Header, Unbound};
use crate::codec::CodecError;
use crate::consensus::{CertificateError, CommitCertificate, ValidatorSet};
use crate::ids::{BlockHash, ChainId, ContentHash, StateRoot, TransactionHash};
use crate::keys::SecretKey;
use crate::ledger::genesis::RULES_VERSION;
use crate::ledger::{
    self, AppliedBlock, BlockError, NotAdded, OpenBlock, Rejection, beacon, state::State,
};
use crate::limits;
use crate::store::{StateChanges, StateReader};
use crate::transaction::VerifiedTransaction;

/// The end of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height; 0 is the genesis.
    pub height: Height,
    /// Its hash; zero for the genesis.
    pub block: BlockHash,
    /// Its certificate; none for the genesis.
    pub certificate: Option<CommitCertificate>,
    /// Root of the state after it.
    pub state: StateRoot,
}

/// Why a block was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Refused {
    /// Bytes that are no block.
    #[error("no block: {0}")]
    Codec(#[from] CodecError),
    /// A header field is wrong.
    #[error("header: {0}")]
    Header(&'static str),
    /// The parent's certificate proves nothing.
    #[error("parent certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// A transaction's signature does not verify.
    #[error("a transaction is not properly signed")]
    Transaction,
    /// A rule is broken.
    #[error("{0}")]
    Rules(#[from] BlockError),
    /// The header must commit to a snapshot that this node does not have; nothing is said about
    /// validity.
    #[error("this node has no snapshot of height {0} to compare the header with")]
    NoSnapshot(Height),
    /// Not for the height in progress; nothing is said about validity.
    #[error("for height {got} while {current} is in progress")]
    OtherHeight {
        /// Offered.
        got: Height,
        /// In progress.
        current: Height,
    },
}

impl From<Unbound> for Refused {
    fn from(why: Unbound) -> Self {
        match why {
            Unbound::Codec(error) => Self::Codec(error),
            Unbound::Contents => Self::Header("the transactions' root"),
            Unbound::Certificate => Self::Header("the parent certificate's hash"),
        }
    }
}

impl Refused {
    /// Whether this says something about the node rather than the block: who offered the block
    /// is not to blame.
    pub const fn is_own_lack(&self) -> bool {
        matches!(
            self,
            Self::NoSnapshot(_)
                | Self::OtherHeight { .. }
                | Self::Rules(BlockError::Outdated { .. })
        )
    }
}

/// Checked blocks whose changes are remembered for one height; others are applied again.
const CHECKED_MAX: usize = 8;

/// Transactions that do not fit what is left of a block and are passed over before it counts as
/// full: however much is pending, a full block costs no more looks than this.
const MISFITS_MAX: usize = 16;

/// What a decision makes durable: first the block, then the state.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Height decided.
    pub height: Height,
    /// The block's hash.
    pub block: BlockHash,
    /// For the block log.
    pub decided: DecidedBlock,
    /// For the state.
    pub changes: StateChanges,
    /// What the mempool has to forget.
    pub spent: Vec<Spent>,
}

/// How a block comes to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody proposes it; whether it is decided depends on the answer.
    Proposed,
    /// More than two thirds of the power have decided it: a snapshot that it commits to need not
    /// be here.
    Decided,
}

/// The keys with which a node proposes.
#[derive(Clone, Debug)]
pub struct ProposerKeys {
    /// Names the proposer.
    pub consensus: SecretKey,
    /// Adds to the beacon.
    pub vrf: SecretKey,
}

/// A block that was put together.
struct Assembled {
    block: BoundBlock,
    applied: AppliedBlock,
    /// Tried at their turn and refused by a rule.
    refused: Vec<TransactionHash>,
}

/// The validator sets that a tip fixes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sets {
    /// Of the tip's height: they certified it.
    tip: ValidatorSet,
    /// Of the height in progress.
    current: ValidatorSet,
    /// Of the height after that; the header in progress commits to them.
    next: ValidatorSet,
}

impl Sets {
    fn of(state: &State<'_>) -> Self {
        Self {
            tip: state.validators_of_tip(),
            current: state.validators(),
            next: state.validators_after(),
        }
    }
}

/// See the module.
pub struct Host {
    chain: ChainId,
    sets: Sets,
    tip: Tip,
    /// Changes of blocks of the height in progress that were found good.
    checked: BTreeMap<BlockHash, StateChanges>,
    evidence: Vec<Evidence>,
    /// The last snapshot that was taken here: height of its state, hash of its bytes.
    snapshot: Option<(Height, ContentHash)>,
    /// Pending transactions.
    pub mempool: Mempool,
}

impl Host {
    /// A host at `tip`; `state` is the state after it.
    pub fn new(chain: ChainId, tip: Tip, state: &dyn StateReader) -> Self {
        let state = State::new(state);
        Self {
            chain,
            sets: Sets::of(&state),
            mempool: Mempool::new(Bounds::default(), &state),
            tip,
            checked: BTreeMap::new(),
            evidence: Vec::new(),
            snapshot: None,
        }
    }

    /// The end of the chain.
    pub const fn tip(&self) -> &Tip {
        &self.tip
    }

    /// The chain.
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// The height in progress.
    pub const fn height(&self) -> Height {
        self.tip.height.plus(1)
    }

    /// Validators of the height in progress.
    pub const fn validators(&self) -> &ValidatorSet {
        &self.sets.current
    }

    /// Validators of the height after it.
    pub const fn next_validators(&self) -> &ValidatorSet {
        &self.sets.next
    }

    /// Tells the host of the snapshot that was taken of the state at `height`, so that it can
    /// commit to it and compare.
    pub const fn snapshot_taken(&mut self, height: Height, hash: ContentHash) {
        self.snapshot = Some((height, hash));
    }

    /// The snapshot that the header in progress commits to.
    fn committed_snapshot(&self, state: &dyn StateReader) -> Result<Option<ContentHash>, Refused> {
        let due = State::new(state).clock().snapshot;
        if due == Height::ZERO || self.height() != due.plus(limits::SNAPSHOT_LAG) {
            return Ok(None);
        }
        match self.snapshot {
            Some((height, hash)) if height == due => Ok(Some(hash)),
            _ => Err(Refused::NoSnapshot(due)),
        }
    }

    /// Whether a block should be built at once rather than wait for transactions.
    pub fn wants_block(&self, state: &dyn StateReader) -> bool {
        self.mempool.has_ready()
            || !self.evidence.is_empty()
            || ledger::rounds::wants_block(&State::new(state))
    }

    /// Keeps evidence for the next block that we build, unless it proves nothing.
    pub fn add_evidence(&mut self, state: &dyn StateReader, evidence: Evidence) {
        let useful = ledger::check_evidence(state, &self.chain, &evidence).is_ok();
        let is_new = !self.evidence.contains(&evidence);
        if useful && is_new && self.evidence.len() < limits::VALIDATORS_MAX {
            self.evidence.push(evidence);
        }
    }

    /// A block for the height in progress, of what is pending.
    pub fn build(
        &mut self,
        state: &dyn StateReader,
        now: TimestampMs,
        keys: &ProposerKeys,
    ) -> Result<BoundBlock, Refused> {
        let Assembled { block, applied, refused } = self.assemble(state, now, keys)?;
        for hash in refused {
            self.mempool.remove(&hash);
        }
        self.remember(block.hash(), applied);
        Ok(block)
    }

    /// Version of the rules at the height in progress, if this program knows it.
    fn rules_version(&self, state: &dyn StateReader) -> Result<u32, BlockError> {
        ledger::governance::version_for(&State::new(state), self.height(), RULES_VERSION)
    }

    fn remember(&mut self, hash: BlockHash, applied: AppliedBlock) {
        if self.checked.len() < CHECKED_MAX {
            self.checked.insert(hash, applied.changes);
        }
    }

    fn assemble(
        &self,
        state: &dyn StateReader,
        now: TimestampMs,
        keys: &ProposerKeys,
    ) -> Result<Assembled, Refused> {
        let parent_certificate = self.tip.certificate.clone();
        let rules_version = self.rules_version(state)?;
        let parent_beacon = State::new(state).clock().beacon;
        let (beacon, beacon_proof) =
            beacon::prove(&keys.vrf, &self.chain, self.height(), &parent_beacon);
        let header = Header {
            chain: self.chain,
            rules_version,
            height: self.height(),
            proposer: keys.consensus.public().validator_id(),
            time: now,
            parent: self.tip.block,
            parent_certificate: certificate_hash(parent_certificate.as_ref()),
            transactions: ContentHash::default(),
            state: self.tip.state,
            next_validators: self.sets.next.hash(),
            beacon,
            beacon_proof,
            snapshot: self.committed_snapshot(state)?,
        };
        let mut open = OpenBlock::begin(state, &header, parent_certificate.as_ref())?;
        let evidence = self.choose_evidence(&mut open);
        let mut chosen = Vec::new();
        let mut refused = Vec::new();
        for lane in [Lane::Stamped, Lane::Paying] {
            self.fill(&mut open, lane, &mut chosen, &mut refused);
        }
        let applied = open.finish()?;
        let block = BoundBlock::assemble(header, &chosen, evidence, parent_certificate);
        Ok(Assembled { block, applied, refused })
    }

    /// Adds what is pending in a lane, best first, until the block or its lane is full.
    fn fill<'a>(
        &'a self,
        open: &mut OpenBlock<'_>,
        lane: Lane,
        chosen: &mut Vec<&'a VerifiedTransaction>,
        refused: &mut Vec<TransactionHash>,
    ) {
        let mut misfits = 0_usize;
        let mut candidates = self.mempool.candidates(lane);
        while let Some(candidate) = candidates.next() {
            if chosen.len() >= limits::BLOCK_TRANSACTIONS_MAX || misfits >= MISFITS_MAX {
                break;
            }
            match open.add(candidate) {
                Ok(()) => chosen.push(candidate),
                Err(not_added) => {
                    candidates.pass_over();
                    match not_added {
                        // A full block is not its fault, and the base fee can fall again.
                        NotAdded::Full | NotAdded::Rejected(Rejection::FeeTooLow { .. }) => {
                            misfits = misfits.saturating_add(1);
                        }
                        NotAdded::Rejected(_) => refused.push(candidate.hash()),
                    }
                }
            }
        }
    }

    fn choose_evidence(&self, open: &mut OpenBlock<'_>) -> Vec<Evidence> {
        let mut chosen = Vec::new();
        for item in &self.evidence {
            if chosen.len() < limits::BLOCK_EVIDENCE_MAX && open.add_evidence(item).is_ok() {
                chosen.push(item.clone());
            }
        }
        chosen
    }

    /// Checks a block against the tip and every rule. Whoever offers it may be another than its
    /// proposer: a block is offered again in later rounds.
    pub fn check(
        &mut self,
        state: &dyn StateReader,
        block: &BoundBlock,
        standing: Standing,
    ) -> Result<(), Refused> {
        if !self.checked.contains_key(&block.hash()) {
            let (applied, new) = self.check_block(state, block, standing)?;
            self.remember(block.hash(), applied);
            // They are on their way here by gossip: so their signatures are verified once.
            let state = State::new(state);
            for transaction in new {
                // Refused is what the pool has no room for; the block has it.
                let _ = self.mempool.insert(&state, transaction);
            }
        }
        Ok(())
    }

    fn check_snapshot(
        &self,
        state: &dyn StateReader,
        header: &Header,
        standing: Standing,
    ) -> Result<(), Refused> {
        match self.committed_snapshot(state) {
            Ok(expected) if expected == header.snapshot => Ok(()),
            Ok(_) => Err(Refused::Header("the snapshot")),
            Err(_) if standing == Standing::Decided && header.snapshot.is_some() => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// What a block does, and those of its transactions that were not pending.
    fn check_block(
        &self,
        state: &dyn StateReader,
        bound: &BoundBlock,
        standing: Standing,
    ) -> Result<(AppliedBlock, Vec<VerifiedTransaction>), Refused> {
        let Block { header, transactions, parent_certificate, evidence } = bound.block();
        if header.height != self.height() {
            return Err(Refused::OtherHeight { got: header.height, current: self.height() });
        }
        let rules_version = self.rules_version(state)?;
        self.check_header(header, rules_version, parent_certificate.as_ref())?;
        self.check_snapshot(state, header, standing)?;
        if transactions.len() > limits::BLOCK_TRANSACTIONS_MAX {
            return Err(Refused::Header("too many transactions"));
        }
        if evidence.len() > limits::BLOCK_EVIDENCE_MAX {
            return Err(Refused::Header("too much evidence"));
        }
        let verified = transactions
            .iter()
            .zip(bound.transactions())
            .map(|(signed, hash)| match self.mempool.get(hash) {
                // The hash is over the signatures too.
                Some(known) => Ok(Cow::Borrowed(known)),
                None => {
                    let verified = signed.clone().verify(&self.chain);
                    verified.map(Cow::Owned).map_err(|_| Refused::Transaction)
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let certificate = parent_certificate.as_ref();
        let transactions = verified.iter().map(AsRef::as_ref);
        let applied = ledger::apply_block(state, header, transactions, evidence, certificate)?;
        let new = verified.into_iter().filter_map(|verified| match verified {
            Cow::Owned(new) => Some(new),
            Cow::Borrowed(_) => None,
        });
        Ok((applied, new.collect()))
    }

    fn check_header(
        &self,
        header: &Header,
        rules_version: u32,
        certificate: Option<&CommitCertificate>,
    ) -> Result<(), Refused> {
        let require = |ok: bool, field: &'static str| {
            if ok { Ok(()) } else { Err(Refused::Header(field)) }
        };
        require(header.chain == self.chain, "another chain")?;
        require(header.rules_version == rules_version, "another rules version")?;
        require(header.height == self.height(), "the height")?;
        require(header.parent == self.tip.block, "the parent")?;
        require(header.state == self.tip.state, "the state root after the parent")?;
        require(header.next_validators == self.sets.next.hash(), "the next validators")?;
        require(self.sets.current.get(&header.proposer).is_some(), "the proposer")?;
        match (certificate, self.tip.height == Height::ZERO) {
            (None, true) => Ok(()),
            (Some(certificate), false) => {
                require(
                    certificate.height == self.tip.height && certificate.block == self.tip.block,
                    "the parent certificate is of another block",
                )?;
                Ok(certificate.verify(&self.chain, &self.sets.tip)?)
            }
            _ => Err(Refused::Header("the parent certificate")),
        }
    }

    /// What has to become durable for a decided block, whose certificate and rules are checked.
    pub fn decide(
        &mut self,
        state: &dyn StateReader,
        decided: DecidedBlock,
        bound: &BoundBlock,
    ) -> Result<Decision, Refused> {
        let certificate = &decided.certificate;
        let hash = bound.hash();
        if certificate.height != self.height() {
            return Err(Refused::OtherHeight { got: certificate.height, current: self.height() });
        }
        if certificate.block != hash {
            return Err(Refused::Header("the certificate is of another block"));
        }
        certificate.verify(&self.chain, &self.sets.current)?;
        let changes = match self.checked.remove(&hash) {
            Some(changes) => changes,
            None => self.check_block(state, bound, Standing::Decided)?.0.changes,
        };
        let spent = bound
            .block()
            .transactions
            .iter()
            .map(|signed| &signed.transaction)
            .map(|t| Spent { account: t.account, key: t.key, nonce: t.nonce })
            .collect();
        Ok(Decision { height: certificate.height, block: hash, changes, decided, spent })
    }

    /// Moves on after a decision has become durable. `state` is the state after it.
    pub fn committed(&mut self, decision: &Decision, root: StateRoot, state: &dyn StateReader) {
        assert_eq!(decision.height, self.height(), "decisions are committed in order");
        self.tip = Tip {
            height: decision.height,
            block: decision.block,
            certificate: Some(decision.decided.certificate.clone()),
            state: root,
        };
        let after = State::new(state);
        self.sets = Sets::of(&after);
        self.checked.clear();
        self.mempool.applied(decision.spent.iter().copied(), &after);
        let chain = self.chain;
        self.evidence.retain(|e| ledger::check_evidence(state, &chain, e).is_ok());
    }
}

fn certificate_hash(certificate: Option<&CommitCertificate>) -> ContentHash {
    certificate.map_or_else(ContentHash::default, CommitCertificate::hash)
}
