//! Reading everything in a data directory and comparing the stores with one another.
//!
//! Invariant: changes nothing that the node would not change by opening the directory. Deliberately
//! absent: applying rules; the state is compared with what headers commit, not computed again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use protocol::amount::Height;
use protocol::block::Header;
use protocol::ids::{BlockHash, ChainId, StateRoot};

use crate::block_log::{BlockLog, BlockLogError, Tip, repair::survey};
use crate::lock::DirectoryLock;
use crate::repair::{self, RepairError};
use crate::snapshot::Snapshots;
use crate::state::{LedgerState as _, StateStore};

/// What was found. Problems are sentences, the first thing wrong of each store.
#[derive(Debug, Default)]
pub struct Findings {
    /// First and last whole block.
    pub blocks: Option<(Height, Height)>,
    /// Hash of the last block.
    pub tip: Option<BlockHash>,
    /// Height and root of the state.
    pub state: Option<(Height, StateRoot)>,
    /// Whether a header of the log commits that root; without one it is only consistent in itself.
    pub state_committed: bool,
    /// Heights of the intact snapshots.
    pub snapshots: Vec<Height>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// Checks the directory of a stopped node.
pub fn check(dir: &Path, chain: &ChainId) -> Result<Findings, RepairError> {
    let _lock: DirectoryLock = repair::prepare(dir, chain)?;
    let mut findings = Findings::default();
    let found = survey(dir, chain)?;
    findings.blocks = found.first.zip(found.good.map(|tip| tip.height));
    findings.tip = found.good.map(|tip| tip.block);
    match found.damage {
        Some(damage) => findings.problems.push(format!("block log: {damage}")),
        None => {
            let (log, _) = BlockLog::open(dir, chain)?;
            if let Err(problem) = follow_headers(&log, chain) {
                findings.problems.push(format!("block log: {problem}"));
            }
            check_state(dir, &log, &mut findings);
            check_snapshots(dir, chain, &log, &mut findings)?;
        }
    }
    Ok(findings)
}

/// Every header has the hash that its certificate states, and its parent's.
pub(crate) fn follow_headers(log: &BlockLog, chain: &ChainId) -> Result<(), String> {
    let mut before: Option<Tip> = None;
    for block in log.range(Height::ZERO, u64::MAX) {
        let block = block.map_err(|error| error.to_string())?;
        let height = block.certificate.height;
        let (header, certificate): (Header, _) = block
            .header_and_certificate()
            .map_err(|error| format!("block {height} does not decode: {error}"))?;
        let hash = header.hash();
        if header.height != height || hash != certificate.block || header.chain != *chain {
            return Err(format!("block {height} is not the one that its certificate is for"));
        }
        if before.is_some_and(|before| before.block != header.parent) {
            return Err(format!("block {height} does not follow the block before it"));
        }
        before = Some(Tip { height, block: hash });
    }
    Ok(())
}

/// The root that the header after `height` commits.
pub(crate) fn committed_root(
    log: &BlockLog,
    height: Height,
) -> Result<Option<StateRoot>, BlockLogError> {
    Ok(log.header(height.plus(1))?.map(|(header, _)| header.state))
}

fn check_state(dir: &Path, log: &BlockLog, findings: &mut Findings) {
    let path = dir.join("state");
    if !path.exists() {
        return;
    }
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let state = StateStore::open(&path).map_err(|error| error.to_string())?;
        state.check_integrity().map_err(|error| error.to_string())?;
        Ok::<_, String>(state.tip().map(|tip| (tip, state.root())))
    }));
    let (tip, root) = match attempt {
        Ok(Ok(Some(found))) => found,
        Ok(Ok(None)) => return,
        Ok(Err(problem)) => return findings.problems.push(format!("state: {problem}")),
        Err(_) => return findings.problems.push("state: reading it panicked".to_string()),
    };
    findings.state = Some((tip.height, root));
    let hash = match log.hash_at(tip.height) {
        Ok(hash) => hash,
        Err(error) => return findings.problems.push(format!("block log: {error}")),
    };
    if tip.height > Height::ZERO && hash != Some(tip.block) {
        let problem = format!("state: its block at height {} is not the log's", tip.height);
        return findings.problems.push(problem);
    }
    match committed_root(log, tip.height) {
        Ok(Some(committed)) if committed == root => findings.state_committed = true,
        Ok(Some(committed)) => findings.problems.push(format!(
            "state: its root at height {} is {root}, the next header commits {committed}",
            tip.height
        )),
        Ok(None) => {}
        Err(error) => findings.problems.push(format!("block log: {error}")),
    }
}

fn check_snapshots(
    dir: &Path,
    chain: &ChainId,
    log: &BlockLog,
    findings: &mut Findings,
) -> Result<(), RepairError> {
    let snapshots = Snapshots::new(dir, chain);
    for kept in snapshots.list()? {
        let problem = match snapshots.verify(&kept) {
            Err(error) => Some(error.to_string()),
            Ok(info) => match committed_root(log, kept.height)? {
                Some(committed) if committed != info.head.root => {
                    Some(format!("the next header commits root {committed}"))
                }
                _ => None,
            },
        };
        match problem {
            None => findings.snapshots.push(kept.height),
            Some(problem) => {
                findings.problems.push(format!("snapshot of height {}: {problem}", kept.height));
            }
        }
    }
    Ok(())
}
