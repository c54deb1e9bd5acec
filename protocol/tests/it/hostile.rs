//! Bad transactions and blocks are refused with a reason, and nothing changes.

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::block::{Block, Evidence};
use ayni_protocol::codec;
use ayni_protocol::consensus::{Vote, VoteKind};
use ayni_protocol::host::{Refused, Standing};
use ayni_protocol::ids::{BlockHash, ChainId, ContentHash, StateRoot};
use ayni_protocol::keys::Namespace;
use ayni_protocol::ledger::Rejection;
use ayni_protocol::transaction::{Payload, SignedTransaction};
use proptest::prelude::*;

use crate::chain::{TestChain, credits, genesis};

/// Something done to a block.
type Change = fn(&mut Block);

fn transfer(chain: &TestChain, micro: u64) -> Payload {
    let to = chain.nodes[1].account.public().account_id();
    Payload::Transfer { to, amount: Credits::from_micro(micro) }
}

#[test]
fn overspending_is_refused_with_what_is_there() {
    let chain = TestChain::new(4);
    let refused = chain.try_now(0, transfer(&chain, 5_000_000_000));
    assert!(matches!(refused, Err(Rejection::InsufficientFunds { .. })), "{refused:?}");
    assert_eq!(chain.try_now(0, transfer(&chain, 0)), Err(Rejection::ZeroAmount));
}

#[test]
fn a_transaction_is_applied_once() {
    let mut chain = TestChain::new(4);
    let signed = chain.sign(0, transfer(&chain, 7));
    chain.submit(signed.clone()).expect("new");
    chain.step();
    let again = chain.submit(signed).expect_err("a replay").to_string();
    assert!(again.contains("nonce 0 where 1 is next (already used: a replay?)"), "{again}");
}

#[test]
fn foreign_chains_and_other_keys_are_refused() {
    let chain = TestChain::new(4);
    let mut foreign = chain.sign(0, transfer(&chain, 7)).transaction;
    foreign.chain = ChainId::from_bytes([9; 32]);
    let foreign = SignedTransaction::sign(foreign, &chain.nodes[0].account);
    assert!(foreign.verify(chain.host.chain()).is_err());

    let mut stolen = chain.sign(0, transfer(&chain, 7)).transaction;
    stolen.key = chain.nodes[1].account.public();
    let stolen = SignedTransaction::sign(stolen, &chain.nodes[1].account);
    let verified = stolen.verify(chain.host.chain()).expect("the signature itself is good");
    let refused =
        ayni_protocol::ledger::try_transaction(&chain.view(), chain.host.chain(), None, &verified);
    assert_eq!(refused, Err(Rejection::NotAuthorized));
}

#[test]
fn a_duty_key_can_never_transfer() {
    let chain = TestChain::new(4);
    let mut transaction = chain.sign(0, transfer(&chain, 7)).transaction;
    transaction.key = chain.nodes[0].duty.public();
    let signed = SignedTransaction::sign(transaction, &chain.nodes[0].duty);
    let verified = signed.verify(chain.host.chain()).expect("a good signature");
    let refused =
        ayni_protocol::ledger::try_transaction(&chain.view(), chain.host.chain(), None, &verified);
    assert_eq!(refused, Err(Rejection::NotAuthorized));
}

#[test]
fn every_changed_header_field_is_noticed() {
    let mut chain = TestChain::new(4);
    chain.steps(2);
    let good = chain.build();
    let changes: [(&str, Change); 9] = [
        ("chain", |b| b.header.chain = ChainId::default()),
        ("version", |b| b.header.rules_version += 1),
        ("height", |b| b.header.height = b.header.height.plus(1)),
        ("parent", |b| b.header.parent = BlockHash::default()),
        ("state", |b| b.header.state = StateRoot::default()),
        ("beacon", |b| b.header.beacon = Default::default()),
        ("proof", |b| b.header.beacon_proof = vec![1]),
        ("certificate", |b| b.parent_certificate = None),
        ("proposer", |b| b.header.proposer = Default::default()),
    ];
    for (name, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(chain.check(&bad, Standing::Proposed).is_err(), "{name}");
    }
    assert_eq!(chain.check(&good, Standing::Proposed), Ok(()));
}

#[test]
fn a_certificate_needs_more_than_two_thirds() {
    let mut chain = TestChain::new(4);
    let block = chain.build();
    let mut certificate = chain.certify(&block);
    let verify = |c: &ayni_protocol::consensus::CommitCertificate| {
        c.verify(chain.host.chain(), chain.host.validators())
    };
    assert_eq!(verify(&certificate), Ok(()));
    let third = certificate.signatures.pop().expect("four");
    assert_eq!(verify(&certificate), Ok(()), "three of four");
    certificate.signatures.pop();
    assert!(verify(&certificate).is_err(), "two of four");
    certificate.signatures.push(third.clone());
    certificate.signatures.push(third);
    assert!(verify(&certificate).is_err(), "one of them twice");
}

#[test]
fn a_block_with_a_forged_transaction_is_refused() {
    let mut chain = TestChain::new(4);
    let mut block = chain.build();
    let mut forged = chain.sign(0, transfer(&chain, 7));
    if let Payload::Transfer { amount, .. } = &mut forged.transaction.payload {
        *amount = credits(900);
    }
    block.transactions.push(forged);
    block.header.transactions = Block::contents_root(&block.transactions, &block.evidence);
    assert_eq!(chain.check(&block, Standing::Proposed), Err(Refused::Transaction));
}

#[test]
fn a_double_vote_is_punished_once() {
    let mut chain = TestChain::new(4);
    let secrets = chain.nodes[2].consensus.clone();
    let vote = |tag: u8| {
        let vote = Vote {
            height: Height::new(1),
            round: 0,
            kind: VoteKind::Prevote,
            block: Some(BlockHash::from_bytes([tag; 32])),
            validator: secrets.public().validator_id(),
        };
        let bytes = codec::encode(&vote);
        (vote, secrets.sign(Namespace::Vote, chain.host.chain(), &bytes))
    };
    let evidence = Evidence::DoubleVote { first: vote(1), second: vote(2) };
    let worthless = Evidence::DoubleVote { first: vote(1), second: vote(1) };
    chain.host.add_evidence(&chain.state, worthless);
    chain.host.add_evidence(&chain.state, evidence.clone());
    chain.step();
    let culprit = chain.nodes[2].node.public().node_id();
    assert_eq!(chain.view().node(&culprit).expect("registered").stake, credits(950));
    assert_eq!(chain.view().registry().double_signs, 1);
    chain.host.add_evidence(&chain.state, evidence);
    chain.step();
    assert_eq!(chain.view().registry().double_signs, 1);
}

proptest! {
    #[test]
    fn mutated_blocks_never_panic(at in 0..4_000_usize, xor in 1..=255_u8) {
        let mut chain = TestChain::new(4);
        chain.step();
        let payload = transfer(&chain, 7);
        chain.send(0, payload);
        let good = chain.build();
        let mut bytes = codec::encode(&good);
        let at = at % bytes.len();
        bytes[at] ^= xor;
        if let Ok(block) = codec::decode::<Block>(&bytes) {
            // Only the proposer's clock is free; with another one it is another block.
            let other = block.header.time != good.header.time;
            prop_assert!(chain.check(&block, Standing::Proposed).is_err() || other);
        }
    }
}

#[test]
fn headers_commit_to_the_snapshot_that_was_taken_and_to_no_other() {
    let mut genesis = genesis(4);
    genesis.parameters.snapshot_interval_blocks = 20;
    let mut chain = TestChain::of(genesis);
    let (taken, forged) = (ContentHash::of(b"snapshot"), ContentHash::of(b"another"));
    chain.steps(20);
    assert_eq!(chain.view().clock().snapshot, Height::new(20));
    chain.steps(7);
    // Without the snapshot nothing is built, and nothing said about a block that names one.
    assert_eq!(chain.try_build(), Err(Refused::NoSnapshot(Height::new(20))));
    chain.host.snapshot_taken(Height::new(20), taken);
    let good = chain.build();
    assert_eq!(good.header.snapshot, Some(taken));
    for snapshot in [None, Some(forged)] {
        let mut bad = good.clone();
        bad.header.snapshot = snapshot;
        let refused = chain.check(&bad, Standing::Proposed);
        assert_eq!(refused, Err(Refused::Header("the snapshot")), "{snapshot:?}");
    }
    // A node that has none believes what was decided, and goes on.
    chain.host.snapshot_taken(Height::new(1), forged);
    chain.decide(&good).expect("decided by the others");
    chain.steps(3);
    assert_eq!(chain.build().header.snapshot, None);
}
