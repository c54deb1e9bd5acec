//! Peers that offer snapshots which they cannot prove, or bytes that are not the snapshot's: they
//! are passed over and banned, and the next one is asked.

use std::time::Duration;

use ayni_daemon::network::wire::BLOB_PROTOCOL;
use ayni_daemon::network::{
    self, BridgeAnswer, MetaRequest, MetaResponse, NetworkConfig, NetworkEvent, NetworkHandle,
    SnapshotAnswer, SnapshotOffer,
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, StreamProtocol};
use protocol::amount::{Height, TimestampMs, VotingPower};
use protocol::block::Header;
use protocol::codec;
use protocol::consensus::{
    CommitCertificate, CommitSignature, Validator, ValidatorSet, Vote, VoteKind,
};
use protocol::ids::{Beacon, BlockHash, ChainId, ContentHash, StateRoot};
use protocol::keys::{Namespace, SecretKey};
use protocol::proof::Bridge;
use protocol::proof::snapshot::committed_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::join::{INTERVAL, JOINED, Net, equal_roots, pruning};
use crate::node::{node_key, within};
use crate::process::{Daemon, secrets};

/// A height that no honest node has reached.
const FALSE_HEIGHT: u64 = 10_000;

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Offers a snapshot, and its proof is signed by a set of its own.
    Forges,
    /// Offers a snapshot, and its proof goes nowhere.
    Stops,
    /// Offers a snapshot, and does not answer any more.
    IsSilent,
    /// Offers what an honest node offers, with its proof, and sends other bytes.
    SendsGarbage,
}

/// A proof of the false snapshot, signed by one who is nobody.
fn forged(chain: ChainId) -> Bridge {
    let key = SecretKey::from_seed(&[77; 32]);
    let validators =
        ValidatorSet::new(vec![Validator { key: key.public(), power: VotingPower::new(1) }])
            .expect("a set");
    let validator = key.public().validator_id();
    let header = Header {
        chain,
        rules_version: 1,
        height: committed_at(Height::new(FALSE_HEIGHT)),
        proposer: validator,
        time: TimestampMs::new(1),
        parent: BlockHash::default(),
        parent_certificate: ContentHash::default(),
        transactions: ContentHash::default(),
        state: StateRoot::default(),
        next_validators: validators.hash(),
        beacon: Beacon::default(),
        beacon_proof: Vec::new(),
        snapshot: Some(ContentHash::of(b"false")),
    };
    let (height, block) = (header.height, header.hash());
    let vote = Vote { height, round: 0, kind: VoteKind::Precommit, block: Some(block), validator };
    let signature = key.sign(Namespace::Vote, &chain, &codec::encode(&vote));
    let signatures = vec![CommitSignature { validator, signature }];
    Bridge {
        validators,
        header,
        certificate: CommitCertificate { height, round: 0, block, signatures },
    }
}

struct Liar {
    network: NetworkHandle,
    address: String,
}

impl Liar {
    async fn start(
        number: u8,
        lie: Lie,
        chain: ChainId,
        honest: &[String],
        tracker: &TaskTracker,
        token: &CancellationToken,
    ) -> Self {
        let bootstrap = honest.iter().map(|address| address.parse().expect("an address")).collect();
        let config = NetworkConfig { bootstrap, ..NetworkConfig::loopback(chain) };
        let network = network::start(config, &node_key(number), tracker, token.clone());
        let network = network.expect("starts");
        let mut events = network.subscribe().await;
        let honest = within("the honest node and an address", async {
            let mut peer = None;
            loop {
                if let Some(NetworkEvent::Connected(found)) = events.recv().await {
                    peer = Some(found);
                }
                let listens = network.listeners().await;
                if let (Some(peer), Some(address)) = (peer, listens.first()) {
                    return (peer, address.to_string());
                }
            }
        });
        let (honest, address) = honest.await;
        network.set_tip(Height::new(FALSE_HEIGHT + 10)).await;
        if lie == Lie::SendsGarbage {
            tracker.spawn(send_garbage(network.clone(), token.clone()));
        }
        let liar = network.clone();
        tracker.spawn(async move {
            while let Some(event) = events.recv().await {
                let NetworkEvent::AsksLedger { id, request, .. } = event else { continue };
                if let Some(answer) = answer(&liar, lie, chain, honest, request).await {
                    liar.respond(id, answer).await;
                }
            }
        });
        Self { network, address }
    }
}

async fn answer(
    network: &NetworkHandle,
    lie: Lie,
    chain: ChainId,
    honest: PeerId,
    request: MetaRequest,
) -> Option<MetaResponse> {
    if lie == Lie::SendsGarbage {
        return network.request(honest, request).await.ok();
    }
    let offer = SnapshotOffer {
        height: Height::new(FALSE_HEIGHT),
        hash: ContentHash::of(b"false"),
        bytes: 1_000,
    };
    Some(match (request, lie) {
        (MetaRequest::Snapshot, _) => {
            MetaResponse::Snapshot(SnapshotAnswer { first: Height::new(1), offer: Some(offer) })
        }
        (_, Lie::IsSilent) => return None,
        (_, Lie::Forges) => {
            MetaResponse::Bridges(BridgeAnswer::Page { start: None, bridges: vec![forged(chain)] })
        }
        _ => MetaResponse::Bridges(BridgeAnswer::Page { start: None, bridges: Vec::new() }),
    })
}

/// Answers every blob request with a hundred bytes of its own.
async fn send_garbage(network: NetworkHandle, token: CancellationToken) {
    let protocol = StreamProtocol::new(BLOB_PROTOCOL);
    let mut incoming = network.streams().accept(protocol).expect("nobody else serves");
    while let Some(Some((_, mut stream))) = token.run_until_cancelled(incoming.next()).await {
        let mut request = [0; 4 + 32];
        if stream.read_exact(&mut request).await.is_ok() {
            // Found, 100 bytes; then the part.
            let found = [2, 0, 0, 0, 1, 100];
            let part = [&[100, 0, 0, 0][..], &[7; 100]].concat();
            let sent = stream.write_all(&[&found[..], &part].concat()).await;
            // The victim may hang up in the middle.
            if sent.is_ok() && stream.close().await.is_err() {
                continue;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn liars_are_passed_over_for_the_next_peer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(5);
    let mut net = Net::start(folder.path(), "liars", &keys[..1]).await;
    net.reach(3 * INTERVAL).await;
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let chain = net.genesis.chain_id();
    // What the victim says of each; whoever sends garbage may not be asked for the bytes.
    let lies = [
        (Lie::Forges, "the set is forged"),
        (Lie::Stops, "proof stops at height 0"),
        (Lie::IsSilent, "no answer"),
        (Lie::SendsGarbage, JOINED),
    ];
    for ((number, (lie, said)), keys) in (60_u8..).zip(lies).zip(&keys[1..]) {
        let liar = Liar::start(number, lie, chain, &net.addresses, &tracker, &token).await;
        let mut told = pruning();
        told.network.persistent_peers = vec![liar.address.clone()];
        told.network.persistent_peers.extend(net.addresses.clone());
        let root = folder.path().join(format!("victim-{number}"));
        let mut victim = Daemon::new(&root, keys, told, Some(net.genesis.clone()));
        let status = victim.start().await;
        let log = victim.log();
        assert!(log.contains(said) && log.contains(JOINED), "{lie:?}: {log}");
        assert!(status.height >= Height::new(INTERVAL), "{lie:?}");
        assert!(status.height < Height::new(FALSE_HEIGHT), "{lie:?}");
        victim.until("a block", |s| s.height > status.height).await;
        equal_roots(&net.nodes[0], &victim).await;
        let peer = liar.network.local_peer().to_string();
        let peers = victim.client.peers().await.expect("it runs").peers;
        let is_connected = peers.iter().any(|other| other.peer_id == peer);
        assert!(lie != Lie::Forges || !is_connected, "the forger is banned: {peers:?}");
        victim.stop().await;
    }
    net.stop().await;
    token.cancel();
    tracker.close();
    tokio::time::timeout(Duration::from_secs(30), tracker.wait()).await.expect("liars end");
}
