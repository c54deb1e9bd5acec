//! `aynid`: the Ayni node.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use ayni_daemon::node::{home, start};
use clap::Parser;
use protocol::home::Home;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The Ayni node. Make a home for it with `ayni init`; talk to it with `ayni`.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    /// Home directory of the node.
    #[arg(long, env = "AYNI_HOME")]
    home: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "must be seen whatever is logged, and once")]
            {
                eprintln!("aynid: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let home = Home::new(std::path::absolute(options.home)?);
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
