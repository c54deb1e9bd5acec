//! The command line: options that every command has, and the commands by noun.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    chain::ChainCommand, credits::CreditsCommand, data::DataCommand, gov::GovCommand,
    init::InitArguments, keys::KeysCommand, model::ModelCommand, node::NodeCommand,
    proof::VerifyArguments, review::ReviewCommand, train::TrainCommand,
};

/// Ayni: train shared models with others and be paid for what you bring.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        ayni init --join ayni:CHAIN@ADDRESS   make a node for an existing network\n  \
        ayni node start                       start it in the background\n  \
        ayni status                           see how it is doing\n  \
        ayni data publish ./texts --name my-texts --licence CC-BY-4.0\n  \
        ayni train join tiny                  take part in training\n  \
        ayni credits balance                  see what it earned\n\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon down, 4 denied, 5 not found,\n\
        6 timed out, 7 insufficient funds, 130 interrupted."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command has.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Home folder of the node [default: ~/.ayni]
    #[arg(long, global = true, env = "AYNI_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Socket of the daemon [default: what the home says]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up after this many seconds [default: 120 for requests, no limit for jobs]
    #[arg(long, global = true, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) timeout: Option<u32>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a home for a node: keys, configuration
    Init(InitArguments),
    /// Create, back up and import keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Start and stop the daemon, read its log
    #[command(subcommand)]
    Node(NodeCommand),
    /// Look for what is wrong and say how to mend it
    Doctor,
    /// Show how the node is doing
    Status,
    /// Show connected peers
    Peers,
    /// Add, publish and list data
    #[command(subcommand)]
    Data(DataCommand),
    /// Create, list and use models
    #[command(subcommand)]
    Model(ModelCommand),
    /// Open, join and watch training rounds
    #[command(subcommand)]
    Train(TrainCommand),
    /// See what was reviewed and how
    #[command(subcommand)]
    Review(ReviewCommand),
    /// See, send, stake and prove credits
    #[command(subcommand)]
    Credits(CreditsCommand),
    /// Propose changes of the rules and vote on them
    #[command(subcommand)]
    Gov(GovCommand),
    /// Check a proof of a balance, without a node
    #[command(after_help = "Example:\n  ayni verify-proof balance.proof --trusted 1:HASH\n\n\
        Exits with 1 and the first thing wrong when the proof does not hold.")]
    VerifyProof(VerifyArguments),
    /// Look at the chain
    #[command(subcommand)]
    Chain(ChainCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
