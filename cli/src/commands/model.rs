//! `ayni model`.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use ayni_cli::amount::parse_credits;
use clap::{Args, Subcommand, ValueEnum};
use protocol::api::{
    CreateModelRequest, EvaluateRequest, GenerateEvent, GenerateRequest, HeadChoice, JobResult,
    Model, ModelRef,
};
use protocol::ids::ContentHash;
use protocol::limits::{GENERATE_BYTES_MAX, PROMPT_BYTES_MAX};
use serde_json::json;

use super::data::read_upload;
use crate::context::Context;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::{self, clean, pairs, table};
use crate::text;

/// What to do with models.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Make initial weights and register a model
    #[command(after_help = "Example:\n  \
        ayni model create tiny --suite held-out.txt --layers 4 --width 128 --context 128\n\n\
        The suite is text on which every delta is judged; it is published as a blob.")]
    Create(CreateArguments),
    /// List models
    Ls,
    /// Show one model
    Show {
        /// Id or name
        model: ModelRef,
    },
    /// Continue a text
    #[command(after_help = "Examples:\n  ayni model generate tiny 'fn main() {' --bytes 400\n  \
        cat story.txt | ayni model generate tiny - --temperature 0.7\n  \
        ayni model generate tiny 'fn ' --head initial   what it wrote before any training")]
    Generate(GenerateArguments),
    /// Measure the loss of a model on its evaluation suite
    #[command(after_help = "Example:\n  ayni model evaluate tiny --windows 256")]
    Evaluate {
        /// Id or name
        model: ModelRef,
        /// Which weights
        #[arg(long, value_enum, default_value_t = HeadArgument::Latest)]
        head: HeadArgument,
        /// How many windows of the suite to read
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
        windows: u32,
    },
}

/// A new model.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Name: 1 to 64 characters of a-z 0-9 . - _
    name: String,
    /// Text file on which deltas are judged
    #[arg(long, value_name = "FILE", required_unless_present = "suite_hash")]
    suite: Option<PathBuf>,
    /// The same as a blob that the node has already
    #[arg(long, value_name = "HASH", conflicts_with = "suite")]
    suite_hash: Option<ContentHash>,
    /// Transformer blocks
    #[arg(long, default_value_t = 4)]
    layers: u32,
    /// Residual width; a multiple of heads
    #[arg(long, default_value_t = 128)]
    width: u32,
    /// Attention heads
    #[arg(long, default_value_t = 4)]
    heads: u32,
    /// Context length in bytes
    #[arg(long, default_value_t = 128)]
    context: u32,
    /// Seed of the initial weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// SPDX expression of the weights' licence
    #[arg(long, default_value = "CC0-1.0")]
    licence: String,
}

/// A text to continue.
#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// Id or name
    model: ModelRef,
    /// Text to continue; "-" reads it from standard input
    prompt: String,
    /// Bytes to add
    #[arg(long, default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(GENERATE_BYTES_MAX)))]
    bytes: u32,
    /// Randomness: 0 takes the likeliest byte
    #[arg(long, default_value = "0.8", value_parser = parse_temperature)]
    temperature: u32,
    /// Only the likeliest that together reach this probability are drawn from
    #[arg(long, default_value = "1", value_parser = parse_probability)]
    top_p: u32,
    /// Text at which to stop; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which weights
    #[arg(long, value_enum, default_value_t = HeadArgument::Latest)]
    head: HeadArgument,
}

/// Which weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum HeadArgument {
    /// The newest certified ones
    Latest,
    /// Before any training
    Initial,
}

impl From<HeadArgument> for HeadChoice {
    fn from(head: HeadArgument) -> Self {
        match head {
            HeadArgument::Latest => Self::Latest,
            HeadArgument::Initial => Self::Initial,
        }
    }
}

/// A decimal number in ppm, exactly: amounts have the same form.
fn parse_temperature(text: &str) -> Result<u32, String> {
    let ppm = parse_credits(text).ok().and_then(|amount| u32::try_from(amount.micro()).ok());
    ppm.filter(|ppm| *ppm <= 10_000_000)
        .ok_or_else(|| "a number from 0 to 10 with at most six decimals".to_owned())
}

fn parse_probability(text: &str) -> Result<u32, String> {
    let ppm = parse_credits(text).ok().and_then(|amount| u32::try_from(amount.micro()).ok());
    ppm.filter(|ppm| (1..=1_000_000).contains(ppm))
        .ok_or_else(|| "a number above 0, at most 1, with at most six decimals".to_owned())
}

/// Runs it.
pub(crate) async fn run(context: &Context, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Create(arguments) => create(context, arguments).await,
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
        ModelCommand::Generate(arguments) => generate(context, arguments).await,
        ModelCommand::Evaluate { model, head, windows } => {
            let client = context.client()?;
            let request = EvaluateRequest { head: head.into(), windows };
            let job = client.evaluate(&model, &request).await?;
            let result = context.wait(&client, job).await?;
            context.output.show(&result, || evaluated(&result))
        }
    }
}

async fn create(context: &Context, arguments: CreateArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let evaluation_suite = match (arguments.suite_hash, &arguments.suite) {
        (Some(hash), _) => hash,
        (None, Some(file)) => {
            let bytes = read_upload(file)?;
            if std::str::from_utf8(&bytes).is_err() {
                let message = format!("{} is not UTF-8 text", file.display());
                return Err(Failure::new(USAGE, message)
                    .with_hint("the suite is the text on which deltas are judged"));
            }
            client.store_blob(bytes.into()).await?.hash
        }
        (None, None) => return Err(Failure::new(USAGE, "give --suite or --suite-hash")),
    };
    let request = CreateModelRequest {
        name: arguments.name,
        layers: arguments.layers,
        width: arguments.width,
        heads: arguments.heads,
        context: arguments.context,
        seed: arguments.seed,
        evaluation_suite,
        licence: arguments.licence,
    };
    let job = client.create_model(&request).await?;
    let result = context.wait(&client, job).await?;
    context.output.show(&result, || {
        let JobResult::CreateModel { model, parameters, initial_checkpoint, receipt } = &result
        else {
            return "Done.".to_owned();
        };
        let rows = [
            ("model", model.to_string()),
            ("parameters", parameters.to_string()),
            ("initial weights", initial_checkpoint.to_string()),
            ("final in block", receipt.height.to_string()),
        ];
        let name = &request.name;
        format!("The model is registered.\n\n{}\nNext: ayni train open {name}", pairs(&rows))
    })
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

async fn generate(context: &Context, arguments: GenerateArguments) -> Result<(), Failure> {
    let prompt = match arguments.prompt.as_str() {
        "-" => read_prompt()?,
        _ => arguments.prompt,
    };
    let request = GenerateRequest {
        prompt,
        bytes: arguments.bytes,
        temperature_ppm: arguments.temperature,
        top_p_ppm: arguments.top_p,
        stop: arguments.stop,
        seed: arguments.seed,
        head: arguments.head.into(),
    };
    let mut events = context.client()?.generate(&arguments.model, &request).await?;
    let (json, terminal) = (context.output.is_json(), std::io::stdout().is_terminal());
    let mut whole = String::new();
    if !json {
        output::print(&if terminal { clean(&request.prompt) } else { request.prompt })?;
    }
    while let Some(event) = events.next().await {
        match event? {
            GenerateEvent::Text { text } if json => whole.push_str(&text),
            GenerateEvent::Text { text } => {
                output::print(&if terminal { clean(&text) } else { text })?;
            }
            GenerateEvent::Done(done) => {
                let value = json!({ "text": whole, "done": done });
                return context.output.show(&value, String::new);
            }
            GenerateEvent::Error(error) => {
                return Err(ayni_cli::client::ClientError::Api(error).into());
            }
        }
    }
    Err(Failure::new(FAILED, "the node ended the text early")
        .with_hint("look with `ayni node logs` whether it stopped, and why"))
}

fn read_prompt() -> Result<String, Failure> {
    let limit = u64::try_from(PROMPT_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    std::io::stdin().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > PROMPT_BYTES_MAX {
        let limit = text::bytes(limit);
        return Err(Failure::new(USAGE, format!("the prompt has more than {limit}")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(USAGE, "the prompt is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_exact() {
        assert_eq!(parse_temperature("0.7"), Ok(700_000));
        assert_eq!(parse_temperature("10"), Ok(10_000_000));
        for bad in ["-1", "10.1", "hot", "1e-3", "99999999"] {
            assert!(parse_temperature(bad).is_err(), "{bad}");
        }
    }
}
