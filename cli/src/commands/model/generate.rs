//! `ayni model generate`.

use std::io::{IsTerminal as _, Read as _};

use ayni_cli::amount::parse_credits;
use clap::Args;
use protocol::api::{GenerateEvent, GenerateRequest, ModelRef};
use protocol::limits::{GENERATE_BYTES_MAX, PROMPT_BYTES_MAX};
use serde_json::json;

use super::HeadArgument;
use crate::context::Context;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::{self, clean};
use crate::text;

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
    /// Randomness: 0 takes the likeliest token
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
    /// Which weights: latest, initial, or the number of a round
    #[arg(long, default_value = "latest")]
    head: HeadArgument,
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

pub(super) async fn run(context: &Context, arguments: GenerateArguments) -> Result<(), Failure> {
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
        head: arguments.head.0,
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
