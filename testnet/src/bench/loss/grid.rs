//! The cells of the benchmark, and the text that they read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cells::{Cell, Grid};
use crate::corpus;
use crate::workspace::Workspace;

/// Seed of the division of the text, the same for all cells.
const TEXT_SEED: u64 = 1;
/// Inner learning rates that are tried, in ppm. In trials 4,000 was worse than 2,000 for
/// data-parallel and sparse deltas alike.
const RATES_PPM: [u32; 3] = [500, 1_000, 2_000];
/// Inner steps of a member in a round, as many as in the demo.
pub(crate) const STEPS: u32 = 30;
/// The rate where none is searched for.
pub(crate) const RATE_PPM: u32 = 1_000;

/// How members learn together: the arms of `ayni-worker lab loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arm {
    Dp,
    Diloco,
    Sparse64,
    Sparse256,
}

impl Arm {
    /// All, the baseline first.
    pub(crate) const ALL: [Self; 4] = [Self::Dp, Self::Diloco, Self::Sparse256, Self::Sparse64];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dp => "dp",
            Self::Diloco => "diloco",
            Self::Sparse64 => "sparse64",
            Self::Sparse256 => "sparse256",
        }
    }

    /// For people.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Dp => "AdamW data-parallel",
            Self::Diloco => "DiLoCo, dense f32",
            Self::Sparse64 => "SparseLoCo, k = 64",
            Self::Sparse256 => "SparseLoCo, k = 256",
        }
    }
}

/// Sizes of the benchmark.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    /// Members.
    pub(crate) workers: u32,
    /// Outer rounds.
    pub(crate) rounds: u32,
    /// Inner steps of a member in a round.
    pub(crate) steps: u32,
    /// Windows of a member in a step.
    pub(crate) batch: u32,
    /// Data-parallel steps to the head at which all arms begin.
    pub(crate) warm_steps: u32,
    layers: u32,
    width: u32,
    heads: u32,
    context: u32,
    /// Held-out windows.
    windows: u32,
    /// Seeds.
    pub(crate) seeds: u64,
    /// Rates tried of the three.
    tried: usize,
    /// Whether the payload of a large model is made too.
    pub(super) large: bool,
}

impl Plan {
    /// The million parameters: three blocks of width 160. All four arms with three rates and
    /// three seeds are 20 cells of about a minute, two at once.
    pub(crate) fn new(seeds: u64, steps: u32, full: bool, short: bool) -> Self {
        let plan = Self {
            workers: if full { 8 } else { 4 },
            rounds: 20,
            steps,
            batch: 8,
            // As large a part of all steps as in DiLoCo's experiments: 24,000 of 88,000.
            warm_steps: 8 * steps,
            layers: 3,
            width: 160,
            heads: 4,
            context: 64,
            windows: 256,
            seeds,
            tried: 3,
            large: true,
        };
        if short { plan.short() } else { plan }
    }

    /// Seconds instead of minutes.
    const fn short(self) -> Self {
        Self {
            rounds: 2,
            steps: 5,
            batch: 2,
            warm_steps: 5,
            layers: 1,
            width: 32,
            heads: 2,
            windows: 16,
            seeds: 1,
            tried: 1,
            large: false,
            ..self
        }
    }

    /// Rates to try for each arm.
    pub(super) fn rates_ppm(&self) -> Vec<u32> {
        RATES_PPM.into_iter().take(self.tried).collect()
    }

    /// The name of a cell.
    pub(crate) fn name(&self, arm: Arm, rate_ppm: u32, seed: u64, faults: &str) -> String {
        let faults = faults.replace("--", "-").replace(' ', "");
        let Self { workers, steps, .. } = self;
        format!("{}-{workers}-steps{steps}-rate{rate_ppm}-seed{seed}{faults}", arm.name())
    }

    /// The cell of an arm with a rate and a seed, and what goes wrong in it.
    pub(crate) fn cell(
        &self,
        arm: Arm,
        rate_ppm: u32,
        seed: u64,
        faults: &str,
        data: &Path,
    ) -> Result<Cell> {
        let Self { workers, rounds, steps, batch, warm_steps, .. } = *self;
        let Self { layers, width, heads, context, windows, .. } = *self;
        let line = format!(
            "loss --arm {} --workers {workers} --rounds {rounds} --steps {steps} --batch {batch} \
             --warm-steps {warm_steps} --layers {layers} --width {width} --heads {heads} --context {context} \
             --windows {windows} --learning-rate-ppm {rate_ppm} --seed {seed} {faults}",
            arm.name()
        );
        let name = self.name(arm, rate_ppm, seed, faults);
        let text = data.file_name().and_then(|name| name.to_str()).context("the text's name")?;
        let head = format!("{text}-head{warm_steps}-{workers}x{batch}x{context}-seed{seed}");
        Cell::new(name, &line).with("--data", data)?.with("--head", &data.with_file_name(head))
    }
}

/// The payload of a model of 50 million parameters after a few steps of training: what it weighs,
/// not how well it learns.
pub(super) fn large_cell(data: &Path) -> Result<Cell> {
    let line = "payload --layers 16 --width 512 --heads 8 --context 64 --steps 3 --keep 64";
    Cell::new("payload-50m".to_owned(), line).with("--data", data)
}

/// The members' texts, in a folder that is named by what is in it.
pub(crate) fn texts(
    workspace: &Workspace,
    grid: &Grid,
    workers: u32,
    data: Option<&Path>,
) -> Result<PathBuf> {
    let options = corpus::Options::new(usize::try_from(workers)?, TEXT_SEED);
    let into = grid.folder().join("text.part");
    if into.exists() {
        std::fs::remove_dir_all(&into)?;
    }
    let corpus = match data {
        Some(folder) => corpus::from_folder(folder, &options, &into)?,
        None => corpus::from_crates(workspace, &options, &into)?,
    };
    eprintln!("  {}", corpus.describe());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&std::fs::read(&corpus.suite)?);
    for node in 0..corpus.nodes.len() {
        for file in corpus.files(node)? {
            hasher.update(&std::fs::read(file)?);
        }
    }
    let name = format!("text-{}", &hasher.finalize().to_hex()[..16]);
    let folder = grid.folder().join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&into)?;
    } else {
        std::fs::rename(&into, &folder).context("naming the texts")?;
    }
    Ok(folder)
}
