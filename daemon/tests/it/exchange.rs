//! The network without consensus: metadata, transactions, two transports, two chains.

use std::time::Duration;

use ayni_daemon::network::{
    self, Acceptance, MetaRequest, MetaResponse, NetworkConfig, NetworkEvent, NetworkHandle, Topic,
};
use libp2p::Multiaddr;
use protocol::amount::Height;
use protocol::ids::ChainId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::{chain, node_key, within};

struct Peer {
    network: NetworkHandle,
    events: mpsc::Receiver<NetworkEvent>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Peer {
    async fn start(number: u8, config: NetworkConfig) -> Self {
        let tracker = TaskTracker::new();
        let token = CancellationToken::new();
        let network =
            network::start(config, &node_key(number), &tracker, token.clone()).expect("starts");
        let events = network.subscribe().await;
        Self { network, events, tracker, token }
    }

    async fn address(&mut self) -> Multiaddr {
        self.until("an address", |event| matches!(event, NetworkEvent::Listening(_))).await;
        self.network.listeners().await.remove(0)
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        within(what, async {
            loop {
                let event = self.events.recv().await.expect("the network runs");
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
    }

    async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        within("an end of all tasks", self.tracker.wait()).await;
    }
}

fn connected(event: &NetworkEvent) -> bool {
    matches!(event, NetworkEvent::Connected(_))
}

async fn questions_are_answered(listen: &str) {
    let listen: Vec<Multiaddr> = vec![listen.parse().expect("an address")];
    let config = NetworkConfig { listen, ..NetworkConfig::loopback(chain()) };
    let mut server = Peer::start(1, config.clone()).await;
    let address = server.address().await;
    server.network.set_genesis(b"genesis".to_vec()).await;
    server.network.set_tip(Height::new(7)).await;
    let mut client = Peer::start(2, NetworkConfig { bootstrap: vec![address], ..config }).await;
    client.until("a connection", connected).await;
    let peer = server.network.local_peer();

    let genesis = client.network.request(peer, MetaRequest::Genesis).await;
    assert_eq!(genesis, Ok(MetaResponse::Genesis(Some(b"genesis".to_vec()))));
    let event =
        client.until("a status", |event| matches!(event, NetworkEvent::Status { .. })).await;
    let NetworkEvent::Status { status, .. } = event else { unreachable!("just matched") };
    assert_eq!((status.chain, status.tip), (chain(), Height::new(7)));

    let asked = MetaRequest::Block(Height::new(3));
    let request = client.network.request(peer, asked.clone());
    let answer = async {
        let event = server
            .until("a question", |event| matches!(event, NetworkEvent::AsksLedger { .. }))
            .await;
        let NetworkEvent::AsksLedger { id, request, .. } = event else {
            unreachable!("just matched")
        };
        assert_eq!(request, asked);
        server.network.respond(id, MetaResponse::Block(None)).await;
    };
    let (answered, ()) = tokio::join!(request, answer);
    assert_eq!(answered, Ok(MetaResponse::Block(None)));

    let infos = client.network.peers().await;
    assert_eq!(infos.len(), 1);
    assert!(infos[0].outbound && infos[0].agent.starts_with("aynid/"), "{infos:?}");
    client.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_over_quic_and_tcp() {
    questions_are_answered("/ip4/127.0.0.1/udp/0/quic-v1").await;
    questions_are_answered("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_forwarded_only_when_accepted() {
    let config = NetworkConfig::loopback(chain());
    let mut middle = Peer::start(1, config.clone()).await;
    let address = middle.address().await;
    // Two ends that would find one another if they were told of one another.
    let end = NetworkConfig { bootstrap: vec![address], peers_target: 0, ..config };
    let left = Peer::start(2, end.clone()).await;
    let mut right = Peer::start(3, end).await;
    for _ in 0..2 {
        middle.until("a connection", connected).await;
    }
    // One batch in two is refused in the middle. Batches go out until one arrives at the right:
    // the mesh is grafted some time after the connections.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut number = 0_u32;
    let arrived = within("a batch", async {
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let kind = if number.is_multiple_of(2) { "refused" } else { "accepted" };
                    let batch = format!("{kind} {number}").into_bytes();
                    left.network.publish(Topic::Transactions, batch).await;
                    number += 1;
                }
                event = middle.events.recv() => {
                    if let Some(NetworkEvent::Transactions(message)) = event {
                        let is_good = message.bytes.starts_with(b"accepted");
                        let verdict = if is_good { Acceptance::Accept } else { Acceptance::Ignore };
                        middle.network.validate(message.id, message.from, verdict).await;
                    }
                }
                event = right.events.recv() => {
                    if let Some(NetworkEvent::Transactions(message)) = event {
                        return message;
                    }
                }
            }
        }
    })
    .await;
    assert!(arrived.bytes.starts_with(b"accepted"));
    assert_eq!(arrived.from, middle.network.local_peer());
    assert_eq!(arrived.source, left.network.local_peer());
    left.stop().await;
    right.stop().await;
    middle.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_another_chain_are_disconnected() {
    let mut ours = Peer::start(1, NetworkConfig::loopback(chain())).await;
    let address = ours.address().await;
    let other = NetworkConfig {
        bootstrap: vec![address],
        ..NetworkConfig::loopback(ChainId::from_bytes([7; 32]))
    };
    let theirs = Peer::start(2, other).await;
    ours.until("a connection", connected).await;
    ours.until("an end", |event| matches!(event, NetworkEvent::Disconnected(_))).await;
    assert_eq!(ours.network.stats().faults, 0, "another chain is no crime");
    theirs.stop().await;
    ours.stop().await;
}
