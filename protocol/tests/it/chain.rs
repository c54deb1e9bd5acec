//! A chain in memory: the host, its validators' keys, and a state.

use ayni_protocol::amount::{Credits, PPM, TimestampMs};
use ayni_protocol::block::{Block, BoundBlock, DecidedBlock};
use ayni_protocol::codec;
use ayni_protocol::consensus::{CommitCertificate, CommitSignature, Vote, VoteKind};
use ayni_protocol::home::NodeSecrets;
use ayni_protocol::host::{Host, MempoolError, ProposerKeys, Refused, Standing, Tip};
use ayni_protocol::ids::{BlockHash, ContentHash, ModelId, StateRoot, derive};
use ayni_protocol::keys::{Namespace, SecretKey};
use ayni_protocol::ledger::Rejection;
use ayni_protocol::ledger::audit::audit;
use ayni_protocol::ledger::entries::Round;
use ayni_protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use ayni_protocol::ledger::parameters::LedgerParameters;
use ayni_protocol::ledger::state::{State, View};
use ayni_protocol::model::{Architecture, ModelSpec, RoundParameters};
use ayni_protocol::store::MemoryState;
use ayni_protocol::transaction::{Capabilities, Payload, SignedTransaction, Transaction};

/// Chain time between two blocks.
pub(crate) const BLOCK_MS: u64 = 1_000;

/// Root of a state in memory: a hash of all entries. Good enough to compare states.
pub(crate) fn root(state: &MemoryState) -> StateRoot {
    let parts: Vec<&[u8]> =
        state.entries().iter().flat_map(|(k, v)| [k.as_slice(), v.as_slice()]).collect();
    StateRoot::from_bytes(derive("ayni test root", &parts))
}

pub(crate) fn secrets(index: u8) -> NodeSecrets {
    let mut part = 0;
    let made = NodeSecrets::try_from_fn(|_| {
        part += 1;
        Ok::<_, ()>(SecretKey::from_seed(&[index * 8 + part; 32]))
    });
    made.expect("seeds are always keys")
}

pub(crate) const fn credits(whole: u64) -> Credits {
    Credits::from_micro(whole * PPM)
}

pub(crate) fn genesis(count: u8) -> Genesis {
    let nodes: Vec<_> = (0..count).map(|i| secrets(i).identity()).collect();
    let capabilities = Capabilities { reviews: true, merges: true, hosts: true, validates: true };
    Genesis {
        network: "test".to_owned(),
        time: TimestampMs::new(1_000_000),
        rules_version: RULES_VERSION,
        parameters: LedgerParameters::default(),
        accounts: nodes
            .iter()
            .map(|n| GenesisAccount { key: n.account_key, balance: credits(1_000) })
            .collect(),
        nodes: nodes
            .iter()
            .map(|n| GenesisNode {
                account: n.account_key,
                keys: n.keys.clone(),
                capabilities,
                stake: credits(1_000),
                allowance: credits(100),
            })
            .collect(),
    }
}

pub(crate) fn spec(seed: u64) -> ModelSpec {
    ModelSpec {
        name: "tiny".to_owned(),
        architecture: Architecture::BytesGpt { layers: 1, width: 16, heads: 1, context: 16 },
        tokenizer: None,
        adapter: None,
        seed,
        imported: false,
        initial_checkpoint: ContentHash::of(b"checkpoint"),
        evaluation_suite: ContentHash::of(b"suite"),
        evaluation_suite_bytes: 100_000,
        licence: "MIT".to_owned(),
    }
}

pub(crate) fn parameters() -> RoundParameters {
    RoundParameters { review_windows: 16, ..RoundParameters::default() }
}

pub(crate) struct TestChain {
    pub(crate) host: Host,
    pub(crate) state: MemoryState,
    pub(crate) blocks: Vec<DecidedBlock>,
    pub(crate) genesis: Genesis,
    /// Secrets of the nodes of the genesis, and of those that joined since.
    pub(crate) nodes: Vec<NodeSecrets>,
    /// Nodes that sign no certificates, unless there is no quorum without them.
    pub(crate) silent: Vec<usize>,
    now: u64,
}

impl TestChain {
    pub(crate) fn new(count: u8) -> Self {
        Self::of(genesis(count))
    }

    /// Of a genesis whose nodes are those of [`genesis`] in order.
    pub(crate) fn of(genesis: Genesis) -> Self {
        let count = u8::try_from(genesis.nodes.len()).expect("few nodes");
        let (state, _) = genesis.build().expect("a valid genesis");
        let tip = Tip {
            height: ayni_protocol::amount::Height::ZERO,
            block: BlockHash::default(),
            certificate: None,
            state: root(&state),
        };
        Self {
            host: Host::new(genesis.chain_id(), tip, &state),
            state,
            blocks: Vec::new(),
            now: genesis.time.get(),
            nodes: (0..count).map(secrets).collect(),
            silent: Vec::new(),
            genesis,
        }
    }

    pub(crate) fn view(&self) -> View<'_> {
        View::new(&self.state)
    }

    pub(crate) fn round(&self, model: &ModelId, index: u32) -> Round {
        self.view().round(model, index).expect("the round")
    }

    /// A signed transaction with the next nonce.
    pub(crate) fn sign(&self, node: usize, payload: Payload) -> SignedTransaction {
        let secrets = &self.nodes[node];
        let key = if payload.is_duty() { &secrets.duty } else { &secrets.account };
        let account = secrets.account.public().account_id();
        let nonce = self.host.mempool.next_nonce(&State::new(&self.state), &account, &key.public());
        let transaction = Transaction {
            chain: *self.host.chain(),
            account,
            key: key.public(),
            nonce,
            tip: Credits::ZERO,
            fee_max: credits(1),
            stamp: None,
            fee_payer: None,
            payload,
        };
        SignedTransaction::sign(transaction, key)
    }

    pub(crate) fn submit(&mut self, signed: SignedTransaction) -> Result<(), MempoolError> {
        let verified = signed.verify(self.host.chain()).expect("a good signature");
        let state = State::new(&self.state);
        self.host.mempool.insert(&state, verified).map(|_| ())
    }

    /// Sends a payload that must find its way into the next block.
    pub(crate) fn send(&mut self, node: usize, payload: Payload) {
        let signed = self.sign(node, payload);
        self.submit(signed).expect("fits the mempool");
    }

    /// Why a payload would be refused now.
    pub(crate) fn try_now(&self, node: usize, payload: Payload) -> Result<(), Rejection> {
        let signed = self.sign(node, payload);
        let verified = signed.verify(self.host.chain()).expect("a good signature");
        let state = State::new(&self.state);
        ayni_protocol::ledger::try_transaction(&state, self.host.chain(), None, &verified)
            .map(|_| ())
    }

    /// Nodes in charge of the height in progress.
    pub(crate) fn in_charge(&self) -> Vec<usize> {
        let set = self.host.validators();
        let key = |i: &usize| self.nodes[*i].consensus.public().validator_id();
        (0..self.nodes.len()).filter(|i| set.get(&key(i)).is_some()).collect()
    }

    fn signers(&self) -> Vec<usize> {
        let all = self.in_charge();
        let awake: Vec<usize> = all.iter().copied().filter(|i| !self.silent.contains(i)).collect();
        let set = self.host.validators();
        let power = |i: &usize| {
            let id = self.nodes[*i].consensus.public().validator_id();
            set.get(&id).expect("in charge").power.get()
        };
        if set.is_quorum(awake.iter().map(power).sum()) { awake } else { all }
    }

    /// Signs a certificate with all validators that are not silent.
    pub(crate) fn certify(&self, block: &Block) -> CommitCertificate {
        let (height, hash) = (block.header.height, block.header.hash());
        let mut signatures: Vec<CommitSignature> = self
            .signers()
            .into_iter()
            .map(|i| {
                let secrets = &self.nodes[i];
                let validator = secrets.consensus.public().validator_id();
                let vote = Vote {
                    height,
                    round: 0,
                    kind: VoteKind::Precommit,
                    block: Some(hash),
                    validator,
                };
                let bytes = codec::encode(&vote);
                let signature = secrets.consensus.sign(Namespace::Vote, self.host.chain(), &bytes);
                CommitSignature { validator, signature }
            })
            .collect();
        signatures.sort_by_key(|s| s.validator);
        CommitCertificate { height, round: 0, block: hash, signatures }
    }

    pub(crate) fn build(&mut self) -> Block {
        self.try_build().expect("a block")
    }

    pub(crate) fn try_build(&mut self) -> Result<Block, Refused> {
        self.now += BLOCK_MS;
        let in_charge = self.in_charge();
        let proposer = self.host.height().get() as usize % in_charge.len();
        let NodeSecrets { consensus, vrf, .. } = self.nodes[in_charge[proposer]].clone();
        let keys = ProposerKeys { consensus, vrf };
        self.host.build(&self.state, TimestampMs::new(self.now), &keys).map(BoundBlock::into_block)
    }

    /// Lets time pass without a block.
    pub(crate) const fn idle(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Builds, decides and applies the next block; credits must be conserved after it.
    pub(crate) fn step(&mut self) {
        let block = self.build();
        self.decide(&block).expect("own blocks are valid");
    }

    /// What the host says of a block that somebody offers.
    pub(crate) fn check(&mut self, block: &Block, standing: Standing) -> Result<(), Refused> {
        let bound = BoundBlock::bind(block.clone())?;
        self.host.check(&self.state, &bound, standing)
    }

    pub(crate) fn decide(&mut self, block: &Block) -> Result<(), Refused> {
        self.decide_with(block, self.certify(block))
    }

    /// Decides a block with a given certificate.
    pub(crate) fn decide_with(
        &mut self,
        block: &Block,
        certificate: CommitCertificate,
    ) -> Result<(), Refused> {
        let decided = DecidedBlock { block: codec::encode(block), certificate };
        let bound = BoundBlock::bind(block.clone())?;
        let decision = self.host.decide(&self.state, decided.clone(), &bound)?;
        self.state.apply(&decision.changes);
        self.host.committed(&decision, root(&self.state), &self.state);
        self.blocks.push(decided);
        let found = audit(&self.state);
        assert!(found.conserved, "credits are not conserved: {found:?}");
        Ok(())
    }

    pub(crate) fn steps(&mut self, count: u32) {
        (0..count).for_each(|_| self.step());
    }
}

/// Applies the same blocks to a fresh chain.
pub(crate) fn replay(genesis: &Genesis, blocks: &[DecidedBlock], count: u8) -> StateRoot {
    let mut chain = TestChain::of(genesis.clone());
    assert_eq!(chain.nodes.len(), usize::from(count));
    for decided in blocks {
        let block: Block = codec::decode(&decided.block).expect("a stored block");
        chain
            .decide_with(&block, decided.certificate.clone())
            .expect("a block that was valid once");
    }
    root(&chain.state)
}
