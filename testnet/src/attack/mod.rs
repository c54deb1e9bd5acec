//! `attack`: robust rules against attackers, as published.
//!
//! MNIST sorted by label, 25 workers of which 5 attack: the set-up of Karimireddy, He and Jaggi
//! (arXiv 2006.09365, experiment 3). Centred clipping of buckets of two runs with three seeds, the
//! weak rules with one: an attack that beats none of them would show nothing. Every cell is a
//! process of `ayni-worker lab attack`.
//!
//! The whole grid takes most of a day on two cores; stopped, it goes on where it was. Gradients in
//! one process, not deltas over a network: what is tested is the rules. `network` plays attacks
//! in a network of real peers, smaller. Deliberately absent: backdoors, which no such rule detects;
//! it only bounds what they can weigh.

mod mnist;
pub(crate) mod network;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::blobs::conclude;
use crate::cells::{Cell, Grid};
use crate::workspace::Workspace;

/// Iterations that were published.
const ITERATIONS: u32 = 600;
/// Iterations of the short form.
const ITERATIONS_SHORT: u32 = 150;

/// What is tried.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Seeds of centred clipping; the weak rules run with the first.
    #[arg(long, default_value_t = 3)]
    pub seeds: u64,
    /// Attackers as real peers instead: seven daemons, two hostile, 15 scenes of four rounds.
    #[arg(long)]
    pub network: bool,
    /// One attack, 150 iterations: centred clipping holds where Krum falls. With `--network` one
    /// attack beside none.
    #[arg(long)]
    pub short: bool,
    /// Throw away the cells that an earlier run has done.
    #[arg(long)]
    pub fresh: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Rules of `ayni-worker lab attack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Cclip,
    Mean,
    Krum,
    Median,
    Rfa,
}

/// Attacks of `ayni-worker lab attack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Attack {
    None,
    Labelflip,
    Bitflip,
    Ipm,
    Alie,
    Mimic,
}

impl Rule {
    /// The rules that attacks are to beat, at least one of them; those that fall first come first.
    const WEAK: [Self; 4] = [Self::Krum, Self::Median, Self::Mean, Self::Rfa];

    const fn name(self) -> &'static str {
        match self {
            Self::Cclip => "cclip",
            Self::Mean => "mean",
            Self::Krum => "krum",
            Self::Median => "median",
            Self::Rfa => "rfa",
        }
    }
}

impl Attack {
    const ALL: [Self; 6] =
        [Self::None, Self::Labelflip, Self::Bitflip, Self::Ipm, Self::Alie, Self::Mimic];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Labelflip => "labelflip",
            Self::Bitflip => "bitflip",
            Self::Ipm => "ipm",
            Self::Alie => "alie",
            Self::Mimic => "mimic",
        }
    }

    /// What centred clipping of buckets of two reached in the authors' logs, in percent.
    const fn published(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Labelflip | Self::Bitflip | Self::Ipm => Some(97.8),
            Self::Alie => Some(98.1),
            Self::Mimic => Some(97.9),
        }
    }
}

/// A rule under an attack.
type Pair = (Rule, Attack);

/// What is run.
#[derive(Clone, Debug)]
struct Plan {
    iterations: u32,
    /// Each with its number of seeds.
    pairs: Vec<(Pair, u64)>,
}

impl Plan {
    fn new(options: &Options) -> Self {
        if options.short {
            let pairs = [Rule::Cclip, Rule::Krum].map(|rule| ((rule, Attack::Alie), 1)).to_vec();
            return Self { iterations: ITERATIONS_SHORT, pairs };
        }
        let strong = Attack::ALL.into_iter().map(|attack| ((Rule::Cclip, attack), options.seeds));
        let weak = Rule::WEAK
            .into_iter()
            .flat_map(|rule| Attack::ALL.into_iter().map(move |attack| ((rule, attack), 1)));
        Self { iterations: ITERATIONS, pairs: strong.chain(weak).collect() }
    }

    /// All cells. Each keeps where it is in a file beside its result.
    fn cells(&self, grid: &Grid, data: &Path) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        // Seed by seed, so that a grid cut short has something of everything.
        let most = self.pairs.iter().map(|(_, seeds)| *seeds).max().unwrap_or(0);
        for seed in 0..most {
            for (pair, _) in self.pairs.iter().filter(|(_, seeds)| seed < *seeds) {
                let (rule, attack) = pair;
                let line = format!(
                    "attack --rule {} --attack {} --seed {seed} --iterations {}",
                    rule.name(),
                    attack.name(),
                    self.iterations
                );
                let name = self.name(*pair, seed);
                let state = grid.folder().join(format!("{name}.state"));
                let cell = Cell::new(name, &line).with("--data", data)?;
                cells.push(cell.with("--resume", &state)?);
            }
        }
        Ok(cells)
    }

    fn name(&self, (rule, attack): Pair, seed: u64) -> String {
        format!("{}-{}-{}-seed{seed}", rule.name(), attack.name(), self.iterations)
    }
}

/// Runs the grid; success when every aim stated for it is met.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    ensure!((1..=100).contains(&options.seeds), "--seeds must be 1 to 100, not {}", options.seeds);
    let data = mnist::fetch(workspace)?;
    if options.network {
        return network::run(workspace, options, &data);
    }
    let grid = Grid::open(workspace, "attack", options.fresh)?;
    let plan = Plan::new(options);
    eprintln!(
        "attack: {} cells of {} iterations",
        plan.cells(&grid, &data)?.len(),
        plan.iterations
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(grid.run(&plan.cells(&grid, &data)?))?;
    let report = report::Report::new(&plan, options.short, &results)?;
    conclude(options.json, &report, report.missed(), || report.print())
}
