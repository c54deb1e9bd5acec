//! Nodes for the tests: a swarm on loopback with a store, honest or not.

use std::collections::BTreeSet;
use std::path::Path;

use libp2p::{Multiaddr, Stream};
use protocol::ids::ChainId;
use protocol::keys::SecretKey;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::wire::{BlobAnswer, BlobRequest, Part, read_value, write_frame, write_value};
use super::super::*;
use super::LONG;
use crate::network::{self, MetaResponse, NetworkConfig, NetworkEvent, NetworkStats};

/// A swarm that answers `HasBlobs`, and a store.
pub(super) struct Node {
    folder: TempDir,
    pub(super) network: NetworkHandle,
    pub(super) store: BlobStore,
    connected: watch::Receiver<BTreeSet<PeerId>>,
    tracker: TaskTracker,
    pub(super) token: CancellationToken,
}

impl Node {
    /// Answers with `has`, once there is something to answer with.
    fn start(seed: u8, has: watch::Receiver<Option<BlobService>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let config = NetworkConfig::loopback(ChainId::from_bytes([1; 32]));
        let key = SecretKey::from_seed(&[seed; 32]);
        let network =
            network::start(config, &key, &tracker, token.clone()).expect("a swarm on loopback");
        let store = BlobStore::open(folder.path()).expect("a store");
        let (sender, connected) = watch::channel(BTreeSet::new());
        tracker.spawn(answer(network.clone(), has, sender, token.clone()));
        Self { folder, network, store, connected, tracker, token }
    }

    pub(super) fn honest(seed: u8) -> (Self, BlobService) {
        Self::with(seed, BlobConfig::default(), |_| true)
    }

    pub(super) fn with(
        seed: u8,
        config: BlobConfig,
        policy: impl Fn(&ContentHash) -> bool + Send + Sync + 'static,
    ) -> (Self, BlobService) {
        let (sender, has) = watch::channel(None);
        let node = Self::start(seed, has);
        let service = BlobService::start_with(
            config,
            node.store.clone(),
            node.network.clone(),
            Arc::new(policy),
            &node.tracker,
            node.token.clone(),
        )
        .expect("nobody else serves");
        sender.send_replace(Some(service.clone()));
        (node, service)
    }

    /// A provider that says it has everything and serves each stream with `serve`.
    pub(super) fn hostile<F: Future<Output = ()> + Send + 'static>(
        seed: u8,
        serve: impl Fn(Stream, BlobStore) -> F + Send + 'static,
    ) -> Self {
        let (_, nothing) = watch::channel(None);
        let node = Self::start(seed, nothing);
        let mut incoming =
            node.network.streams().accept(StreamProtocol::new(BLOB_PROTOCOL)).expect("free");
        let (store, tracker) = (node.store.clone(), node.tracker.clone());
        let token = node.token.clone();
        node.tracker.spawn(async move {
            while let Some(Some((_, stream))) = token.run_until_cancelled(incoming.next()).await {
                let serving = serve(stream, store.clone());
                let token = token.clone();
                tracker.spawn(async move { token.run_until_cancelled(serving).await });
            }
        });
        node
    }

    pub(super) fn id(&self) -> PeerId {
        self.network.local_peer()
    }

    /// Dials and waits until both sides know of it.
    pub(super) async fn connect(&mut self, other: &mut Self) {
        let address = listening(&other.network).await;
        self.network.dial(address).await.expect("dialled");
        let (mine, theirs) = (self.id(), other.id());
        for (node, peer) in [(self, theirs), (other, mine)] {
            let seen = node.connected.wait_for(|peers| peers.contains(&peer));
            timeout(LONG, seen).await.expect("in time").expect("the node runs");
        }
    }

    pub(super) fn unfinished(&self) -> usize {
        files(&self.folder.path().join("blobs").join("tmp"))
    }

    pub(super) async fn stop(self) {
        self.token.cancel();
        self.tracker.close();
        timeout(LONG, self.tracker.wait()).await.expect("all tasks end");
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("listed").count()
}

/// An address of the node; its first events say when there is one.
async fn listening(network: &NetworkHandle) -> Multiaddr {
    timeout(LONG, async {
        loop {
            // Each question goes through the swarm task, which binds in the meantime.
            if let Some(address) = network.listeners().await.pop() {
                return address;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it listens")
}

async fn answer(
    network: NetworkHandle,
    has: watch::Receiver<Option<BlobService>>,
    connected: watch::Sender<BTreeSet<PeerId>>,
    token: CancellationToken,
) {
    let mut events = network.subscribe().await;
    while let Some(Some(event)) = token.run_until_cancelled(events.recv()).await {
        match event {
            NetworkEvent::Connected(peer) => connected.send_modify(|peers| {
                peers.insert(peer);
            }),
            NetworkEvent::HasBlobs { id, hashes, .. } => {
                let service = has.borrow().clone();
                let have = match service {
                    Some(service) => service.available(&hashes),
                    None => vec![true; hashes.len()],
                };
                network.respond(id, MetaResponse::HasBlobs(have)).await;
            }
            _ => {}
        }
    }
}

/// Bytes without repetition.
pub(super) fn noise(seed: u8, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).expect("fits")];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Serves honestly but for `spoil`, which sees each frame after the answer with its number.
pub(super) async fn serve_spoilt(
    mut stream: Stream,
    store: BlobStore,
    spoil: impl Fn(usize, &mut Vec<u8>) + Send,
) -> Option<()> {
    loop {
        let request: BlobRequest = read_value(&mut stream).await.ok()??;
        let blob = store.open_for_serving(&request.hash).ok()?;
        let size = blob.size();
        write_value(&mut stream, &BlobAnswer::Found { size }).await.ok()?;
        let mut parts = vec![Part::last(size)];
        let mut offset = request.offset;
        while let Some(part) = Part::at(offset, size) {
            offset = part.end;
            parts.push(part);
        }
        for (number, part) in parts.into_iter().enumerate() {
            let mut frame = serve::encode(&blob, part).ok()?;
            spoil(number, &mut frame);
            write_frame(&mut stream, &frame).await.ok()?;
        }
    }
}

/// Waits until the swarm has dealt with what was reported before.
pub(super) async fn settled(network: &NetworkHandle) -> NetworkStats {
    network.peers().await;
    network.stats()
}
