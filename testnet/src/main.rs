//! The program `ayni-testnet`: see the library for what it is made of.

use std::process::ExitCode;

use anyhow::Result;
use ayni_testnet::arguments::{Arguments, Command, Network};
use ayni_testnet::workspace::Workspace;
use ayni_testnet::{evil_worker, setup, verify};
use clap::Parser;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Demo(network) | Command::Up(network) => run_network(&network),
        Command::EvilWorker(options) => evil_worker::run(options),
        Command::Verify => verify::run(&Workspace::find()?).map(|()| ExitCode::SUCCESS),
        Command::Setup => setup::libtorch(&Workspace::find()?).map(|()| ExitCode::SUCCESS),
    }
}

/// Checks the options before minutes are spent on the build.
fn run_network(network: &Network) -> Result<ExitCode> {
    network.validate()?;
    setup::prepare(&Workspace::find()?)?;
    anyhow::bail!("the demo network is not built yet")
}
