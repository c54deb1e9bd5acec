//! Pinned encodings: a change here breaks every chain that exists.

use ayni_protocol::amount::Credits;
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::ids::{Commitment, ContentHash, ContributionId, NodeId};
use ayni_protocol::model::{
    DataClass, DatasetManifest, DeltaManifest, Determinism, Head, OuterState, RoundParameters,
    Shard,
};
use ayni_protocol::review::{Gain, Review, Verdict};
use ayni_protocol::transaction::{Change, Choice, GovernanceAction, Payload, StakingAction};
use ayni_protocol::worker::{FileName, WorkerOutcome, WorkerReply, WorkerRequest};

use crate::chain::{TestChain, genesis, parameters, spec};

const EXPECT_DOCUMENTS: [&str; 10] = [
    "genesis 4a16e760dc9d5328",
    "specification 270111c3e2360b57",
    "parameters 9d265c3ca7a60a77",
    "head 0a2411b044b48d9e",
    "outer state bac0b2d57823a52e",
    "dataset f743892a54757593",
    "delta 5df42d744680b7b2",
    "review 16f4071c121fcb8f",
    "worker request 1c85bddcc66218d7",
    "worker reply 2fd4b5cc6a7cfadc",
];
const EXPECT_TRANSACTIONS: [&str; 19] = [
    "transfer cd52c5a3b3ab95e4",
    "fund_node b38870609f4c4ef5",
    "register_model 942e8b93d92ee225",
    "open_rounds 73dcdc51d2265960",
    "join_round 9ab0931714663197",
    "submit_commit b48f57ad284885a3",
    "review_commit 8140189cfc946ef3",
    "attest_head ef131cf2c13341ab",
    "attest_unavailable 6b168b22b82ca80e",
    "bond 22b1bc53692db466",
    "unbond 8f66110d1e37b724",
    "redelegate 0d8351062da374c2",
    "set_commission 325c027e94ff95de",
    "unjail aa1c2c9342084a22",
    "claim_rewards 81f2f252e6ac5a2c",
    "propose f163793f7f78b883",
    "ballot 6adda2fc5e33c5bf",
    "block ec0e16674d62981b",
    "certificate b615903a08ef4863",
];

fn hash<T: Canonical>(value: &T) -> String {
    let mut text = codec::hash(value).to_string();
    text.truncate(16);
    text
}

#[test]
fn documents() {
    let model = spec(1).id();
    let dataset = DatasetManifest {
        name: "text".to_owned(),
        licence: "MIT".to_owned(),
        shards: vec![Shard { blob: ContentHash::of(b"shard"), bytes: 5, documents: 1 }],
    };
    let delta = DeltaManifest {
        author: NodeId::from_bytes([1; 32]),
        model,
        round: 1,
        parent: Head::initial(&spec(1)).id(),
        steps: 30,
        seed: 300,
        shards: ContentHash::of(b"shards"),
        feedback_in: ContentHash::default(),
        feedback_out: ContentHash::of(b"out"),
        step_states: ContentHash::of(b"states"),
        data_class: DataClass::Private,
        determinism: Determinism::Exact,
        fingerprint: ContentHash::of(b"fingerprint"),
        payload: ContentHash::of(b"payload"),
        payload_bytes: 70_000,
    };
    let review = Review { verdict: Verdict::Decline, gain: Gain { mean_ppm: -7, error_ppm: 3 } };
    let outer = OuterState {
        clip_norm_bits: vec![1, 2],
        momentum: Some(ContentHash::of(b"momentum")),
        aggregate: None,
    };
    let file = FileName::new("suite").expect("a plain name");
    let request = WorkerRequest::Initialize { spec: spec(1), checkpoint_out: file };
    let reply = WorkerReply::Done(WorkerOutcome::Evaluated {
        losses: vec![Some(vec![1, 300]), None],
        faults: vec![None, Some("bad".to_owned())],
    });
    let actual = [
        ("genesis", hash(&genesis(4))),
        ("specification", hash(&spec(1))),
        ("parameters", hash(&RoundParameters::default())),
        ("head", hash(&Head::initial(&spec(1)))),
        ("outer state", hash(&outer)),
        ("dataset", hash(&dataset)),
        ("delta", hash(&delta)),
        ("review", hash(&review)),
        ("worker request", hash(&request)),
        ("worker reply", hash(&reply)),
    ];
    let expect = EXPECT_DOCUMENTS;
    assert_eq!(actual.map(|(name, hash)| format!("{name} {hash}")), expect);
}

#[test]
fn transactions_and_blocks() {
    let mut chain = TestChain::new(4);
    let model = spec(1).id();
    let contribution = ContributionId::from_bytes([4; 32]);
    let commitment = Commitment::from_bytes([5; 32]);
    let gain = Gain { mean_ppm: 1, error_ppm: 2 };
    let amount = Credits::from_micro(6);
    let head = Head::initial(&spec(1));
    let node = chain.nodes[1].node.public().node_id();
    let payloads = [
        Payload::Transfer {
            to: chain.nodes[1].account.public().account_id(),
            amount: Credits::from_micro(5),
        },
        Payload::FundNode { node, amount },
        Payload::RegisterModel { spec: spec(1) },
        Payload::OpenRounds { model, rounds: 2, parameters: parameters(), escrow: Credits::ZERO },
        Payload::JoinRound { model, round: 1 },
        Payload::SubmitCommit { model, round: 1, commitment },
        Payload::ReviewCommit { contribution, commitment },
        Payload::AttestHead { model, round: 1, head, possession: commitment, gain },
        Payload::AttestUnavailable { contribution },
        Payload::Staking(StakingAction::Bond { node, amount }),
        Payload::Staking(StakingAction::Unbond { node, amount }),
        Payload::Staking(StakingAction::Redelegate { from: node, to: node, amount }),
        Payload::Staking(StakingAction::SetCommission { node, commission_ppm: 50_000 }),
        Payload::Staking(StakingAction::Unjail { node }),
        Payload::Staking(StakingAction::ClaimRewards { node }),
        Payload::Governance(GovernanceAction::Propose {
            title: "dearer".to_owned(),
            change: Change::Parameters(vec![("stamp_bits".to_owned(), 22)]),
        }),
        Payload::Governance(GovernanceAction::Ballot {
            proposal: 1,
            choice: Choice::Veto,
            conviction: 2,
        }),
    ];
    let mut actual: Vec<String> = payloads
        .into_iter()
        .map(|payload| {
            let name = payload.name();
            let signed = chain.sign(0, payload);
            format!("{name} {}", hash(&signed))
        })
        .collect();
    let block = chain.build();
    actual.push(format!("block {}", hash(&block)));
    actual.push(format!("certificate {}", hash(&chain.certify(&block))));
    assert_eq!(actual, EXPECT_TRANSACTIONS);
}
