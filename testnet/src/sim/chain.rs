//! Everything that the simulator asks of `protocol`: genesis, the host, execution.
//!
//! Calls to `Host` and to the rules are made here and nowhere else in the simulator, so that a
//! change of the rules' interface is followed in this file.
//!
//! **Execution is memoised by (root, block).** Checking and applying a block is a pure function
//! of the state and the block, so one reference host per state does it once for all nodes; every
//! node still has a host of its own for its tip, mempool and evidence. Every new state is
//! audited once.

use std::collections::BTreeMap;
use std::rc::Rc;

use protocol::amount::{Credits, Height, PPM, TimestampMs};
use protocol::block::{Block, BoundBlock, DecidedBlock, Evidence};
use protocol::consensus::{CommitCertificate, ValidatorSet};
use protocol::home::NodeSecrets;
use protocol::host::{
    Bounds, Decision, Host, Mempool, ProposerKeys, Refused, Spent, Standing, Tip,
};
use protocol::ids::{BlockHash, ChainId, ContentHash, StateRoot, ValidatorId, derive};
use protocol::keys::SecretKey;
use protocol::ledger::audit::audit;
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::ledger::state::State;
use protocol::store::{StateChanges, StateReader as _};
use protocol::transaction::{Capabilities, VerifiedTransaction};
use storage::{LedgerState, MemoryStateStore};

use super::checkers::Checker;
use super::laws::{self, Seen};
use super::signatures::Signatures;

/// Who proposes.
pub(super) fn proposer(set: &ValidatorSet, height: Height, round: u32) -> ValidatorId {
    set.proposer(height, round).key.validator_id()
}

/// A simulated chain's beginning and everybody's keys.
pub(super) struct Network {
    pub(super) genesis: Genesis,
    pub(super) chain: ChainId,
    /// Keys of each validator.
    pub(super) secrets: Vec<NodeSecrets>,
    /// Account keys of clients.
    pub(super) clients: Vec<SecretKey>,
    pub(super) first: Rc<Snapshot>,
}

const fn credits(whole: u64) -> Credits {
    Credits::from_micro(whole * PPM)
}

fn key(role: &'static str, index: usize, number: u64) -> SecretKey {
    let index = (index as u64).to_le_bytes();
    SecretKey::from_seed(&derive(
        "ayni 2026 simulator key v1",
        &[role.as_bytes(), &index, &number.to_le_bytes()],
    ))
}

impl Network {
    /// A chain whose validators have these stakes in whole credits.
    pub(super) fn new(stakes: &[u64], clients: usize, parameters: LedgerParameters) -> Self {
        let secrets: Vec<NodeSecrets> = (0..stakes.len())
            .map(|index| {
                let mut number = 0;
                let made = NodeSecrets::try_from_fn(|_| {
                    number += 1;
                    Ok::<_, ()>(key("validator", index, number))
                });
                made.expect("seeds are always keys")
            })
            .collect();
        let clients: Vec<SecretKey> = (0..clients).map(|index| key("client", index, 0)).collect();
        let capabilities =
            Capabilities { reviews: false, merges: false, hosts: true, validates: true };
        let accounts = secrets.iter().map(|s| &s.account).chain(&clients);
        let genesis = Genesis {
            network: "simulated".to_owned(),
            time: TimestampMs::new(1_000_000),
            rules_version: RULES_VERSION,
            parameters,
            accounts: accounts
                .map(|key| GenesisAccount { key: key.public(), balance: credits(1_000) })
                .collect(),
            nodes: secrets
                .iter()
                .zip(stakes)
                .map(|(secrets, stake)| {
                    let identity = secrets.identity();
                    GenesisNode {
                        account: identity.account_key,
                        keys: identity.keys,
                        capabilities,
                        stake: credits(*stake),
                        allowance: credits(10),
                    }
                })
                .collect(),
        };
        let (_, changes) = genesis.build().expect("the simulated genesis is valid");
        let mut store = MemoryStateStore::new();
        let root = store
            .commit(Height::ZERO, &changes, BlockHash::default())
            .expect("genesis fits an empty store");
        let first = Snapshot::new(Height::ZERO, BlockHash::default(), root, store);
        Self { chain: genesis.chain_id(), genesis, secrets, clients, first: Rc::new(first) }
    }
}

/// The state after one block.
pub(super) struct Snapshot {
    pub(super) height: Height,
    pub(super) block: BlockHash,
    pub(super) root: StateRoot,
    /// Chain time.
    pub(super) time: TimestampMs,
    store: MemoryStateStore,
}

impl Snapshot {
    fn new(height: Height, block: BlockHash, root: StateRoot, store: MemoryStateStore) -> Self {
        let time = State::new(&store).clock().time;
        Self { height, block, root, time, store }
    }

    fn tip(&self, certificate: Option<CommitCertificate>) -> Tip {
        Tip { height: self.height, block: self.block, certificate, state: self.root }
    }

    /// The state, for clients and checkers.
    pub(super) fn state(&self) -> State<'_> {
        State::new(&self.store)
    }

    /// An entry as it is stored.
    pub(super) fn entry(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.store.get(key)
    }

    /// Next nonce of an account's own key.
    pub(super) fn nonce(&self, key: &SecretKey) -> u64 {
        let public = key.public();
        State::new(&self.store).nonce(&public.account_id(), &public)
    }

    /// A host that stands here.
    pub(super) fn host(&self, network: &Network, certificate: Option<CommitCertificate>) -> Host {
        Host::new(network.chain, self.tip(certificate), &self.store)
    }
}

/// Validators of the height that `host` works on.
pub(super) fn validators(host: &Host) -> ValidatorSet {
    host.validators().clone()
}

/// Whether a block should be built at once.
pub(super) fn wants_block(host: &Host, at: &Snapshot) -> bool {
    host.wants_block(&at.store)
}

/// A block of what is pending.
pub(super) fn build(
    host: &mut Host,
    at: &Snapshot,
    now: TimestampMs,
    secrets: &NodeSecrets,
) -> Result<Block, Refused> {
    let keys = ProposerKeys { consensus: secrets.consensus.clone(), vrf: secrets.vrf.clone() };
    host.build(&at.store, now, &keys).map(BoundBlock::into_block)
}

/// Puts a transaction into the mempool; whether it was taken.
pub(super) fn submit(host: &mut Host, at: &Snapshot, transaction: VerifiedTransaction) -> bool {
    host.mempool.insert(&State::new(&at.store), transaction).is_ok()
}

/// Forgets all that waits, as a censor does.
pub(super) fn censor(host: &mut Host, at: &Snapshot) {
    host.mempool = Mempool::new(Bounds::default(), &State::new(&at.store));
}

/// Offers evidence for the next own block.
pub(super) fn add_evidence(host: &mut Host, at: &Snapshot, evidence: Evidence) {
    host.add_evidence(&at.store, evidence);
}

/// Moves a node's host past a decision that has become durable.
pub(super) fn committed(host: &mut Host, decision: &Decision, after: &Snapshot) {
    host.committed(decision, after.root, &after.store);
}

/// One state's host and what it found out.
struct Reference {
    host: Host,
    verdicts: BTreeMap<BlockHash, Result<(), Refused>>,
    applied: BTreeMap<BlockHash, (StateChanges, Vec<Spent>, Rc<Snapshot>)>,
}

/// See the module.
pub(super) struct Execution {
    network: Rc<Network>,
    signatures: Signatures,
    references: BTreeMap<(StateRoot, BlockHash), Reference>,
    opened: BTreeMap<(ContentHash, BlockHash), Option<Rc<BoundBlock>>>,
    /// What is wrong with states.
    pub(super) wrong: Vec<(Checker, String)>,
    /// What was decided about validators and rules.
    pub(super) seen: Seen,
    /// Blocks checked and applied for real.
    pub(super) executed: u64,
}

impl Execution {
    pub(super) fn new(network: Rc<Network>, signatures: Signatures) -> Self {
        let mut made = Self {
            network,
            signatures,
            references: BTreeMap::new(),
            opened: BTreeMap::new(),
            wrong: Vec::new(),
            seen: Seen::default(),
            executed: 0,
        };
        let first = Rc::clone(&made.network.first);
        made.audit(&first);
        made
    }

    fn reference(&mut self, at: &Snapshot) -> &mut Reference {
        let network = &self.network;
        self.references.entry((at.root, at.block)).or_insert_with(|| Reference {
            host: at.host(network, None),
            verdicts: BTreeMap::new(),
            applied: BTreeMap::new(),
        })
    }

    /// Decodes a block and checks that its bytes are the only ones its header stands for, as the
    /// daemon does with every body.
    pub(super) fn open(&mut self, bytes: &[u8], hash: &BlockHash) -> Option<Rc<BoundBlock>> {
        let content = ContentHash::of(bytes);
        self.opened
            .entry((content, *hash))
            .or_insert_with(|| BoundBlock::open(bytes, hash).map(Rc::new))
            .clone()
    }

    /// What `Host::check` says of a block on the state `at`.
    pub(super) fn check(&mut self, at: &Snapshot, opened: &BoundBlock) -> Result<(), Refused> {
        let signatures = self.signatures.clone();
        let reference = self.reference(at);
        if let Some(verdict) = reference.verdicts.get(&opened.hash()) {
            return verdict.clone();
        }
        // The host does not verify again what its mempool holds.
        for transaction in &opened.block().transactions {
            if let Some(verified) = signatures.transaction(transaction) {
                submit(&mut reference.host, at, verified);
            }
        }
        // Snapshots come after more blocks than a seed has, so a decided block needs no other check.
        let verdict = reference.host.check(&at.store, opened, Standing::Proposed);
        reference.verdicts.insert(opened.hash(), verdict.clone());
        self.executed += 1;
        verdict
    }

    /// What `Host::decide` gives on the state `at`, and the state after it.
    pub(super) fn decide(
        &mut self,
        at: &Snapshot,
        decided: DecidedBlock,
        opened: &BoundBlock,
    ) -> Result<(Decision, Rc<Snapshot>), Refused> {
        let signatures = self.signatures.clone();
        let reference = self.reference(at);
        if let Some((changes, spent, after)) = reference.applied.get(&opened.hash()) {
            let certificate = &decided.certificate;
            if certificate.height != after.height || certificate.block != after.block {
                return Err(Refused::Header("the certificate is of another block"));
            }
            if !signatures.certifies(certificate, reference.host.validators()) {
                return Err(Refused::Header("the certificate proves nothing"));
            }
            let decision = Decision {
                height: after.height,
                block: after.block,
                decided,
                changes: changes.clone(),
                spent: spent.clone(),
            };
            return Ok((decision, Rc::clone(after)));
        }
        let decision = reference.host.decide(&at.store, decided, opened)?;
        let after = Rc::new(apply(at, &decision));
        let remembered = (decision.changes.clone(), decision.spent.clone(), Rc::clone(&after));
        reference.applied.insert(opened.hash(), remembered);
        self.executed += 1;
        self.audit(&after);
        laws::check(at, &after, &decision.changes, &mut self.seen, &mut self.wrong);
        Ok((decision, after))
    }

    fn audit(&mut self, state: &Snapshot) {
        let found = audit(&state.store);
        if !found.conserved {
            let text = format!("after block {}: {found:?}", state.height);
            self.wrong.push((Checker::Conservation, text));
        }
    }
}

fn apply(at: &Snapshot, decision: &Decision) -> Snapshot {
    let mut store = at.store.clone();
    let root = store
        .commit(decision.height, &decision.changes, decision.block)
        .expect("a decided block's changes fit the store");
    Snapshot::new(decision.height, decision.block, root, store)
}

/// Applies decided blocks from genesis with a fresh host and nothing remembered.
pub(super) fn replay(network: &Network, blocks: &[DecidedBlock]) -> Result<StateRoot, String> {
    let mut at = Rc::clone(&network.first);
    let mut host = at.host(network, None);
    for decided in blocks {
        let block = BoundBlock::parse(&decided.block).map_err(|error| error.to_string())?;
        let decision = host
            .decide(&at.store, decided.clone(), &block)
            .map_err(|refused| format!("block {}: {refused}", block.header().height))?;
        let after = apply(&at, &decision);
        host.committed(&decision, after.root, &after.store);
        at = Rc::new(after);
    }
    Ok(at.root)
}
