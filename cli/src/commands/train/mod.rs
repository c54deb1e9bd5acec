//! `ayni train`.

mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use ayni_cli::amount::{AmountError, format_credits, parse_credits};
use clap::{Args, Subcommand};
use protocol::amount::Credits;
use protocol::api::{
    DutyStatus, ModelRef, OpenRoundsRequest, Round, RoundPhase, Rounds, RoundsQuery,
    TrainJoinRequest, TrainStatus,
};
use protocol::model::{InputKind, ModelSpec, RoundParameters};
use protocol::review::Verdict;

use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::output::{pairs, table};
use crate::text;

/// What to do with training.
#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Open training rounds on a model, and take part in them with --join
    #[command(
        visible_alias = "start",
        after_help = "Examples:\n  ayni train start tiny --rounds 10 --join\n  \
        ayni train open tiny --rounds 5 --escrow 250 --set inner_steps=50 --set batch=8\n\n\
        Parameters that are not set have their defaults; --parameters reads a TOML file.\n\
        Values are TOML: compression=dense, merge.centred_clip={ faulty_ppm = 200000, bucket = 2, \
        iterations = 3, radius_ppm = 1000000 }. A model to which the emission gives nothing (the \
        WEIGHT of `ayni model ls`) needs --escrow. The documents of Ayni, \
        training-commands.md, list all parameters."
    )]
    Open(OpenArguments),
    /// Take part in this and later rounds of a model; after `leave`, of no others
    #[command(after_help = "Example:\n  ayni train join tiny")]
    Join {
        /// Id or name
        model: ModelRef,
    },
    /// Take part in no further rounds
    Leave,
    /// Show what this node is doing in training
    Status,
    /// List rounds of a model with their deltas
    Rounds {
        /// Id or name
        model: ModelRef,
        /// First round [default: the latest ones]
        #[arg(long, value_name = "ROUND")]
        from: Option<u32>,
        /// How many
        #[arg(long, default_value_t = RoundsQuery::LIMIT_DEFAULT)]
        limit: u32,
    },
    /// Show what happens as it happens, with the curve of the loss, until Ctrl-C
    #[command(after_help = "Example:\n  ayni train watch --json | jq .event")]
    Watch,
}

/// Rounds to open.
#[derive(Debug, Args)]
pub(crate) struct OpenArguments {
    /// Id or name
    model: ModelRef,
    /// How many rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Credits that you pay in, shared equally by the rounds
    #[arg(long, default_value = "0", value_parser = parse_amount)]
    escrow: Credits,
    /// TOML file with round parameters
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// Take part in them with this node
    #[arg(long)]
    join: bool,
    /// One round parameter, for example inner_steps=50; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn parse_amount(text: &str) -> Result<Credits, AmountError> {
    parse_credits(text)
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: TrainCommand) -> Result<(), Failure> {
    match command {
        TrainCommand::Open(arguments) => open(context, arguments).await,
        TrainCommand::Join { model } => {
            let status = context.client()?.train_join(&TrainJoinRequest { model }).await?;
            context.output.show(&status, || describe(&status))
        }
        TrainCommand::Leave => {
            let status = context.client()?.train_leave().await?;
            context.output.show(&status, || describe(&status))
        }
        TrainCommand::Status => {
            let status = context.client()?.train_status().await?;
            context.output.show(&status, || describe(&status))
        }
        TrainCommand::Rounds { model, from, limit } => {
            let query = RoundsQuery { model, from, limit: Some(limit) };
            let rounds = context.client()?.rounds(&query).await?;
            context.output.show(&rounds, || list(&rounds))
        }
        TrainCommand::Watch => watch::run(context).await,
    }
}

async fn open(context: &Context, arguments: OpenArguments) -> Result<(), Failure> {
    let parameters =
        |windows| read_parameters(arguments.parameters.as_deref(), &arguments.set, windows);
    // What is wrong with them is said before a node is asked for.
    parameters(RoundParameters::default().review_windows)?;
    let client = context.client()?;
    let model = client.model(&arguments.model).await?;
    let parameters = parameters(review_windows(&model.spec))?;
    let request = OpenRoundsRequest {
        model: arguments.model,
        rounds: arguments.rounds,
        parameters: Some(parameters),
        escrow_micro: arguments.escrow,
    };
    let opened = client.open_rounds(&request).await?;
    if arguments.join {
        client.train_join(&TrainJoinRequest { model: request.model.clone() }).await?;
    }
    context.output.show(&opened, || {
        let last = opened.first_round.saturating_add(opened.rounds).saturating_sub(1);
        let next = if arguments.join {
            "This node takes part.\nNext: ayni train watch".to_owned()
        } else {
            format!("Next: ayni train join {}, then ayni train watch", request.model)
        };
        format!(
            "Rounds {} to {last} of model {} are open (block {}).\n{next}",
            opened.first_round, opened.model, opened.receipt.height
        )
    })
}

/// `key=word` as TOML wants it, `key="word"`; anything else as it is.
fn quoted(set: &str) -> String {
    let Some((key, value)) = set.split_once('=') else { return set.to_owned() };
    let value = value.trim();
    let is_word = value.starts_with(|c: char| c.is_ascii_lowercase())
        && value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !matches!(value, "true" | "false" | "inf" | "nan");
    if is_word { format!("{key}=\"{value}\"") } else { set.to_owned() }
}

/// Windows for reviews where none are asked for. A record says less than a window of text: with few
/// of them the measured gains of honest deltas are too uncertain to be admitted.
const REVIEW_RECORDS: u32 = 2_048;

/// Windows for reviews of a model, as many as its suite has at most.
fn review_windows(spec: &ModelSpec) -> u32 {
    let wanted = match spec.architecture.input() {
        InputKind::Text { .. } => RoundParameters::default().review_windows,
        InputKind::Records { .. } => REVIEW_RECORDS,
    };
    u32::try_from(spec.suite_windows().div_ceil(2)).map_or(wanted, |most| wanted.min(most))
}

/// The defaults with so many windows for reviews, overlaid by the file, overlaid by `--set`; checked.
fn read_parameters(
    file: Option<&Path>,
    set: &[String],
    review_windows: u32,
) -> Result<RoundParameters, Failure> {
    let refuse = |reason: String| {
        Failure::new(USAGE, reason).with_hint("`ayni train open --help` shows how they are set")
    };
    let defaults = RoundParameters::default();
    let defaults = toml::Table::try_from(RoundParameters { review_windows, ..defaults });
    let mut table = defaults.map_err(|e| refuse(e.to_string()))?;
    let mut overlay = |text: &str, source: &str| {
        let given: toml::Table = toml::from_str(text)
            .map_err(|e| refuse(format!("{source}: {}", e.to_string().trim_end())))?;
        table.extend(given);
        Ok::<_, Failure>(())
    };
    if let Some(path) = file {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|e| refuse(format!("{shown}: {e}")))?;
        overlay(&text, &shown)?;
    }
    for one in set {
        overlay(&quoted(one), "--set")?;
    }
    let parameters: RoundParameters =
        table.try_into().map_err(|e| refuse(e.to_string().trim_end().to_owned()))?;
    parameters.validate().map_err(|e| refuse(e.to_string()))?;
    Ok(parameters)
}

fn describe(status: &TrainStatus) -> String {
    let joined = match (status.auto_join, status.joined.is_empty()) {
        (true, _) => "the rounds of every model".to_owned(),
        (false, true) => "nothing; join with `ayni train join MODEL`".to_owned(),
        (false, false) => {
            status.joined.iter().map(|model| model.short()).collect::<Vec<_>>().join(", ")
        }
    };
    let mut rows = vec![
        ("joins", joined),
        ("rounds trained", status.rounds_trained.to_string()),
        ("deltas", {
            let (submitted, accepted) = (status.deltas_submitted, status.deltas_accepted);
            format!("{submitted} submitted, {accepted} accepted")
        }),
        ("reviews", status.reviews_done.to_string()),
        ("heads attested", status.heads_attested.to_string()),
    ];
    if let (Some(first), Some(last)) = (status.loss_first_nanonats, status.loss_last_nanonats) {
        let (first, last) = (text::nats(first), text::nats(last));
        rows.push(("last training", format!("loss {first} to {last} nats per byte")));
    }
    if let Some(privacy) = status.privacy {
        let epsilon = format!(
            "{}.{:02}",
            privacy.epsilon_ppm / 1_000_000,
            privacy.epsilon_ppm / 10_000 % 100
        );
        let words = if privacy.useful { "" } else { ": no useful privacy" };
        rows.push(("privacy", format!("epsilon {epsilon}{words}")));
    }
    let duties = status.duties.iter().map(|duty| {
        vec![text::name(&duty.kind), duty.model.short(), duty.round.to_string(), progress(duty)]
    });
    let head = ["DUTY", "MODEL", "ROUND", "PROGRESS"];
    format!("{}{}", pairs(&rows), table(&head, duties, "Nothing to do at the moment."))
}

fn progress(duty: &DutyStatus) -> String {
    if let Some(error) = &duty.error {
        return format!("failed: {error}");
    }
    let mut line = duty.progress.message.clone();
    if duty.progress.total > 0 {
        line = format!("{}/{} {line}", duty.progress.done, duty.progress.total);
    }
    if let Some(loss) = duty.loss_nanonats {
        line = format!("{line} loss {}", text::nats(loss));
    }
    if let Some(rate) = duty.per_second {
        line = format!("{line}, {}/s", text::bytes(rate));
    }
    if let Some(eta) = duty.eta_ms.filter(|_| !duty.finished) {
        line = format!("{line}, {} left", text::duration(eta));
    }
    if duty.finished { format!("done {line}") } else { line }.trim_end().to_owned()
}

/// The phase, and of a failed round why, as far as its deltas tell.
pub(super) fn phase(round: &Round) -> String {
    let accept = Some(Verdict::Accept);
    let why = match (round.phase, round.deltas.as_slice()) {
        (RoundPhase::Failed, []) => "too few members or deltas",
        (RoundPhase::Failed, deltas) if deltas.iter().all(|delta| delta.verdict != accept) => {
            "no delta accepted"
        }
        (RoundPhase::Failed, _) => "no head certified in time",
        _ => return text::name(&round.phase),
    };
    format!("{}: {why}", text::name(&round.phase))
}

fn list(rounds: &Rounds) -> String {
    let rows = rounds.rounds.iter().map(|round| {
        let accept = Some(Verdict::Accept);
        let accepted = round.deltas.iter().filter(|delta| delta.verdict == accept).count();
        vec![
            round.round.to_string(),
            phase(round),
            round.members.len().to_string(),
            format!("{accepted} of {}", round.deltas.len()),
            round.head.map(|head| head.short()).unwrap_or_default(),
            text::percent(u64::from(round.certified_by_stake_ppm)),
            text::gain(round.gain),
            format!("{} of {}", format_credits(round.paid_micro), format_credits(round.pot_micro)),
        ]
    });
    let head = ["ROUND", "PHASE", "MEMBERS", "ACCEPTED", "HEAD", "CERTIFIED", "GAIN", "PAID"];
    table(&head, rows, "No rounds were opened; open some with `ayni train open`.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_overlaid_and_checked() {
        let read = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
            read_parameters(None, &set, 128)
        };
        assert_eq!(read(&[]).expect("defaults"), RoundParameters::default());
        let changed = read(&["inner_steps=50", "batch = 8"]).expect("valid");
        assert_eq!((changed.inner_steps, changed.batch), (50, 8));
        let few = read_parameters(None, &[], 20).expect("fewer windows");
        assert_eq!(few.review_windows, 20);
        assert!(read_parameters(None, &[], 3).is_err(), "too few for a review");
        let words = read(&["compression=dense", "optimizer = muon", "overlap=true"]);
        let words = words.expect("words need no quotes");
        assert_eq!(words.compression, protocol::model::Compression::Dense);
        assert!(words.overlap);
        let merge = "merge.centred_clip={ faulty_ppm = 200000, bucket = 2, iterations = 3, \
                     radius_ppm = 1000000 }";
        assert_eq!(read(&[merge]).expect("a table").merge.faulty_ppm(), Some(200_000));
        for bad in ["inner_stps=1", "inner_steps=0", "inner_steps=x", "inner_steps"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }
}
