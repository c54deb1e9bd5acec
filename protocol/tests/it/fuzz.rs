//! Replays the corpus of every fuzz target: what once was interesting stays tested.

#![expect(clippy::disallowed_methods, reason = "the corpus lies in files")]

use std::fs;
use std::path::PathBuf;

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::block::Evidence;
use ayni_protocol::codec;
use ayni_protocol::consensus::{Vote, VoteKind};
use ayni_protocol::ids::BlockHash;
use ayni_protocol::keys::Namespace;
use ayni_protocol::proof::{Bridge, Proof, StateProof};
use ayni_protocol::transaction::Payload;

use crate::chain::{TestChain, parameters, spec};

#[path = "../../fuzz/src/targets.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("decode", targets::decode),
    ("transaction", targets::transaction),
    ("rules", targets::rules),
    ("block", targets::block),
    ("evidence", targets::evidence),
    ("pending", targets::pending),
    ("proof", targets::proof),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_does_no_harm() {
    for (name, target) in TARGETS {
        let folder = corpus(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            target(&fs::read(&file).expect("a readable file"));
        }
    }
}

/// What the fuzzer starts from: something valid for every target.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut chain = TestChain::new(4);
    let to = chain.nodes[1].account.public().account_id();
    let signed = chain.sign(0, Payload::Transfer { to, amount: Credits::from_micro(5) });
    let empty = chain.build();
    let certificate = chain.certify(&empty);
    let kind = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    vec![
        ("transaction", "transfer", codec::encode(&signed)),
        ("pending", "transfer", codec::encode(&signed.transaction)),
        ("block", "empty", codec::encode(&empty)),
        ("evidence", "double-vote", codec::encode(&double_vote(&chain))),
        ("rules", "run", rules_script(&chain)),
        ("proof", "bridges", codec::encode(&proof(&mut chain))),
        ("decode", "signed", kind(0, codec::encode(&signed))),
        ("decode", "block", kind(3, codec::encode(&empty))),
        ("decode", "certificate", kind(7, codec::encode(&certificate))),
        ("decode", "genesis", kind(13, codec::encode(&chain.genesis))),
    ]
}

/// An entry that is there, two bridges above the trusted header. Its root is not that of the
/// headers: the target mends that.
fn proof(chain: &mut TestChain) -> Proof {
    chain.steps(3);
    let decided = |height: usize| {
        let decided = &chain.blocks[height - 1];
        decided.header_and_certificate().expect("a decided block")
    };
    let bridge = |height: usize| {
        let (header, certificate) = decided(height);
        Bridge { validators: chain.host.validators().clone(), header, certificate }
    };
    Proof {
        trusted: decided(1).0,
        bridges: vec![bridge(2), bridge(3)],
        key: b"key".to_vec(),
        value: Some(b"value".to_vec()),
        path: StateProof { other: None, siblings: vec![[1; 32], [2; 32]] },
    }
}

fn double_vote(chain: &TestChain) -> Evidence {
    let key = &chain.nodes[1].consensus;
    let vote = |tag: u8| {
        let vote = Vote {
            height: Height::new(1),
            round: 0,
            kind: VoteKind::Precommit,
            block: Some(BlockHash::from_bytes([tag; 32])),
            validator: key.public().validator_id(),
        };
        (vote, key.sign(Namespace::Vote, chain.host.chain(), &codec::encode(&vote)))
    };
    Evidence::DoubleVote { first: vote(1), second: vote(2) }
}

/// Transactions for the `rules` target: one node opens a run and joins it.
fn rules_script(chain: &TestChain) -> Vec<u8> {
    let node = chain.nodes[0].node.public().node_id();
    let model = spec(1).id();
    let payloads = [
        Payload::FundNode { node, amount: Credits::from_micro(6) },
        Payload::RegisterModel { spec: spec(1) },
        Payload::OpenRounds { model, rounds: 2, parameters: parameters(), escrow: Credits::ZERO },
        Payload::JoinRound { model, round: 1 },
    ];
    let mut script = Vec::new();
    for payload in payloads {
        let bytes = codec::encode(&chain.sign(0, payload).transaction);
        let length = u16::try_from(bytes.len()).expect("small").to_le_bytes();
        script.extend_from_slice(&[0, length[0], length[1]]);
        script.extend_from_slice(&bytes);
    }
    script
}

/// `AYNI_WRITE_CORPUS=1 cargo test -p ayni-protocol --test it fuzz` writes the seeds as files.
#[test]
fn every_target_takes_its_seeds() {
    for (name, seed, bytes) in seeds() {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
        target(&bytes);
        for cut in [1, bytes.len() / 2, bytes.len() - 1] {
            target(&bytes[..cut]);
        }
        if std::env::var_os("AYNI_WRITE_CORPUS").is_some() {
            fs::create_dir_all(corpus(name)).expect("a folder");
            fs::write(corpus(name).join(seed), bytes).expect("a seed");
        }
    }
}
