//! `ayni node`: the daemon as a process.

mod logs;
mod start;
mod stop;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

pub(super) use start::find_daemon;

/// What to do with the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Start it in the background and wait until it answers
    Start,
    /// Run it in the foreground, with its log on this terminal
    Run,
    /// Stop it and wait until it has ended
    Stop,
    /// Print its log
    #[command(after_help = "Example:\n  ayni node logs --lines 100 --follow")]
    Logs {
        /// How many lines from the end
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
        /// Go on as the log grows, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// Print what another node needs to join through this one
    JoinString,
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::Start => start::start(context).await,
        NodeCommand::Run => start::run(context),
        NodeCommand::Stop => stop::stop(context).await,
        NodeCommand::Logs { lines, follow } => logs::logs(context, lines, follow).await,
        NodeCommand::JoinString => {
            let join = context.client()?.join_string().await?;
            let json = serde_json::json!({ "join_string": join });
            context.output.show(&json, || join.to_string())
        }
    }
}
