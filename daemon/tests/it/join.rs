//! Nodes that start from a snapshot of their peers: proven, whole or not at all.

use std::path::Path;
use std::time::Duration;

use protocol::amount::Height;
use protocol::config::{ChainConfig, Config};
use protocol::home::NodeSecrets;
use protocol::ids::{BlockHash, StateRoot};
use protocol::ledger::genesis::Genesis;
use storage::BlockLog;
use tokio::time::{Instant, sleep};

use crate::process::{Daemon, config, genesis, secrets, tell};

/// Blocks between two snapshots, as in the tests' genesis.
pub(crate) const INTERVAL: u64 = 20;
/// What a node that joins by snapshot says when it has one.
pub(crate) const JOINED: &str = "starting from a snapshot";

/// A node that deletes old blocks. They come at a pace at which three intervals last longer than
/// the five seconds until a node is told of its neighbours' blocks.
pub(crate) fn pruning() -> Config {
    let mut config = config();
    config.chain.archive = false;
    config.chain.block_wait_ms = 200;
    config
}

/// Running validators, where the first can be reached, and what another node needs.
pub(crate) struct Net {
    pub(crate) nodes: Vec<Daemon>,
    pub(crate) genesis: Genesis,
    pub(crate) addresses: Vec<String>,
    config: Config,
}

impl Net {
    pub(crate) async fn start(folder: &Path, name: &str, secrets: &[NodeSecrets]) -> Self {
        Self::start_with(folder, name, secrets, pruning()).await
    }

    async fn start_with(
        folder: &Path,
        name: &str,
        secrets: &[NodeSecrets],
        config: Config,
    ) -> Self {
        let genesis = genesis(name, secrets);
        let mut net = Self { nodes: Vec::new(), genesis, addresses: Vec::new(), config };
        for (index, keys) in secrets.iter().enumerate() {
            let root = folder.join(format!("node-{index}"));
            let mut node = Daemon::new(&root, keys, net.told(), Some(net.genesis.clone()));
            node.start().await;
            let status = node.until("an address", |status| !status.listen.is_empty()).await;
            if index < 2 {
                net.addresses.extend(status.listen);
            }
            net.nodes.push(node);
        }
        net
    }

    /// A configuration that knows the first nodes.
    fn told(&self) -> Config {
        let mut config = self.config.clone();
        config.network.persistent_peers.clone_from(&self.addresses);
        config
    }

    pub(crate) async fn reach(&self, height: u64) {
        // Each interval may take its time.
        for step in (INTERVAL..=height).step_by(20) {
            for node in &self.nodes {
                node.until("blocks", |status| status.height >= Height::new(step)).await;
            }
        }
    }

    /// Waits until no node has block 1 any more.
    async fn pruned(&self) {
        for node in &self.nodes {
            let mut height = Height::ZERO;
            while node.client.block(Height::new(1)).await.is_ok() {
                let next = height.plus(1);
                height = node.until("a block", |status| status.height >= next).await.height;
                assert!(height < Height::new(10 * INTERVAL), "nothing is ever deleted");
            }
        }
    }

    pub(crate) async fn stop(&mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}

/// A node that catches up and one that goes on meet at a height within this time.
const EQUAL_MAX: Duration = Duration::from_secs(60);

/// The roots of two nodes at one height.
pub(crate) async fn equal_roots(a: &Daemon, b: &Daemon) {
    let mut seen: [Vec<(Height, StateRoot)>; 2] = [Vec::new(), Vec::new()];
    let deadline = Instant::now() + EQUAL_MAX;
    while Instant::now() < deadline {
        for (node, seen) in [a, b].iter().zip(&mut seen) {
            let status = node.client.status().await.expect("it runs");
            seen.push((status.height, status.state_root));
        }
        let (height, root) = *seen[1].last().expect("just seen");
        if let Some((_, other)) = seen[0].iter().find(|(at, _)| *at == height) {
            assert_eq!(root, *other, "roots at {height}");
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never seen at one height: {:?}", seen.map(|seen| seen.last().copied()));
}

/// The first block that a stopped node has.
fn first_block(node: &Daemon, genesis: &Genesis) -> Height {
    let (log, _) = BlockLog::open(&node.home.data(), &genesis.chain_id()).expect("a block log");
    log.first().expect("blocks")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_starts_from_a_snapshot_of_a_network_that_has_forgotten_its_beginning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(5);
    let mut net = Net::start(folder.path(), "join", &keys[..3]).await;
    net.reach(4 * INTERVAL).await;
    net.pruned().await;

    let root = folder.path().join("new");
    let mut new = Daemon::new(&root, &keys[3], net.told(), Some(net.genesis.clone()));
    let status = new.start().await;
    assert!(status.height >= Height::new(3 * INTERVAL), "it started at {}", status.height);
    assert!(new.log().contains(JOINED), "{}", new.log());
    new.until("the tip", |s| s.height >= status.height.plus(2 * INTERVAL)).await;
    equal_roots(&net.nodes[0], &new).await;
    assert!(new.client.audit().await.expect("it runs").credits_conserved);
    assert!(new.client.block(Height::new(INTERVAL)).await.is_err(), "it has the past");

    // It serves others as it was served: with the proof that it was given.
    let addresses = new.client.status().await.expect("it runs").listen;
    net.stop().await;
    let mut told = pruning();
    told.network.persistent_peers = addresses;
    let root = folder.path().join("newer");
    let mut newer = Daemon::new(&root, &keys[4], told, Some(net.genesis.clone()));
    let status = newer.start().await;
    assert!(newer.log().contains(JOINED), "{}", newer.log());
    assert!(status.height >= Height::new(3 * INTERVAL));
    newer.stop().await;
    new.stop().await;
    assert!(first_block(&new, &net.genesis) >= Height::new(3 * INTERVAL));
    tell(&format!("the new node began at block {}", first_block(&new, &net.genesis)));
}

/// Wherever it is killed on the way, the next start goes on or begins again, with a whole ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_joins_a_node_begins_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(2);
    let mut net = Net::start(folder.path(), "join-kills", &keys[..1]).await;
    net.reach(3 * INTERVAL).await;
    let root = folder.path().join("new");
    let mut new = Daemon::new(&root, &keys[1], net.told(), Some(net.genesis.clone()));
    let stages = ["looking for a snapshot", "a snapshot is proven", "verifying it", "prepared"];
    for stage in stages {
        new.start_until_log(stage).await;
        new.kill().await;
    }
    // And at moments that nobody chose.
    for delay_ms in [150_u64, 300, 450, 600] {
        new.spawn();
        sleep(Duration::from_millis(delay_ms)).await;
        new.kill().await;
    }
    new.start().await;
    let tip = net.nodes[0].client.status().await.expect("it runs").height;
    new.until("the tip", |status| status.height >= tip).await;
    equal_roots(&net.nodes[0], &new).await;
    assert!(!new.home.data().join("import").exists(), "something is half done");
    assert!(!new.home.data().join("joining").exists(), "the snapshot is kept twice");
    new.stop().await;
    net.stop().await;
    assert!(first_block(&new, &net.genesis) >= Height::new(INTERVAL));
    let blobs = storage::BlobStore::open(&new.home.data()).expect("the blobs");
    assert!(blobs.list().is_empty() && blobs.partials().is_empty(), "the snapshot is kept twice");
}

/// What the owner trusts is where proofs begin, and no chain without it is followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_block_must_be_in_the_chain() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(3);
    let archive = Config { chain: ChainConfig { archive: true, ..pruning().chain }, ..pruning() };
    let mut net = Net::start_with(folder.path(), "trusted", &keys[..1], archive).await;
    net.reach(3 * INTERVAL).await;
    let height = Height::new(10);
    let hash = net.nodes[0].client.block(height).await.expect("a block").summary.hash;
    let mut told = net.told();
    told.chain.archive = false;
    told.chain.trusted = Some(format!("{height}:{hash}"));
    let root = folder.path().join("right");
    let mut right = Daemon::new(&root, &keys[1], told.clone(), Some(net.genesis.clone()));
    let status = right.start().await;
    assert!(right.log().contains(JOINED), "{}", right.log());
    right.until("the tip", |s| s.height >= status.height.plus(INTERVAL)).await;
    equal_roots(&net.nodes[0], &right).await;
    right.stop().await;

    // Nothing that leads around it is believed, neither a snapshot nor the blocks.
    told.chain.trusted = Some(format!("{height}:{}", BlockHash::from_bytes([7; 32])));
    let root = folder.path().join("wrong");
    let wrong = Daemon::new(&root, &keys[2], told, Some(net.genesis.clone()));
    let (status, said) = wrong.refuses().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains(JOINED), "{said}");
    assert!(said.contains("no peer could give a snapshot"), "{said}");
    assert!(said.contains("`trusted` was typed wrongly"), "{said}");
    assert!(first_block(&wrong, &net.genesis) == Height::new(1));
    // A ledger that has the block is refused as well.
    net.stop().await;
    let mut other = pruning();
    other.chain.trusted = Some(format!("{height}:{}", BlockHash::from_bytes([7; 32])));
    net.nodes[0].configure(&other);
    let (_, said) = net.nodes[0].refuses().await;
    assert!(said.contains("block 10 of this ledger is"), "{said}");
}
