//! Datasets on the ledger and the private folder.

use std::fs;
use std::path::{Path, PathBuf};

use ayni_cli::amount::parse_credits;
use clap::{Args, ValueEnum};
use protocol::api::{DataList, IngestOptions, JobResult, ModelRef, PrivateRequest, PublishRequest};
use protocol::model::{Architecture, BYTE_VOCABULARY};
use protocol::worker::DataFormat;

use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::output::{pairs, table};
use crate::text;

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// UTF-8 text, one document per file
    Text,
    /// One JSON object per line
    Jsonl,
    /// Comma-separated values with a header line
    Csv,
    /// Apache Parquet
    Parquet,
    /// PNG and JPEG, one folder per class
    Images,
    /// A pair of MNIST's files: images, then labels
    Idx,
}

impl From<Format> for DataFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Jsonl => Self::Jsonl,
            Format::Csv => Self::Csv,
            Format::Parquet => Self::Parquet,
            Format::Images => Self::Images,
            Format::Idx => Self::Idx,
        }
    }
}

/// `ayni data publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArguments {
    /// Folder or file
    path: PathBuf,
    /// Name: 1 to 64 characters of a-z 0-9 . - _
    #[arg(long)]
    name: String,
    /// SPDX expression of the licence
    #[arg(long)]
    licence: String,
    /// How to read it [default: every UTF-8 file is a document]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Column or key of the text
    #[arg(long, value_name = "COLUMN", requires = "format")]
    text: Option<String>,
    /// Column or key of the label
    #[arg(long, value_name = "COLUMN", requires = "format")]
    label: Option<String>,
    /// The classifier that the records are for
    #[arg(long = "for", value_name = "MODEL", requires = "format")]
    model: Option<ModelRef>,
    /// The same before there is one: rows:NUMBERS:CLASSES, images:HEIGHTxWIDTHxBYTES:CLASSES,
    /// texts:BYTES:CLASSES, or tokens:TOKENS:CLASSES for a classifier with a tokenizer
    #[arg(long, value_name = "SHAPE", requires = "format", conflicts_with = "model",
          value_parser = parse_records)]
    records: Option<Architecture>,
    /// Part of the documents that is held out, 0 to 0.5
    #[arg(long, value_name = "PART", default_value = "0", requires = "format",
          value_parser = parse_part)]
    held_out: u32,
}

/// A part of one in ppm.
fn parse_part(text: &str) -> Result<u32, String> {
    let ppm = parse_credits(text).ok().and_then(|amount| u32::try_from(amount.micro()).ok());
    ppm.filter(|ppm| *ppm <= 500_000)
        .ok_or_else(|| "a number from 0 to 0.5 with at most six decimals".to_owned())
}

/// The records of a shape, as the smallest architecture that reads them.
fn parse_records(text: &str) -> Result<Architecture, String> {
    let parse = || {
        let (what, rest) = text.split_once(':')?;
        let (size, classes) = rest.split_once(':')?;
        let classes = classes.parse().ok()?;
        let sizes: Vec<u32> = size.split('x').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let classifier = |context, vocabulary| Architecture::TextClassifier {
            layers: 1,
            width: 16,
            heads: 1,
            context,
            vocabulary,
            classes,
        };
        Some(match (what, sizes.as_slice()) {
            ("rows", [inputs]) => {
                Architecture::Mlp { inputs: *inputs, hidden: 16, layers: 1, classes }
            }
            ("images", [height, width, channels]) => Architecture::Cnn {
                height: *height,
                width: *width,
                channels: *channels,
                features: 1,
                classes,
                mean_ppm: 500_000,
                deviation_ppm: 500_000,
            },
            ("texts", [context]) => classifier(*context, BYTE_VOCABULARY),
            ("tokens", [context]) => classifier(*context, BYTE_VOCABULARY.saturating_mul(2)),
            _ => return None,
        })
    };
    parse().ok_or_else(|| {
        "rows:NUMBERS:CLASSES, images:HEIGHTxWIDTHxBYTES:CLASSES, texts:BYTES:CLASSES or \
         tokens:TOKENS:CLASSES"
            .to_owned()
    })
}

/// `ayni data publish`.
pub(super) async fn publish(context: &Context, arguments: PublishArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let PublishArguments { name, licence, text, label, model, records, held_out, .. } = arguments;
    let request = PublishRequest {
        name,
        licence,
        path: absolute(&arguments.path)?,
        ingest: arguments.format.map(|format| IngestOptions {
            format: format.into(),
            text_column: text,
            label_column: label,
            model,
            architecture: records,
            held_out_ppm: held_out,
        }),
    };
    let job = client.publish(&request).await?;
    let result = context.wait(&client, job).await?;
    context.output.show(&result, || published(&result))
}

/// `ayni data private`.
pub(super) async fn private(context: &Context, path: &Path) -> Result<(), Failure> {
    let client = context.client()?;
    let request = PrivateRequest { path: absolute(path)? };
    let summary = client.set_private(&request).await?;
    context.output.show(&summary, || {
        format!(
            "{} files ({}) in {} train here and never leave; {} were skipped.\n\
             A delta trained on them may still reveal parts of them.",
            summary.files,
            text::bytes(summary.bytes),
            summary.path,
            summary.files_skipped
        )
    })
}

/// A path as the node can open it.
pub(crate) fn absolute(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let path = fs::canonicalize(path)
        .map_err(|error| Failure::new(USAGE, format!("cannot use {shown}: {error}")))?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| {
        let shown = path.display();
        Failure::new(USAGE, format!("the path {shown} is not UTF-8")).with_hint("rename it")
    })
}

fn published(result: &JobResult) -> String {
    let JobResult::PublishDataset {
        manifest,
        shards,
        documents,
        bytes,
        files_skipped,
        receipt,
        report,
    } = result
    else {
        return "Done.".to_owned();
    };
    let documents = match report {
        None => format!("{documents}, {files_skipped} skipped as not text or too large"),
        Some(report) => format!("{documents}, {} equal ones left out", report.duplicates),
    };
    let mut rows = vec![
        ("manifest", manifest.to_string()),
        ("shards", shards.to_string()),
        ("documents", documents),
        ("size", text::bytes(*bytes)),
    ];
    if let Some(report) = report {
        if let Some(held_out) = report.held_out {
            let (bytes, count) = (text::bytes(report.held_out_bytes), report.held_out_documents);
            rows.push(("held out", format!("{held_out}, {count} documents, {bytes}")));
        }
        let labels = report.classes.iter().enumerate().map(|(i, class)| format!("{i} = {class}"));
        if !report.classes.is_empty() {
            rows.push(("labels", labels.collect::<Vec<_>>().join(", ")));
        }
        rows.extend(
            report.rejected.iter().map(|(reason, count)| ("refused", format!("{count}: {reason}"))),
        );
        rows.extend(report.examples.iter().map(|example| ("for example", example.clone())));
    }
    rows.push(("final in block", receipt.height.to_string()));
    format!("The dataset is published.\n\n{}", pairs(&rows))
}

/// Datasets and the private folder for people.
pub(super) fn describe(list: &DataList) -> String {
    let rows = list.datasets.iter().map(|dataset| {
        vec![
            dataset.name.clone(),
            dataset.manifest.short(),
            dataset.shards.to_string(),
            text::bytes(dataset.bytes),
            dataset.licence.clone().unwrap_or_else(|| "?".to_owned()),
            dataset.publisher.short(),
            format!("{} of {}", dataset.shards_held, dataset.shards),
        ]
    });
    let head = ["NAME", "MANIFEST", "SHARDS", "SIZE", "LICENCE", "PUBLISHER", "HELD HERE"];
    let datasets = table(&head, rows, "No datasets are published.");
    let private = match &list.private {
        None => "No private folder is set.".to_owned(),
        Some(folder) => format!(
            "Private: {} files ({}) in {}, never sent.",
            folder.files,
            text::bytes(folder.bytes),
            folder.path
        ),
    };
    format!("Datasets\n{datasets}\n{private}")
}
