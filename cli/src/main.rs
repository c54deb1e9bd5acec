//! `ayni`: the command for people and scripts. It parses, asks the daemon and prints; what is
//! allowed and what it means is decided there.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon down, 4 denied, 5 not found, 6 timed out,
//! 7 insufficient funds, 130 interrupted.

mod arguments;
mod commands;
mod context;
mod failure;
mod output;
mod progress;
mod text;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::context::Context;
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.global.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(json),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let context = Context::new(arguments.global);
    tokio::select! {
        biased;
        result = Box::pin(commands::run(&context, arguments.command)) => result,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            context.cancel_job().await;
            Err(Failure::interrupted())
        }
    }
}
