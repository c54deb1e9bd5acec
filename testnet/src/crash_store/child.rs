//! The process that is killed: it writes every store, as a validator does, and says what it may
//! regard as stored.
//!
//! Lines: `signed HEIGHT STEP VALUE`, `proposed HEIGHT RUN`, `decided HEIGHT`, `pruned FIRST`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use protocol::amount::Height;
use protocol::ids::BlockHash;
use storage::{Decision, GuardEntry, LedgerStore, Retention, Step};

use super::chain::{self, CHAIN};

/// Length of a segment of the log: a few dozen blocks, so that many are sealed.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Blocks between two flushes of the state.
const FLUSH_EVERY: u64 = 16;
/// Blocks between two snapshots, each followed by pruning.
const SNAPSHOT_EVERY: u64 = 48;

/// What the child is told.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Directory to write in.
    #[arg(long)]
    pub dir: PathBuf,
    /// Seed of the chain.
    #[arg(long)]
    pub seed: u64,
    /// Which life this is: each wants to sign another value.
    #[arg(long)]
    pub run: u32,
}

/// Opens the ledger below `dir`.
pub fn open(dir: &Path) -> Result<storage::Opened> {
    Ok(LedgerStore::open(&dir.join("data"), &CHAIN, &dir.join("guard").join("signed.log"))?)
}

/// The value that run `run` wants to sign.
pub fn value(run: u32) -> Option<BlockHash> {
    let mut bytes = [0xee; 32];
    bytes[..4].copy_from_slice(&run.to_le_bytes());
    Some(BlockHash::from_bytes(bytes))
}

/// Writes until it is killed.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").and_then(|()| out.flush());
    let mut store = open(&options.dir)?.store.with_segment_bytes(SEGMENT_BYTES);
    chain::replay(&mut store, options.seed)?;
    let guard = store.guard();
    loop {
        let height = chain::height_of(&store) + 1;
        let body = chain::body(height, options.run);
        store.proposals_mut().insert(&body)?;
        say(format!("proposed {height} {}", options.run))?;
        for (name, step) in [(1, Step::Prevote), (2, Step::Precommit)] {
            let value = value(options.run);
            let entry = GuardEntry { height: Height::new(height), round: 0, step, value };
            if guard.check(&entry)? == Decision::Sign {
                say(format!("signed {height} {name} {}", options.run))?;
            }
        }
        chain::append_next(&mut store, options.seed)?;
        say(format!("decided {height}"))?;
        if height.is_multiple_of(FLUSH_EVERY) {
            store.flush()?;
        }
        if height.is_multiple_of(SNAPSHOT_EVERY) {
            store.snapshots().take(&store.view())?;
        }
        if height % SNAPSHOT_EVERY == 1 && store.prune(Retention::Snapshots(2))?.segments > 0 {
            say(format!("pruned {}", store.blocks().first().unwrap_or_default()))?;
        }
    }
}
