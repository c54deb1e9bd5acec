//! `ayni gov`.

mod change;
mod show;

use ayni_cli::client::Client;
use clap::{Args, Subcommand, ValueEnum};
use protocol::api::{
    BallotRequest, ProposalDetail, ProposalQuery, Proposals, ProposalsQuery, ProposeRequest,
};
use protocol::transaction::{Choice, ProposalId};

use self::change::ChangeCommand;
use super::credits::receipt;
use super::watch;
use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::text;

/// What to do in governance.
#[derive(Debug, Subcommand)]
pub(crate) enum GovCommand {
    /// Propose a change and lock the deposit
    #[command(after_help = "Examples:\n  \
        ayni gov propose param quorum_ppm=400000 --title 'A higher quorum'\n  \
        ayni gov propose text charter.md --title 'The charter'\n  \
        ayni gov propose dataset books admit --title 'Train on books'\n  \
        ayni gov propose weight tiny 40 --title 'Less for tiny'\n  \
        ayni gov propose direct tiny books maps --title 'Books and maps only'\n  \
        ayni gov propose spend ACCOUNT 250 --title 'Pay for the audit'\n  \
        ayni gov propose rules 2 500000 --title 'Rules 2'\n  \
        ayni gov propose pause tiny --title 'Its head is broken'")]
    Propose(ProposeArguments),
    /// Vote with your stake; a later ballot replaces an earlier one
    #[command(
        after_help = "Examples:\n  ayni gov vote 3 yes\n  ayni gov vote 3 no --conviction 2\n\n\
        Each step of conviction adds the stake once more, and locks it an unbonding longer."
    )]
    Vote {
        /// Number of the proposal
        id: ProposalId,
        /// Your choice
        choice: Ballot,
        /// Steps of conviction
        #[arg(long, value_name = "STEPS", default_value_t = 0)]
        conviction: u8,
    },
    /// List proposals that are open, newest first
    #[command(after_help = "Examples:\n  ayni gov ls\n  ayni gov ls --all --before 40\n  \
        ayni gov ls --watch --json")]
    Ls {
        /// Those that are over, too
        #[arg(long)]
        all: bool,
        /// Only numbers below this
        #[arg(long, value_name = "ID")]
        before: Option<ProposalId>,
        /// How many
        #[arg(long, value_name = "COUNT", default_value_t = ProposalsQuery::LIMIT_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(ProposalsQuery::LIMIT_MAX)))]
        limit: u32,
        /// Print them again whenever a block changes them, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Show a proposal: what it changes, how its vote stands, ballots, outcome
    #[command(after_help = "Examples:\n  ayni gov show 3\n  ayni gov show 3 --skip 50")]
    Show {
        /// Its number
        id: ProposalId,
        /// Ballots to leave out first
        #[arg(long, value_name = "COUNT")]
        skip: Option<u32>,
        /// Ballots to list
        #[arg(long, value_name = "COUNT", default_value_t = ProposalQuery::LIMIT_DEFAULT)]
        limit: u32,
        /// Print it again whenever a block changes it, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
}

/// A proposal to make.
#[derive(Debug, Args)]
pub(crate) struct ProposeArguments {
    #[command(subcommand)]
    change: ChangeCommand,
    /// One line that says why
    #[arg(long, global = true, value_name = "TEXT")]
    title: Option<String>,
}

/// A choice, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ballot {
    /// For it
    Yes,
    /// Against it
    No,
    /// Counts for the quorum only
    Abstain,
    /// Against it, and the deposit should burn
    Veto,
}

impl From<Ballot> for Choice {
    fn from(ballot: Ballot) -> Self {
        match ballot {
            Ballot::Yes => Self::Yes,
            Ballot::No => Self::No,
            Ballot::Abstain => Self::Abstain,
            Ballot::Veto => Self::Veto,
        }
    }
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: GovCommand) -> Result<(), Failure> {
    match command {
        GovCommand::Propose(arguments) => propose(context, arguments).await,
        GovCommand::Vote { id, choice, conviction } => {
            let choice = Choice::from(choice);
            let request = BallotRequest { proposal: id, choice, conviction };
            let done = context.client()?.ballot(&request).await?;
            context.output.show(&done, || {
                format!("Voted {} on proposal {id}.\n{}", text::name(&choice), receipt(&done))
            })
        }
        GovCommand::Ls { all, before, limit, watch } => {
            let query = ProposalsQuery { all, before, limit: Some(limit) };
            let ask = async |client: &Client| client.proposals(query).await;
            let same = |a: &Proposals, b: &Proposals| a.proposals == b.proposals;
            watch::show(context, watch, ask, same, show::list).await
        }
        GovCommand::Show { id, skip, limit, watch } => {
            let query = ProposalQuery { skip, limit: Some(limit) };
            let ask = async |client: &Client| client.proposal(id, query).await;
            let same = |a: &ProposalDetail, b: &ProposalDetail| {
                a.proposal == b.proposal && a.ballots == b.ballots
            };
            watch::show(context, watch, ask, same, |found| show::one(found, skip.unwrap_or(0)))
                .await
        }
    }
}

async fn propose(context: &Context, arguments: ProposeArguments) -> Result<(), Failure> {
    let ProposeArguments { change, title } = arguments;
    let title = title.ok_or_else(|| {
        Failure::new(USAGE, "a proposal needs a title")
            .with_hint("say in one line why: --title 'A higher quorum'")
    })?;
    let client = context.client()?;
    let change = change::resolve(context, &client, change).await?;
    let done = client.propose(&ProposeRequest { title, change }).await?;
    context.output.show(&done, || {
        format!(
            "Proposal {id} is open.\n{}\nNext: ayni gov vote {id} yes, and ayni gov show {id}",
            receipt(&done.receipt),
            id = done.proposal,
        )
    })
}
