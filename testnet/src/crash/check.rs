//! What must hold when the storm is over: asked of the nodes, then read from their disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use protocol::amount::Height;
use protocol::block::Block;
use protocol::codec;
use protocol::ids::{BlockHash, TransactionHash, ValidatorId};
use storage::BlockLog;
use tokio::time::sleep;

use super::storm::{NODES, Storm};
use crate::network::PATIENCE;
use crate::network::process::{LOOK, NodeProcess};

/// How a guard's refusal stands in a node's log.
const REFUSAL: &str = "refused to sign twice";
/// How a panic stands in it.
const PANIC: &str = "panicked at";

/// Waits until nothing is pending, every validator votes and all nodes are seen at one height;
/// compares their roots there.
pub(super) async fn at_rest(storm: &mut Storm) -> Result<()> {
    let nodes = &storm.network.nodes;
    for node in nodes {
        node.wait_status("an empty pool", PATIENCE, |s| s.mempool_transactions == 0).await?;
    }
    everybody_votes(nodes, &storm.validators).await?;
    storm.report.nodes = NODES as u64;
    storm.report.nodes_with_one_root = same_roots(nodes).await?;
    for node in nodes {
        let audit = node.client.audit().await?;
        storm.report.nodes_conserving += u64::from(audit.credits_conserved);
        storm.report.double_signs_on_chain =
            storm.report.double_signs_on_chain.max(audit.double_signs);
    }
    Ok(())
}

/// A validator that came back must sign again. Certificates hold the first signatures that came,
/// so it may take some blocks until each is seen.
async fn everybody_votes(nodes: &[NodeProcess], validators: &[ValidatorId]) -> Result<()> {
    let first = nodes.first().context("a network has nodes")?;
    let mut silent: BTreeSet<ValidatorId> = validators.iter().copied().collect();
    let mut next = first.client.status().await?.height;
    let deadline = Instant::now() + PATIENCE;
    while !silent.is_empty() {
        if Instant::now() > deadline {
            bail!("{} of {NODES} validators sign no more: {silent:?}", silent.len());
        }
        if first.client.status().await?.height < next {
            sleep(LOOK).await;
            continue;
        }
        for signer in first.client.block(next).await?.signers {
            silent.remove(&signer.validator);
        }
        next = next.plus(1);
    }
    Ok(())
}

/// How many nodes hold the most common root, at the first height at which all of them are seen.
async fn same_roots(nodes: &[NodeProcess]) -> Result<u64> {
    let mut seen: BTreeMap<Height, BTreeMap<usize, protocol::ids::StateRoot>> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < deadline, "the nodes are never seen at one height");
        let asked = nodes.iter().map(|node| node.client.status());
        for (node, status) in nodes.iter().zip(futures::future::join_all(asked).await) {
            let status = status?;
            let at = seen.entry(status.height).or_default();
            at.insert(node.index, status.state_root);
            if at.len() < nodes.len() {
                continue;
            }
            let mut counts: BTreeMap<_, u64> = BTreeMap::new();
            at.values().for_each(|root| *counts.entry(*root).or_default() += 1);
            return Ok(counts.into_values().max().unwrap_or_default());
        }
    }
}

/// Holds everything that was said to what lies on the disks of the stopped nodes.
pub(super) fn offline(storm: &mut Storm) -> Result<()> {
    let chain = storm.network.genesis.chain_id();
    // All guards before the first certificate, which is compared with them.
    for (node, validator) in storm.network.nodes.iter().zip(&storm.validators) {
        storm.signatures.read(&node.home, *validator, &chain)?;
        let log = std::fs::read_to_string(node.home.log())?;
        storm.report.signatures_refused += log.matches(REFUSAL).count() as u64;
        storm.report.panics += log.matches(PANIC).count() as u64;
    }
    let mut held = Held::default();
    for index in 0..storm.network.nodes.len() {
        read_log(storm, index, &mut held)?;
        let node = &storm.network.nodes[index];
        let found = storage::check::check(&node.home.data(), &chain)?;
        storm.report.nodes_whole += u64::from(found.problems.is_empty());
        let problems = found.problems.into_iter().map(|p| format!("{}: {p}", node.name()));
        storm.report.failures.extend(problems);
    }
    compare(storm, &held);
    let signatures = &storm.signatures;
    storm.report.signatures = signatures.count();
    storm.report.signatures_conflicting = signatures.conflicts.len() as u64;
    storm.report.signatures_unrecorded = signatures.unrecorded.len() as u64;
    storm.report.failures.extend(signatures.conflicts.iter().cloned());
    let unrecorded = signatures.unrecorded.iter().map(|(validator, height, round)| {
        format!("{validator} signed a precommit at height {height}, round {round} unrecorded")
    });
    storm.report.failures.extend(unrecorded);
    Ok(())
}

/// What the block logs hold, all nodes together.
#[derive(Default)]
struct Held {
    blocks: BTreeMap<Height, BlockHash>,
    transactions: BTreeMap<TransactionHash, Height>,
}

/// Reads a node's block log; verifies every certificate in it.
fn read_log(storm: &mut Storm, index: usize, held: &mut Held) -> Result<()> {
    let node = &storm.network.nodes[index];
    let chain = storm.network.genesis.chain_id();
    // Nobody stakes or unstakes in a storm, so the set is that of the genesis all the time.
    let validators = storm.network.genesis.validators()?;
    let (log, _) = BlockLog::open(&node.home.data(), &chain)
        .with_context(|| format!("the block log of {}", node.name()))?;
    let first = log.first().context("a chain has blocks")?;
    for decided in log.range(first, u64::MAX) {
        let decided = decided?;
        let block: Block = codec::decode(&decided.block)?;
        let (height, hash) = (decided.certificate.height, decided.certificate.block);
        for certificate in [Some(&decided.certificate), block.parent_certificate.as_ref()] {
            let Some(certificate) = certificate else { continue };
            certificate
                .verify(&chain, &validators)
                .with_context(|| format!("a certificate at height {height} of {}", node.name()))?;
            storm.signatures.certificate(certificate);
        }
        if *held.blocks.entry(height).or_insert(hash) != hash {
            storm.report.forks += 1;
            storm.report.failures.push(format!("{} has another block {height}", node.name()));
            continue;
        }
        for transaction in &block.transactions {
            held.transactions.insert(transaction.hash(), height);
        }
    }
    storm.report.height = held.blocks.last_key_value().map_or(0, |(height, _)| height.get());
    Ok(())
}

fn compare(storm: &mut Storm, held: &Held) {
    let told = storm.told.borrow();
    let report = &mut storm.report;
    report.blocks_told = told.news;
    report.forks += told.contradictions.len() as u64;
    report.failures.extend(told.contradictions.iter().cloned());
    for (height, hash) in &told.blocks {
        if held.blocks.get(height) != Some(hash) {
            report.blocks_lost += 1;
            report.failures.push(format!("block {height} was told as {hash}, and is gone"));
        }
    }
    report.transfers_final = told.finals.len() as u64;
    report.transfers_accepted = told.accepted.len() as u64;
    for receipt in &told.finals {
        if held.transactions.get(&receipt.transaction) != Some(&receipt.height) {
            report.transfers_lost += 1;
            let (transaction, height) = (receipt.transaction, receipt.height);
            report.failures.push(format!("{transaction} was told final at {height}, and is not"));
        }
    }
    for transaction in &told.accepted {
        if !held.transactions.contains_key(transaction) {
            report.transfers_lost += 1;
            report.failures.push(format!("{transaction} was accepted, and is in no block"));
        }
    }
}
