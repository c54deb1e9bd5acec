//! `rot`: flipped bits and truncated files, in every file that the ledger's stores keep.
//!
//! Each trial copies a good ledger, damages one file at a drawn place, opens it and follows it to
//! the end. It must end mended, with the root it had, or refused with a message; a ledger that is
//! used although something is wrong is *silent*, and there must be none. Blocks are synthetic
//! ([`crate::crash_store::chain`]); what peers would give back is taken from the reference.
//!
//! The consensus engine's own log, which the stores do not know, is damaged in front of real nodes
//! (`--engine`, `wal`).

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::crash_store::Scratch;
use crate::crash_store::chain::Draw;
use crate::network::stop_asked;
use crate::workspace::Workspace;

mod base;
mod trial;
mod wal;

use base::Base;
use trial::Ending;

/// Options of `rot`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How often a file is damaged.
    #[arg(long, default_value_t = 1_000)]
    pub flips: u64,
    /// How often the consensus engine's own log is damaged besides; each time a node is started.
    #[arg(long, default_value_t = 0)]
    pub engine: u64,
    /// Seed of the ledger and of the damage.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What became of the damage to one kind of file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Trials.
    pub trials: u64,
    /// Mended by the stores alone: rebuilt, made again, set aside.
    pub repaired: u64,
    /// The node lost blocks, said so, and fetched them again.
    pub refetched: u64,
    /// Refused with a message; where blocks were damaged, mended by `repair` and peers; of the
    /// engine's log: set aside, with no vote until its height was final elsewhere.
    pub refused: u64,
    /// The changed bytes are not in use: everything reads as before.
    pub without_effect: u64,
    /// Used although something was wrong. Aim: 0.
    pub silent: u64,
    /// Ended in a panic. Aim: 0.
    pub panics: u64,
}

/// What happened.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// By kind of file.
    pub files: BTreeMap<String, Row>,
    /// All of them.
    pub total: Row,
    /// The first failures, with what they were.
    pub failures: Vec<String>,
    /// Seconds.
    pub seconds: f64,
}

impl Report {
    fn note(&mut self, kind: &str, which: &str, ending: Ending) {
        for row in [self.files.entry(kind.to_owned()).or_default(), &mut self.total] {
            row.trials += 1;
            match &ending {
                Ending::Repaired => row.repaired += 1,
                Ending::Refetched => row.refetched += 1,
                Ending::Refused => row.refused += 1,
                Ending::WithoutEffect => row.without_effect += 1,
                Ending::Silent(_) => row.silent += 1,
                Ending::Panic(_) => row.panics += 1,
            }
        }
        if let Ending::Silent(how) | Ending::Panic(how) = ending {
            self.failures.push(format!("{which}: {how}"));
        }
    }
}

/// The command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    let mut report = damage(options.flips, options.seed)?;
    if options.engine > 0 {
        damage_engine(workspace, options.engine, options.seed, &mut report)?;
    }
    report.seconds = start.elapsed().as_secs_f64();
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    for failure in &report.failures {
        eprintln!("failed: {failure}");
    }
    let mut met = true;
    for (aim, count) in [("silent", report.total.silent), ("panics", report.total.panics)] {
        if count > 0 {
            eprintln!("missed: {count} {aim}, the aim is 0");
            met = false;
        }
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Damages the engine's log in front of real nodes.
fn damage_engine(workspace: &Workspace, trials: u64, seed: u64, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut draw = Draw(seed);
    let mut number = 0;
    runtime.block_on(async {
        let work = wal::run(workspace, trials, &mut draw, |what, ending| {
            report.note(
                wal::KIND,
                &format!("engine trial {number} of seed {seed}, {what}"),
                ending,
            );
            number += 1;
        });
        tokio::select! {
            outcome = work => outcome,
            // Dropping the network kills its processes.
            _ = stop_asked() => bail!("interrupted"),
        }
    })
}

/// Damages files of the stores `flips` times.
pub fn damage(flips: u64, seed: u64) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report { seed, ..Report::default() };
    let scratch = Scratch::new("rot")?;
    let bases = [
        Base::make(&scratch.path().join("whole"), seed, false)?,
        Base::make(&scratch.path().join("pruned"), seed, true)?,
    ];
    let mut draw = Draw(seed);
    // Panics are counted; sled's, which the stores contain, would fill the screen.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for number in 0..flips {
        let base = &bases[usize::try_from(draw.below(2))?];
        let dir = scratch.path().join(format!("trial-{number}"));
        let trial = trial::run(base, &dir, &mut draw);
        let (kind, what, ending) = match trial {
            Ok(trial) => trial,
            Err(error) => {
                std::panic::set_hook(hook);
                return Err(error.context(format!("trial {number} of seed {seed}")));
            }
        };
        report.note(&kind, &format!("trial {number} of seed {seed}, {what}"), ending);
        std::fs::remove_dir_all(&dir)?;
        if (number + 1) % 100 == 0 {
            eprintln!("  {} of {flips} trials", number + 1);
        }
    }
    std::panic::set_hook(hook);
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "file",
        "trials",
        "repaired",
        "refetched",
        "refused",
        "no effect",
        "silent",
        "panics",
    ]);
    let total = ("total".to_string(), report.total.clone());
    for (kind, row) in report.files.clone().into_iter().chain([total]) {
        let numbers = [
            row.trials,
            row.repaired,
            row.refetched,
            row.refused,
            row.without_effect,
            row.silent,
            row.panics,
        ];
        let mut cells = vec![kind];
        cells.extend(numbers.map(|number| number.to_string()));
        table.add_row(cells);
    }
    println!("rot, seed {}\n{table}", report.seed);
    println!("aims: silent 0, panics 0; {:.0} s", report.seconds);
}

/// A table of names and numbers.
pub(crate) fn print_table(title: &str, rows: &[(&str, u64)]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, number) in rows {
        table.add_row([(*name).to_string(), number.to_string()]);
    }
    println!("{title}\n{table}");
}
