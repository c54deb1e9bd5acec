//! A peer that speaks the protocols but not the truth.

use ayni_daemon::engine::codec::EngineCodec;
use ayni_daemon::engine::context::{AyniContext, Part, Signature, Vote};
use ayni_daemon::network::{self, EngineEvent, NetworkConfig, NetworkHandle, Topic};
use libp2p::PeerId;
use malachite_codec::Codec;
use malachite_core_consensus::SignedConsensusMsg;
use malachite_core_types::SignedMessage;
use protocol::amount::Height;
use protocol::block::Block;
use protocol::codec;
use protocol::consensus::{self, BodyOffer, ProposalBody, VoteKind};
use protocol::keys::Namespace;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::{Disk, Node, chain, consensus_key, node_key, validators, within};

/// A swarm without an engine: it publishes whatever it is told.
struct Attacker {
    network: NetworkHandle,
    events: mpsc::Receiver<EngineEvent>,
    token: CancellationToken,
}

impl Attacker {
    async fn meet(victim: &Node) -> Self {
        let token = CancellationToken::new();
        let config = NetworkConfig::loopback(chain());
        let tracker = TaskTracker::new();
        let network =
            network::start(config, &node_key(50), &tracker, token.clone()).expect("starts");
        let events = network.subscribe_engine().await;
        network.dial(victim.address().await).await.expect("dials");
        Self { network, events, token }
    }

    /// Waits until the victim listens to a topic.
    async fn is_heard(&mut self, topic: Topic) -> PeerId {
        within("a subscription", async {
            loop {
                match self.events.recv().await.expect("the network runs") {
                    EngineEvent::Subscribed(peer, joined) if joined == topic => return peer,
                    _ => {}
                }
            }
        })
        .await
    }

    async fn is_disconnected(&mut self) {
        within("a closed connection", async {
            while !matches!(self.events.recv().await, Some(EngineEvent::Disconnected(_))) {}
        })
        .await;
    }
}

/// A chain of one validator, and the attacker's bytes on a topic: after `strikes` messages the
/// victim has hung up, and still decides blocks.
async fn hung_up_after(strikes: usize, topic: Topic, bytes: impl Fn(usize, &Disk) -> Vec<u8>) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(0, &validators(1));
    let victim = Node::start(&disk, directory.path(), Vec::new());
    disk.reached(2).await;
    let mut attacker = Attacker::meet(&victim).await;
    attacker.is_heard(topic).await;
    for number in 0..strikes {
        attacker.network.publish(topic, bytes(number, &disk)).await;
    }
    attacker.is_disconnected().await;
    let stats = victim.network.stats();
    assert!(stats.gossip_rejected >= 2 && stats.faults >= 2, "{stats:?}");
    assert!(stats.disconnected >= 1 || stats.banned >= 1, "{stats:?}");

    // Coming back is refused, and costs.
    let faults = victim.network.stats().faults;
    attacker.network.dial(victim.address().await).await.expect("dials");
    attacker.is_disconnected().await;
    assert!(victim.network.stats().faults > faults);

    disk.reached(disk.ledger.height() + 3).await;
    disk.ledger.verified_hashes();
    attacker.token.cancel();
    victim.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_gossip_is_refused_counted_and_penalised() {
    for topic in [Topic::Consensus, Topic::Liveness, Topic::Parts, Topic::Status] {
        hung_up_after(3, topic, |number, _| vec![0xff; number + 1]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_in_another_validators_name_is_refused() {
    let forged = |number: usize, disk: &Disk| {
        let vote = consensus::Vote {
            height: Height::new(disk.ledger.height() + 1),
            round: u32::try_from(number).expect("small"),
            kind: VoteKind::Precommit,
            block: None,
            validator: consensus_key(0).public().validator_id(),
        };
        // Signed, but with a key of the attacker's own.
        let signature = consensus_key(9).sign(Namespace::Vote, &chain(), &codec::encode(&vote));
        let message: SignedConsensusMsg<AyniContext> =
            SignedConsensusMsg::Vote(SignedMessage::new(Vote::new(vote), Signature(signature)));
        EngineCodec.encode(&message).expect("encodes").to_vec()
    };
    hung_up_after(3, Topic::Consensus, forged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_cannot_exchange_the_bytes_under_a_proposers_signature() {
    let exchanged = |number: usize, disk: &Disk| {
        let decided = disk.ledger.blocks().pop().expect("decided blocks");
        let mut block: Block = codec::decode(&decided.block).expect("a block");
        let offer = BodyOffer {
            height: block.header.height,
            round: u32::try_from(number).expect("small"),
            block: block.header.hash(),
        };
        // An honest signature of the proposer over an honest header, with other contents.
        let signature =
            consensus_key(0).sign(Namespace::ProposalPart, &chain(), &codec::encode(&offer));
        block.parent_certificate = None;
        let body = ProposalBody {
            offer,
            proposer: consensus_key(0).public().validator_id(),
            block: codec::encode(&block),
            signature,
        };
        EngineCodec.encode(&Part::new(body)).expect("encodes").to_vec()
    };
    hung_up_after(3, Topic::Parts, exchanged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_sync_requests_get_no_answer_and_cost_score() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(0, &validators(1));
    let victim = Node::start(&disk, directory.path(), Vec::new());
    disk.reached(2).await;
    let mut attacker = Attacker::meet(&victim).await;
    let peer = attacker.is_heard(Topic::Status).await;
    let mut waiting = std::collections::BTreeSet::new();
    for length in [0_usize, 1, 64, 65, 100_000] {
        waiting.insert(attacker.network.sync_request(peer, vec![0xff; length]).await);
    }
    within("failures", async {
        while !waiting.is_empty() {
            match attacker.events.recv().await.expect("the network runs") {
                EngineEvent::SyncFailed { id, .. } => {
                    waiting.remove(&id);
                }
                EngineEvent::SyncResponse { .. } => panic!("an answer to nonsense"),
                _ => {}
            }
        }
    })
    .await;
    assert!(victim.network.stats().faults >= 3, "{:?}", victim.network.stats());
    disk.reached(disk.ledger.height() + 3).await;
    attacker.token.cancel();
    victim.stop().await;
}
