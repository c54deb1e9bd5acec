//! Whether a node that is behind gets to the front: replay of its own log, and blocks from peers.
//!
//! Both are done on the chain that the saturated run has made, by the daemon's own code, and their
//! speed is that of its transfers. A node whose state is gone opens its ledger: every block is
//! read, decoded and applied again. A fifth node that knows the genesis and nothing else fetches
//! all blocks from the validators, which go on meanwhile.
//!
//! **Invariant.** A speed is given only if the node ended with the chain's own block at its tip.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::amount::Height;
use protocol::api::BlocksQuery;
use serde::Serialize;
use tokio::time::sleep;

use crate::bench::process::cpu;
use crate::network::process::NodeProcess;
use crate::network::{PATIENCE, Validators};

/// How often a node is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);
/// The follower must get on within this, or it is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// The validator whose state is built again.
const REPLAYED: usize = 1;

/// How fast one way of catching up was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CatchingUp {
    /// Blocks that were caught up with.
    pub(super) blocks: u64,
    /// Transfers in them.
    pub(super) transactions: u64,
    /// Seconds from the start of the process, with connecting and all else.
    pub(super) seconds_from_start: f64,
    /// Seconds of the work itself.
    pub(super) seconds: f64,
    /// Transfers a second.
    pub(super) tx_per_s: f64,
    /// Blocks a second.
    pub(super) blocks_per_s: f64,
    /// CPU time of the process until it had caught up, over the transfers.
    pub(super) cpu_us_per_tx: Option<f64>,
    /// Its speed over that of the saturated chain. Aim: above 1.
    pub(super) over_chain: f64,
}

/// What is caught up with.
struct Chain {
    tip: Height,
    /// Transfers by height, from 1 on.
    transactions: Vec<u64>,
    tx_per_s: f64,
}

/// Measures both, on a network at rest. `tx_per_s` is the saturated chain's own speed.
pub(super) async fn measure(
    network: &mut Validators,
    tx_per_s: f64,
) -> Result<(CatchingUp, CatchingUp)> {
    let chain = Chain::read(&network.nodes[0], tx_per_s).await?;
    eprintln!("bench ledger: a node without state replays {} blocks", chain.tip);
    let replay = replay(network, &chain).await.context("replay")?;
    eprintln!("bench ledger: a new node fetches {} blocks", chain.tip);
    let sync = sync(network, &chain).await.context("block sync")?;
    network.check_agreement().await?;
    Ok((replay, sync))
}

impl Chain {
    async fn read(node: &NodeProcess, tx_per_s: f64) -> Result<Self> {
        let tip = node.client.status().await?.height;
        let mut transactions = Vec::new();
        while (transactions.len() as u64) < tip.get() {
            let from = Height::new(transactions.len() as u64 + 1);
            let query = BlocksQuery { from: Some(from), limit: Some(BlocksQuery::LIMIT_MAX) };
            let page = node.client.blocks(query).await?.blocks;
            ensure!(!page.is_empty(), "{} does not list block {from}", node.name());
            for block in page {
                if block.height.get() == transactions.len() as u64 + 1 {
                    transactions.push(u64::from(block.transactions));
                }
            }
        }
        Ok(Self { tip, transactions, tx_per_s })
    }

    /// Transfers above a height, up to the tip.
    fn above(&self, height: Height) -> u64 {
        let skipped = usize::try_from(height.get()).unwrap_or(usize::MAX);
        let upto = usize::try_from(self.tip.get()).unwrap_or(usize::MAX);
        self.transactions.iter().take(upto).skip(skipped).sum()
    }

    fn figures(
        &self,
        from: Height,
        total: Duration,
        work: Duration,
        used: Duration,
    ) -> Result<CatchingUp> {
        let (blocks, transactions) = (self.tip.get() - from.get(), self.above(from));
        ensure!(transactions > 0, "there was nothing to catch up with above height {from}");
        let tx_per_s = transactions as f64 / work.as_secs_f64();
        Ok(CatchingUp {
            blocks,
            transactions,
            seconds_from_start: total.as_secs_f64(),
            seconds: work.as_secs_f64(),
            tx_per_s,
            blocks_per_s: blocks as f64 / work.as_secs_f64(),
            cpu_us_per_tx: Some(used.as_secs_f64() * 1e6 / self.above(Height::ZERO) as f64),
            over_chain: tx_per_s / self.tx_per_s,
        })
    }
}

/// The node's interface answers when its ledger is open, so the time until then is all replay and
/// some start besides, which counts against it.
async fn replay(network: &mut Validators, chain: &Chain) -> Result<CatchingUp> {
    let node = network.nodes.get_mut(REPLAYED).context("a network has nodes")?;
    node.stop().await?;
    for derived in ["state", "snapshots"] {
        let path = node.home.data().join(derived);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    let start = Instant::now();
    let status = node.start().await?;
    let took = start.elapsed();
    let used = cpu(node.pid().context("it runs")?)?;
    ensure!(status.height >= chain.tip, "it stopped at height {}", status.height);
    let figures = chain.figures(Height::ZERO, took, took, used)?;
    node.wait_status("its peers", PATIENCE, |status| status.peers > 0).await?;
    Ok(figures)
}

/// The clock of the work runs from the first block that the node has: before it lie connecting and
/// the wait for a neighbour to tell its height, which are as long for one block as for a million.
async fn sync(network: &mut Validators, chain: &Chain) -> Result<CatchingUp> {
    let node = network.add_follower()?;
    let start = Instant::now();
    let mut height = node.start().await?.height;
    let (mut first, mut moved) = (None, Instant::now());
    while height < chain.tip {
        ensure!(moved.elapsed() < STUCK, "it stopped at height {height}");
        sleep(LOOK).await;
        let now = node.client.status().await?.height;
        if now > height {
            (height, moved) = (now, Instant::now());
            first.get_or_insert((now, moved));
        }
    }
    let (from, begun) = first.context("it had all blocks from the beginning")?;
    let used = cpu(node.pid().context("it runs")?)?;
    ensure!(from < chain.tip, "the chain is too short to be measured: {} blocks", chain.tip);
    chain.figures(from, start.elapsed(), begun.elapsed(), used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_by_hand() {
        let chain =
            Chain { tip: Height::new(4), transactions: vec![10, 20, 30, 40, 50], tx_per_s: 25.0 };
        assert_eq!(chain.above(Height::ZERO), 100);
        assert_eq!(chain.above(Height::new(3)), 40);
        let (total, work) = (Duration::from_secs(9), Duration::from_secs(2));
        let figures =
            chain.figures(Height::new(1), total, work, Duration::from_millis(1)).expect("figures");
        assert_eq!((figures.blocks, figures.transactions), (3, 90));
        assert!((figures.tx_per_s - 45.0).abs() < 1e-9);
        assert!((figures.over_chain - 1.8).abs() < 1e-9);
        assert!(chain.figures(Height::new(4), total, work, work).is_err());
    }
}
