//! `ayni credits`.

mod prove;
mod show;
mod stake;

use std::path::PathBuf;

use ayni_cli::amount::{format_credits, parse_credits};
use ayni_cli::client::Client;
use clap::{Args, Subcommand};
use protocol::amount::Credits;
use protocol::api::{Balance, HistoryCursor, HistoryQuery, SendRequest, TrustedPoint};
use protocol::ids::AccountId;

pub(crate) use self::show::receipt;
use self::stake::StakeCommand;
use super::watch;
use crate::context::Context;
use crate::failure::{Failure, USAGE};

/// What to do with credits.
#[derive(Debug, Subcommand)]
pub(crate) enum CreditsCommand {
    /// Show a balance, and prove it
    #[command(after_help = "Examples:\n  ayni credits balance\n  ayni credits balance --watch\n  \
        ayni credits balance --prove --out balance.proof --trusted 1:HASH\n\n\
        A proof is checked by `ayni verify-proof`, which needs no node: only a block that its \
        reader trusts.")]
    Balance(BalanceArguments),
    /// Send credits to another account
    #[command(after_help = "Example:\n  ayni credits send ACCOUNT 12.5\n\n\
        Returns when the transfer is final; it cannot be taken back.")]
    Send {
        /// Receiver: 64 hexadecimal digits
        to: AccountId,
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
    },
    /// Show every account and what it earned in which role
    #[command(after_help = "Example:\n  ayni credits accounts")]
    Accounts,
    /// List an account's transactions and those that pay it, newest first
    #[command(after_help = "Examples:\n  ayni credits history --limit 50\n  \
        ayni credits history --before 812:0\n\n\
        Payments that no transaction makes are not listed: rewards, stake that comes back, \
        spending of the treasury.")]
    History {
        /// Whose [default: the node's own account]
        account: Option<AccountId>,
        /// How many
        #[arg(long, value_name = "COUNT", default_value_t = HistoryQuery::LIMIT_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(HistoryQuery::LIMIT_MAX)))]
        limit: u32,
        /// Only what is older than this place, HEIGHT or HEIGHT:INDEX
        #[arg(long, value_name = "PLACE")]
        before: Option<HistoryCursor>,
    },
    #[command(flatten)]
    Stake(StakeCommand),
}

/// A balance.
#[derive(Debug, Args)]
pub(crate) struct BalanceArguments {
    /// Whose [default: the node's own account]
    account: Option<AccountId>,
    /// Print it again whenever a block changes it, until Ctrl-C
    #[arg(long, conflicts_with = "prove")]
    watch: bool,
    /// Write a proof of it
    #[arg(long)]
    prove: bool,
    /// File for the proof's bytes; without it they are printed in hexadecimal
    #[arg(long, value_name = "FILE", requires = "prove")]
    out: Option<PathBuf>,
    /// Block that the proof's reader trusts [default: that of the join string, else the first]
    #[arg(long, value_name = "HEIGHT:HASH", requires = "prove")]
    trusted: Option<TrustedPoint>,
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: CreditsCommand) -> Result<(), Failure> {
    match command {
        CreditsCommand::Balance(arguments) if arguments.prove => {
            prove::run(context, arguments).await
        }
        CreditsCommand::Balance(BalanceArguments { account, watch, .. }) => {
            let ask = async |client: &Client| client.balance(account).await;
            watch::show(context, watch, ask, Balance::eq, show::balance).await
        }
        CreditsCommand::Send { to, amount } => send(context, to, amount).await,
        CreditsCommand::Accounts => {
            let accounts = context.client()?.accounts().await?;
            context.output.show(&accounts, || show::accounts(&accounts))
        }
        CreditsCommand::History { account, limit, before } => {
            let query = HistoryQuery { account, before, limit: Some(limit) };
            let page = context.client()?.history(query).await?;
            context.output.show(&page, || show::history(&page))
        }
        CreditsCommand::Stake(command) => stake::run(context, command).await,
    }
}

/// Refuses an amount of nothing before the node is asked.
fn not_zero(amount: Credits) -> Result<(), Failure> {
    if amount == Credits::ZERO {
        return Err(Failure::new(USAGE, "the amount is zero; nothing was done"));
    }
    Ok(())
}

async fn send(context: &Context, to: AccountId, amount: Credits) -> Result<(), Failure> {
    not_zero(amount)?;
    let done = context.client()?.send(&SendRequest { to, amount_micro: amount }).await?;
    context.output.show(&done, || {
        format!("Sent {} credits to {to}.\n{}", format_credits(amount), receipt(&done))
    })
}
