//! `ayni model`.

mod create;
mod generate;
mod heads;

use std::str::FromStr;

use clap::Subcommand;
use protocol::api::{EvaluateRequest, HeadChoice, JobResult, Model, ModelRef};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{pairs, table};
use crate::text;

/// What to do with models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Make initial weights and register a model
    #[command(after_help = "Examples:\n  \
        ayni model create tiny --suite held-out.txt --layers 4 --width 128 --context 128\n  \
        ayni model create digits --architecture cnn --suite digits.records --width 28\n  \
        ayni model create mine --adapter-of llama --rank 8 --suite held-out.txt\n\n\
        The suite is what every delta is judged on; it is published as a blob.")]
    Create(Box<create::CreateArguments>),
    /// Register a model that is in Hugging Face's format (safetensors)
    #[command(after_help = "Example:\n  \
        ayni model import llama --from ./SmolLM2-135M --suite held-out.txt --licence Apache-2.0")]
    Import(create::ImportArguments),
    /// Write a head in Hugging Face's format; an adapter is folded into its base
    #[command(after_help = "Examples:\n  ayni model export tiny ./tiny-hf\n  \
        ayni model export tiny ./tiny-3 --head 3")]
    Export(heads::ExportArguments),
    /// List models
    Ls,
    /// Show one model
    Show {
        /// Id or name
        model: ModelRef,
    },
    /// Show its heads like a log of commits: deltas, verdicts, gains
    #[command(after_help = "Example:\n  ayni model history tiny --limit 5")]
    History(heads::HistoryArguments),
    /// Show how two heads differ, tensor by tensor
    #[command(after_help = "Examples:\n  ayni model diff tiny initial\n  \
        ayni model diff tiny 3 5")]
    Diff(heads::DiffArguments),
    /// Continue a text
    #[command(after_help = "Examples:\n  ayni model generate tiny 'fn main() {' --bytes 400\n  \
        cat story.txt | ayni model generate tiny - --temperature 0.7 --top-p 0.9\n  \
        ayni model generate tiny 'Q: why?\\nA:' --stop 'Q:'\n  \
        ayni model generate tiny 'fn ' --head initial   what it wrote before any training")]
    Generate(generate::GenerateArguments),
    /// Measure the loss of a model on its evaluation suite
    #[command(alias = "evaluate", after_help = "Example:\n  ayni model eval tiny --windows 256")]
    Eval {
        /// Id or name
        model: ModelRef,
        /// Which weights: latest, initial, or the number of a round
        #[arg(long, default_value = "latest")]
        head: HeadArgument,
        /// How many windows of the suite to read
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
        windows: u32,
    },
}

/// Which weights: `latest`, `initial`, or the number of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadArgument(HeadChoice);

impl FromStr for HeadArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self(HeadChoice::Latest)),
            "initial" => Ok(Self(HeadChoice::Initial)),
            number => number
                .parse()
                .map(|round| Self(HeadChoice::Round(round)))
                .map_err(|_| "latest, initial, or the number of a round".to_owned()),
        }
    }
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Create(arguments) => create::create(context, *arguments).await,
        ModelCommand::Import(arguments) => create::import(context, arguments).await,
        ModelCommand::Export(arguments) => heads::export(context, arguments).await,
        ModelCommand::Ls => {
            let models = context.client()?.models().await?;
            context.output.show(&models, || {
                let rows = models.models.iter().map(|model| {
                    vec![
                        model.spec.name.clone(),
                        model.id.short(),
                        model.parameters.to_string(),
                        model.rounds_done.to_string(),
                        model.rounds_open.to_string(),
                        model.head_id.short(),
                        text::percent(u64::from(model.weight_ppm)),
                    ]
                });
                let head = ["NAME", "ID", "PARAMETERS", "ROUNDS", "OPEN", "HEAD", "WEIGHT"];
                table(&head, rows, "There are no models; make one with `ayni model create`.")
            })
        }
        ModelCommand::Show { model } => {
            let model = context.client()?.model(&model).await?;
            context.output.show(&model, || describe(&model))
        }
        ModelCommand::History(arguments) => heads::history(context, arguments).await,
        ModelCommand::Diff(arguments) => heads::diff(context, arguments).await,
        ModelCommand::Generate(arguments) => generate::run(context, arguments).await,
        ModelCommand::Eval { model, head, windows } => {
            let client = context.client()?;
            let request = EvaluateRequest { head: head.0, windows };
            let job = client.evaluate(&model, &request).await?;
            let result = context.wait(&client, job).await?;
            context.output.show(&result, || evaluated(&result))
        }
    }
}

fn describe(model: &Model) -> String {
    let held = if model.head_held { "held here" } else { "fetched from peers when needed" };
    let rows = [
        ("name", model.spec.name.clone()),
        ("model", model.id.to_string()),
        ("shape", text::architecture(&model.spec.architecture)),
        ("parameters", model.parameters.to_string()),
        ("licence", model.spec.licence.clone()),
        ("rounds", format!("{} done, {} open", model.rounds_done, model.rounds_open)),
        ("head", format!("{} ({held})", model.head_id)),
        ("checkpoint", model.head.checkpoint.to_string()),
        ("suite", {
            let suite = model.spec.evaluation_suite;
            format!("{suite}, {}", text::bytes(model.spec.evaluation_suite_bytes))
        }),
        ("weight", text::percent(u64::from(model.weight_ppm))),
    ];
    pairs(&rows)
}

fn evaluated(result: &JobResult) -> String {
    let JobResult::Evaluate { model, head, loss_nanonats, windows, bytes } = result else {
        return "Done.".to_owned();
    };
    let rows = [
        ("model", model.to_string()),
        ("head", head.to_string()),
        ("loss", {
            let (nats, bits) = (text::nats(*loss_nanonats), text::bits(*loss_nanonats));
            format!("{nats} nats or {bits} bits per byte")
        }),
        ("measured on", format!("{windows} windows, {}", text::bytes(*bytes))),
    ];
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_named() {
        let choice = |text: &str| text.parse::<HeadArgument>().map(|head| head.0);
        assert_eq!(choice("latest"), Ok(HeadChoice::Latest));
        assert_eq!(choice("initial"), Ok(HeadChoice::Initial));
        assert_eq!(choice("7"), Ok(HeadChoice::Round(7)));
        assert!(choice("-1").is_err() && choice("first").is_err());
    }
}
