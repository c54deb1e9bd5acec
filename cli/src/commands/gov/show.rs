//! Governance as people read it.

use ayni_cli::amount::format_credits;
use protocol::api::{ProposalDetail, Proposals};
use protocol::ledger::entries::ProposalStatus;
use protocol::transaction::Change;

use crate::output::{pairs, table};
use crate::text;

/// What a proposal changes, in one line.
fn change(change: &Change) -> String {
    match change {
        Change::Parameters(settings) => {
            let set: Vec<_> = settings.iter().map(|(name, to)| format!("{name} = {to}")).collect();
            format!("sets {}", set.join(", "))
        }
        Change::Text { content } => format!("adopts the text {content}"),
        Change::Dataset { manifest, admitted: true } => format!("admits dataset {manifest}"),
        Change::Dataset { manifest, admitted: false } => format!("removes dataset {manifest}"),
        Change::ModelWeight { model, weight_ppm } => {
            let share = text::percent(u64::from(*weight_ppm));
            format!("gives model {model} {share} of the emission")
        }
        Change::Direction { model, datasets } if datasets.is_empty() => {
            format!("lets model {model} train on all datasets again")
        }
        Change::Direction { model, datasets } => {
            let names: Vec<_> = datasets.iter().map(ToString::to_string).collect();
            format!("lets model {model} train on {} only", names.join(", "))
        }
        Change::TreasurySpend { to, amount } => {
            format!("pays {} credits of the treasury to {to}", format_credits(*amount))
        }
        Change::Rules { version, height } => {
            format!("activates version {version} of the rules at block {height}")
        }
        Change::Pause { model, paused: true } => format!("pauses model {model}"),
        Change::Pause { model, paused: false } => format!("resumes model {model}"),
    }
}

fn status(status: ProposalStatus) -> String {
    match status {
        ProposalStatus::Voting => "voting".to_owned(),
        ProposalStatus::Passed { execute_at } => {
            format!("passed, takes effect {}", text::time(execute_at))
        }
        ProposalStatus::Rejected => "rejected: not enough yes".to_owned(),
        ProposalStatus::Vetoed => "vetoed, the deposit is burned".to_owned(),
        ProposalStatus::NoQuorum => "too few took part, the deposit is burned".to_owned(),
        ProposalStatus::Executed { height } => format!("executed in block {height}"),
        ProposalStatus::Failed { reason } => format!("passed, but could not take effect: {reason}"),
    }
}

/// Proposals as a table.
pub(super) fn list(listed: &Proposals) -> String {
    let rows = listed.proposals.iter().map(|proposal| {
        vec![
            proposal.id.to_string(),
            proposal.title.clone(),
            status(proposal.status),
            text::percent(u64::from(proposal.tally.turnout_ppm)),
            text::percent(u64::from(proposal.tally.yes_ppm)),
            text::percent(u64::from(proposal.tally.veto_ppm)),
            text::time(proposal.ends_ms),
        ]
    });
    let head = ["ID", "TITLE", "STATE", "TURNOUT", "YES", "VETO", "VOTE ENDS"];
    table(&head, rows, "There are no such proposals.")
}

/// A proposal in full, with a page of ballots that begins after `skip`.
pub(super) fn one(detail: &ProposalDetail, skip: u32) -> String {
    let proposal = &detail.proposal;
    let (tally, needs) = (&proposal.tally, &proposal.needs);
    let percent = |ppm: u32| text::percent(u64::from(ppm));
    let kind = if proposal.is_emergency { " (emergency)" } else { "" };
    let rows = [
        ("proposal", format!("{}{kind}", proposal.id)),
        ("title", proposal.title.clone()),
        ("change", change(&proposal.change)),
        ("author", proposal.author.to_string()),
        ("state", status(proposal.status)),
        ("made", format!("in block {}", proposal.submitted_height)),
        ("vote ends", {
            let (ends, height) = (text::time(proposal.ends_ms), proposal.ends_height);
            format!(
                "{ends}, not before block {height} (chain time now {})",
                text::time(detail.chain_time_ms)
            )
        }),
        ("deposit", format!("{} credits locked", format_credits(proposal.deposit_micro))),
        ("turnout", {
            let (in_, of) =
                (format_credits(tally.turnout_micro), format_credits(tally.stake_micro));
            let needed = text::percent(needs.quorum_ppm);
            format!("{} ({in_} of {of}), needs {needed}", percent(tally.turnout_ppm))
        }),
        ("yes", {
            let needed = text::percent(needs.threshold_ppm);
            let of = if proposal.is_emergency { " of all votes" } else { "" };
            let weight = format_credits(tally.yes_micro);
            format!("{}{of} ({weight}), needs more than {needed}", percent(tally.yes_ppm))
        }),
        ("no", format_credits(tally.no_micro)),
        ("abstain", format_credits(tally.abstain_micro)),
        ("veto", {
            let (share, most) = (percent(tally.veto_ppm), text::percent(needs.veto_ppm));
            format!("{share} ({}), fails at {most}", format_credits(tally.veto_micro))
        }),
    ];
    let ballots = detail.ballots.iter().map(|ballot| {
        vec![
            ballot.account.to_string(),
            text::name(&ballot.choice),
            ballot.conviction.to_string(),
            format_credits(ballot.stake_micro),
            format_credits(ballot.weight_micro),
        ]
    });
    let head = ["BALLOT OF", "CHOICE", "CONVICTION", "STAKE", "WEIGHT"];
    let next = u32::try_from(detail.ballots.len()).unwrap_or(u32::MAX).saturating_add(skip);
    let more = if detail.more { format!("More: --skip {next}") } else { String::new() };
    format!("{}\n{}{more}", pairs(&rows), table(&head, ballots, "No ballots are kept.\n"))
}
