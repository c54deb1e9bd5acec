//! `ayni init`.

use std::fs;
use std::path::{Path, PathBuf};

use ayni_cli::home::{self, InitOptions};
use ayni_cli::keys;
use clap::Args;
use protocol::config::Config;
use protocol::home::NodeSecrets;
use protocol::join::JoinString;
use protocol::ledger::genesis::Genesis;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::output::pairs;

/// How to set up a node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    ayni init --join ayni:CHAIN@/ip4/192.0.2.1/udp/4001/quic-v1\n  \
    ayni init --home ./node1 --genesis genesis.json --listen /ip4/0.0.0.0/udp/4001/quic-v1\n\n\
    `ayni status` on a running node shows its join string.")]
pub(crate) struct InitArguments {
    /// Join string of the network: address and chain id
    #[arg(long, value_name = "JOIN")]
    pub(crate) join: Option<JoinString>,
    /// Genesis file of the network
    #[arg(long, value_name = "FILE")]
    pub(crate) genesis: Option<PathBuf>,
    /// Address to listen on; may be repeated [default: loopback, free ports]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
}

/// Makes the home with new keys.
pub(crate) fn run(context: &Context, arguments: &InitArguments) -> Result<(), Failure> {
    create(context, arguments, &keys::draw_secrets()?)
}

/// Makes the home with these keys.
pub(crate) fn create(
    context: &Context,
    arguments: &InitArguments,
    secrets: &NodeSecrets,
) -> Result<(), Failure> {
    let place = context.home()?;
    let genesis = arguments.genesis.as_deref().map(read_genesis).transpose()?;
    if let (Some(join), Some(genesis)) = (&arguments.join, &genesis)
        && join.chain() != genesis.chain_id()
    {
        return Err(Failure::new(
            USAGE,
            format!(
                "the join string names chain {} and the genesis file makes chain {}",
                join.chain(),
                genesis.chain_id()
            ),
        )
        .with_hint("one of them belongs to another network; leave it out or get the right one"));
    }
    let mut config = Config::default();
    config.network.join = arguments.join.as_ref().map(ToString::to_string);
    if !arguments.listen.is_empty() {
        config.network.listen.clone_from(&arguments.listen);
    }
    config.clone().validate().map_err(|error| Failure::new(USAGE, error.to_string()))?;
    let networked = arguments.join.is_some() || genesis.is_some();
    let identity = home::init(&place, secrets, &InitOptions { config, genesis })?;
    let json = json!({ "home": place.root(), "identity": identity });
    context.output.show(&json, || {
        let rows = [
            ("home", place.root().display().to_string()),
            ("account", identity.account.to_string()),
            ("node", identity.node.to_string()),
        ];
        let next = if networked {
            "Next: ayni keys backup FILE, then ayni node start"
        } else {
            "Next: set `join` under [network] in config.toml or put genesis.json into the home,\n\
             then ayni keys backup FILE and ayni node start"
        };
        format!(
            "A node was made. Its keys exist only here: back them up.\n\n{}\n{next}",
            pairs(&rows)
        )
    })
}

fn read_genesis(path: &Path) -> Result<Genesis, Failure> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::new(USAGE, format!("cannot read {shown}: {error}")))?;
    let refuse = |reason: String| {
        Failure::new(USAGE, format!("{shown} is not a genesis file: {reason}"))
            .with_hint("get it from a running node with `ayni chain genesis`")
    };
    let genesis: Genesis = serde_json::from_str(&text).map_err(|e| refuse(e.to_string()))?;
    genesis.build().map_err(|e| refuse(e.to_string()))?;
    Ok(genesis)
}
