//! Datasets on the ledger and the private folder.

use std::fs;
use std::path::Path;

use protocol::api::{DataList, JobResult, PrivateRequest, PublishRequest};

use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::output::{pairs, table};
use crate::text;

/// `ayni data publish`.
pub(super) async fn publish(
    context: &Context,
    path: &Path,
    name: String,
    licence: String,
) -> Result<(), Failure> {
    let client = context.client()?;
    let path = absolute(path)?;
    let job = client.publish(&PublishRequest { name, licence, path }).await?;
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
        ..
    } = result
    else {
        return "Done.".to_owned();
    };
    let rows = [
        ("manifest", manifest.to_string()),
        ("shards", shards.to_string()),
        ("documents", format!("{documents}, {files_skipped} skipped as not text or too large")),
        ("size", text::bytes(*bytes)),
        ("final in block", receipt.height.to_string()),
    ];
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
