//! Any sequence of proposals, ballots and blocks: credits are conserved after every block, every
//! vote ends with an outcome, every deposit is back or burned, and a replay gives the same root.

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::ids::{AccountId, ContentHash};
use ayni_protocol::ledger::entries::ProposalStatus;
use ayni_protocol::model::DataKind;
use ayni_protocol::transaction::{Change, Choice, Payload};
use proptest::prelude::*;

use super::{proposing, quick_genesis, voting};
use crate::chain::{TestChain, parameters, replay, root, spec};

#[derive(Clone, Debug)]
enum Attempt {
    Propose(Change),
    /// On one of the last proposals.
    Ballot {
        back: u64,
        choice: Choice,
        conviction: u8,
    },
    /// Proposes, and everybody says the same.
    Decide(Change, Choice),
    Open {
        micro: u64,
    },
    Wait(u32),
}

fn changes() -> impl Strategy<Value = Change> {
    let model = spec(1).id();
    let parameter = prop_oneof![
        Just(("voting_ms", 1_000)),
        Just(("voting_ms", 20_000)),
        Just(("timelock_ms", 0)),
        Just(("unbonding_ms", 12_000)),
        Just(("quorum_ppm", 10_000)),
        Just(("quorum_ppm", 1_000_000)),
        Just(("threshold_ppm", 900_000)),
        Just(("veto_ppm", 10_000)),
        Just(("proposal_deposit_micro", 900_000_000)),
        Just(("proposal_deposit_micro", 0)),
        Just(("conviction_max", 0)),
        Just(("conviction_max", 6)),
        Just(("epoch_ms", 5_000)),
        Just(("epoch_ms", 100_000)),
        Just(("base_fee_min_micro_per_byte", 1_000)),
        Just(("treasury_ppm", 60_000)),
    ];
    let values = proptest::collection::vec(parameter, 1..3);
    prop_oneof![
        3 => values.prop_map(|values| Change::Parameters(
            values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        )),
        1 => any::<u8>().prop_map(|tag| Change::Text { content: ContentHash::of(&[tag]) }),
        1 => any::<bool>().prop_map(|admitted| Change::Dataset {
            manifest: ContentHash::of(b"data"),
            admitted
        }),
        1 => (0..1_000_001_u32)
            .prop_map(move |weight_ppm| Change::ModelWeight { model, weight_ppm }),
        1 => any::<bool>().prop_map(move |some| Change::Direction {
            model,
            datasets: if some { vec![ContentHash::of(b"data")] } else { Vec::new() }
        }),
        1 => (1..100_000_000_u64).prop_map(|micro| Change::TreasurySpend {
            to: AccountId::from_bytes([7; 32]),
            amount: Credits::from_micro(micro)
        }),
        1 => (2..4_u32).prop_map(|version| Change::Rules { version, height: Height::new(90_000) }),
        2 => any::<bool>().prop_map(move |paused| Change::Pause { model, paused }),
    ]
}

fn attempts() -> impl Strategy<Value = Attempt> {
    let choice = || {
        prop_oneof![
            5 => Just(Choice::Yes),
            1 => Just(Choice::No),
            1 => Just(Choice::Abstain),
            1 => Just(Choice::Veto)
        ]
    };
    prop_oneof![
        1 => changes().prop_map(Attempt::Propose),
        4 => (0..4_u64, choice(), 0..5_u8)
            .prop_map(|(back, choice, conviction)| Attempt::Ballot { back, choice, conviction }),
        3 => (changes(), choice()).prop_map(|(c, choice)| Attempt::Decide(c, choice)),
        1 => (1..50_000_000_u64).prop_map(|micro| Attempt::Open { micro }),
        2 => (1..15_u32).prop_map(Attempt::Wait),
    ]
}

/// A full mempool or a used nonce is a refusal like any other.
fn try_send(chain: &mut TestChain, node: usize, payload: Payload) {
    let signed = chain.sign(node, payload);
    let _ = chain.submit(signed);
}

fn play(chain: &mut TestChain, node: usize, attempt: &Attempt) {
    let last = chain.view().agenda().proposals;
    match attempt {
        Attempt::Propose(change) => try_send(chain, node, proposing(change.clone())),
        Attempt::Ballot { back, choice, conviction } => {
            try_send(chain, node, voting(last.saturating_sub(*back), *choice, *conviction));
        }
        Attempt::Decide(change, choice) => {
            try_send(chain, node, proposing(change.clone()));
            chain.step();
            let last = chain.view().agenda().proposals;
            (0..4).for_each(|node| try_send(chain, node, voting(last, *choice, 0)));
        }
        Attempt::Open { micro } => {
            let escrow = Credits::from_micro(*micro);
            let model = spec(1).id();
            try_send(
                chain,
                node,
                Payload::OpenRounds { model, rounds: 2, parameters: parameters(), escrow },
            );
        }
        Attempt::Wait(blocks) => chain.steps(*blocks),
    }
    chain.step();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_vote_ends_and_nothing_is_made_or_lost(
        script in proptest::collection::vec((0..4_usize, attempts()), 1..40)
    ) {
        let mut chain = TestChain::of(quick_genesis(4));
        chain.send(0, Payload::RegisterModel { spec: spec(1) });
        let node = chain.nodes[0].node.public().node_id();
        chain.send(0, Payload::PublishDataset {
            manifest: ContentHash::of(b"data"),
            name: "data".to_owned(),
            shards: 1,
            bytes: 1_000,
            kind: DataKind::Text,
            node,
        });
        chain.step();
        for (node, attempt) in &script {
            play(&mut chain, *node, attempt);
        }
        // The longest vote and the longest timelock of these changes, and some blocks.
        chain.steps(60);
        let nodes = chain.view().nodes();
        let stake: u64 = nodes.iter().map(|n| n.stake.micro()).sum();
        prop_assert_eq!(chain.view().staked().micro(), stake);
        let proposals = chain.view().proposals(None, usize::MAX);
        prop_assert_eq!(proposals.len() as u64, chain.view().agenda().proposals);
        for proposal in proposals {
            prop_assert!(!proposal.status.is_active(), "{:?}", proposal);
            prop_assert_eq!(proposal.deposit, Credits::ZERO);
            let adopted = matches!(
                proposal.status,
                ProposalStatus::Executed { .. } | ProposalStatus::Failed { .. }
            );
            prop_assert!(!adopted || proposal.tally.yes > 0, "{:?}", proposal);
        }
        prop_assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
    }
}
