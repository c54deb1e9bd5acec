//! `ayni credits`: what has to do with stake.

use ayni_cli::amount::{format_credits, parse_credits, parse_percent};
use ayni_cli::client::Client;
use clap::Subcommand;
use protocol::amount::Credits;
use protocol::api::{StakeRequest, Stakes, StakesQuery, TransactionReceipt};
use protocol::ids::{AccountId, NodeId};
use serde::Serialize;

use super::{not_zero, show};
use crate::commands::watch;
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::text;

/// What to do with stake.
#[derive(Debug, Subcommand)]
pub(crate) enum StakeCommand {
    /// Put credits at stake on a node, by default your own: it validates, and you vote
    #[command(after_help = "Examples:\n  ayni credits stake 500\n  \
        ayni credits stake 500 --node NODE\n\n\
        A node of yours that is not on the ledger yet is registered first.")]
    Stake {
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
        /// The node: 64 hexadecimal digits [default: the one that is asked]
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Put credits at stake on somebody else's node, and share its rewards
    #[command(after_help = "Example:\n  ayni credits delegate NODE 100\n\n\
        `ayni chain validators` lists nodes with their commission. Their misdeeds cost you too.")]
    Delegate {
        /// The node: 64 hexadecimal digits
        node: NodeId,
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
    },
    /// Take credits off a node; they come back after the unbonding delay
    #[command(after_help = "Example:\n  ayni credits unstake 50 --node NODE\n\n\
        `ayni credits stakes` says when they come back; until then they answer for the node.")]
    Unstake {
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
        /// The node: 64 hexadecimal digits [default: the one that is asked]
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Move stake from one node to another at once
    #[command(after_help = "Example:\n  ayni credits redelegate FROM TO 25")]
    Redelegate {
        /// The node that it leaves
        from: NodeId,
        /// The node that it goes to
        to: NodeId,
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
    },
    /// Set your node's commission on its delegators' rewards, from the next epoch on
    #[command(after_help = "Example:\n  ayni credits commission 7.5")]
    Commission {
        /// Per cent, with up to four decimals
        #[arg(value_name = "PERCENT", value_parser = parse_percent)]
        commission_ppm: u32,
    },
    /// End your node's jail, once its time is over
    #[command(after_help = "Example:\n  ayni credits unjail")]
    Unjail,
    /// Pay out what stake has earned
    #[command(after_help = "Examples:\n  ayni credits claim\n  ayni credits claim --all")]
    Claim {
        /// The node: 64 hexadecimal digits [default: the one that is asked]
        #[arg(long, conflicts_with = "all")]
        node: Option<NodeId>,
        /// On every node on which something waits
        #[arg(long)]
        all: bool,
    },
    /// Show stake, rewards, and what is coming back
    #[command(after_help = "Examples:\n  ayni credits stakes\n  ayni credits stakes --watch")]
    Stakes {
        /// Whose [default: the node's own account]
        account: Option<AccountId>,
        /// Print them again whenever a block changes them, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
}

/// Runs it.
pub(super) async fn run(context: &Context, command: StakeCommand) -> Result<(), Failure> {
    let on = |node: Option<NodeId>| {
        node.map_or_else(|| "this node".to_owned(), |node| format!("node {node}"))
    };
    let (request, done) = match command {
        StakeCommand::Stake { amount, node } => {
            not_zero(amount)?;
            let done = format!("{} credits are at stake on {}.", format_credits(amount), on(node));
            (StakeRequest::Stake { node, amount_micro: amount }, done)
        }
        StakeCommand::Delegate { node, amount } => {
            not_zero(amount)?;
            let done = format!("{} credits are at stake on node {node}.", format_credits(amount));
            (StakeRequest::Stake { node: Some(node), amount_micro: amount }, done)
        }
        StakeCommand::Unstake { amount, node } => {
            not_zero(amount)?;
            let amount_text = format_credits(amount);
            let done = format!(
                "{amount_text} credits have left {}; `ayni credits stakes` says when they are \
                 back.",
                on(node)
            );
            (StakeRequest::Unstake { node, amount_micro: amount }, done)
        }
        StakeCommand::Redelegate { from, to, amount } => {
            not_zero(amount)?;
            let done = format!("{} credits moved to node {to}.", format_credits(amount));
            (StakeRequest::Redelegate { from, to, amount_micro: amount }, done)
        }
        StakeCommand::Commission { commission_ppm } => {
            let rate = text::percent(u64::from(commission_ppm));
            let done = format!("The commission is {rate} from the next epoch on.");
            (StakeRequest::Commission { node: None, commission_ppm }, done)
        }
        StakeCommand::Unjail => {
            (StakeRequest::Unjail { node: None }, "The jail has ended.".to_owned())
        }
        StakeCommand::Claim { all: true, .. } => return claim_all(context).await,
        StakeCommand::Claim { node, all: false } => {
            let done = format!("What the stake on {} has earned is in the balance.", on(node));
            (StakeRequest::Claim { node }, done)
        }
        StakeCommand::Stakes { account, watch } => {
            let ask = async |client: &Client| client.stakes(StakesQuery { account }).await;
            let same = |a: &Stakes, b: &Stakes| Stakes { height: b.height, ..a.clone() } == *b;
            return watch::show(context, watch, ask, same, show::stakes).await;
        }
    };
    let receipt = context.client()?.stake(&request).await?;
    context.output.show(&receipt, || format!("{done}\n{}", show::receipt(&receipt)))
}

/// What `claim --all` did.
#[derive(Debug, Serialize)]
struct Claimed {
    claims: Vec<Claim>,
}

#[derive(Debug, Serialize)]
struct Claim {
    node: NodeId,
    /// What waited when it was asked; a reward in between comes on top.
    amount_micro: Credits,
    receipt: TransactionReceipt,
}

/// The nodes on which something waits, and how much.
fn waiting(stakes: &Stakes) -> Vec<(NodeId, Credits)> {
    let sum = |of: &protocol::api::Delegation| {
        let both = of.rewards_micro.checked_add(of.commission_micro);
        (of.node, both.unwrap_or(of.rewards_micro))
    };
    stakes.delegations.iter().map(sum).filter(|(_, amount)| *amount > Credits::ZERO).collect()
}

async fn claim_all(context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let stakes = client.stakes(StakesQuery::default()).await?;
    let nodes = waiting(&stakes);
    let mut claims = Vec::new();
    for (node, amount_micro) in nodes {
        let claimed = client.stake(&StakeRequest::Claim { node: Some(node) }).await;
        let receipt = claimed.map_err(|error| {
            let done = claims.len();
            Failure::new(
                FAILED,
                format!("after {done} claims, that of node {node} failed: {error}"),
            )
            .with_hint("what was claimed is in the balance; ask again for the rest")
        })?;
        claims.push(Claim { node, amount_micro, receipt });
    }
    let claimed = Claimed { claims };
    context.output.show(&claimed, || {
        if claimed.claims.is_empty() {
            return "Nothing waits to be claimed.".to_owned();
        }
        let line = |claim: &Claim| {
            let amount = format_credits(claim.amount_micro);
            format!(
                "{amount} credits from node {}. {}\n",
                claim.node,
                show::receipt(&claim.receipt)
            )
        };
        claimed.claims.iter().map(line).collect()
    })
}
