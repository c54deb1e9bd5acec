//! Nodes that are killed with `kill -9` while blocks flow: nothing that one has told a client is
//! lost, it catches up, its state is that of the others, and nothing is signed twice.
//!
//! Where and when is drawn from a seed: `AYNI_SEED=7 cargo test --release kills` tries another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli::client::Client;
use protocol::amount::{Credits, Height};
use protocol::api::{SendRequest, TransactionReceipt};
use protocol::ids::{AccountId, StateRoot};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::process::{Daemon, config, genesis, secrets, tell};

/// Validators: with one of them down, the rest is just more than two thirds.
const NODES: usize = 4;
/// How often one is killed.
const KILLS: u64 = 20;
/// The seed, unless the environment has another.
const SEED: u64 = 1;
/// Blocks between a return and the next kill, at most.
const BLOCKS_BETWEEN_MAX: u64 = 4;
/// Then the kill comes within this time, anywhere in the making of a block.
const DELAY_MS_MAX: u64 = 400;
/// Pause of a sender whose node is down.
const PAUSE: Duration = Duration::from_millis(50);
/// All nodes must be seen at one height within this time.
const COMMON_MAX: Duration = Duration::from_secs(30);

/// Numbers drawn from the seed.
struct Draws {
    seed: u64,
    count: u64,
}

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.count += 1;
        let mut hasher = blake3::Hasher::new_derive_key("ayni kill test");
        hasher.update(&self.seed.to_le_bytes()).update(&self.count.to_le_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes) % bound
    }
}

/// Sends that were acknowledged as final.
type Receipts = Arc<Mutex<Vec<TransactionReceipt>>>;

/// Sends credits through one node for as long as the test lasts.
async fn send_on(client: Client, to: AccountId, receipts: Receipts, token: CancellationToken) {
    let request = SendRequest { to, amount_micro: Credits::from_micro(1) };
    while !token.is_cancelled() {
        match client.send(&request).await {
            Ok(receipt) => receipts.lock().await.push(receipt),
            // Its node is down.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The state root at the first height at which all nodes are seen.
async fn common_root(nodes: &[Daemon]) -> Height {
    let mut seen: BTreeMap<Height, BTreeMap<usize, StateRoot>> = BTreeMap::new();
    let look = async {
        loop {
            for (index, node) in nodes.iter().enumerate() {
                let Ok(status) = node.client.status().await else { continue };
                let at = seen.entry(status.height).or_default();
                at.insert(index, status.state_root);
                if at.len() == nodes.len() {
                    return status.height;
                }
            }
        }
    };
    let found = tokio::time::timeout(COMMON_MAX, look).await;
    let Ok(height) = found else {
        let heights: Vec<_> = seen.iter().map(|(h, at)| (h.get(), at.len())).collect();
        panic!("the nodes are never at one height: {heights:?}")
    };
    let roots: Vec<_> = seen[&height].values().collect();
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "roots at {height}: {roots:?}");
    height
}

async fn start_network(folder: &std::path::Path) -> Vec<Daemon> {
    let secrets = secrets(NODES);
    let genesis = genesis("kills", &secrets);
    let mut nodes: Vec<Daemon> = Vec::new();
    let mut addresses = Vec::new();
    for (index, keys) in secrets.iter().enumerate() {
        let mut config = config();
        config.network.persistent_peers.clone_from(&addresses);
        let root = folder.join(format!("node-{index}"));
        let mut node = Daemon::new(&root, keys, config, Some(genesis.clone()));
        let listening = node.start().await;
        if addresses.is_empty() {
            addresses = if listening.listen.is_empty() {
                node.until("an address", |status| !status.listen.is_empty()).await.listen
            } else {
                listening.listen
            };
        }
        nodes.push(node);
    }
    for node in &nodes {
        node.until("its peers", has_all_peers).await;
    }
    nodes
}

fn has_all_peers(status: &protocol::api::Status) -> bool {
    usize::try_from(status.peers).is_ok_and(|peers| peers + 1 == NODES)
}

/// What one node sends is final on the others: they hear it, and it hears them.
async fn is_heard(nodes: &[Daemon], index: usize) {
    let other = &nodes[(index + 1) % nodes.len()];
    let request = SendRequest { to: other.identity.account, amount_micro: Credits::from_micro(1) };
    let receipt = nodes[index].client.send(&request).await.expect("a final send");
    other.until("the send", |status| status.height >= receipt.height).await;
}

/// Kills one node and follows its return; how often its guard refused since the start before.
async fn kill_and_return(nodes: &mut [Daemon], victim: usize, delay: Duration) -> u64 {
    let others: Vec<usize> = (0..nodes.len()).filter(|index| *index != victim).collect();
    // Ports change with every start, so the returning node is told where two others are.
    let mut told = config();
    for other in others.iter().take(2) {
        let status = nodes[*other].client.status().await.expect("it runs");
        told.network.persistent_peers.extend(status.listen);
    }
    sleep(delay).await;
    let told_height = nodes[victim].client.status().await.expect("it runs");
    nodes[victim].kill().await;
    nodes[victim].configure(&told);

    let back = nodes[victim].start().await;
    assert!(
        back.height >= told_height.height,
        "node {victim} said {} and came back at {}",
        told_height.height,
        back.height
    );
    let next = told_height.height.plus(1);
    let ahead = nodes[others[0]].until("a block more", |status| status.height >= next).await;
    nodes[victim].until("what it missed", |status| status.height >= ahead.height).await;
    nodes[victim].until("its peers", has_all_peers).await;
    is_heard(nodes, victim).await;
    told_height.double_sign_refusals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_come_back_with_everything_that_they_told() {
    let seed = std::env::var("AYNI_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(SEED);
    tell(&format!("AYNI_SEED={seed}"));
    let mut draws = Draws { seed, count: 0 };
    let started = Instant::now();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut nodes = start_network(folder.path()).await;
    tell(&format!("{:.1} s: all nodes are connected", started.elapsed().as_secs_f32()));

    let receipts = Receipts::default();
    let token = CancellationToken::new();
    let senders: Vec<_> = (0..NODES)
        .map(|index| {
            let to = nodes[(index + 1) % NODES].identity.account;
            let client = nodes[index].client.clone();
            tokio::spawn(send_on(client, to, Arc::clone(&receipts), token.clone()))
        })
        .collect();

    let mut refusals = 0;
    for kill in 1..=KILLS {
        let victim = usize::try_from(draws.below(4)).expect("less than four");
        let blocks = draws.below(BLOCKS_BETWEEN_MAX);
        let delay = Duration::from_millis(draws.below(DELAY_MS_MAX));
        let now = nodes[victim].client.status().await.expect("it runs").height;
        nodes[victim].until("blocks", |status| status.height >= now.plus(blocks)).await;
        let since = Instant::now();
        refusals += kill_and_return(&mut nodes, victim, delay).await;
        let height = common_root(&nodes).await;
        tell(&format!(
            "{:.1} s: kill {kill}: node {victim}, {} ms in; back after {:.1} s; one root at {height}",
            started.elapsed().as_secs_f32(),
            delay.as_millis(),
            since.elapsed().as_secs_f32(),
        ));
    }

    token.cancel();
    for sender in senders {
        sender.await.expect("a sender does not panic");
    }
    let receipts = receipts.lock().await;
    assert!(!receipts.is_empty(), "transactions flowed");
    let height = common_root(&nodes).await;
    for node in &nodes {
        let audit = node.client.audit().await.expect("it runs");
        assert!(audit.credits_conserved, "{audit:?}");
        assert_eq!(audit.double_signs, 0);
        refusals += node.client.status().await.expect("it runs").double_sign_refusals;
        for receipt in receipts.iter() {
            let block = node.client.block(receipt.height).await.expect("a final block");
            let has_it = block.transactions.iter().any(|t| t.hash == receipt.transaction);
            assert!(has_it, "what was final at {} is gone", receipt.height);
        }
    }
    tell(&format!(
        "{KILLS} kills in {:.1} s: height {height}, {} sends, {refusals} signatures refused",
        started.elapsed().as_secs_f32(),
        receipts.len(),
    ));
    for node in &mut nodes {
        node.stop().await;
    }
}

/// A node whose disk was restored from an old copy has forgotten what it voted on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_lost_blocks_does_not_vote_before_it_has_caught_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut nodes = start_network(folder.path()).await;
    let first = nodes[0].client.status().await.expect("it runs").listen;
    let before = nodes[3].until("blocks", |status| status.height >= Height::new(4)).await;
    nodes[3].stop().await;
    let segments = std::fs::read_dir(nodes[3].home.data().join("blocks")).expect("the log");
    let path = segments.map(|entry| entry.expect("readable").path()).max().expect("a segment");
    let log = std::fs::read(&path).expect("the log");
    std::fs::write(&path, &log[..log.len() / 2]).expect("writable");
    nodes[3].configure(&config());
    // With nobody to catch up from, it stays silent.
    let status = nodes[3].start().await;
    assert!(status.height < before.height, "blocks are lost");
    let silent = |warnings: &[String]| warnings.iter().any(|w| w.contains("not voting until"));
    nodes[3].until("silence", |status| silent(&status.warnings)).await;
    // The wait is remembered, however often it is killed.
    nodes[3].kill().await;
    let mut told = config();
    told.network.persistent_peers = first;
    nodes[3].configure(&told);
    nodes[3].start().await;
    nodes[3].until("its vote", |s| s.height > before.height && !silent(&s.warnings)).await;
    common_root(&nodes).await;
    for node in &mut nodes {
        node.stop().await;
    }
}
