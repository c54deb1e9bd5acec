//! `ayni chain`.

use ayni_cli::amount::format_credits;
use clap::Subcommand;
use protocol::amount::Height;
use protocol::api::BlocksQuery;

use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::{self, pairs, table};
use crate::text;

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Recount all credits and check that none came from nowhere
    #[command(after_help = "Exits with 1 when credits are not conserved.")]
    Audit,
    /// List blocks
    #[command(after_help = "Example:\n  ayni chain blocks --from 1 --limit 50")]
    Blocks {
        /// First height [default: the latest blocks]
        #[arg(long, value_name = "HEIGHT")]
        from: Option<u64>,
        /// How many
        #[arg(long, value_name = "COUNT", default_value_t = BlocksQuery::LIMIT_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(BlocksQuery::LIMIT_MAX)))]
        limit: u32,
    },
    /// Show one block and its transactions
    Block {
        /// Its height
        height: u64,
    },
    /// Print the genesis file, for `ayni init --genesis` elsewhere
    Genesis,
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: ChainCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ChainCommand::Audit => audit(context).await,
        ChainCommand::Blocks { from, limit } => {
            let range = BlocksQuery { from: from.map(Height::new), limit: Some(limit) };
            let blocks = client.blocks(range).await?;
            context.output.show(&blocks, || {
                let rows = blocks.blocks.iter().map(|block| {
                    vec![
                        block.height.to_string(),
                        block.hash.short(),
                        block.proposer.short(),
                        block.round.to_string(),
                        block.signatures.to_string(),
                        block.transactions.to_string(),
                        text::bytes(block.bytes),
                        block.parent_state_root.short(),
                    ]
                });
                let head = [
                    "HEIGHT",
                    "HASH",
                    "PROPOSER",
                    "ROUND",
                    "SIGNED",
                    "TRANSACTIONS",
                    "SIZE",
                    "STATE",
                ];
                table(&head, rows, "There are no such blocks.")
            })
        }
        ChainCommand::Block { height } => {
            let block = client.block(Height::new(height)).await?;
            context.output.show(&block, || {
                let rows = [
                    ("height", block.summary.height.to_string()),
                    ("hash", block.summary.hash.to_string()),
                    ("parent", block.parent.to_string()),
                    ("proposer", block.summary.proposer.to_string()),
                    ("beacon", block.beacon.to_string()),
                    ("state before", block.summary.parent_state_root.to_string()),
                ];
                let transactions = block.transactions.iter().map(|transaction| {
                    vec![
                        transaction.hash.short(),
                        transaction.kind.clone(),
                        transaction.account.short(),
                        transaction.nonce.to_string(),
                        format_credits(transaction.tip_micro),
                    ]
                });
                let head = ["TRANSACTION", "KIND", "ACCOUNT", "NONCE", "TIP"];
                format!("{}{}", pairs(&rows), table(&head, transactions, "No transactions."))
            })
        }
        ChainCommand::Genesis => {
            let bytes = client.genesis().await?;
            let text = String::from_utf8_lossy(&bytes);
            output::print(&format!("{}\n", text.trim_end()))
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
