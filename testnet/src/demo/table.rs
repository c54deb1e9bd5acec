//! The closing table.

use std::path::Path;

use comfy_table::{Table, presets};
use protocol::api::Accounts;

use super::network::LocalNetwork;
use super::report::Report;
use super::story::PROMPT;
use crate::baseline::bits;

/// What is shown at the end.
pub(super) struct Closing<'a> {
    /// The report.
    pub(super) report: &'a Report,
    /// The nodes.
    pub(super) network: &'a LocalNetwork,
    /// The accounts at the end.
    pub(super) accounts: &'a Accounts,
    /// Text of the initial weights.
    pub(super) before: &'a str,
    /// Text of the last head.
    pub(super) after: &'a str,
    /// Where the report is.
    pub(super) report_path: &'a Path,
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

/// Printable text on one line.
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { '⏎' } else { c })
        .filter(|c| !c.is_control())
        .take(160)
        .collect()
}

/// Prints it.
pub(super) fn print(closing: &Closing<'_>) {
    let report = closing.report;
    println!("\nheld-out loss");
    let mut losses = table(&["", "nats/byte", "bits/byte"]);
    for (name, nats) in [
        ("initial weights", report.heldout_loss_start),
        ("byte frequencies", report.heldout_loss_unigram),
        ("bigram table", report.heldout_loss_bigram),
        ("one node alone, same steps", report.heldout_loss_alone),
        ("the network", report.heldout_loss_end),
    ] {
        losses.add_row([name.to_owned(), format!("{nats:.3}"), format!("{:.3}", bits(nats))]);
    }
    println!("{losses}");

    println!("\nwho earned what, in credits");
    let mut earned = table(&["node", "account", "deltas", "reviews", "blocks", "bonds lost"]);
    for account in &closing.accounts.accounts {
        let owner = closing.network.nodes.iter().find(|n| n.identity.account == account.account);
        earned.add_row([
            owner.map_or_else(String::new, crate::network::process::NodeProcess::name),
            account.account.short(),
            account.earned.contributor_micro.to_string(),
            account.earned.reviewer_micro.to_string(),
            account.earned.validator_micro.to_string(),
            account.bonds_burned_micro.to_string(),
        ]);
    }
    println!("{earned}");
    println!("deltas: 60 % of each round's pot by measured gain; reviews: 15 %, those that agree");
    println!(
        "with the quorum; blocks: 10 %, by blocks signed; treasury: 5 %. The rest is not minted."
    );

    let payload = report.rounds.iter().flat_map(|r| &r.deltas).map(|d| d.payload_bytes).max();
    println!(
        "\n{} parameters; a delta is at most {} KB on the wire against {} KB of weights; nodes sent \
         {} KB of blobs",
        report.parameters,
        payload.unwrap_or(0) / 1_000,
        report.parameters * 4 / 1_000,
        report.blob_bytes_sent / 1_000
    );
    println!("\nbefore: {PROMPT}{}", shown(closing.before));
    println!("after:  {PROMPT}{}", shown(closing.after));
    println!("\nreport: {}", closing.report_path.display());
    println!("\nnext:");
    println!("  cargo demo -- --data DIR          train on your own text");
    println!("  cargo run --release -p ayni-testnet -- up    leave a network running, and use it");
    println!("  target/release/ayni --help        the commands");
}
