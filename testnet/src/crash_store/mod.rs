//! `crash --store`: a process that only writes the stores, killed with SIGKILL again and again.
//!
//! After every kill the parent opens what is left and holds it to what the child said: no
//! acknowledged block may be lost, nothing signed twice with different values, the root must be
//! that of a reference in memory. Blocks are synthetic ([`chain`]): no rule and no signature is
//! checked here, only storage. The kernel keeps what was written, so lost writes of a power cut
//! are not in this test (`storage` cuts and flips files for that).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use protocol::amount::Height;
use serde::Serialize;
use storage::{Decision, GuardEntry, Refusal, Step};

use chain::{Draw, Reference};

pub mod chain;
pub mod child;

/// Kills after which a new directory is begun, so that young ledgers are killed too.
const KILLS_PER_LEDGER: u64 = 100;
/// Longest life of a child, in one of four cases counted from its start, so that it may end while
/// it opens its stores, else from the first thing it says.
const LIFE_US_MAX: u64 = 100_000;
/// A child that has said nothing for this long is killed all the same.
const OPENING_MAX: Duration = Duration::from_secs(30);
/// Kills between two full readings of everything that is stored.
const VERIFY_EVERY: u64 = 10;

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Processes killed.
    pub kills: u64,
    /// Of them, before they had acknowledged anything.
    pub kills_while_opening: u64,
    /// Blocks that were acknowledged.
    pub blocks_acknowledged: u64,
    /// Acknowledged blocks that were not there afterwards. Aim: 0.
    pub blocks_lost: u64,
    /// Signatures that were acknowledged.
    pub signatures_acknowledged: u64,
    /// Signatures for one (height, round, step) with two values. Aim: 0.
    pub signatures_conflicting: u64,
    /// Acknowledged bodies above the tip that were not there afterwards. Aim: 0.
    pub bodies_lost: u64,
    /// Roots compared with the reference.
    pub roots_compared: u64,
    /// Roots that differed. Aim: 0.
    pub roots_different: u64,
    /// Blocks applied again because the state was behind the log.
    pub blocks_replayed: u64,
    /// Torn writes that were found and cut off.
    pub torn_writes: u64,
    /// Times that old segments were deleted behind a snapshot.
    pub prunings: u64,
    /// Whole readings of every block and value.
    pub full_checks: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Report {
    /// The aims that were missed.
    pub fn missed(&self) -> Vec<String> {
        let aims = [
            ("acknowledged blocks lost", self.blocks_lost),
            ("conflicting signatures", self.signatures_conflicting),
            ("acknowledged bodies lost", self.bodies_lost),
            ("roots different from the reference", self.roots_different),
        ];
        let missed = aims.iter().filter(|(_, count)| *count > 0);
        missed.map(|(aim, count)| format!("{count} {aim}, the aim is 0")).collect()
    }

    fn print(&self, is_met: bool) {
        let rows = [
            ("processes killed", self.kills),
            ("  of them while opening", self.kills_while_opening),
            ("blocks acknowledged", self.blocks_acknowledged),
            ("  lost (aim 0)", self.blocks_lost),
            ("signatures acknowledged", self.signatures_acknowledged),
            ("  conflicting (aim 0)", self.signatures_conflicting),
            ("bodies lost (aim 0)", self.bodies_lost),
            ("roots compared", self.roots_compared),
            ("  different (aim 0)", self.roots_different),
            ("blocks replayed", self.blocks_replayed),
            ("torn writes cut off", self.torn_writes),
            ("prunings", self.prunings),
            ("full checks", self.full_checks),
        ];
        crate::rot::print_table(&format!("crash --store, seed {}", self.seed), &rows);
        if is_met {
            println!("every aim stated for this command is met");
        }
        println!("{:.0} s", self.seconds);
    }
}

/// The command.
pub fn run(kills: u64, seed: u64, json: bool) -> Result<ExitCode> {
    let report = storm(kills, seed)?;
    let missed = report.missed();
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print(missed.is_empty());
    }
    for aim in &missed {
        eprintln!("aim missed: {aim}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kills `kills` writing processes.
pub fn storm(kills: u64, seed: u64) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report { seed, ..Report::default() };
    let mut draw = Draw(seed);
    let mut ledger = None;
    for kill in 0..kills {
        if kill.is_multiple_of(KILLS_PER_LEDGER) || ledger.is_none() {
            ledger = Some(Ledger::new(seed.wrapping_add(kill))?);
        }
        let life = Life {
            from_start: draw.below(4) == 0,
            length: Duration::from_micros(draw.below(LIFE_US_MAX)),
        };
        let current = ledger.as_mut().context("a ledger was begun")?;
        current.kill_one(u32::try_from(kill)?, life, &mut report)?;
        current
            .check(kill.is_multiple_of(VERIFY_EVERY), &mut report)
            .with_context(|| format!("after kill {kill} of seed {seed}"))?;
        if (kill + 1) % 100 == 0 {
            eprintln!("  {} of {kills} kills", kill + 1);
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// A folder for temporary files, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one.
    pub fn new(name: &str) -> Result<Self> {
        let base = std::env::temp_dir();
        let pid = std::process::id();
        for n in 0..10_000_u32 {
            let dir = base.join(format!("ayni-{name}-{pid}-{n}"));
            match std::fs::create_dir(&dir) {
                Ok(()) => return Ok(Self(dir)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("cannot make {}", dir.display())),
            }
        }
        anyhow::bail!("{} is full of folders of earlier runs: remove them", base.display())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("  {} is left behind: {error}", self.0.display());
        }
    }
}

/// How long a child lives.
#[derive(Clone, Copy)]
struct Life {
    from_start: bool,
    length: Duration,
}

/// One directory and what its writers said.
struct Ledger {
    scratch: Scratch,
    seed: u64,
    reference: Reference,
    decided: u64,
    signed: BTreeMap<(u64, u8), u32>,
    /// The last body acknowledged: height and run.
    proposed: Option<(u64, u32)>,
}

impl Ledger {
    fn new(seed: u64) -> Result<Self> {
        Ok(Self {
            scratch: Scratch::new("crash-store")?,
            seed,
            reference: Reference::new(seed)?,
            decided: 0,
            signed: BTreeMap::new(),
            proposed: None,
        })
    }

    /// Starts a writer, kills it after `life` and notes what it acknowledged.
    fn kill_one(&mut self, run: u32, life: Life, report: &mut Report) -> Result<()> {
        let (mut child, lines) = spawn(self.scratch.path(), self.seed, run)?;
        let mut end = Instant::now() + life.length;
        if !life.from_start {
            end += OPENING_MAX;
        }
        let mut said = 0_u64;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if said == 0 && !life.from_start {
                        end = Instant::now() + life.length;
                    }
                    said += 1;
                    self.note(&line, report)?;
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait()?;
                    anyhow::bail!("writer {run} ended by itself: {status}; see its message above");
                }
            }
        }
        child.kill().context("cannot kill the writer")?;
        // What it said before it died counts too.
        for line in lines {
            said += 1;
            self.note(&line, report)?;
        }
        child.wait()?;
        report.kills += 1;
        report.kills_while_opening += u64::from(said == 0);
        Ok(())
    }

    fn note(&mut self, line: &str, report: &mut Report) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["decided", height] => {
                self.decided = height.parse()?;
                report.blocks_acknowledged += 1;
            }
            ["proposed", height, run] => self.proposed = Some((height.parse()?, run.parse()?)),
            ["signed", height, step, run] => {
                let run = run.parse()?;
                let first = *self.signed.entry((height.parse()?, step.parse()?)).or_insert(run);
                report.signatures_acknowledged += 1;
                report.signatures_conflicting += u64::from(first != run);
            }
            ["pruned", _] => report.prunings += 1,
            // The last line of a killed process can be cut.
            _ => {}
        }
        Ok(())
    }

    /// Opens what is left and holds it to what was said.
    fn check(&mut self, whole: bool, report: &mut Report) -> Result<()> {
        let opened = child::open(self.scratch.path())?;
        report.torn_writes += opened.recovery.torn.len() as u64;
        let mut store = opened.store;
        let tip = chain::height_of(&store);
        report.blocks_lost += self.decided.saturating_sub(tip);
        report.blocks_replayed += chain::replay(&mut store, self.seed)?;
        report.roots_compared += 1;
        let root = self.reference.root(tip)?;
        report.roots_different += u64::from(store.view().root() != root);
        if let Some((height, run)) = self.proposed.filter(|(height, _)| *height > tip) {
            let kept = store.proposals().for_round(Height::new(height), run)?;
            report.bodies_lost += u64::from(kept != [chain::body(height, run)]);
        }
        let guard = store.guard();
        for ((height, step), run) in self.signed.range((tip + 1, 0)..) {
            let step = if *step == 1 { Step::Prevote } else { Step::Precommit };
            let entry = GuardEntry { height: Height::new(*height), round: 0, step, value: None };
            // Below the floor is safe too: so it is after a torn write of the guard.
            let is_safe = match guard.check(&entry)? {
                Decision::Sign => false,
                Decision::Refuse(Refusal::Conflict(signed)) => signed == child::value(*run),
                Decision::Refuse(Refusal::BelowFloor(_)) => true,
            };
            report.signatures_conflicting += u64::from(!is_safe);
        }
        if whole {
            store.verify()?;
            let first = store.blocks().first().map_or(1, Height::get);
            for height in first..=tip {
                let stored = store.blocks().get(Height::new(height))?;
                let expected = self.reference.block(height)?;
                report.blocks_lost += u64::from(stored.as_ref() != Some(&expected));
            }
            report.full_checks += 1;
        }
        drop((guard, store));
        storage::state::wait_released(&self.scratch.path().join("data").join("state"))?;
        Ok(())
    }
}

/// Starts a writer; its lines arrive on the channel.
fn spawn(dir: &Path, seed: u64, run: u32) -> Result<(Child, Receiver<String>)> {
    let program = std::env::current_exe().context("cannot find this program")?;
    ensure!(program.exists(), "{} was replaced while it ran", program.display());
    let mut child = Command::new(program)
        .arg("crash-store-child")
        .arg("--dir")
        .arg(dir)
        .args(["--seed", &seed.to_string(), "--run", &run.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start the writer")?;
    let output = child.stdout.take().context("the writer has a pipe")?;
    let (sender, receiver) = sync_channel(1_024);
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok((child, receiver))
}
