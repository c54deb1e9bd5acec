//! Nodes for the tests: a swarm on loopback with a store, honest or not.

use std::collections::BTreeSet;
use std::path::Path;

use futures::StreamExt;
use libp2p::{Multiaddr, Stream};
use protocol::blobs::wire::{Availability, BlobRequest, ItemHead, parts};
use protocol::ids::ChainId;
use protocol::keys::SecretKey;
use storage::blobs::encode_part;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::wire::{read_value, write_all, write_value};
use super::super::*;
use super::LONG;

/// What a hostile provider says it has.
pub(super) type Claim = fn(&ContentHash) -> Availability;
use crate::network::{self, NetworkConfig, NetworkEvent, NetworkStats};

/// A swarm and a store.
pub(super) struct Node {
    folder: TempDir,
    pub(super) network: NetworkHandle,
    pub(super) store: BlobStore,
    connected: watch::Receiver<BTreeSet<PeerId>>,
    tracker: TaskTracker,
    pub(super) token: CancellationToken,
}

impl Node {
    fn start(seed: u8) -> Self {
        Self::start_with(seed, NetworkConfig::loopback(ChainId::from_bytes([1; 32])))
    }

    fn start_with(seed: u8, config: NetworkConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let key = SecretKey::from_seed(&[seed; 32]);
        let network =
            network::start(config, &key, &tracker, token.clone()).expect("a swarm on loopback");
        let store = BlobStore::open(folder.path()).expect("a store");
        let (sender, connected) = watch::channel(BTreeSet::new());
        tracker.spawn(follow(network.clone(), sender, token.clone()));
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
        Self::start(seed).serve(config, policy)
    }

    /// A node that dials nobody on its own.
    pub(super) fn lonely(seed: u8) -> (Self, BlobService) {
        let config = NetworkConfig::loopback(ChainId::from_bytes([1; 32]));
        let node = Self::start_with(seed, NetworkConfig { peers_target: 0, ..config });
        node.serve(BlobConfig::default(), |_| true)
    }

    fn serve(
        self,
        config: BlobConfig,
        policy: impl Fn(&ContentHash) -> bool + Send + Sync + 'static,
    ) -> (Self, BlobService) {
        let node = self;
        let service = BlobService::start(
            config,
            node.store.clone(),
            node.network.clone(),
            Arc::new(policy),
            &node.tracker,
            node.token.clone(),
        )
        .expect("nobody else serves");
        (node, service)
    }

    /// A provider that serves each stream with `serve`.
    pub(super) fn hostile<F: Future<Output = ()> + Send + 'static>(
        seed: u8,
        serve: impl Fn(Stream, BlobStore) -> F + Send + 'static,
    ) -> Self {
        let node = Self::start(seed);
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
        files(&self.folder.path().join("blobs").join("partial"))
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

async fn follow(
    network: NetworkHandle,
    connected: watch::Sender<BTreeSet<PeerId>>,
    token: CancellationToken,
) {
    let mut events = network.subscribe().await;
    while let Some(Some(event)) = token.run_until_cancelled(events.recv()).await {
        if let NetworkEvent::Connected(peer) = event {
            connected.send_modify(|peers| {
                peers.insert(peer);
            });
        }
    }
}

/// Bytes without repetition.
pub(super) fn noise(seed: u8, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).expect("fits")];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Serves honestly but for `spoil`, which sees each part with its number on the stream, counted
/// from the last group. What it has, it says with `claim`.
pub(super) async fn serve_spoilt(
    mut stream: Stream,
    store: BlobStore,
    claim: impl Fn(&ContentHash) -> Availability + Send,
    spoil: impl Fn(usize, &mut Vec<u8>) + Send,
) -> Option<()> {
    let mut number = 0;
    loop {
        match read_value(&mut stream, LONG).await.ok()?? {
            BlobRequest::Have(hashes) => {
                let holdings = Holdings::new(hashes.iter().map(&claim));
                write_value(&mut stream, &holdings, LONG).await.ok()?;
            }
            BlobRequest::Get(items) => {
                for item in items {
                    let blob = store.open_for_serving(&item.hash).ok()?;
                    let size = blob.size();
                    write_value(&mut stream, &ItemHead::Found { size }, LONG).await.ok()?;
                    for part in parts(&item.want, size) {
                        let mut frame = Vec::new();
                        encode_part(&blob, part, &mut frame).ok()?;
                        spoil(number, &mut frame);
                        write_all(&mut stream, &frame, LONG).await.ok()?;
                        number += 1;
                    }
                }
            }
        }
    }
}

/// Waits until the swarm has dealt with what was reported before.
pub(super) async fn settled(network: &NetworkHandle) -> NetworkStats {
    network.peers().await;
    network.stats()
}
