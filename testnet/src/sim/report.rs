//! What a run found: a table for people, one JSON object for programs.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Table;
use protocol::amount::PPM;
use serde::Serialize;

use super::checkers::Checker;
use super::faults::{Counts, Mode};
use super::{Options, SeedResult};

/// Violations that are printed; the JSON object has all.
const PRINTED_MAX: usize = 20;

/// Of the seeds of a long run, this share at least must see other validators and other numbers of
/// the rules: else the checkers of both saw nothing.
const CHANGED_PPM_MIN: u64 = 200_000;
/// Seeds and heights from which a run is long enough to say so.
const LONG: (u64, u64) = (100, 150);

/// A checker shown to fire.
#[derive(Clone, Debug, Serialize)]
pub struct Control {
    /// What was broken on purpose.
    pub broken: &'static str,
    /// The checker that has to fire.
    pub checker: Checker,
    /// Networks in which it fired.
    pub fired: u64,
    /// Networks.
    pub seeds: u64,
}

/// One seed's violation.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The property.
    pub checker: Checker,
    /// What was seen.
    pub text: String,
    /// Shows every event of it.
    pub replay: String,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Violations, seed by seed.
    pub failures: Vec<Failure>,
    /// The checkers that were shown to fire.
    pub controls: Vec<Control>,
    /// How often each fault happened.
    pub counts: Counts,
    /// Aims that were missed; empty when all is well.
    pub missed: Vec<String>,
    /// First seed.
    pub first_seed: u64,
    /// Seeds.
    pub seeds: u64,
    /// Heights asked of each.
    pub heights: u64,
    /// Heights decided by the slowest honest node, over all seeds.
    pub heights_decided: u64,
    /// Events over all seeds.
    pub events: u64,
    /// Virtual time over all seeds, in seconds.
    pub virtual_s: u64,
    /// Blocks checked or applied for real.
    pub executed: u64,
    /// Seeds whose blocks were replayed from genesis.
    pub replayed: u64,
    /// Seeds that ran twice.
    pub repeated: u64,
    /// Of them: with the same hash of events.
    pub repeated_equal: u64,
    /// Hash over the seeds' hashes, in order.
    pub event_hash: String,
    /// Seconds that it took.
    pub wall_s: f64,
    /// Seconds that it may take.
    pub limit_s: Option<u64>,
    /// Violations.
    pub violations: u64,
}

/// The command that replays a seed.
fn command(seed: u64, heights: u64, mode: Mode) -> String {
    let mode = match mode {
        Mode::Search => "",
        Mode::TooManyByzantine => " --mode too-many-byzantine",
        Mode::NoGuard => " --mode no-guard",
    };
    format!("ayni-testnet sim --seed {seed} --heights {heights}{mode} --trace")
}

fn control(broken: &'static str, checker: Checker, results: &[SeedResult]) -> Control {
    let fired =
        results.iter().filter(|r| r.violations.iter().any(|v| v.checker == checker)).count();
    Control { broken, checker, fired: fired as u64, seeds: results.len() as u64 }
}

impl Report {
    pub(super) fn new(
        options: &Options,
        results: &[SeedResult],
        repeated: &[SeedResult],
        split: &[SeedResult],
        unguarded: &[SeedResult],
        took: Duration,
    ) -> Self {
        let mut counts = Counts::default();
        let mut hasher = blake3::Hasher::new();
        for result in results {
            counts.add(&result.counts);
            hasher.update(&result.hash);
        }
        let failures: Vec<Failure> = results
            .iter()
            .flat_map(|result| {
                result.violations.iter().map(|violation| Failure {
                    seed: result.seed,
                    checker: violation.checker,
                    text: violation.text.clone(),
                    replay: command(result.seed, options.heights, Mode::Search),
                })
            })
            .collect();
        let is_equal = |again: &&SeedResult| {
            results.iter().any(|first| first.seed == again.seed && first.hash == again.hash)
        };
        let sum = |value: fn(&SeedResult) -> u64| results.iter().map(value).sum::<u64>();
        let mut report = Self {
            violations: failures.len() as u64,
            failures,
            controls: vec![
                control("f+1 Byzantine validators", Checker::Agreement, split),
                control("no signer guard, logs lost", Checker::DoubleSign, unguarded),
            ],
            counts,
            missed: Vec::new(),
            first_seed: options.first_seed,
            seeds: options.seeds,
            heights: options.heights,
            heights_decided: sum(|r| r.heights),
            events: sum(|r| r.events),
            virtual_s: sum(|r| r.time_ms) / 1_000,
            executed: sum(|r| r.executed),
            replayed: sum(|r| u64::from(r.is_replayed)),
            repeated: repeated.len() as u64,
            repeated_equal: repeated.iter().filter(is_equal).count() as u64,
            event_hash: hasher.finalize().to_hex().to_string(),
            wall_s: took.as_secs_f64(),
            limit_s: options.limit_s(),
        };
        report.missed = report.judge();
        report
    }

    fn judge(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.violations > 0 {
            missed.push(format!("{} violations where there must be none", self.violations));
        }
        for control in &self.controls {
            if control.seeds > 0 && control.fired == 0 {
                missed.push(format!(
                    "control \"{}\": the checker \"{}\" never fired in {} seeds",
                    control.broken,
                    control.checker.title(),
                    control.seeds
                ));
            }
        }
        let changed = [
            ("validators", self.counts.seeds_with_set_changes),
            ("numbers of the rules", self.counts.seeds_with_parameter_changes),
        ];
        for (what, seeds) in changed {
            let is_long = self.seeds >= LONG.0 && self.heights >= LONG.1;
            if is_long && seeds * PPM < self.seeds * CHANGED_PPM_MIN {
                missed.push(format!("the {what} changed in only {seeds} of {} seeds", self.seeds));
            }
        }
        if self.repeated_equal < self.repeated {
            missed.push(format!(
                "{} of {} repeated seeds had other events",
                self.repeated - self.repeated_equal,
                self.repeated
            ));
        }
        if let Some(limit) = self.limit_s
            && self.wall_s > limit as f64
        {
            missed.push(format!("it took {:.0} s where {limit} s are the limit", self.wall_s));
        }
        missed
    }

    /// Prints the report.
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            self.print_tables();
        }
        for missed in &self.missed {
            eprintln!("missed: {missed}");
        }
        Ok(())
    }

    fn print_tables(&self) {
        for failure in self.failures.iter().take(PRINTED_MAX) {
            println!("seed {}: {}: {}", failure.seed, failure.checker.title(), failure.text);
            println!("    replay: {}", failure.replay);
        }
        let mut faults = table(["what happened", "times"]);
        for (title, times) in self.counts.rows() {
            faults.add_row([title.to_owned(), times.to_string()]);
        }
        println!("{faults}\n");
        let mut checks = table(["checker", "violations"]);
        for checker in Checker::ALL {
            let count = self.failures.iter().filter(|f| f.checker == checker).count();
            checks.add_row([checker.title().to_owned(), count.to_string()]);
        }
        println!("{checks}\n");
        for control in &self.controls {
            println!(
                "control: {}: checker \"{}\" fired in {} of {} seeds",
                control.broken,
                control.checker.title(),
                control.fired,
                control.seeds
            );
        }
        let last = self.first_seed + self.seeds.saturating_sub(1);
        let limit = self.limit_s.map_or_else(|| "none".to_owned(), |limit| format!("{limit} s"));
        println!(
            "\nseeds {} to {last}, {} heights each: {} heights decided, {} events, {} s of \
             virtual time\nblocks executed {} (others from memory), {} seeds replayed from \
             genesis\nrepeated seeds with equal events: {} of {}\nevent hash {}\n{} violations \
             in {:.1} s (limit {limit})",
            self.first_seed,
            self.heights,
            self.heights_decided,
            self.events,
            self.virtual_s,
            self.executed,
            self.replayed,
            self.repeated_equal,
            self.repeated,
            self.event_hash,
            self.violations,
            self.wall_s,
        );
    }
}

fn table(header: [&str; 2]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(header);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table
}

/// Prints how a replayed seed ended.
pub(super) fn print_seed(result: &SeedResult, heights: u64, mode: Mode) {
    for (title, times) in result.counts.rows().into_iter().filter(|(_, times)| *times > 0) {
        println!("{title}: {times}");
    }
    for violation in &result.violations {
        println!("{}: {}", violation.checker.title(), violation.text);
    }
    println!(
        "seed {}: {} of {heights} heights, {} events, {} s of virtual time, {} violations, event \
         hash {}",
        result.seed,
        result.heights,
        result.events,
        result.time_ms / 1_000,
        result.violations.len(),
        hex::encode(result.hash)
    );
    if result.violations.is_empty() && mode != Mode::Search {
        println!("the checker that this mode is for did not fire");
    }
}
