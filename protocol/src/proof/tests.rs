use std::collections::BTreeMap;
use std::convert::Infallible;

use super::*;
use crate::amount::{TimestampMs, VotingPower};
use crate::consensus::{CommitSignature, Validator, Vote, VoteKind};
use crate::ids::{Beacon, ContentHash, ValidatorId};
use crate::keys::{Namespace, SecretKey};

mod way;

const CHAIN: ChainId = ChainId::from_bytes([7; 32]);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn set(members: &[(u8, u64)]) -> ValidatorSet {
    ValidatorSet::new(
        members
            .iter()
            .map(|(n, power)| Validator { key: key(*n).public(), power: VotingPower::new(*power) })
            .collect(),
    )
    .expect("a set")
}

fn certify(header: &Header, signers: &[u8]) -> CommitCertificate {
    let mut signatures: Vec<CommitSignature> = signers
        .iter()
        .map(|n| {
            let validator = key(*n).public().validator_id();
            let vote = Vote {
                height: header.height,
                round: 0,
                kind: VoteKind::Precommit,
                block: Some(header.hash()),
                validator,
            };
            let signature = key(*n).sign(Namespace::Vote, &CHAIN, &codec::encode(&vote));
            CommitSignature { validator, signature }
        })
        .collect();
    signatures.sort_by_key(|entry| entry.validator);
    CommitCertificate { height: header.height, round: 0, block: header.hash(), signatures }
}

/// Members of the set of a height: one joins and one leaves every ten heights.
fn members(height: u64) -> Vec<(u8, u64)> {
    let first = u8::try_from(height / 10).expect("a short chain");
    (first..first + 4).map(|n| (n, 10)).collect()
}

/// A chain in memory.
struct Chain(Vec<(Header, CommitCertificate)>);

impl Chain {
    fn new(length: u64, root: StateRoot) -> Self {
        let mut parent = BlockHash::default();
        let blocks = (1..=length).map(|height| {
            let header = Header {
                chain: CHAIN,
                rules_version: 1,
                height: Height::new(height),
                proposer: ValidatorId::default(),
                time: TimestampMs::new(height),
                parent,
                parent_certificate: ContentHash::default(),
                transactions: ContentHash::default(),
                state: if height == length { root } else { StateRoot::default() },
                next_validators: set(&members(height + 1)).hash(),
                beacon: Beacon::default(),
                beacon_proof: Vec::new(),
                snapshot: None,
            };
            parent = header.hash();
            let signers: Vec<u8> = members(height).iter().map(|(n, _)| *n).collect();
            (header.clone(), certify(&header, &signers))
        });
        Self(blocks.collect())
    }

    fn trust(&self, height: u64) -> (Height, BlockHash) {
        let header = &self.0[usize::try_from(height).expect("small") - 1].0;
        (header.height, header.hash())
    }
}

impl ChainReader for Chain {
    type Error = Infallible;

    fn decided(&self, height: Height) -> Result<Option<(Header, CommitCertificate)>, Infallible> {
        let index = usize::try_from(height.get()).expect("small").checked_sub(1);
        Ok(index.and_then(|index| self.0.get(index)).cloned())
    }

    fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, Infallible> {
        Ok(Some(set(&members(height.get()))))
    }
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn entries() -> Entries {
    (0..40_u32).map(|n| (format!("key/{n}").into_bytes(), n.to_le_bytes().to_vec())).collect()
}

/// The tree by its definition: root, and the path of `key`.
fn tree(entries: &Entries, key: &[u8]) -> (StateRoot, StateProof) {
    let leaves: Vec<Leaf> = entries
        .iter()
        .map(|(k, v)| Leaf { key_hash: key_hash(k), value_hash: key_hash(v) })
        .collect();
    let mut path = StateProof { other: None, siblings: Vec::new() };
    let root = fold(&leaves, &key_hash(key), 0, Some(&mut path));
    (StateRoot::from_bytes(root), path)
}

fn bit(hash: &[u8; 32], depth: usize) -> bool {
    hash[depth / 8] >> (7 - depth % 8) & 1 == 1
}

fn fold(leaves: &[Leaf], key: &[u8; 32], depth: usize, path: Option<&mut StateProof>) -> [u8; 32] {
    match leaves {
        [] => PLACEHOLDER,
        [leaf] => {
            if let Some(path) = path {
                path.other = (leaf.key_hash != *key).then_some(*leaf);
            }
            leaf_hash(leaf)
        }
        _ => {
            let (right, left): (Vec<Leaf>, Vec<Leaf>) =
                leaves.iter().partition(|leaf| bit(&leaf.key_hash, depth));
            let turn = bit(key, depth);
            let (mine, theirs) = if turn { (&right, &left) } else { (&left, &right) };
            let sibling = fold(theirs, key, depth + 1, None);
            let mut path = path;
            let hash = fold(mine, key, depth + 1, path.as_deref_mut());
            if let Some(path) = path {
                path.siblings.push(sibling);
            }
            if turn { internal_hash(&sibling, &hash) } else { internal_hash(&hash, &sibling) }
        }
    }
}

/// A proof over a chain of `length` blocks from trust in `trusted`.
fn proof(length: u64, trusted: u64, key: &[u8]) -> (Chain, Proof) {
    let (root, path) = tree(&entries(), key);
    let chain = Chain::new(length, root);
    let value = entries().get(key).cloned();
    let state = Height::new(length - 1);
    let proof = build(&chain, Height::new(trusted), state, key.to_vec(), value, path)
        .expect("the chain is whole");
    (chain, proof)
}

fn check(chain: &Chain, trusted: u64, proof: &Proof) -> Result<Proven, ProofError> {
    let (height, block) = chain.trust(trusted);
    verify_bytes(height, &block, &CHAIN, &codec::encode_checked(proof).expect("within limits"))
}

#[test]
fn presence_and_absence_are_proven_over_changing_sets() {
    for name in [b"key/7".as_slice(), b"key/39", b"no such key", b""] {
        let (chain, proof) = proof(95, 3, name);
        let proven = check(&chain, 3, &proof).expect("a good proof");
        assert_eq!(proven.height, Height::new(94));
        assert_eq!(proven.value, entries().get(name).cloned());
    }
}

/// Sets of 4 that replace one member every ten heights: a set of 4 has a quorum of 3 while one
/// member at most has left, so each bridge spans two changes.
#[test]
fn bridges_are_only_where_needed() {
    let heights = |length, trusted| {
        let (_, proof) = proof(length, trusted, b"key/1");
        proof.bridges.iter().map(|bridge| bridge.header.height.get()).collect::<Vec<_>>()
    };
    assert_eq!(heights(9, 9), [] as [u64; 0], "the trusted header itself commits the state");
    assert_eq!(heights(9, 1), [9]);
    assert_eq!(heights(19, 1), [19], "three of four still sign");
    assert_eq!(heights(20, 1), [19, 20]);
    assert_eq!(heights(95, 3), [19, 39, 59, 79, 95]);
}

#[test]
fn every_changed_byte_is_refused() {
    for name in [b"key/7".as_slice(), b"no such key"] {
        let (chain, proof) = proof(25, 3, name);
        let bytes = codec::encode(&proof);
        let (height, block) = chain.trust(3);
        for at in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                let result = verify_bytes(height, &block, &CHAIN, &changed);
                assert!(result.is_err(), "byte {at} of {} is not bound", bytes.len());
            }
        }
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            assert!(verify_bytes(height, &block, &CHAIN, &bytes[..length]).is_err());
        }
    }
}

#[test]
fn the_first_thing_wrong_is_named() {
    let (chain, good) = proof(45, 3, b"key/7");
    let tamper = |f: &dyn Fn(&mut Proof)| {
        let mut bad = good.clone();
        f(&mut bad);
        check(&chain, 3, &bad).expect_err("tampered")
    };
    let missing = tamper(&|p| p.bridges = p.bridges.split_off(1));
    assert_eq!(missing, ProofError::OtherSet { before: Height::new(3), height: Height::new(39) });

    let weak = tamper(&|p| p.bridges[0].certificate.signatures.truncate(2));
    let ProofError::Certificate { source: CertificateError::NoQuorum { signed, total }, .. } = weak
    else {
        panic!("{weak}");
    };
    assert_eq!((signed, total), (20, 40));

    // Somebody outside the set signs in place of a member.
    let strangers = tamper(&|p| {
        let bridge = &mut p.bridges[0];
        bridge.certificate = certify(&bridge.header, &[0, 1, 99]);
    });
    let ProofError::Certificate { source: CertificateError::UnknownValidator(_), .. } = strangers
    else {
        panic!("{strangers}");
    };

    // A forged set that would sign anything.
    let forged = tamper(&|p| {
        let bridge = &mut p.bridges[0];
        bridge.validators = set(&[(99, 1)]);
        bridge.certificate = certify(&bridge.header, &[99]);
    });
    assert!(matches!(forged, ProofError::OtherSet { .. }), "{forged}");

    let swapped = tamper(&|p| p.bridges[1].certificate = p.bridges[0].certificate.clone());
    assert_eq!(swapped, ProofError::OtherBlock(Height::new(39)));

    let backwards = tamper(&|p| p.bridges.push(p.bridges[0].clone()));
    assert!(matches!(backwards, ProofError::Backwards { .. }), "{backwards}");

    let value = tamper(&|p| p.value = Some(b"more".to_vec()));
    assert!(matches!(value, ProofError::State { .. }), "{value}");
    let absent = tamper(&|p| p.value = None);
    assert!(matches!(absent, ProofError::State { .. }), "{absent}");

    let (height, _) = chain.trust(3);
    let other = verify(height, &BlockHash::default(), &CHAIN, &good).expect_err("other trust");
    assert!(matches!(other, ProofError::OtherTrust { .. }), "{other}");
    let (height, block) = chain.trust(3);
    let other = verify(height, &block, &ChainId::default(), &good).expect_err("other chain");
    assert!(matches!(other, ProofError::OtherChain { .. }), "{other}");
}

#[test]
fn an_absent_key_cannot_be_shown_by_an_entry_from_elsewhere() {
    let entries = entries();
    let (root, path) = tree(&entries, b"no such key");
    path.verify(&root, b"no such key", None).expect("absent");
    // The path of an existing key, presented as the absence of another.
    let (_, mut stolen) = tree(&entries, b"key/7");
    stolen.other =
        Some(Leaf { key_hash: key_hash(b"key/7"), value_hash: key_hash(&entries[&b"key/7"[..]]) });
    assert_eq!(stolen.verify(&root, b"key/7", None), Err(StateProofError::NotExclusion));
    assert_eq!(stolen.verify(&root, b"no such key", None), Err(StateProofError::NotExclusion));
    stolen.siblings = vec![[0; 32]; 257];
    assert_eq!(stolen.verify(&root, b"key/7", None), Err(StateProofError::TooLong(257)));
}

#[test]
fn what_cannot_be_proven_is_said() {
    let (root, path) = tree(&entries(), b"key/1");
    let chain = Chain::new(30, root);
    let build = |trusted, state| {
        build(&chain, Height::new(trusted), Height::new(state), Vec::new(), None, path.clone())
            .expect_err("impossible")
    };
    assert!(matches!(build(1, 30), BuildError::NoBlock(height) if height == Height::new(31)));
    assert!(matches!(build(0, 20), BuildError::NoBlock(Height::ZERO)));
    assert!(matches!(build(30, 20), BuildError::TrustTooNew { .. }));
}

/// Pins the encoding of a path; headers, sets and certificates are pinned where they are defined.
#[test]
fn golden_path() {
    let (_, path) = tree(&entries(), b"no such key");
    assert_eq!(
        codec::hash(&path).to_string(),
        "062c770e4bb92bc7edc1e82cbced5a30c0fc59311739a762785b4aa075b7dd7a"
    );
}
