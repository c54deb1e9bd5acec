//! From what was seen to figures: rates, percentiles, CPU time and disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::amount::Height;
use protocol::ids::TransactionHash;

use super::load::{Observed, Told};
use super::report::Figures;
use crate::bench::process::cpu;
use crate::network::Validators;

/// What the processes have used up to some moment.
#[derive(Clone, Debug)]
pub(super) struct Consumption {
    /// CPU time of each validator.
    validators: Vec<Duration>,
    /// CPU time of this process.
    generator: Duration,
    /// Bytes in the data folders of all validators together.
    disk: u64,
    /// Of those, bytes of the block logs.
    blocks: u64,
}

/// Reads what the validators and this process have used.
pub(super) fn read(network: &Validators) -> Result<Consumption> {
    let mut used = Consumption {
        validators: Vec::new(),
        generator: cpu(std::process::id())?,
        disk: 0,
        blocks: 0,
    };
    for node in &network.nodes {
        let pid = node.pid().with_context(|| format!("{} does not run", node.name()))?;
        used.validators.push(cpu(pid)?);
        let data = node.home.data();
        used.disk += folder_bytes(&data)?;
        used.blocks += folder_bytes(&data.join("blocks"))?;
    }
    Ok(used)
}

/// Bytes of all files below a folder. Files may come and go meanwhile.
fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => waiting.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    Ok(bytes)
}

/// The figures of a run; fetches the blocks after the clock has stopped.
pub(super) async fn figures(network: &Validators, observed: Observed) -> Result<Figures> {
    let Observed { sent, told, from, to, before, after } = observed;
    let measured: BTreeMap<Height, Told> = told[0]
        .iter()
        .filter(|(_, told)| (from..to).contains(&told.at))
        .map(|(height, told)| (*height, *told))
        .collect();
    let transactions: u64 = measured.values().map(|told| u64::from(told.transactions)).sum();
    let mut finality = Vec::new();
    let mut missing = sent.len();
    for (height, told_first) in &told[0] {
        if told_first.transactions == 0 {
            continue;
        }
        for transaction in network.nodes[0].client.block(*height).await?.transactions {
            let hash: TransactionHash = transaction.hash;
            let Some(sent) = sent.get(&hash) else { continue };
            missing -= 1;
            let at = told[sent.node].get(height).map_or(told_first.at, |told| told.at);
            if sent.at >= from && sent.at < to {
                finality.push(at.duration_since(sent.at));
            }
        }
    }
    ensure!(missing == 0, "{missing} transfers were sent and are in no block");
    finality.sort_unstable();
    let mut gaps: Vec<Duration> =
        measured.values().zip(measured.values().skip(1)).map(|(a, b)| b.at - a.at).collect();
    gaps.sort_unstable();
    let elapsed = to - from;
    let validators = after.validators.iter().zip(&before.validators).map(|(a, b)| *a - *b);
    let cpu: Duration = validators.sum();
    let count = network.nodes.len() as f64;
    let per = |value: f64, by: u64| if by == 0 { None } else { Some(value / by as f64) };
    let blocks = measured.len() as u64;
    let cpu_us = cpu.as_secs_f64() * 1e6 / count;
    let generator = after.generator - before.generator;
    Ok(Figures {
        seconds: elapsed.as_secs_f64(),
        blocks,
        transactions,
        blocks_per_s: blocks as f64 / elapsed.as_secs_f64(),
        tx_per_s: transactions as f64 / elapsed.as_secs_f64(),
        block_gap_p50_ms: percentile(&gaps, 50),
        block_gap_p99_ms: percentile(&gaps, 99),
        finality_p50_ms: percentile(&finality, 50),
        finality_p99_ms: percentile(&finality, 99),
        cpu_us_per_tx_and_validator: per(cpu_us, transactions),
        cpu_us_per_block_and_validator: per(cpu_us, blocks),
        cpu_cores_of_validators: cpu.as_secs_f64() / elapsed.as_secs_f64(),
        cpu_cores_of_generator: generator.as_secs_f64() / elapsed.as_secs_f64(),
        disk_bytes_per_tx_and_validator: per(
            after.disk.saturating_sub(before.disk) as f64 / count,
            transactions,
        ),
        block_log_bytes_per_tx: per(
            after.blocks.saturating_sub(before.blocks) as f64 / count,
            transactions,
        ),
    })
}

/// The value below which so many of a hundred lie, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last * percent / 100).map(|value| value.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_hand() {
        let sorted: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Some(51.0));
        assert_eq!(percentile(&sorted, 99), Some(100.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
