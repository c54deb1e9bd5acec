//! Credits are conserved under any sequence of transactions, and replay gives the same root.

use ayni_protocol::amount::Credits;
use ayni_protocol::ids::ContentHash;
use ayni_protocol::keys::{Namespace, SecretKey};
use ayni_protocol::model::DataKind;
use ayni_protocol::transaction::{Payload, RegisterNode, StakingAction};
use proptest::prelude::*;

use crate::chain::{TestChain, parameters, replay, root, spec};

/// Something a node tries; most of it is refused sooner or later.
#[derive(Clone, Debug)]
enum Attempt {
    Transfer { to: usize, micro: u64 },
    Fund { micro: u64 },
    Register { seed: u8, micro: u64 },
    Rotate { seed: u8 },
    Model { seed: u64 },
    Open { seed: u64, rounds: u32, micro: u64 },
    Join { seed: u64, round: u32 },
    Dataset { tag: u8, shards: u32 },
    Stake { on: usize, micro: u64 },
    Unstake { from: usize, micro: u64 },
    Wait { blocks: u32 },
}

fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..2_000_000_000_u64, Just(u64::MAX), Just(1_000_000_000)]
}

fn attempts() -> impl Strategy<Value = Attempt> {
    prop_oneof![
        (0..4_usize, amounts()).prop_map(|(to, micro)| Attempt::Transfer { to, micro }),
        amounts().prop_map(|micro| Attempt::Fund { micro }),
        (100..110_u8, amounts()).prop_map(|(seed, micro)| Attempt::Register { seed, micro }),
        (120..122_u8).prop_map(|seed| Attempt::Rotate { seed }),
        (0..3_u64).prop_map(|seed| Attempt::Model { seed }),
        (0..3_u64, 0..3_u32, amounts()).prop_map(|(seed, rounds, micro)| Attempt::Open {
            seed,
            rounds,
            micro
        }),
        (0..3_u64, 0..4_u32).prop_map(|(seed, round)| Attempt::Join { seed, round }),
        (0..4_u8, 0..3_u32).prop_map(|(tag, shards)| Attempt::Dataset { tag, shards }),
        (0..4_usize, amounts()).prop_map(|(on, micro)| Attempt::Stake { on, micro }),
        (0..4_usize, amounts()).prop_map(|(from, micro)| Attempt::Unstake { from, micro }),
        (1..40_u32).prop_map(|blocks| Attempt::Wait { blocks }),
    ]
}

fn payload(chain: &TestChain, node: usize, attempt: &Attempt) -> Option<Payload> {
    let account = |i: usize| chain.nodes[i].account.public().account_id();
    let ledger = chain.host.chain();
    Some(match attempt {
        Attempt::Transfer { to, micro } => {
            Payload::Transfer { to: account(*to), amount: Credits::from_micro(*micro) }
        }
        Attempt::Fund { micro } => Payload::FundNode {
            node: chain.nodes[node].node.public().node_id(),
            amount: Credits::from_micro(*micro),
        },
        Attempt::Register { seed, micro } => {
            let fresh = crate::chain::secrets(*seed % 16 + 8);
            let prove =
                |key: &SecretKey| key.sign(Namespace::Possession, ledger, account(node).as_bytes());
            Payload::RegisterNode(Box::new(RegisterNode {
                keys: fresh.identity().keys,
                node_proof: prove(&fresh.node),
                consensus_proof: prove(&fresh.consensus),
                vrf_proof: prove(&fresh.vrf),
                duty_proof: prove(&fresh.duty),
                capabilities: Default::default(),
                allowance: Credits::from_micro(*micro),
            }))
        }
        Attempt::Rotate { seed } => {
            let fresh = SecretKey::from_seed(&[*seed; 32]);
            Payload::RotateKey {
                new_key: fresh.public(),
                possession: fresh.sign(Namespace::Possession, ledger, account(node).as_bytes()),
            }
        }
        Attempt::Model { seed } => Payload::RegisterModel { spec: spec(*seed) },
        Attempt::Open { seed, rounds, micro } => Payload::OpenRounds {
            model: spec(*seed).id(),
            rounds: *rounds,
            parameters: parameters(),
            escrow: Credits::from_micro(*micro),
        },
        Attempt::Join { seed, round } => {
            Payload::JoinRound { model: spec(*seed).id(), round: *round }
        }
        Attempt::Dataset { tag, shards } => Payload::PublishDataset {
            manifest: ContentHash::of(&[*tag]),
            name: "data".to_owned(),
            shards: *shards,
            bytes: 1_000,
            kind: DataKind::Text,
            node: chain.nodes[node].node.public().node_id(),
        },
        Attempt::Stake { on, micro } => Payload::Staking(StakingAction::Bond {
            node: chain.nodes[*on].node.public().node_id(),
            amount: Credits::from_micro(*micro),
        }),
        Attempt::Unstake { from, micro } => Payload::Staking(StakingAction::Unbond {
            node: chain.nodes[*from].node.public().node_id(),
            amount: Credits::from_micro(*micro),
        }),
        Attempt::Wait { .. } => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_or_lost(
        script in proptest::collection::vec((0..4_usize, attempts()), 1..60)
    ) {
        let mut chain = TestChain::new(4);
        for (node, attempt) in &script {
            match payload(&chain, *node, attempt) {
                Some(payload) => {
                    let signed = chain.sign(*node, payload);
                    // A full mempool or a used nonce is a refusal like any other.
                    let _ = chain.submit(signed);
                    chain.step();
                }
                None => {
                    let Attempt::Wait { blocks } = attempt else { continue };
                    chain.steps(*blocks);
                }
            }
        }
        prop_assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
    }
}
