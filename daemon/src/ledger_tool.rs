//! `aynid ledger`: what an operator does to the data directory of a stopped node.
//!
//! Deliberately absent: anything that lowers or removes the signer guard; it is not even opened.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use protocol::ids::ChainId;
use storage::{check, identity, repair, transfer};

/// What to do. DIR is the `data` folder of a home; stop the node first.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Read every block and value, compare them with one another, and say what is wrong.
    Check {
        /// Data directory.
        dir: PathBuf,
    },
    /// Say how far the block log is good; with consent, cut off what is damaged.
    Repair {
        /// Data directory.
        dir: PathBuf,
        /// Cut. The damaged files are kept beside it; the blocks come back from peers.
        #[arg(long)]
        cut_damaged_tail: bool,
    },
    /// Write blocks and state to a new folder.
    Export {
        /// Data directory.
        dir: PathBuf,
        /// Folder to make.
        to: PathBuf,
    },
    /// Fill an empty data directory from an export.
    Import {
        /// Data directory.
        dir: PathBuf,
        /// Folder that `export` made.
        from: PathBuf,
    },
}

/// Runs a command and returns what to tell; an error if the ledger is not in order.
pub fn run(command: &Command) -> anyhow::Result<String> {
    match command {
        Command::Check { dir } => run_check(dir),
        Command::Repair { dir, cut_damaged_tail } => run_repair(dir, *cut_damaged_tail),
        Command::Export { dir, to } => {
            let moved = transfer::export(dir, &chain_of(dir)?, to)
                .with_context(|| format!("cannot export {}", dir.display()))?;
            Ok(format!("exported {}to {}\n", describe(&moved), to.display()))
        }
        Command::Import { dir, from } => {
            let moved = transfer::import(dir, &chain_of(from)?, from)
                .with_context(|| format!("cannot import {}", from.display()))?;
            Ok(format!(
                "imported {}into {}\nThe node replays what its state lacks when it starts. An \
                 export is only as good as where it came from: compare the hash of the last block \
                 with somebody you trust.\n",
                describe(&moved),
                dir.display()
            ))
        }
    }
}

fn run_check(dir: &Path) -> anyhow::Result<String> {
    let found = check::check(dir, &chain_of(dir)?)
        .with_context(|| format!("cannot check {}", dir.display()))?;
    let mut text = String::new();
    match (found.blocks, found.tip) {
        (Some((first, last)), Some(tip)) => {
            writeln!(text, "blocks     {first} to {last}, all whole; last {tip}")?;
        }
        _ => writeln!(text, "blocks     none")?,
    }
    match found.state {
        Some((height, root)) => {
            let committed = if found.state_committed {
                "as the next header commits"
            } else {
                "the header that commits it is not decided yet"
            };
            writeln!(text, "state      height {height}, root {root}, {committed}")?;
        }
        None if found.problems.is_empty() => {
            writeln!(text, "state      none; it is built from the blocks at the next start")?;
        }
        None => writeln!(text, "state      not compared")?,
    }
    let heights: Vec<String> = found.snapshots.iter().map(ToString::to_string).collect();
    let heights = if heights.is_empty() { "none".to_string() } else { heights.join(", ") };
    writeln!(text, "snapshots  {heights}")?;
    if found.problems.is_empty() {
        writeln!(text, "The ledger is in order.")?;
        return Ok(text);
    }
    for problem in &found.problems {
        writeln!(text, "wrong      {problem}")?;
    }
    bail!(
        "{text}The ledger is damaged. A damaged state or snapshot is replaced when the node \
         starts; for the block log see `aynid ledger repair {}`",
        dir.display()
    )
}

fn run_repair(dir: &Path, cut: bool) -> anyhow::Result<String> {
    let chain = chain_of(dir)?;
    let context = || format!("cannot repair {}", dir.display());
    let found = repair::examine(dir, &chain).with_context(context)?;
    let Some(damage) = &found.damage else {
        return Ok("The block log is whole; there is nothing to repair.\n".to_string());
    };
    let good = found.good.map_or(0, |tip| tip.height.get());
    if !cut {
        bail!(
            "damage: {damage}\nThe blocks up to height {good} are good. {} would be moved aside, \
             and later blocks fetched from peers. To do so: `aynid ledger repair {} \
             --cut-damaged-tail`. Better is an intact copy of the directory; keep the signer guard \
             as it is in any case",
            match found.damaged_files.len() {
                1 => "1 file".to_string(),
                files => format!("{files} files"),
            },
            dir.display()
        );
    }
    let (_, aside) = repair::cut_damage(dir, &chain).with_context(context)?;
    let aside = aside.map_or_else(String::new, |path| path.display().to_string());
    Ok(format!(
        "The block log now ends at height {good}. What was cut off is kept in {aside}.\nThe node \
         fetches the later blocks from peers when it starts, and does not vote before it has them.\n"
    ))
}

fn describe(moved: &transfer::Moved) -> String {
    let mut text = format!("blocks {} to {}", moved.first, moved.last.height);
    if let Some(height) = moved.snapshot {
        text.push_str(&format!(" and the state at height {height}"));
    }
    text.push_str(&format!(", last block {}, ", moved.last.block));
    text
}

fn chain_of(dir: &Path) -> anyhow::Result<ChainId> {
    identity::read(dir)?.with_context(|| {
        format!("{} is no data directory of a node: it has no file CHAIN", dir.display())
    })
}
