//! `ayni chain`.

mod show;

use std::str::FromStr;

use ayni_cli::amount::format_credits;
use ayni_cli::client::Client;
use clap::Subcommand;
use protocol::amount::Height;
use protocol::api::{BlockRef, BlocksQuery, ChainParameters, ValidatorsQuery};
use protocol::ids::TransactionHash;

use super::watch::{self, NewBlocks};
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::{self, pairs};

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Recount all credits and check that none came from nowhere
    #[command(after_help = "Example:\n  ayni chain audit\n\n\
        Exits with 1 when credits are not conserved.")]
    Audit,
    /// List blocks, newest first
    #[command(after_help = "Examples:\n  ayni chain blocks --from 1 --limit 50\n  \
        ayni chain blocks --watch --json | jq .transactions")]
    Blocks {
        /// The lowest height [default: the latest blocks]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// How many
        #[arg(long, value_name = "COUNT", default_value_t = BlocksQuery::LIMIT_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(BlocksQuery::LIMIT_MAX)))]
        limit: u32,
        /// Print every new block as it comes, until Ctrl-C
        #[arg(long, conflicts_with_all = ["from", "limit"])]
        watch: bool,
    },
    /// Show one block: header, signers, transactions, evidence
    #[command(after_help = "Examples:\n  ayni chain block 12\n  ayni chain block HASH --json")]
    Block {
        /// Its height, or its hash of 64 hexadecimal digits
        #[arg(value_name = "HEIGHT|HASH")]
        block: BlockRef,
    },
    /// Show one transaction: where it is, what it does, what it cost
    #[command(after_help = "Example:\n  ayni chain tx HASH\n\n\
        Exits with 5 when the node does not know it.")]
    Tx {
        /// Its hash: 64 hexadecimal digits
        hash: TransactionHash,
    },
    /// List validators: power, stake, presence
    #[command(after_help = "Examples:\n  ayni chain validators\n  \
        ayni chain validators --height next\n  ayni chain validators --watch")]
    Validators {
        /// The height they decide: `next`, or a height up to two above the last block
        /// [default: the one in progress]
        #[arg(long, value_name = "HEIGHT|next")]
        height: Option<Which>,
        /// Print them again whenever power, stake or state changes, or one misses a block, until
        /// Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// List the numbers of the rules, which votes can change
    #[command(after_help = "Example:\n  ayni chain params --json | jq '.parameters[] | .name'")]
    Params {
        /// Print them again whenever a block changes them, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Print the genesis file, for `ayni init --genesis` elsewhere
    #[command(after_help = "Example:\n  ayni chain genesis > genesis.json")]
    Genesis,
}

/// Which validators.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    /// Those after the ones in charge.
    Next,
    /// Those of a height.
    Of(Height),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "next" => Ok(Self::Next),
            Ok(height) => Ok(Self::Of(Height::new(height))),
            Err(_) => Err("write a height, or next".to_owned()),
        }
    }
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: ChainCommand) -> Result<(), Failure> {
    match command {
        ChainCommand::Audit => audit(context).await,
        ChainCommand::Blocks { watch: true, .. } => watch_blocks(context).await,
        ChainCommand::Blocks { from, limit, watch: false } => {
            let range = BlocksQuery { from: from.map(Height::new), limit: Some(limit) };
            let mut blocks = context.client()?.blocks(range).await?;
            blocks.blocks.reverse();
            context.output.show(&blocks, || show::blocks(&blocks))
        }
        ChainCommand::Block { block } => {
            let block = context.client()?.block(block).await?;
            context.output.show(&block, || show::block(&block))
        }
        ChainCommand::Tx { hash } => {
            let transaction = context.client()?.find_transaction(hash).await?;
            context.output.show(&transaction, || show::transaction(&transaction))
        }
        ChainCommand::Validators { height, watch } => {
            let ask = async |client: &Client| {
                let height = match height {
                    None => None,
                    Some(Which::Of(height)) => Some(height),
                    Some(Which::Next) => Some(client.status().await?.height.plus(2)),
                };
                client.validators(ValidatorsQuery { height }).await
            };
            watch::show(context, watch, ask, show::same_validators, show::validators).await
        }
        ChainCommand::Params { watch } => {
            let ask = async |client: &Client| client.parameters().await;
            let same = |a: &ChainParameters, b: &ChainParameters| {
                let of = |c: &ChainParameters| (c.rules_version, c.rules_ahead);
                of(a) == of(b) && a.parameters == b.parameters
            };
            watch::show(context, watch, ask, same, show::parameters).await
        }
        ChainCommand::Genesis => {
            let bytes = context.client()?.genesis().await?;
            let text = String::from_utf8_lossy(&bytes);
            output::print(&format!("{}\n", text.trim_end()))
        }
    }
}

/// The last block and every one after it, none left out.
async fn watch_blocks(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let mut coming = NewBlocks::follow(&client).await?;
    let mut next: Option<Height> = None;
    loop {
        let limit = if next.is_some() { BlocksQuery::LIMIT_MAX } else { 1 };
        let blocks = client.blocks(BlocksQuery { from: next, limit: Some(limit) }).await?.blocks;
        for block in &blocks {
            context.output.stream(block, || show::line(block))?;
            next = Some(block.height.plus(1));
        }
        let more = blocks.len() > 1 && u32::try_from(blocks.len()) == Ok(limit);
        if !more && coming.next().await?.is_none() {
            return watch::ended(context);
        }
    }
}

async fn audit(context: &Context) -> Result<(), Failure> {
    let audit = context.client()?.audit().await?;
    context.output.show(&audit, || {
        let rows = [
            ("height", audit.height.to_string()),
            ("state root", audit.state_root.to_string()),
            ("genesis", format_credits(audit.genesis_micro)),
            ("minted", format_credits(audit.minted_micro)),
            ("burned", format_credits(audit.burned_micro)),
            ("counted", format_credits(audit.total_micro)),
            ("conserved", if audit.credits_conserved { "yes" } else { "NO" }.to_owned()),
            ("double signs", audit.double_signs.to_string()),
        ];
        pairs(&rows)
    })?;
    if audit.credits_conserved {
        return Ok(());
    }
    Err(Failure::new(FAILED, "credits are not conserved: genesis + minted - burned is not there")
        .with_hint("this is a bug or a damaged store: stop the node and keep its home for a look"))
}
