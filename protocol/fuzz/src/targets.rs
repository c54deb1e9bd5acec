//! What is fuzzed: every decoder, and the rules behind it. Each target takes any bytes and must
//! neither panic nor break an invariant; `tests/it/fuzz.rs` replays the corpus in every test run.
//!
//! Signatures stop random bytes before they reach a rule, so [`rules`], [`block`] and [`evidence`]
//! mend what an attacker can make valid (keys, nonces, roots, signatures) and fuzz the rest.

#![allow(dead_code, reason = "each program uses one target")]

use std::sync::OnceLock;

use ayni_protocol::amount::{Credits, Height, TimestampMs, VotingPower};
use ayni_protocol::api::SubmitTransactions;
use ayni_protocol::block::{Block, BoundBlock, DecidedBlock, Evidence, Header};
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::consensus::{
    BodyOffer, CommitCertificate, CommitSignature, Proposal, ProposalBody, Validator, ValidatorSet,
    Vote, VoteKind,
};
use ayni_protocol::gossip::TransactionBatch;
use ayni_protocol::home::NodeSecrets;
use ayni_protocol::host::{Host, ProposerKeys, Standing, Tip};
use ayni_protocol::ids::{BlockHash, StateRoot};
use ayni_protocol::join::JoinString;
use ayni_protocol::keys::{Namespace, SecretKey};
use ayni_protocol::ledger::audit::audit;
use ayni_protocol::ledger::entries::staking::{
    Attendance, Candidate, Delegation, Liability, Pool, Queue,
};
use ayni_protocol::ledger::entries::{
    Account, Agenda, Ballot, Clock, Contribution, Dataset, Model, Node, Proposal as Motion,
    Registry, Round, Rules, StakeLock, Supply,
};
use ayni_protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use ayni_protocol::ledger::parameters::LedgerParameters;
use ayni_protocol::ledger::state::State;
use ayni_protocol::ledger::{OpenBlock, beacon, check_evidence};
use ayni_protocol::model::{
    DatasetManifest, DeltaManifest, Head, ModelSpec, OuterState, RoundParameters,
};
use ayni_protocol::proof::{self, Proof, StateProof, StateProofError};
use ayni_protocol::review::Review;
use ayni_protocol::store::MemoryState;
use ayni_protocol::transaction::{Capabilities, SignedTransaction, Transaction};
use ayni_protocol::worker::{WorkerReply, WorkerRequest};

/// Nodes of the chain that is fuzzed.
const NODES: u8 = 4;

/// A chain at its genesis.
struct World {
    genesis: Genesis,
    state: MemoryState,
    nodes: Vec<NodeSecrets>,
}

fn secrets(index: u8) -> NodeSecrets {
    let mut part = 0;
    let made = NodeSecrets::try_from_fn(|_| {
        part += 1;
        Ok::<_, ()>(SecretKey::from_seed(&[index * 8 + part; 32]))
    });
    made.expect("seeds are always keys")
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let nodes: Vec<_> = (0..NODES).map(secrets).collect();
        let credits = |whole: u64| Credits::from_micro(whole * 1_000_000);
        let capabilities =
            Capabilities { reviews: true, merges: true, hosts: true, validates: true };
        let genesis = Genesis {
            network: "fuzz".to_owned(),
            time: TimestampMs::new(1_000_000),
            rules_version: RULES_VERSION,
            parameters: LedgerParameters::default(),
            accounts: nodes
                .iter()
                .map(|n| GenesisAccount { key: n.account.public(), balance: credits(1_000) })
                .collect(),
            nodes: nodes
                .iter()
                .map(|n| GenesisNode {
                    account: n.account.public(),
                    keys: n.identity().keys,
                    capabilities,
                    stake: credits(1_000),
                    allowance: credits(100),
                })
                .collect(),
        };
        let (state, _) = genesis.build().expect("a valid genesis");
        World { genesis, state, nodes }
    })
}

fn round_trip<T: Canonical>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        assert_eq!(codec::encode(&value), bytes, "a value has one spelling");
    }
}

/// Every canonical type: what decodes encodes to the same bytes.
pub(crate) fn decode(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let decoders: &[fn(&[u8])] = &[
        round_trip::<SignedTransaction>,
        round_trip::<Transaction>,
        round_trip::<TransactionBatch>,
        round_trip::<Block>,
        round_trip::<DecidedBlock>,
        round_trip::<Header>,
        round_trip::<Evidence>,
        round_trip::<CommitCertificate>,
        round_trip::<ValidatorSet>,
        round_trip::<Vote>,
        round_trip::<Proposal>,
        round_trip::<BodyOffer>,
        round_trip::<ProposalBody>,
        round_trip::<Genesis>,
        round_trip::<LedgerParameters>,
        round_trip::<Account>,
        round_trip::<Node>,
        round_trip::<Dataset>,
        round_trip::<Model>,
        round_trip::<Round>,
        round_trip::<Contribution>,
        round_trip::<Clock>,
        round_trip::<Supply>,
        round_trip::<Registry>,
        round_trip::<ModelSpec>,
        round_trip::<DatasetManifest>,
        round_trip::<DeltaManifest>,
        round_trip::<OuterState>,
        round_trip::<WorkerRequest>,
        round_trip::<WorkerReply>,
        round_trip::<Proof>,
        |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(join) = text.parse::<JoinString>()
            {
                assert_eq!(join.to_string().parse::<JoinString>().as_ref(), Ok(&join));
            }
        },
        // New ones come last: the number of a type is part of the corpus.
        round_trip::<Motion>,
        round_trip::<Ballot>,
        round_trip::<StakeLock>,
        round_trip::<Agenda>,
        round_trip::<Rules>,
        round_trip::<Pool>,
        round_trip::<Delegation>,
        round_trip::<Liability>,
        round_trip::<Queue>,
        round_trip::<Candidate>,
        round_trip::<Attendance>,
        round_trip::<Head>,
        round_trip::<RoundParameters>,
        round_trip::<Review>,
        round_trip::<StateProof>,
        round_trip::<SubmitTransactions>,
    ];
    if let Some(decoder) = decoders.get(usize::from(*kind)) {
        decoder(bytes);
    }
}

/// A transaction as it comes from a peer.
pub(crate) fn transaction(bytes: &[u8]) {
    let world = world();
    let Ok(signed) = codec::decode::<SignedTransaction>(bytes) else { return };
    if let Ok(verified) = signed.verify(&world.genesis.chain_id()) {
        let state = State::new(&world.state);
        let chain = world.genesis.chain_id();
        drop(ayni_protocol::ledger::try_transaction(&state, &chain, None, &verified));
    }
}

fn header(host: &Host, state: &MemoryState, time: u64) -> Header {
    let world = world();
    let proposer = &world.nodes[0];
    let parent = State::new(state).clock().beacon;
    let (beacon, beacon_proof) = beacon::prove(&proposer.vrf, host.chain(), host.height(), &parent);
    Header {
        chain: *host.chain(),
        rules_version: RULES_VERSION,
        height: host.height(),
        proposer: proposer.consensus.public().validator_id(),
        time: TimestampMs::new(time),
        parent: host.tip().block,
        parent_certificate: Default::default(),
        transactions: Default::default(),
        state: host.tip().state,
        next_validators: host.next_validators().hash(),
        beacon,
        beacon_proof,
        snapshot: None,
    }
}

fn host(state: &MemoryState) -> Host {
    let tip = Tip {
        height: Height::ZERO,
        block: BlockHash::default(),
        certificate: None,
        state: StateRoot::default(),
    };
    Host::new(world().genesis.chain_id(), tip, state)
}

/// Signs what the bytes ask for with the keys of one of the nodes, so that rules see it.
fn mended(asked: &Transaction, who: u8, state: &State<'_>) -> SignedTransaction {
    let world = world();
    let secrets = &world.nodes[usize::from(who % NODES)];
    let key = if asked.payload.is_duty() { &secrets.duty } else { &secrets.account };
    let account = secrets.account.public().account_id();
    let transaction = Transaction {
        chain: world.genesis.chain_id(),
        account,
        key: key.public(),
        nonce: state.nonce(&account, &key.public()),
        fee_payer: None,
        ..asked.clone()
    };
    SignedTransaction::sign(transaction, key)
}

/// A block of transactions that are properly signed but otherwise arbitrary: no panic, and every
/// credit is where it should be. The bytes are any number of (who, length, transaction).
pub(crate) fn rules(bytes: &[u8]) {
    let world = world();
    let header = header(&host(&world.state), &world.state, 2_000_000);
    let mut open = OpenBlock::begin(&world.state, &header, None).expect("a good header");
    let mut rest = bytes;
    while let Some(([who, low, high], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (part, next) = after.split_at(length);
        rest = next;
        let Ok(asked) = codec::decode::<Transaction>(part) else { continue };
        let signed = mended(&asked, *who, open.state());
        let verified = signed.verify(&header.chain).expect("properly signed");
        drop(open.add(&verified));
    }
    let applied = open.finish().expect("every block of accepted transactions can end");
    let mut state = world.state.clone();
    state.apply(&applied.changes);
    let found = audit(&state);
    assert!(found.conserved, "credits are not conserved: {found:?}");
}

/// A block whose header an attacker has made to fit.
pub(crate) fn block(bytes: &[u8]) {
    let world = world();
    let Ok(mut block) = codec::decode::<Block>(bytes) else { return };
    let mut host = host(&world.state);
    let fitting = header(&host, &world.state, block.header.time.get());
    block.header = Header {
        transactions: Block::contents_root(&block.transactions, &block.evidence),
        parent_certificate: block
            .parent_certificate
            .as_ref()
            .map_or_else(Default::default, CommitCertificate::hash),
        ..fitting
    };
    let empty = block.transactions.is_empty() && block.evidence.is_empty();
    let bound = BoundBlock::bind(block).expect("its header was made to fit");
    let checked = host.check(&world.state, &bound, Standing::Proposed);
    if empty && bound.block().parent_certificate.is_none() {
        assert_eq!(checked, Ok(()), "an empty block with a fitting header is good");
    }
}

/// Evidence whose votes an attacker with a validator's key has signed.
pub(crate) fn evidence(bytes: &[u8]) {
    let world = world();
    let chain = world.genesis.chain_id();
    let Ok(evidence) = codec::decode::<Evidence>(bytes) else { return };
    drop(check_evidence(&world.state, &chain, &evidence));
    let key = &world.nodes[1].consensus;
    let validator = key.public().validator_id();
    let mended = match evidence {
        Evidence::DoubleVote { first: (mut a, _), second: (mut b, _) } => {
            (a.validator, b.validator) = (validator, validator);
            let sign = |vote: &Vote| key.sign(Namespace::Vote, &chain, &codec::encode(vote));
            Evidence::DoubleVote { first: (a, sign(&a)), second: (b, sign(&b)) }
        }
        Evidence::DoubleProposal { first: (mut a, _), second: (mut b, _) } => {
            (a.proposer, b.proposer) = (validator, validator);
            let sign = |p: &Proposal| key.sign(Namespace::Proposal, &chain, &codec::encode(p));
            Evidence::DoubleProposal { first: (a, sign(&a)), second: (b, sign(&b)) }
        }
    };
    drop(check_evidence(&world.state, &chain, &mended));
}

/// A block that this node builds with whatever is pending is always valid to the others.
pub(crate) fn pending(bytes: &[u8]) {
    let world = world();
    let mut builder = host(&world.state);
    let Ok(asked) = codec::decode::<Transaction>(bytes) else { return };
    let state = State::new(&world.state);
    let verified = mended(&asked, 0, &state).verify(&world.genesis.chain_id());
    let Ok(verified) = verified else { return };
    drop(builder.mempool.insert(&state, verified));
    let NodeSecrets { consensus, vrf, .. } = world.nodes[0].clone();
    let keys = ProposerKeys { consensus, vrf };
    let block = builder.build(&world.state, TimestampMs::new(2_000_000), &keys);
    let block = block.expect("whatever is pending, a block can be built");
    let checked = host(&world.state).check(&world.state, &block, Standing::Proposed);
    assert_eq!(checked, Ok(()), "own blocks are valid");
}

/// Bridges of a proof that are mended: each costs some signatures.
const BRIDGES_MENDED_MAX: usize = 4;

/// A proof as it comes from a stranger, then one whose validators have signed what the bytes ask
/// for: when any one bit of it is another, it is refused, or proves the absence of another key.
pub(crate) fn proof(bytes: &[u8]) {
    let Ok(asked) = codec::decode::<Proof>(bytes) else { return };
    let chain = world().genesis.chain_id();
    let height = asked.trusted.height;
    drop(proof::verify_bytes(height, &asked.trusted.hash(), &asked.trusted.chain, bytes));
    let mended = mended_proof(asked);
    let (height, trusted) = (mended.trusted.height, mended.trusted.hash());
    let mut good = codec::encode(&mended);
    let Ok(proven) = proof::verify_bytes(height, &trusted, &chain, &good) else { return };
    let chosen = blake3_of(bytes);
    let at = chosen as usize % good.len();
    good[at] ^= 1 << (chosen >> 61);
    if let Ok(other) = proof::verify_bytes(height, &trusted, &chain, &good) {
        let is_another_absence = other.key != proven.key && other.value.is_none();
        assert!(is_another_absence, "byte {at} of the proof is not bound");
        assert_eq!((other.height, other.root), (proven.height, proven.root));
    }
}

fn blake3_of(bytes: &[u8]) -> u64 {
    let hash = ayni_protocol::ids::ContentHash::of(bytes);
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// Makes chains, heights, sets, the root and as many signatures as were asked for fit.
fn mended_proof(mut asked: Proof) -> Proof {
    let world = world();
    let chain = world.genesis.chain_id();
    asked.bridges.truncate(BRIDGES_MENDED_MAX);
    asked.trusted.chain = chain;
    // Room for the bridges above it.
    let lowest = asked.trusted.height.get().min(u64::MAX / 2);
    asked.trusted.height = Height::new(lowest);
    for (bridge, height) in asked.bridges.iter_mut().zip(lowest..) {
        bridge.header.chain = chain;
        bridge.header.height = Height::new(bridge.header.height.get().max(height + 1));
        let count = bridge.validators.as_slice().len() % usize::from(NODES) + 1;
        let members = world.nodes.iter().take(count).map(|secrets| Validator {
            key: secrets.consensus.public(),
            power: VotingPower::new(10),
        });
        bridge.validators = ValidatorSet::new(members.collect()).expect("different keys");
    }
    let sets: Vec<_> = asked.bridges.iter().map(|bridge| bridge.validators.hash()).collect();
    let Proof { trusted, bridges, path, key, value } = &mut asked;
    let headers = std::iter::once(&mut *trusted).chain(bridges.iter_mut().map(|b| &mut b.header));
    for (header, set) in headers.zip(sets) {
        header.next_validators = set;
    }
    let last = bridges.last_mut().map_or(trusted, |bridge| &mut bridge.header);
    if let Err(StateProofError::OtherRoot { found, .. }) =
        path.verify(&last.state, key, value.as_deref())
    {
        last.state = found;
    }
    for bridge in bridges {
        let signers = bridge.certificate.signatures.len().min(bridge.validators.as_slice().len());
        bridge.certificate = certificate(&bridge.header, bridge.certificate.round, signers);
    }
    asked
}

/// A certificate with signatures of the first nodes.
fn certificate(header: &Header, round: u32, signers: usize) -> CommitCertificate {
    let (height, block) = (header.height, header.hash());
    let mut signatures: Vec<_> = world()
        .nodes
        .iter()
        .take(signers)
        .map(|NodeSecrets { consensus, .. }| {
            let validator = consensus.public().validator_id();
            let kind = VoteKind::Precommit;
            let vote = Vote { height, round, kind, block: Some(block), validator };
            let bytes = codec::encode(&vote);
            let signature = consensus.sign(Namespace::Vote, &header.chain, &bytes);
            CommitSignature { validator, signature }
        })
        .collect();
    signatures.sort_by_key(|entry| entry.validator);
    CommitCertificate { height, round, block, signatures }
}
