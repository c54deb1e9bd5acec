//! What a proposal changes, as it is typed.

use std::fs;
use std::path::Path;

use ayni_cli::amount::{parse_credits, parse_percent};
use ayni_cli::client::Client;
use clap::{Subcommand, ValueEnum};
use protocol::amount::{Credits, Height};
use protocol::api::ModelRef;
use protocol::ids::{AccountId, ContentHash, ModelId};
use protocol::limits::API_BODY_BYTES_MAX;
use protocol::transaction::Change;

use crate::context::Context;
use crate::failure::{FAILED, Failure, NOT_FOUND, USAGE};

/// What a proposal changes.
#[derive(Debug, Subcommand)]
pub(crate) enum ChangeCommand {
    /// Set numbers of the rules, all at once; `ayni chain params` lists them
    Param {
        /// For example quorum_ppm=400000
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_setting)]
        settings: Vec<(String, u64)>,
    },
    /// Adopt a text, named by its content
    Text {
        /// A file, which the node then keeps for others to read, or the text's hash
        #[arg(value_name = "FILE|HASH")]
        text: String,
    },
    /// Admit a dataset to training, or remove it
    Dataset {
        /// Name, or hash of its manifest
        dataset: String,
        /// What becomes of it
        what: Admission,
    },
    /// Set a model's share of the emission
    Weight {
        /// Id or name
        model: ModelRef,
        /// Per cent, with up to four decimals
        #[arg(value_name = "PERCENT", value_parser = parse_percent)]
        weight_ppm: u32,
    },
    /// Train a model on some datasets only; on none named, on all again
    Direct {
        /// Id or name
        model: ModelRef,
        /// Names, or hashes of their manifests
        #[arg(value_name = "DATASET")]
        datasets: Vec<String>,
    },
    /// Pay from the treasury
    Spend {
        /// Who receives
        to: AccountId,
        /// Credits, with up to six decimals
        #[arg(value_parser = parse_credits)]
        amount: Credits,
    },
    /// Activate a version of the rules
    Rules {
        /// The version
        version: u32,
        /// The first height that it applies to
        height: u64,
    },
    /// Pause a model: decided fast, by more than two thirds of all votes
    Pause {
        /// Id or name
        model: ModelRef,
    },
    /// Resume a paused model
    Resume {
        /// Id or name
        model: ModelRef,
    },
}

/// What becomes of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Admission {
    /// It may train models
    Admit,
    /// It may not
    Remove,
}

fn parse_setting(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("{name} takes a whole number"))?;
    Ok((name.to_owned(), value))
}

/// The change, with names looked up on the node.
pub(super) async fn resolve(
    context: &Context,
    client: &Client,
    change: ChangeCommand,
) -> Result<Change, Failure> {
    let model = async |of: &ModelRef| Ok::<ModelId, Failure>(client.model(of).await?.id);
    Ok(match change {
        ChangeCommand::Param { settings } => Change::Parameters(settings),
        ChangeCommand::Text { text } => {
            Change::Text { content: content(context, client, &text).await? }
        }
        ChangeCommand::Dataset { dataset, what } => Change::Dataset {
            manifest: manifest(client, &dataset).await?,
            admitted: what == Admission::Admit,
        },
        ChangeCommand::Weight { model: of, weight_ppm } => {
            Change::ModelWeight { model: model(&of).await?, weight_ppm }
        }
        ChangeCommand::Direct { model: of, datasets } => {
            let mut manifests = Vec::with_capacity(datasets.len());
            for dataset in &datasets {
                manifests.push(manifest(client, dataset).await?);
            }
            Change::Direction { model: model(&of).await?, datasets: manifests }
        }
        ChangeCommand::Spend { to, amount } => Change::TreasurySpend { to, amount },
        ChangeCommand::Rules { version, height } => {
            Change::Rules { version, height: Height::new(height) }
        }
        ChangeCommand::Pause { model: of } => {
            Change::Pause { model: model(&of).await?, paused: true }
        }
        ChangeCommand::Resume { model: of } => {
            Change::Pause { model: model(&of).await?, paused: false }
        }
    })
}

/// The hash of a text; a file is put on the node, so that others can read what they vote on.
async fn content(context: &Context, client: &Client, text: &str) -> Result<ContentHash, Failure> {
    if let Ok(hash) = text.parse() {
        return Ok(hash);
    }
    let path = Path::new(text);
    let failed = |error: std::io::Error| {
        Failure::new(FAILED, format!("cannot read {text}: {error}"))
            .with_hint("name a file, or a hash of 64 hexadecimal digits")
    };
    let length = fs::metadata(path).map_err(failed)?.len();
    if usize::try_from(length).is_ok_and(|length| length > API_BODY_BYTES_MAX) {
        let most = API_BODY_BYTES_MAX;
        return Err(Failure::new(USAGE, format!("{text} has {length} bytes, at most {most}")));
    }
    let receipt = client.store_blob(fs::read(path).map_err(failed)?.into()).await?;
    context.output.remark(&format!("The node keeps the text {}.", receipt.hash))?;
    Ok(receipt.hash)
}

/// The manifest of a dataset by its name or hash.
async fn manifest(client: &Client, dataset: &str) -> Result<ContentHash, Failure> {
    if let Ok(hash) = dataset.parse() {
        return Ok(hash);
    }
    let list = client.data().await?;
    let mut named = list.datasets.iter().filter(|of| of.name == dataset);
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(found.manifest),
        (Some(_), Some(_)) => {
            Err(Failure::new(USAGE, format!("several datasets are named {dataset:?}"))
                .with_hint("name it by the hash of its manifest: `ayni data ls --json`"))
        }
        (None, _) => Err(Failure::new(NOT_FOUND, format!("there is no dataset {dataset:?}"))
            .with_hint("`ayni data ls` lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        assert_eq!(parse_setting("quorum_ppm=400000"), Ok(("quorum_ppm".to_owned(), 400_000)));
        for bad in ["quorum_ppm", "quorum_ppm=", "quorum_ppm=-1", "quorum_ppm=0.5", "a=1=2"] {
            assert!(parse_setting(bad).is_err(), "{bad}");
        }
    }
}
