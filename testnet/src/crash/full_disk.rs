//! `crash --full-disk`: one of four validators runs out of space, again and again.
//!
//! Its data directory, then the directory of its signer guard, lies on a tmpfs of a few megabytes
//! in a mount namespace of this command's own. It is filled up to a drawn rest while blocks and
//! transfers flow. The node must stop with a message that says what happened, why and what to do;
//! it must sign nothing that its guard did not take; the other three go on; started on the full
//! disk, it must stop again with such a message; when there is space again, starting it must be enough.
//!
//! Deliberately absent: recovery without a restart. A node that cannot write stops, so that
//! nothing is signed which is not stored; whoever frees the space starts it again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::report::Report;
use super::signatures::Signatures;
use super::storm::{NODES, Storm};
use crate::crash_store::chain::Draw;

/// Size of the small file system in bytes: what a young node needs, several times over.
const DISK_BYTES: u64 = 48 << 20;
/// Most bytes left in the data directory: some blocks, so that another write fails each time.
const LEFT_IN_DATA_MAX: u64 = 48 << 10;
/// Most bytes left for the guard: it writes a few hundred bytes a block, in pages.
const LEFT_FOR_GUARD_MAX: u64 = 8 << 10;
/// How often each directory is filled.
const FILLINGS: u32 = 4;
/// A node must meet the full disk within this: it writes with every block.
const MEETS_MAX: Duration = Duration::from_secs(120);
/// Blocks that the others must make without it.
const BLOCKS_WITHOUT: u64 = 5;
/// The node whose disk it is.
const VICTIM: usize = NODES - 1;
/// What a message must hold: why, and what to do.
const WHY: &str = "No space left on device";
/// What a message must tell people to do.
const WHAT_TO_DO: &str = "start the node again";

/// One filling.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Filling {
    /// `data` or `guard`.
    directory: &'static str,
    /// Bytes that were left.
    left_bytes: u64,
    /// Seconds until the node had stopped.
    stopped_after_s: f64,
    /// Its last words.
    said: String,
    /// Whether they say why, and what to do.
    said_clearly: bool,
    /// Blocks that the others made meanwhile.
    blocks_without_it: u64,
    /// What it said when it was started on the full disk.
    said_at_start: String,
    /// Whether it refused to run there, and why.
    refused_clearly: bool,
    /// Signatures and offered blocks recorded by the node that was started on the full disk, before
    /// its first write failed: a file system has room in the last page of a file. Each of them is
    /// in the guard, else it counts as unrecorded.
    recorded_before_failing: u64,
    /// Seconds from its start, with space, to a new block.
    back_after_s: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FullDisk {
    pub(super) fillings: Vec<Filling>,
    /// The same checks as after kills.
    pub(super) network: Report,
}

impl FullDisk {
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = self.network.missed();
        for (number, filling) in self.fillings.iter().enumerate() {
            let case = format!("filling {} ({})", number + 1, filling.directory);
            if !filling.said_clearly {
                missed.push(format!("a clear error, in {case}: {}", filling.said));
            }
            if !filling.refused_clearly {
                missed.push(format!("a clear refusal, in {case}: {}", filling.said_at_start));
            }
        }
        missed
    }

    pub(super) fn print(&self, is_met: bool) {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "full",
            "left, bytes",
            "stopped after, s",
            "others' blocks",
            "recorded before failing",
            "back after, s",
            "what it said",
        ]);
        for filling in &self.fillings {
            table.add_row([
                filling.directory.to_owned(),
                filling.left_bytes.to_string(),
                format!("{:.1}", filling.stopped_after_s),
                filling.blocks_without_it.to_string(),
                filling.recorded_before_failing.to_string(),
                format!("{:.1}", filling.back_after_s),
                filling
                    .said
                    .find("cannot")
                    .map_or(&*filling.said, |at| &filling.said[at..])
                    .to_owned(),
            ]);
        }
        println!("{table}");
        self.network.print("crash --full-disk", is_met);
    }
}

/// Fills the disks of a network that runs.
pub(super) async fn run(storm: &mut Storm, seed: u64) -> Result<Vec<Filling>> {
    let mut draw = Draw(seed);
    let mut fillings = Vec::new();
    for (directory, left_max) in [("data", LEFT_IN_DATA_MAX), ("guard", LEFT_FOR_GUARD_MAX)] {
        let disk = storm.network.nodes[VICTIM].home.root().join(directory);
        storm.network.nodes[VICTIM].stop().await?;
        move_to_small_disk(&disk)?;
        storm.come_back(&[VICTIM]).await.context("on the small disk")?;
        for number in 0..FILLINGS {
            let left = if number == 0 { 0 } else { draw.below(left_max) };
            eprintln!("  {directory} is filled up to {left} bytes");
            let filling = fill_once(storm, directory, &disk, left);
            fillings.push(filling.await.with_context(|| format!("{directory}, {left} left"))?);
        }
    }
    Ok(fillings)
}

async fn fill_once(
    storm: &mut Storm,
    directory: &'static str,
    disk: &Path,
    left: u64,
) -> Result<Filling> {
    let start = Instant::now();
    let ballast = fill(disk, left)?;
    let said = storm.ends_by_itself(VICTIM, MEETS_MAX).await?;
    let stopped_after_s = start.elapsed().as_secs_f64();
    storm.examine(VICTIM)?;
    let signed = signed_by(storm)?;
    let before = storm.told.borrow().tip();
    let goal = before.plus(BLOCKS_WITHOUT);
    storm.until("blocks without the full node", |told| told.tip() >= goal).await?;
    storm.network.nodes[VICTIM].spawn()?;
    let said_at_start = storm.ends_by_itself(VICTIM, MEETS_MAX).await?;
    let recorded_before_failing = signed_by(storm)? - signed;
    let blocks_without_it = storm.told.borrow().tip().get() - before.get();
    fs::remove_file(&ballast)?;
    let start = Instant::now();
    storm.come_back(&[VICTIM]).await.context("with space again")?;
    Ok(Filling {
        directory,
        left_bytes: left,
        stopped_after_s,
        said_clearly: is_clear(&said),
        said,
        blocks_without_it,
        refused_clearly: is_clear(&said_at_start),
        said_at_start,
        recorded_before_failing,
        back_after_s: start.elapsed().as_secs_f64(),
    })
}

fn is_clear(said: &str) -> bool {
    said.contains(WHY) && said.contains(WHAT_TO_DO)
}

/// Signatures that the victim's guard has a record of.
fn signed_by(storm: &Storm) -> Result<u64> {
    let mut signatures = Signatures::default();
    let home = &storm.network.nodes[VICTIM].home;
    let chain = storm.network.genesis.chain_id();
    signatures.read(home, storm.validators[VICTIM], &chain)?;
    Ok(signatures.count())
}

/// Puts what is in a directory onto a small file system mounted there.
fn move_to_small_disk(directory: &Path) -> Result<()> {
    let mut before = directory.as_os_str().to_owned();
    before.push(".before");
    let before = PathBuf::from(before);
    fs::rename(directory, &before).with_context(|| format!("{} is moved", directory.display()))?;
    fs::create_dir(directory)?;
    let mut mount = Command::new("mount");
    let size = format!("size={DISK_BYTES},mode=700");
    mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory);
    let status = mount.status().context("mount cannot be run")?;
    ensure!(status.success(), "no tmpfs at {}: mount ended with {status}", directory.display());
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(before.join(".")).arg(directory);
    let status = copy.status().context("cp cannot be run")?;
    ensure!(status.success(), "{} cannot be copied: {status}", before.display());
    Ok(())
}

/// Fills the file system of a directory, then gives `left` bytes back.
fn fill(directory: &Path, left: u64) -> Result<PathBuf> {
    let path = directory.join("ballast");
    let mut file = File::create(&path)?;
    let chunk = vec![1_u8; 64 << 10];
    let mut written = 0_u64;
    loop {
        match file.write(&chunk) {
            Ok(0) => break,
            Ok(bytes) => written += bytes as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).context("the ballast cannot be written"),
        }
    }
    ensure!(written > left, "the small disk was full before it was filled");
    file.set_len(written - left)?;
    Ok(path)
}
