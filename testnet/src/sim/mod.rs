//! `ayni-testnet sim`: many small networks in virtual time, with faults, against checkers.
//!
//! Each seed is one network of 4, 7 or 10 validators, drawn with its faults and run to a height.
//! Everything is a function of the seed: the same seed gives the same events, and the hash over
//! all of them. A failure prints the seed and the command that replays it.
//!
//! **Under the simulator**, as the node runs it:
//! - the rules (`protocol::ledger`), the host (`protocol::host`: build, check, decide, mempool,
//!   evidence) and every canonical encoding;
//! - Malachite's core (`core-consensus` 0.8.2 with its driver, vote keeper and state machine) and
//!   its verification of certificates; its inputs, effects, flushes and the replay of its log;
//! - ed25519 as it is, each signature made or verified once per network;
//! - the block log, the proposal log and the signer guard of `storage`, on files in memory, cut
//!   at any byte by crashes and opened again by their own code;
//! - the state tree (`storage::MemoryStateStore`, whose roots equal the stored state's).
//!
//! **Mirrored here**, because this crate must not depend on `daemon`, and therefore able to
//! differ from it: the consensus actor's handling of effects, the loop between engine and host,
//! the memory of proposals, the recovery order at a start, abstention, the engine's context.
//!
//! **Why the log comes before the guard**: the signer syncs the engine's log and then asks the
//! signer guard. The other way round, a crash between guard and log leads to another vote, a
//! refusal, and a node that is silent for the height; two such halt four validators for ever
//! (`--sign-order guard-first` shows this in about one seed of fifteen).
//!
//! **Modelled**: the engine's write-ahead log (entries, and how far they are synced), the state
//! index on sled (a crash takes it back to its last flush), fetching of blocks (asks one peer at a
//! time; the engine's sync actor is not here), gossip (each message goes straight to everybody),
//! time, clocks, disks, networks.
//!
//! **Not under the simulator**: libp2p, gossip scores, the engine's actors and their queues, sled,
//! real files and `fsync` (`ayni-testnet crash` and the tests of `storage` are for those),
//! snapshots and pruning, the mempool's log, blobs, duties, the worker, the local interface.
//! Of transactions: transfers, stake and governance (`stakeholders`); training rounds are not here,
//! and no node registers. Where somebody is Byzantine or forgetful, no absence is punished and
//! stake only comes to the others: a share of a third must not be reached by a vote or a jail.
//!
//! **Architecture invariant.** Nothing in a seed's run reads a clock, an environment, or anything
//! whose order is not fixed.

mod behaviour;
mod chain;
pub mod checkers;
mod clients;
mod context;
mod disk;
pub mod faults;
mod laws;
mod message;
mod node;
mod queue;
mod random;
mod report;
mod seeds;
mod signatures;
mod stakeholders;
mod verdict;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

pub use faults::{Mode, SignOrder};
pub use report::{Control, Report};
pub use seeds::{Scratch, SeedResult, Setup, run_seed};

/// Longest time of a run, on two cores, for the work that it is stated for.
const LIMIT_S: u64 = 300;
/// That work: seeds times heights.
const LIMIT_WORK: u64 = 1_000 * 200;
/// One seed in this many runs twice, to compare the hash of its events.
const REPEAT_EVERY: u64 = 100;
/// Heights of a control with too many Byzantine validators: both halves decide from the first on.
const SPLIT_HEIGHTS: u64 = 20;
/// Heights of a control without the signer guard: crashes need time to meet a vote.
const UNGUARDED_HEIGHTS: u64 = 100;

/// Simulates networks of validators in virtual time.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Networks to simulate.
    #[arg(long, default_value_t = 1_000)]
    pub seeds: u64,
    /// The first one's seed.
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// Heights that each has to decide.
    #[arg(long, default_value_t = 200)]
    pub heights: u64,
    /// Networks simulated at a time.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Networks of each control: too many Byzantine validators, and no signer guard.
    #[arg(long, default_value_t = 20)]
    pub control_seeds: u64,
    /// Do not judge how long it took.
    #[arg(long)]
    pub no_time_limit: bool,
    /// What is made durable first when something is signed.
    #[arg(long, value_enum, default_value_t = SignOrder::LogFirst)]
    pub sign_order: SignOrder,
    /// Replay this seed alone.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// What the replayed seed is drawn for.
    #[arg(long, value_enum, default_value_t = Mode::Search, requires = "seed")]
    pub mode: Mode,
    /// Print every event of the replayed seed.
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn validate(&self) -> Result<()> {
        ensure!(self.heights > 0, "--heights 0 decides nothing. Use --heights 1 or more");
        ensure!(self.threads > 0, "--threads 0 runs nothing. Use --threads 1 or more");
        ensure!(
            self.seeds > 0 || self.seed.is_some(),
            "--seeds 0 simulates nothing. Use --seeds 1 or more, or --seed to replay one"
        );
        ensure!(
            self.first_seed.checked_add(self.seeds).is_some(),
            "--first-seed {} leaves no room for {} seeds",
            self.first_seed,
            self.seeds
        );
        Ok(())
    }

    fn setup(&self, mode: Mode, heights: u64) -> Setup {
        Setup { mode, heights, sign_order: self.sign_order, traces: false }
    }

    /// Seconds that the run may take.
    fn limit_s(&self) -> Option<u64> {
        let work = self.seeds.saturating_mul(self.heights).max(LIMIT_WORK);
        (!self.no_time_limit).then(|| LIMIT_S.saturating_mul(work) / LIMIT_WORK)
    }
}

/// Runs what the options ask for; fails when an aim is missed.
pub fn run(options: &Options) -> Result<ExitCode> {
    options.validate()?;
    let scratch = Scratch::new()?;
    // A panic of a seed is one of its violations, printed with it.
    seeds::keep_panics_quiet();
    if let Some(seed) = options.seed {
        let mode = options.mode;
        let setup = Setup { traces: options.trace, ..options.setup(mode, options.heights) };
        let result = run_seed(seed, &setup, &scratch);
        report::print_seed(&result, options.heights, mode);
        let is_good = result.violations.is_empty() == (mode == Mode::Search);
        return Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = measure(options, &scratch);
    report.print(options.json)?;
    Ok(if report.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs seeds and controls and judges them.
pub fn measure(options: &Options, scratch: &Scratch) -> Report {
    let start = Instant::now();
    let all = options.first_seed..options.first_seed + options.seeds;
    let progress = |done: u64| {
        if done.is_multiple_of(100) {
            let left = options.seeds - done;
            eprintln!("  {done} seeds after {:.0} s, {left} to go", start.elapsed().as_secs_f64());
        }
    };
    let seeds: Vec<u64> = all.clone().collect();
    let search = |seeds: &[u64], done: &(dyn Fn(u64) + Sync)| {
        let setup = options.setup(Mode::Search, options.heights);
        seeds::run_all(seeds, &setup, options.threads, scratch, done)
    };
    let results = search(&seeds, &progress);
    let again: Vec<u64> =
        seeds.iter().copied().step_by(usize::try_from(REPEAT_EVERY).unwrap_or(1)).collect();
    let repeated = search(&again, &|_| {});
    let control = |mode, heights| {
        let seeds: Vec<u64> =
            (options.first_seed..options.first_seed + options.control_seeds).collect();
        let setup = options.setup(mode, heights);
        seeds::run_all(&seeds, &setup, options.threads, scratch, &|_| {})
    };
    let split = control(Mode::TooManyByzantine, SPLIT_HEIGHTS);
    let unguarded = control(Mode::NoGuard, UNGUARDED_HEIGHTS);
    Report::new(options, &results, &repeated, &split, &unguarded, start.elapsed())
}
