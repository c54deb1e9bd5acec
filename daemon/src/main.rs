//! `aynid`: the Ayni node.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use ayni_daemon::ledger_tool;
use ayni_daemon::node::{home, start};
use clap::{Parser, Subcommand};
use protocol::home::Home;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The Ayni node. Make a home for it with `ayni init`; talk to it with `ayni`.
#[derive(Parser)]
#[command(version, about, subcommand_negates_reqs = true)]
struct Options {
    /// Home directory of the node.
    #[arg(long, env = "AYNI_HOME", required = true)]
    home: Option<PathBuf>,
    /// Instead of running the node.
    #[command(subcommand)]
    tool: Option<Tool>,
}

/// What `aynid` does besides being a node.
#[derive(Subcommand)]
enum Tool {
    /// Check, repair, export or import the ledger of a stopped node.
    #[command(subcommand)]
    Ledger(ledger_tool::Command),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match (options.tool, options.home) {
        (Some(Tool::Ledger(command)), _) => ledger_tool::run(&command).map(|text| {
            #[expect(clippy::print_stdout, reason = "the answer of a command")]
            {
                print!("{text}");
            }
        }),
        (None, Some(home)) => run(home),
        (None, None) => unreachable!("clap requires a home without a tool"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "must be seen whatever is logged, and once")]
            {
                eprintln!("aynid: {error:#}{}", what_to_do(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// For the one failure whose remedy no message below knows.
fn what_to_do(error: &anyhow::Error) -> &'static str {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref().map(std::io::Error::kind);
        matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    };
    // sled passes on the words and not the error.
    if error.chain().any(is_full) || format!("{error:#}").contains("No space left on device") {
        "; nothing is lost: free some space and start the node again"
    } else {
        ""
    }
}

fn run(home: PathBuf) -> anyhow::Result<()> {
    let home = Home::new(std::path::absolute(home)?);
    let config = home::config(&home)?;
    let level = std::env::var("AYNI_LOG").unwrap_or_else(|_| config.log().level.clone());
    let filter = EnvFilter::try_new(&level).with_context(|| {
        format!(
            "{level:?} is not a log level: set `level` under [log] in {}, or AYNI_LOG, to for \
             example \"info\"",
            home.config().display()
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let token = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = token.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
        Box::pin(start::run(home, token)).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}
