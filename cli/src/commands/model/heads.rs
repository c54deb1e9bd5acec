//! `ayni model history`, `diff` and `export`.

use std::path::PathBuf;

use ayni_cli::amount::format_credits;
use clap::Args;
use protocol::api::{
    CompareRequest, ExportRequest, GetRequest, JobResult, ModelRef, Round, Rounds, RoundsQuery,
    TensorChange,
};
use protocol::review::Verdict;

use super::HeadArgument;
use crate::commands::data::locate;
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::{pairs, table};
use crate::text;

/// Which rounds.
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// Id or name
    model: ModelRef,
    /// How many rounds, the latest ones
    #[arg(long, default_value_t = RoundsQuery::LIMIT_DEFAULT)]
    limit: u32,
}

/// Which heads.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// Id or name
    model: ModelRef,
    /// The earlier head: initial, or the number of a round
    from: HeadArgument,
    /// The later head: latest, or the number of a round
    #[arg(default_value = "latest")]
    to: HeadArgument,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Id or name
    model: ModelRef,
    /// Folder to write; it must not exist
    folder: PathBuf,
    /// Which weights: latest, initial, or the number of a round
    #[arg(long, default_value = "latest")]
    head: HeadArgument,
}

pub(super) async fn history(context: &Context, arguments: HistoryArguments) -> Result<(), Failure> {
    let query = RoundsQuery { model: arguments.model, from: None, limit: Some(arguments.limit) };
    let rounds = context.client()?.rounds(&query).await?;
    context.output.show(&rounds, || log(&rounds))
}

/// The rounds as a log of heads, the newest first.
fn log(rounds: &Rounds) -> String {
    let mut lines: Vec<String> = rounds.rounds.iter().rev().map(entry).collect();
    if lines.is_empty() {
        lines.push("No rounds were opened; open some with `ayni train open`.\n".to_owned());
    }
    lines.join("\n")
}

fn entry(round: &Round) -> String {
    let title = match &round.head {
        Some(head) => format!("head {head}"),
        None => "no new head".to_owned(),
    };
    let mut text = format!("round {}  {title}\n", round.round);
    let mut row = |key: &str, value: String| text.push_str(&format!("  {key:<10} {value}\n"));
    row("parent", round.parent.to_string());
    row("phase", super::super::train::phase(round));
    if round.gain.is_some() {
        row("gain", text::gain(round.gain));
    }
    if round.head.is_some() {
        row("certified", text::percent(u64::from(round.certified_by_stake_ppm)));
    }
    row("paid", format!("{} credits", format_credits(round.paid_micro)));
    for delta in &round.deltas {
        let verdict = delta.verdict.map_or_else(|| "under review".to_owned(), |v| text::name(&v));
        let score = match (delta.verdict, delta.score_ppm) {
            (Some(Verdict::Accept), Some(score)) => {
                format!(", gain {}", text::signed_percent(score))
            }
            _ => String::new(),
        };
        let size = text::bytes(delta.payload_bytes);
        row(
            "delta",
            format!("{} by {}: {verdict}{score}, {size}", delta.id.short(), delta.author.short()),
        );
    }
    text
}

pub(super) async fn diff(context: &Context, arguments: DiffArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let request = CompareRequest { from: arguments.from.0, to: arguments.to.0 };
    let job = client.compare_heads(&arguments.model, &request).await?;
    let result = context.wait(&client, job).await?;
    context.output.show(&result, || {
        let JobResult::CompareHeads { from, to, tensors, .. } = &result else {
            return "Done.".to_owned();
        };
        let head = ["TENSOR", "SHAPE", "NORM", "CHANGE", "RELATIVE", "VALUES CHANGED"];
        let body = table(&head, tensors.iter().map(row), "The heads have no tensors.");
        format!("{}{body}", pairs(&[("from", from.to_string()), ("to", to.to_string())]))
    })
}

fn row(tensor: &TensorChange) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(u32::to_string).collect();
    let values = tensor.shape.iter().fold(1_u64, |n, size| n.saturating_mul(u64::from(*size)));
    let part = |of: u64, whole: u64| {
        let ppm = u128::from(of).saturating_mul(1_000_000).checked_div(u128::from(whole));
        ppm.map_or_else(String::new, |ppm| text::percent(u64::try_from(ppm).unwrap_or(u64::MAX)))
    };
    let micro = |norm: u64| format!("{}.{:04}", norm / 1_000_000, norm % 1_000_000 / 100);
    vec![
        tensor.name.clone(),
        shape.join(" x "),
        micro(tensor.norm_before_micro),
        micro(tensor.norm_change_micro),
        part(tensor.norm_change_micro, tensor.norm_before_micro),
        part(tensor.values_changed, values),
    ]
}

pub(super) async fn export(context: &Context, arguments: ExportArguments) -> Result<(), Failure> {
    let client = context.client()?;
    if arguments.folder.exists() {
        let message = format!("{} exists already", arguments.folder.display());
        return Err(Failure::new(FAILED, message).with_hint("name a folder that does not"));
    }
    let folder = locate(&arguments.folder, false)?;
    let request = ExportRequest { head: arguments.head.0 };
    let job = client.export_model(&arguments.model, &request).await?;
    let result = context.wait(&client, job).await?;
    let JobResult::ExportModel { files, .. } = &result else {
        return Err(Failure::new(FAILED, "the node answered another question"));
    };
    std::fs::create_dir(&folder)
        .map_err(|error| Failure::new(FAILED, format!("cannot make {folder}: {error}")))?;
    for file in files {
        let request = GetRequest {
            hash: file.blob,
            providers: Vec::new(),
            bytes_max: None,
            target: Some(format!("{folder}/{}", file.name)),
            force: false,
            pin: None,
            priority: protocol::api::FetchPriority::Normal,
        };
        let job = client.get_data(&request).await?;
        context.wait_transfer(&client, job).await?;
    }
    context.output.show(&result, || {
        let head = ["FILE", "SIZE", "BLOB"];
        let rows = files
            .iter()
            .map(|file| vec![file.name.clone(), text::bytes(file.bytes), file.blob.to_string()]);
        format!("Written to {folder}:\n\n{}", table(&head, rows, "no files"))
    })
}
