//! Pinned encodings: a change here breaks every chain that exists.

use ayni_protocol::amount::Credits;
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::ids::{Commitment, ContentHash, ContributionId};
use ayni_protocol::model::{Head, OuterState, RoundParameters};
use ayni_protocol::review::{Gain, Review, Verdict};
use ayni_protocol::transaction::Payload;

use crate::chain::{TestChain, genesis, parameters, spec};

fn check<T: Canonical>(name: &str, value: &T, expect: &str) {
    let actual = codec::hash(value).to_string();
    assert_eq!(&actual[..16], expect, "{name}: the canonical encoding has changed");
}

#[test]
fn documents() {
    check("genesis", &genesis(4), "GENESIS");
    check("specification", &spec(1), "SPEC");
    check("parameters", &RoundParameters::default(), "PARAMETERS");
    check("head", &Head::initial(&spec(1)), "HEAD");
    check("outer state", &OuterState { clip_norm_bits: vec![1, 2] }, "OUTER");
    let review = Review { verdict: Verdict::Decline, gain: Gain { mean_ppm: -7, error_ppm: 3 } };
    check("review", &review, "REVIEW");
}

#[test]
fn transactions_and_blocks() {
    let mut chain = TestChain::new(4);
    let model = spec(1).id();
    let contribution = ContributionId::from_bytes([4; 32]);
    let commitment = Commitment::from_bytes([5; 32]);
    let gain = Gain { mean_ppm: 1, error_ppm: 2 };
    let head = Head::initial(&spec(1));
    let payloads = [
        Payload::Transfer {
            to: chain.nodes[1].account.public().account_id(),
            amount: Credits::from_micro(5),
        },
        Payload::RegisterModel { spec: spec(1) },
        Payload::OpenRounds { model, rounds: 2, parameters: parameters(), escrow: Credits::ZERO },
        Payload::JoinRound { model, round: 1 },
        Payload::SubmitCommit { model, round: 1, commitment },
        Payload::ReviewCommit { contribution, commitment },
        Payload::AttestHead { model, round: 1, head, possession: commitment, gain },
        Payload::AttestUnavailable { contribution },
    ];
    let hashes: Vec<[u8; 32]> = payloads
        .into_iter()
        .map(|payload| *codec::hash(&chain.sign(0, payload).transaction).as_bytes())
        .collect();
    let all = ayni_protocol::consensus::list_root("ayni test golden", &hashes).to_string();
    assert_eq!(&all[..16], "PAYLOADS", "the encoding of a transaction has changed");
    let block = chain.build();
    check("block", &block, "BLOCK");
    check("certificate", &chain.certify(&block), "CERTIFICATE");
    assert_eq!(ContentHash::of(b"").to_string()[..8], *"af1349b9");
}
