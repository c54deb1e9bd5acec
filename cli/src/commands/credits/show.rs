//! Credits as people read them.

use ayni_cli::amount::format_credits;
use protocol::api::{
    Accounts, Balance, Delegation, HistoryDirection, HistoryEntry, HistoryPage, Stakes,
    TransactionReceipt,
};

use crate::output::{pairs, table};
use crate::text;

/// Where a transaction is, as the last line of what was done.
pub(crate) fn receipt(receipt: &TransactionReceipt) -> String {
    format!("Final in block {}, transaction {}.", receipt.height, receipt.transaction)
}

pub(super) fn balance(balance: &Balance) -> String {
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

pub(super) fn accounts(accounts: &Accounts) -> String {
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
    let head =
        ["ACCOUNT", "NODES", "BALANCE", "BONDED", "CONTRIBUTED", "REVIEWED", "VALIDATED", "BURNED"];
    table(&head, rows, "There are no accounts.")
}

pub(super) fn history(page: &HistoryPage) -> String {
    let rows = page.entries.iter().map(entry);
    let head = ["PLACE", "TIME", "KIND", "WAY", "ACCOUNT OR NODE", "AMOUNT", "FEE", "TRANSACTION"];
    let listed = table(&head, rows, "No transactions of this account were found.");
    let more = match page.older {
        Some(older) => format!("Older ones: --before {older}\n"),
        None => String::new(),
    };
    format!("{}\n{more}Searched up to block {}.", listed.trim_end(), page.searched)
}

fn entry(entry: &HistoryEntry) -> Vec<String> {
    let account = entry.account.map(|account| account.to_string());
    let other = account.or_else(|| entry.node.map(|node| format!("node {node}")));
    let way = match entry.direction {
        HistoryDirection::Out => "out",
        HistoryDirection::In => "in",
        HistoryDirection::None => "",
    };
    vec![
        entry.at.to_string(),
        text::time(entry.time_ms),
        text::name(&entry.kind),
        way.to_owned(),
        other.unwrap_or_default(),
        entry.amount_micro.map(format_credits).unwrap_or_default(),
        entry.fee_micro.map_or_else(|| "not known".to_owned(), format_credits),
        entry.transaction.short(),
    ]
}

pub(super) fn stakes(stakes: &Stakes) -> String {
    let mut rows = vec![
        ("account", stakes.account.to_string()),
        ("at stake", format!("{} credits", format_credits(stakes.staked_micro))),
        ("coming back", format!("{} credits", format_credits(stakes.unbonding_micro))),
        ("rewards", format!("{} credits to claim", format_credits(stakes.rewards_micro))),
    ];
    if let Some(until) = stakes.locked_until_ms {
        rows.push(("locked", format!("by a ballot with conviction until {}", text::time(until))));
    }
    let delegations = stakes.delegations.iter().map(|of| {
        vec![
            of.node.to_string(),
            if of.owner == Some(stakes.account) { "own" } else { "delegated" }.to_owned(),
            format_credits(of.amount_micro),
            format_credits(of.rewards_micro),
            format_credits(of.commission_micro),
            commission(of),
            text::name(&of.state),
        ]
    });
    let unbonding = stakes.unbonding.iter().map(|of| {
        vec![
            of.node.to_string(),
            format_credits(of.amount_micro),
            text::time(of.due_ms),
            of.due_height.to_string(),
        ]
    });
    let head = ["NODE", "WHOSE", "STAKE", "REWARDS", "COMMISSION", "RATE", "STATE"];
    format!(
        "{}\n{}\n{}",
        pairs(&rows),
        table(&head, delegations, "Nothing is at stake.\n"),
        table(
            &["LEFT NODE", "AMOUNT", "NOT BEFORE", "NOR BLOCK"],
            unbonding,
            "Nothing comes back."
        ),
    )
}

fn commission(of: &Delegation) -> String {
    let now = text::percent(u64::from(of.commission_ppm));
    if of.commission_next_ppm == of.commission_ppm {
        return now;
    }
    format!("{now}, then {}", text::percent(u64::from(of.commission_next_ppm)))
}
