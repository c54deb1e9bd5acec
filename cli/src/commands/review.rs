//! `ayni review`.

use ayni_cli::amount::format_credits;
use ayni_cli::client::Client;
use clap::Subcommand;
use protocol::api::{Contribution, ModelRef, ReviewsQuery, RoundsQuery};
use protocol::ids::ContributionId;

use crate::context::Context;
use crate::failure::{Failure, NOT_FOUND, USAGE};
use crate::output::{pairs, table};
use crate::text;

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ReviewCommand {
    /// List contributions and what was decided
    #[command(after_help = "Example:\n  ayni review ls --model tiny")]
    Ls {
        /// Only of this model (id or name)
        #[arg(long)]
        model: Option<ModelRef>,
        /// How many of the latest
        #[arg(long, default_value_t = RoundsQuery::LIMIT_DEFAULT)]
        limit: u32,
    },
    /// Show one contribution, its panel and their verdicts
    #[command(after_help = "Example:\n  ayni review show 1f3a9c02")]
    Show {
        /// Its id, or the first digits of it
        contribution: String,
    },
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: ReviewCommand) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ReviewCommand::Ls { model, limit } => {
            let found = client.reviews(&ReviewsQuery { model, limit: Some(limit) }).await?;
            context.output.show(&found, || list(&found.contributions))
        }
        ReviewCommand::Show { contribution } => {
            let found = find(&client, &contribution).await?;
            context.output.show(&found, || describe(&found))
        }
    }
}

async fn find(client: &Client, text: &str) -> Result<Contribution, Failure> {
    if let Ok(id) = text.parse::<ContributionId>() {
        return Ok(client.review(id).await?);
    }
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if !(4..64).contains(&text.len()) || !digits {
        return Err(Failure::new(USAGE, format!("{text:?} is not an id or the beginning of one"))
            .with_hint("give at least four hexadecimal digits, as `ayni review ls` shows them"));
    }
    let text = text.to_lowercase();
    let query = ReviewsQuery { model: None, limit: Some(RoundsQuery::LIMIT_MAX) };
    let mut found = client.reviews(&query).await?.contributions;
    found.retain(|c| c.id.to_string().starts_with(&text));
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => {
            Err(Failure::new(NOT_FOUND, format!("no recent contribution begins with {text}"))
                .with_hint("list them with `ayni review ls`, or give the whole id"))
        }
        (Some(_), more) => {
            let message = format!("{} contributions begin with {text}", more + 1);
            Err(Failure::new(USAGE, message).with_hint("give more digits"))
        }
    }
}

/// Contributions as a table.
pub(crate) fn list(contributions: &[Contribution]) -> String {
    let rows = contributions.iter().map(|c| {
        let said = c.reviews.iter().filter(|review| review.verdict.is_some()).count();
        vec![
            c.id.short(),
            c.round.to_string(),
            c.author.short(),
            text::verdict(c.verdict).to_owned(),
            format!("{said} of {}", c.reviews.len()),
            c.score_ppm.map(text::signed_percent).unwrap_or_default(),
            text::bytes(c.payload_bytes),
            format_credits(c.paid_micro),
        ]
    });
    let head = ["ID", "ROUND", "AUTHOR", "VERDICT", "REVIEWS", "GAIN", "SIZE", "PAID"];
    table(&head, rows, "There are no contributions.")
}

fn describe(c: &Contribution) -> String {
    let bond = format_credits(c.bond_micro);
    let rows = [
        ("contribution", c.id.to_string()),
        ("model", c.model.to_string()),
        ("round", c.round.to_string()),
        ("author", c.author.to_string()),
        ("account", c.account.to_string()),
        ("manifest", c.manifest.to_string()),
        ("size", {
            let bits = text::thousandths(c.millibits_per_parameter);
            format!("{}, {bits} bits per parameter", text::bytes(c.payload_bytes))
        }),
        ("verdict", format!("{} (quorum {})", text::verdict(c.verdict), c.quorum)),
        ("gain paid for", c.score_ppm.map(text::signed_percent).unwrap_or_default()),
        ("bond", if c.bond_burned { format!("{bond} credits, burned") } else { bond + " credits" }),
        ("paid", format!("{} credits", format_credits(c.paid_micro))),
    ];
    let reviews = c.reviews.iter().map(|review| {
        let state = match (review.verdict, review.committed) {
            (None, true) => "committed",
            (verdict, _) => text::verdict(verdict),
        };
        vec![
            review.reviewer.to_string(),
            state.to_owned(),
            text::gain(review.gain),
            format_credits(review.paid_micro),
        ]
    });
    let head = ["REVIEWER", "VERDICT", "MEASURED GAIN", "PAID"];
    format!("{}{}", pairs(&rows), table(&head, reviews, "The panel is not drawn yet."))
}
