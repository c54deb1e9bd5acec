//! `ayni credits`.

use ayni_cli::amount::{AmountError, format_credits, parse_credits};
use clap::Subcommand;
use protocol::amount::Credits;
use protocol::api::{Balance, SendRequest};
use protocol::ids::AccountId;

use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::output::{pairs, table};

/// What to do with credits.
#[derive(Debug, Subcommand)]
pub(crate) enum CreditsCommand {
    /// Show a balance
    #[command(after_help = "Example:\n  ayni credits balance")]
    Balance {
        /// Whose [default: the node's own account]
        account: Option<AccountId>,
    },
    /// Send credits to another account
    #[command(after_help = "Example:\n  ayni credits send ACCOUNT 12.5\n\n\
        Returns when the transfer is final; it cannot be taken back.")]
    Send {
        /// Receiver: 64 hexadecimal digits
        to: AccountId,
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_amount)]
        amount: Credits,
    },
    /// Show every account and what it earned in which role
    Accounts,
}

fn parse_amount(text: &str) -> Result<Credits, AmountError> {
    parse_credits(text)
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: CreditsCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        CreditsCommand::Balance { account } => {
            let balance = client.balance(account).await?;
            context.output.show(&balance, || describe(&balance))
        }
        CreditsCommand::Send { to, amount } => {
            if amount == Credits::ZERO {
                return Err(Failure::new(USAGE, "the amount is zero; nothing was sent"));
            }
            let receipt = client.send(&SendRequest { to, amount_micro: amount }).await?;
            context.output.show(&receipt, || {
                let amount = format_credits(amount);
                format!(
                    "Sent {amount} credits to {to}.\nFinal in block {}, transaction {}.",
                    receipt.height, receipt.transaction
                )
            })
        }
        CreditsCommand::Accounts => {
            let accounts = client.accounts().await?;
            context.output.show(&accounts, || {
                let rows = accounts.accounts.iter().map(|account| {
                    let earned = account.earned;
                    vec![
                        account.account.to_string(),
                        account.nodes.len().to_string(),
                        format_credits(account.balance_micro),
                        format_credits(account.bonded_micro),
                        format_credits(earned.contributor_micro),
                        format_credits(earned.reviewer_micro),
                        format_credits(earned.validator_micro),
                        format_credits(account.bonds_burned_micro),
                    ]
                });
                let head = [
                    "ACCOUNT",
                    "NODES",
                    "BALANCE",
                    "BONDED",
                    "CONTRIBUTED",
                    "REVIEWED",
                    "VALIDATED",
                    "BURNED",
                ];
                table(&head, rows, "There are no accounts.")
            })
        }
    }
}

fn describe(balance: &Balance) -> String {
    let rows = [
        ("account", balance.account.to_string()),
        ("balance", format!("{} credits", format_credits(balance.balance_micro))),
        ("bonded", format!("{} credits", format_credits(balance.bonded_micro))),
    ];
    let nodes = balance.nodes.iter().map(|node| {
        vec![
            node.node.to_string(),
            format_credits(node.allowance_micro),
            format_credits(node.bonded_micro),
        ]
    });
    let head = ["NODE", "ALLOWANCE", "BONDED"];
    format!("{}{}", pairs(&rows), table(&head, nodes, "No node belongs to this account."))
}
