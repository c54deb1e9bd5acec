//! The command line, parsed and checked.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::attack;
use crate::bench;
use crate::blobs;
use crate::corpus;
use crate::crash;
use crate::crash_store;
use crate::evil_worker;
use crate::rot;
use crate::sim;

/// Fewest nodes: three publish, one keeps its data private, and a panel of three others must
/// outvote the one that lies.
pub const NODES_MIN: usize = 4;
/// Most nodes: each is two processes on this machine.
pub const NODES_MAX: usize = 16;
/// Fewest training rounds: round 1 honest, round 2 poisoned, round 3 with a node killed, one more
/// to show that it came back.
pub const ROUNDS_MIN: u32 = 4;
/// Most training rounds of one demo, about two days.
pub const ROUNDS_MAX: u32 = 10_000;

/// Local Ayni networks of real processes, and the checks of this repository.
#[derive(Debug, Parser)]
#[command(name = "ayni-testnet", version, about)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Parses a command line. `cargo demo -- --rounds 5` arrives as `demo -- --rounds 5`, because
    /// the alias ends in the name of the command: that `--` is the user's, and is left out.
    pub fn from_line(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = line.into_iter().collect();
        let is_network = |word: &OsString| word == "demo" || word == "up";
        if words.get(1).is_some_and(is_network) && words.get(2).is_some_and(|w| w == "--") {
            words.remove(2);
        }
        Self::try_parse_from(words)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up, build, run a network that trains a model, and judge what happened.
    Demo(Network),
    /// Set up, build and leave a network running; print its sockets.
    Up(Network),
    /// A worker that poisons one round (started by the demo in place of `ayni-worker`).
    EvilWorker(evil_worker::Options),
    /// A worker that writes down what it does (started by benchmarks in place of `ayni-worker`).
    #[command(hide = true)]
    MeterWorker(bench::training::meter::Options),
    /// Measure networks of real processes.
    Bench {
        /// What is measured.
        #[command(subcommand)]
        what: Bench,
    },
    /// Robust rules against attackers on MNIST, as published.
    Attack(attack::Options),
    /// Transfers of real nodes, under what goes wrong on the way.
    Blobs {
        /// What goes wrong.
        #[command(subcommand)]
        what: blobs::Command,
    },
    /// Flip bits and cut files of the ledger's stores; each must end repaired or refused.
    Rot(rot::Options),
    /// Kill validators, or a process that writes the stores, again and again: nothing acknowledged
    /// may be lost, nothing signed twice.
    Crash(crash::Options),
    /// The process that `crash --store` kills.
    #[command(hide = true)]
    CrashStoreChild(crash_store::child::Options),
    /// Check formatting, lints, documentation, tests and dependencies.
    Verify,
    /// Simulate networks of validators in virtual time, with faults, and check what must hold.
    Sim(sim::Options),
    /// Put libtorch under `.libtorch/` and nothing else.
    Setup,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// How fast transfers become final, and at what cost.
    Ledger(bench::ledger::Options),
    /// How fast blobs move, beside raw libp2p and iroh-blobs, and from several providers at once.
    Blobs(bench::blobs::Options),
    /// How well members learn together, and with how many bytes, beside data-parallel AdamW.
    Loss(bench::loss::Options),
    /// What lost deltas and dying members cost.
    Faults(bench::faults::Options),
    /// What a network costs those who train, and what review costs.
    Training(bench::training::Options),
}

/// The network to run.
#[derive(Clone, Debug, Args)]
pub struct Network {
    /// Folder of text to train on [default: the sources and documentation of the crates that
    /// Ayni is built from].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Validators to start.
    #[arg(long, default_value_t = 4)]
    pub nodes: usize,
    /// Training rounds.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// Seed of everything that is drawn: data split, initial weights, windows.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Network {
    /// Refuses what the story cannot be told with.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.nodes >= NODES_MIN,
            "--nodes {} is too few: a panel of three must be able to outvote a fourth node that \
             lies. Use --nodes {NODES_MIN} or more",
            self.nodes
        );
        ensure!(
            self.nodes <= NODES_MAX,
            "--nodes {} is too many for one machine: every node is two processes. Use --nodes \
             {NODES_MAX} or fewer",
            self.nodes
        );
        ensure!(
            self.rounds >= ROUNDS_MIN,
            "--rounds {} is too few: round 2 is poisoned and a node is killed and returns after \
             it. Use --rounds {ROUNDS_MIN} or more",
            self.rounds
        );
        ensure!(
            self.rounds <= ROUNDS_MAX,
            "--rounds {} is too many for a demo. Use --rounds {ROUNDS_MAX} or fewer",
            self.rounds
        );
        self.data.as_deref().map_or(Ok(()), corpus::check_folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<()> {
        let arguments = Arguments::from_line(line.split(' ').map(Into::into))?;
        let Command::Demo(network) = arguments.command else { panic!("demo") };
        network.validate()
    }

    #[test]
    fn the_defaults_tell_the_story() {
        parse("ayni-testnet demo").expect("defaults");
        parse("ayni-testnet demo --nodes 5 --rounds 4 --seed 9").expect("larger");
        parse("ayni-testnet demo -- --nodes 5 --rounds 4").expect("as the alias gives it");
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_a_way_out() {
        for (line, expect) in [
            ("ayni-testnet demo --nodes 3", "Use --nodes 4 or more"),
            ("ayni-testnet demo --nodes 17", "Use --nodes 16 or fewer"),
            ("ayni-testnet demo --rounds 3", "Use --rounds 4 or more"),
            ("ayni-testnet demo --rounds 20000", "Use --rounds 10000 or fewer"),
            ("ayni-testnet demo --data /nowhere/at/all", "does not exist"),
        ] {
            let message = parse(line).expect_err(line).to_string();
            assert!(message.contains(expect), "{line}: {message}");
        }
    }
}
