//! The commands, one module per noun.

pub(crate) mod chain;
pub(crate) mod credits;
pub(crate) mod data;
mod doctor;
pub(crate) mod gov;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod proof;
pub(crate) mod review;
mod status;
pub(crate) mod train;
mod watch;

use crate::arguments::Command;
use crate::context::Context;
use crate::failure::Failure;

/// Does what was asked.
pub(crate) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => init::run(context, &arguments),
        Command::Keys(command) => keys::run(context, command),
        Command::Node(command) => node::run(context, command).await,
        Command::Doctor => doctor::run(context).await,
        Command::Status => status::status(context).await,
        Command::Peers => status::peers(context).await,
        Command::Data(command) => data::run(context, command).await,
        Command::Model(command) => model::run(context, command).await,
        Command::Train(command) => train::run(context, command).await,
        Command::Review(command) => review::run(context, command).await,
        Command::Credits(command) => credits::run(context, command).await,
        Command::Gov(command) => gov::run(context, command).await,
        Command::VerifyProof(arguments) => proof::run(context, &arguments),
        Command::Chain(command) => chain::run(context, command).await,
    }
}
