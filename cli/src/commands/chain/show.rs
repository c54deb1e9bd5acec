//! The chain as people read it.

use ayni_cli::amount::format_credits;
use protocol::amount::{Credits, PPM};
use protocol::api::{
    BlockDetail, BlockSummary, Blocks, ChainParameters, TransactionDetail, ValidatorSummary,
    Validators,
};
use serde_json::Value;

use crate::output::{pairs, table};
use crate::text;

/// Characters of a part of a transaction that are shown; `--json` has all of it.
const PART_MAX: usize = 100;

fn known(amount: Option<Credits>) -> String {
    amount.map_or_else(|| "not known".to_owned(), format_credits)
}

/// Blocks as a table.
pub(super) fn blocks(blocks: &Blocks) -> String {
    let rows = blocks.blocks.iter().map(|block| {
        vec![
            block.height.to_string(),
            text::time(block.time_ms),
            block.proposer.short(),
            block.round.to_string(),
            block.signatures.to_string(),
            block.transactions.to_string(),
            text::bytes(block.bytes),
            known(block.base_fee_per_byte_micro),
            block.hash.short(),
            block.parent_state_root.short(),
        ]
    });
    let head = [
        "HEIGHT", "TIME", "PROPOSER", "ROUND", "SIGNED", "TXS", "SIZE", "FEE/BYTE", "HASH", "STATE",
    ];
    table(&head, rows, "There are no such blocks.")
}

/// A block in one line.
pub(super) fn line(block: &BlockSummary) -> String {
    format!(
        "{}  {}  proposer {}  round {}  {}  {}  {} a byte",
        block.height,
        text::time(block.time_ms),
        block.proposer.short(),
        block.round,
        text::counted(block.transactions.into(), "transaction"),
        text::bytes(block.bytes),
        known(block.base_fee_per_byte_micro),
    )
}

/// A block in full.
pub(super) fn block(block: &BlockDetail) -> String {
    let summary = &block.summary;
    let rows = [
        ("height", summary.height.to_string()),
        ("hash", summary.hash.to_string()),
        ("time", text::time(summary.time_ms)),
        ("parent", block.parent.to_string()),
        ("proposer", summary.proposer.to_string()),
        ("round", summary.round.to_string()),
        ("rules version", block.rules_version.to_string()),
        ("base fee", format!("{} a byte", known(summary.base_fee_per_byte_micro))),
        ("size", text::bytes(summary.bytes)),
        ("contents", block.contents.to_string()),
        ("state before", summary.parent_state_root.to_string()),
        ("validators next", block.next_validators.to_string()),
        ("parent certificate", block.parent_certificate.to_string()),
        ("beacon", block.beacon.to_string()),
        ("snapshot", block.snapshot.map_or_else(|| "none".to_owned(), |hash| hash.to_string())),
    ];
    let signers = block.signers.iter().map(|signer| {
        let account = signer.account.map(|account| account.to_string());
        vec![signer.validator.short(), account.unwrap_or_else(|| "not registered".to_owned())]
    });
    let transactions = block.transactions.iter().map(|transaction| {
        vec![
            transaction.hash.to_string(),
            transaction.kind.clone(),
            transaction.account.short(),
            transaction.nonce.to_string(),
            transaction.bytes.to_string(),
            known(transaction.fee_micro),
        ]
    });
    let evidence = block.evidence.iter().map(|evidence| {
        vec![
            text::name(&evidence.kind),
            evidence.validator.to_string(),
            evidence.height.to_string(),
            evidence.round.to_string(),
            evidence.vote.clone(),
        ]
    });
    let head = ["TRANSACTION", "KIND", "ACCOUNT", "NONCE", "BYTES", "FEE"];
    format!(
        "{}\n{}\n{}\n{}",
        pairs(&rows),
        table(&["SIGNED BY", "ACCOUNT"], signers, "Nobody signed it.\n"),
        table(&head, transactions, "No transactions.\n"),
        table(
            &["EVIDENCE", "VALIDATOR", "HEIGHT", "ROUND", "VOTE"],
            evidence,
            "No evidence of misbehaviour."
        ),
    )
}

/// A transaction in full.
pub(super) fn transaction(detail: &TransactionDetail) -> String {
    let transaction = &detail.transaction;
    let mut rows = vec![("transaction", detail.hash.to_string())];
    match &detail.inclusion {
        Some(at) => rows.extend([
            ("state", "final".to_owned()),
            ("block", format!("{}, number {} in it", at.height, at.index)),
            ("block hash", at.block.to_string()),
            ("time", text::time(at.time_ms)),
            ("fee", format!("{} credits", known(detail.fee_micro))),
        ]),
        None => rows.extend([
            ("state", "pending: it waits for a block".to_owned()),
            ("fee", format!("at most {} credits", format_credits(transaction.fee_max))),
        ]),
    }
    rows.extend([
        ("tip", format!("{} credits", format_credits(transaction.tip))),
        ("size", text::bytes(detail.bytes)),
        ("account", transaction.account.to_string()),
        ("key", text::name(&transaction.key)),
        ("nonce", transaction.nonce.to_string()),
    ]);
    if let Some(payer) = &transaction.fee_payer {
        rows.push(("fee paid by", payer.account.to_string()));
    }
    if let Some(stamp) = &transaction.stamp {
        rows.push(("work", format!("instead of a fee, on epoch {}", stamp.epoch)));
    }
    rows.push(("does", text::name(&detail.kind)));
    let parts = serde_json::to_value(&transaction.payload).map(parts).unwrap_or_default();
    let parts: Vec<(&str, String)> =
        parts.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    rows.extend(parts);
    pairs(&rows)
}

/// The fields of a payload: `{"staking":{"bond":{..}}}` has those of the bond.
fn parts(payload: Value) -> Vec<(String, String)> {
    let Value::Object(fields) = payload else { return Vec::new() };
    let mut fields = fields.into_iter();
    match (fields.next(), fields.next()) {
        (Some((_, inner @ Value::Object(_))), None) => parts(inner),
        (first, second) => first
            .into_iter()
            .chain(second)
            .chain(fields)
            .map(|(name, value)| {
                let value = part(&name, &value);
                (format!("  {}", name.replace('_', " ")), value)
            })
            .collect(),
    }
}

fn part(name: &str, value: &Value) -> String {
    let is_amount = matches!(name, "amount" | "escrow" | "allowance");
    match (value, value.as_u64()) {
        (_, Some(micro)) if is_amount => {
            format!("{} credits", format_credits(Credits::from_micro(micro)))
        }
        (Value::String(text), _) => cut(text),
        _ => cut(&value.to_string()),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(PART_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether nothing has changed but the height and how many blocks each has signed.
pub(super) fn same_validators(a: &Validators, b: &Validators) -> bool {
    let of = |set: &Validators| -> Vec<ValidatorSummary> {
        let rows = set.validators.iter().cloned();
        rows.map(|row| ValidatorSummary { signed_blocks: 0, ..row }).collect()
    };
    of(a) == of(b)
}

/// Validators as a table.
pub(super) fn validators(set: &Validators) -> String {
    let rows = set.validators.iter().map(|validator| {
        let account = validator.account.map(|account| account.short()).unwrap_or_default();
        let node = validator.node.map(|node| node.to_string()).unwrap_or_default();
        let state = match validator.jailed_until_ms {
            Some(until) => format!("jailed until {}", text::time(until)),
            None => text::name(&validator.state),
        };
        vec![
            node,
            account,
            validator.power.to_string(),
            text::percent(u64::from(validator.share_ppm)),
            format_credits(validator.stake_micro),
            text::percent(u64::from(validator.commission_ppm)),
            validator.signed_blocks.to_string(),
            validator.missed_blocks.to_string(),
            state,
        ]
    });
    let head =
        ["NODE", "ACCOUNT", "POWER", "SHARE", "STAKE", "COMMISSION", "SIGNED", "MISSED", "STATE"];
    let facts = [
        ("height", set.height.to_string()),
        ("set", set.hash.to_string()),
        ("power", set.total_power.to_string()),
        ("window", format!("{} blocks", set.window_blocks)),
    ];
    format!("{}\n{}", pairs(&facts), table(&head, rows, "There are no validators."))
}

/// The numbers of the rules as a table.
pub(super) fn parameters(chain: &ChainParameters) -> String {
    let rows = chain.parameters.iter().map(|of| {
        vec![
            of.name.clone(),
            of.value.to_string(),
            in_words(&of.name, of.value),
            format!("{} to {}", of.min, of.max),
            of.about.clone(),
        ]
    });
    let facts = [
        ("after block", chain.height.to_string()),
        ("rules version", {
            let ahead = chain
                .rules_ahead
                .map(|ahead| format!("; version {} from block {} on", ahead.version, ahead.height));
            format!("{}{}", chain.rules_version, ahead.unwrap_or_default())
        }),
        ("base fee now", format!("{} a byte", format_credits(chain.base_fee_per_byte_micro))),
    ];
    let head = ["PARAMETER", "VALUE", "THAT IS", "RANGE", "ABOUT"];
    format!("{}\n{}", pairs(&facts), table(&head, rows, "There are no parameters."))
}

/// A value with the unit that its name ends in.
fn in_words(name: &str, value: u64) -> String {
    let unit = |unit: &str| name.ends_with(unit);
    if unit("_ppm") {
        let thousandths = value.saturating_mul(100_000) / PPM;
        return format!("{}.{:03} %", thousandths / 1_000, thousandths % 1_000);
    }
    if unit("_ms") {
        return text::duration(value);
    }
    if unit("_micro") || unit("_micro_per_byte") {
        return format!("{} credits", format_credits(Credits::from_micro(value)));
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use protocol::ids::NodeId;
    use protocol::transaction::{Payload, StakingAction};

    use super::*;

    #[test]
    fn a_payload_is_told_by_its_fields() {
        let bond = StakingAction::Bond {
            node: NodeId::from_bytes([7; 32]),
            amount: Credits::from_micro(2_500_000),
        };
        let value = serde_json::to_value(Payload::Staking(bond)).expect("plain types");
        let expect = [("  node", "07".repeat(32)), ("  amount", "2.5 credits".to_owned())];
        let mut found = parts(value);
        found.sort_by_key(|(name, _)| std::cmp::Reverse(name.clone()));
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        assert_eq!(found, expect);
        assert_eq!(cut(&"é".repeat(101)).chars().count(), PART_MAX + 3);
    }

    #[test]
    fn values_carry_their_unit() {
        let check =
            |name: &str, value: u64, expect: &str| assert_eq!(in_words(name, value), expect);
        check("quorum_ppm", 334_000, "33.400 %");
        check("stamp_lane_ppm", 10_000, "1.000 %");
        check("jail_ms", 600_000, "10 min 0 s");
        check("stake_min_micro", 1_500_000, "1.5 credits");
        check("stamp_bits", 20, "");
    }
}
