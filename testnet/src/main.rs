//! The program `ayni-testnet`: see the library for what it is made of.

use std::process::ExitCode;

use anyhow::Result;
use ayni_testnet::arguments::{Arguments, Bench, Command, Network};
use ayni_testnet::workspace::Workspace;
use ayni_testnet::{
    attack, bench, blobs, crash, crash_store, demo, evil_worker, rot, setup, sim, verify,
};

fn main() -> ExitCode {
    let arguments = Arguments::from_line(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Demo(network) => prepared(&network).and_then(|at| demo::run(&at, &network)),
        Command::Up(network) => prepared(&network).and_then(|at| demo::up(&at, &network)),
        Command::EvilWorker(options) => evil_worker::run(options),
        Command::Bench { what: Bench::Ledger(options) } => {
            bench::ledger::run(&Workspace::find()?, &options)
        }
        Command::Bench { what: Bench::Blobs(options) } => {
            bench::blobs::run(&Workspace::find()?, &options)
        }
        Command::Bench { what: Bench::Loss(options) } => {
            bench::loss::run(&Workspace::find()?, &options)
        }
        Command::Bench { what: Bench::Faults(options) } => {
            bench::faults::run(&Workspace::find()?, &options)
        }
        Command::Bench { what: Bench::Training(options) } => {
            bench::training::run(&Workspace::find()?, &options)
        }
        Command::MeterWorker(options) => bench::training::meter::run(&options),
        Command::Attack(options) => attack::run(&Workspace::find()?, &options),
        Command::Blobs { what } => blobs::run(&Workspace::find()?, &what),
        Command::Rot(options) => rot::run(&Workspace::find()?, &options),
        Command::Crash(options) => crash::run(&Workspace::find()?, &options),
        Command::CrashStoreChild(options) => crash_store::child::run(&options),
        Command::Verify => verify::run(&Workspace::find()?).map(|()| ExitCode::SUCCESS),
        Command::Sim(options) => sim::run(&options),
        Command::Setup => setup::libtorch(&Workspace::find()?).map(|()| ExitCode::SUCCESS),
    }
}

/// Checks the options before minutes are spent on the build.
fn prepared(network: &Network) -> Result<Workspace> {
    network.validate()?;
    let workspace = Workspace::find()?;
    setup::prepare(&workspace)?;
    Ok(workspace)
}
