//! `ayni keys`: works on files only; no key is ever sent to the daemon.

use std::path::{Path, PathBuf};

use ayni_cli::home::{self, HomeError};
use ayni_cli::keys;
use clap::Subcommand;
use protocol::home::NodeIdentity;

use super::init::{self, InitArguments};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::pairs;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Draw a full set of new keys into a backup file, without a home
    #[command(after_help = "Example:\n  ayni keys create ./new-node.json\n  \
        ayni keys import ./new-node.json --home ./node1")]
    Create {
        /// The file to write; must not exist
        file: PathBuf,
    },
    /// Write a backup of the node's keys; keep it where nobody else can read it
    #[command(after_help = "Example:\n  ayni keys backup /media/stick/ayni-keys.json")]
    Backup {
        /// The file to write; must not exist
        file: PathBuf,
    },
    /// Make a home from a backup, or put missing keys back into the home it came from
    #[command(after_help = "Example:\n  ayni keys import ./ayni-keys.json --home ./node1\n\n\
        Never run two nodes with the same keys: a validator would sign twice and lose its stake.")]
    Import {
        /// The backup
        file: PathBuf,
        #[command(flatten)]
        init: InitArguments,
    },
    /// Show the public keys and ids
    Show,
}

/// Runs it.
pub(crate) fn run(context: &Context, command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Create { file } => {
            let secrets = keys::draw_secrets()?;
            keys::write_backup(&file, &secrets)?;
            show(context, &secrets.identity(), &written("New keys are", &file))
        }
        KeysCommand::Backup { file } => {
            let secrets = keys::load_secrets(&existing(context)?)?;
            keys::write_backup(&file, &secrets)?;
            show(context, &secrets.identity(), &written("A backup of the keys is", &file))
        }
        KeysCommand::Import { file, init } => import(context, &file, &init),
        KeysCommand::Show => {
            let identity = home::load_identity(&context.home()?)?;
            show(context, &identity, "The public keys of this node:")
        }
    }
}

fn existing(context: &Context) -> Result<protocol::home::Home, Failure> {
    let place = context.home()?;
    home::load_identity(&place)?;
    Ok(place)
}

fn written(what: &str, file: &Path) -> String {
    format!("{what} in {}. Whoever has it owns the node and its credits.", file.display())
}

fn import(context: &Context, file: &Path, arguments: &InitArguments) -> Result<(), Failure> {
    let secrets = keys::read_backup(file)?;
    let place = context.home()?;
    match home::load_identity(&place) {
        Err(HomeError::Missing(_)) => init::create(context, arguments, &secrets),
        Err(error) => Err(error.into()),
        Ok(identity) => {
            let restored = home::restore_keys(&place, &secrets)?;
            let names: Vec<&str> = restored.iter().map(|name| name.name()).collect();
            let headline = if names.is_empty() {
                "All keys are there already; nothing was changed.".to_owned()
            } else {
                format!("Restored: {}.", names.join(", "))
            };
            show(context, &identity, &headline)
        }
    }
}

fn show(context: &Context, identity: &NodeIdentity, headline: &str) -> Result<(), Failure> {
    context.output.show(identity, || {
        let rows = [
            ("account", identity.account.to_string()),
            ("account key", identity.account_key.to_string()),
            ("node key", identity.keys.node.to_string()),
            ("consensus key", identity.keys.consensus.to_string()),
            ("vrf key", identity.keys.vrf.to_string()),
            ("duty key", identity.keys.duty.to_string()),
        ];
        format!("{headline}\n\n{}", pairs(&rows))
    })
}
