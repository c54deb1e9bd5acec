//! The consensus engine's own log, which only the daemon reads: damaged in front of real nodes.
//!
//! Four validators run until they have decided some blocks; three are killed, so that the fourth
//! fills its log with votes for a height that cannot be decided; then it is killed too. Each trial
//! starts it, alone, on a damaged copy of its log. A log that cannot be read must be set aside and
//! the node must say that it does not vote; one that only ends short, as a crash leaves it, is
//! read, and the guard, which is whole, still knows what was signed. After the last trial the
//! others come back: the node must vote again once its height is final.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use protocol::api::Status;
use protocol::home::Home;
use protocol::ledger::parameters::LedgerParameters;
use storage::SignerGuard;
use tokio::time::sleep;

use super::trial::{Ending, spoil};
use crate::crash_store::chain::Draw;
use crate::network::process::LOOK;
use crate::network::{PATIENCE, Plan, Validators};
use crate::workspace::Workspace;

/// Validators: as few as tolerate a fault.
const VALIDATORS: usize = 4;
/// The node whose log is damaged.
const VICTIM: usize = 0;
/// Bytes of the log before it is used: its header and an entry.
const LOG_BYTES_MIN: u64 = 100;
/// The log must have grown to that within this: some rounds that time out.
const GROWS_MAX: Duration = Duration::from_secs(60);
/// How a node says that it does not vote.
const NO_VOTE: &str = "not voting until";
/// How it says that it cannot tell yet.
const STARTING: &str = "consensus has not started yet";
/// Beginning of the name that a log has which was set aside.
const ASIDE: &str = "consensus.wal.damaged";

/// The kind, in the table.
pub(super) const KIND: &str = "engine's log";

/// Damages the log `trials` times; `each` hears of every ending.
pub(super) async fn run(
    workspace: &Workspace,
    trials: u64,
    draw: &mut Draw,
    mut each: impl FnMut(String, Ending),
) -> Result<()> {
    eprintln!("  {KIND}: four validators make one");
    let plan = Plan {
        folder: workspace.target().join("rot"),
        name: "ayni-rot",
        validators: VALIDATORS,
        signers: 0,
        parameters: LedgerParameters::default(),
        configure: |_, config| config.chain.block_wait_ms = 100,
    };
    let mut network = Validators::start(workspace, &plan).await?;
    let good = grow(&mut network).await?;
    let mut is_silent = false;
    for number in 0..trials {
        // The last one is set aside for certain: what follows it is about that.
        let is_last = number + 1 == trials;
        let (what, ending) = trial(&mut network, &good, draw, is_last).await?;
        is_silent |= matches!(ending, Ending::Silent(_));
        each(what, ending);
        if (number + 1) % 50 == 0 {
            eprintln!("  {KIND}: {} of {trials} trials", number + 1);
        }
    }
    if trials > 0 && !is_silent {
        votes_again(&mut network).await.context("after the last trial the others came back")?;
    }
    network.stop().await
}

/// A node as it was killed.
struct Good {
    /// A copy of its home.
    home: PathBuf,
}

fn log_of(home: &Path) -> PathBuf {
    Home::new(home).data().join("consensus.wal")
}

async fn grow(network: &mut Validators) -> Result<Good> {
    for node in network.nodes.iter_mut().skip(VICTIM + 1) {
        node.kill().await?;
    }
    let home = network.nodes[VICTIM].home.root().to_path_buf();
    let deadline = Instant::now() + GROWS_MAX;
    while fs::metadata(log_of(&home)).map_or(0, |metadata| metadata.len()) < LOG_BYTES_MIN {
        ensure!(Instant::now() < deadline, "the log of the engine does not grow");
        sleep(LOOK).await;
    }
    network.nodes[VICTIM].kill().await?;
    let copy = home.with_extension("good");
    duplicate(&home, &copy)?;
    Ok(Good { home: copy })
}

async fn trial(
    network: &mut Validators,
    good: &Good,
    draw: &mut Draw,
    is_last: bool,
) -> Result<(String, Ending)> {
    let chain = network.genesis.chain_id();
    let node = &mut network.nodes[VICTIM];
    let home = node.home.root().to_path_buf();
    fs::remove_dir_all(&home)?;
    duplicate(&good.home, &home)?;
    let what = loop {
        let what = spoil(&log_of(&home), draw)?;
        if !is_last || is_unreadable(&home, &good.home)? {
            break what;
        }
        fs::copy(log_of(&good.home), log_of(&home))?;
    };
    let guard = home.join("guard").join("signatures.log");
    let signed = SignerGuard::survey(&guard, &chain)?;
    if let Err(error) = node.start().await {
        return Ok((what, Ending::Panic(format!("it did not start: {error:#}"))));
    }
    // The engine starts behind the interface.
    let is_up = |s: &Status| !s.warnings.iter().any(|warning| warning.contains(STARTING));
    let status = node.wait_status("its engine", PATIENCE, is_up).await?;
    let is_quiet = status.warnings.iter().any(|warning| warning.contains(NO_VOTE));
    let ending = match (set_aside(&home)?, is_quiet) {
        (true, true) => Ending::Refused,
        (true, false) => Ending::Silent("its log is set aside, and it votes".to_owned()),
        (false, _) => short_end(&guard, &chain, &signed)?,
    };
    if !is_last {
        node.kill().await?;
    }
    Ok((what, ending))
}

/// A log that was read although it is not what it was: only its end may be missing, and the guard
/// must know all that it knew.
fn short_end(
    guard: &Path,
    chain: &protocol::ids::ChainId,
    signed: &[storage::GuardEntry],
) -> Result<Ending> {
    let now = SignerGuard::survey(guard, chain)?;
    Ok(if now.starts_with(signed) {
        Ending::Repaired
    } else {
        Ending::Silent("the guard has forgotten what was signed".to_owned())
    })
}

/// Whether the damage is in the middle: a cut or a changed length looks like a torn end.
fn is_unreadable(home: &Path, good: &Path) -> Result<bool> {
    let (now, before) = (fs::read(log_of(home))?, fs::read(log_of(good))?);
    let changed = now.iter().zip(&before).position(|(a, b)| a != b);
    // Behind the header of the file, in the first entry's bytes.
    Ok(now.len() == before.len() && changed.is_some_and(|at| (40..80).contains(&at)))
}

fn set_aside(home: &Path) -> Result<bool> {
    for entry in fs::read_dir(Home::new(home).data())? {
        if entry?.file_name().to_string_lossy().starts_with(ASIDE) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The others come back, the height becomes final, and the node votes again.
async fn votes_again(network: &mut Validators) -> Result<()> {
    let before = network.nodes[VICTIM].client.status().await?;
    let quiet = |status: &Status| status.warnings.iter().any(|warning| warning.contains(NO_VOTE));
    ensure!(quiet(&before), "the last trial was to leave it without a vote");
    for node in network.nodes.iter_mut().skip(VICTIM + 1) {
        node.start().await?;
    }
    let victim = &network.nodes[VICTIM];
    victim.wait_status("its vote", PATIENCE, |s| s.height > before.height && !quiet(s)).await?;
    network.check_agreement().await?;
    Ok(())
}

fn duplicate(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "{} cannot be copied: {status}", from.display());
    Ok(())
}
