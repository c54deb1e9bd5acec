//! Datasets of files in known formats: the worker, which is confined, parses them; what it wrote
//! becomes shards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use protocol::api::{ApiError, IngestOptions, IngestReport};
use protocol::codec;
use protocol::ids::ContentHash;
use protocol::limits;
use protocol::model::{Architecture, DatasetManifest, Shard};
use protocol::worker::{
    DataFormat, FileName, IngestJob, IngestOutcome, Progress, WorkerOutcome, WorkerRequest,
};
use storage::blobs::Hold;
use tokio::sync::mpsc;

use super::failed;
use crate::api::JobHandle;
use crate::node::Node;
use crate::node::duties::inputs::{JOB_MAX, name};
use crate::node::publish::{Published, visit};
use crate::worker::{Job, Lane, WorkerError};

/// Files of one dataset: their names go into one frame.
const FILES_MAX: usize = 20_000;
/// Progress reports that may wait.
const REPORTS: usize = 16;

/// A file and its name for the worker.
struct Input {
    path: PathBuf,
    name: FileName,
}

/// Reads files into a dataset that nothing keeps yet but its holds.
pub(super) async fn ingest(
    node: &Arc<Node>,
    path: PathBuf,
    (dataset, licence): (&str, &str),
    options: IngestOptions,
    architecture: Option<Architecture>,
    handle: &JobHandle,
) -> Result<(Published, IngestReport), ApiError> {
    let format = options.format;
    let listed = tokio::task::spawn_blocking(move || list(&path, format))
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let (inputs, classes) = listed.map_err(|e| ApiError::bad_request(format!("{e:#}")))?;
    let mut job = node.worker.job(Lane::Interactive).await.map_err(|e| failed(&e.into()))?;
    let total = u64::try_from(inputs.len()).unwrap_or(u64::MAX);
    for (done, input) in (0..).zip(&inputs) {
        handle.progress(done, total, "copying");
        job.put_file(&input.name, &input.path, limits::WORKER_FILE_BYTES_MAX)
            .await
            .map_err(|error| ApiError::bad_request(format!("{}: {error}", input.path.display())))?;
    }
    let prefix = name("shard").map_err(|e| failed(&e))?;
    let request = WorkerRequest::Ingest(IngestJob {
        format: options.format,
        inputs: inputs.into_iter().map(|input| input.name).collect(),
        text_column: options.text_column,
        label_column: options.label_column,
        architecture,
        held_out_ppm: options.held_out_ppm,
        shard_bytes: u64::try_from(limits::SHARD_BYTES_TARGET).unwrap_or(u64::MAX),
        prefix: prefix.clone(),
    });
    let ingested = run(&mut job, request, handle).await?;
    keep(node, &job, &prefix, (dataset, licence), ingested, classes)
        .await
        .map_err(|error| ApiError::bad_request(format!("{error:#}")))
}

async fn run(
    job: &mut Job,
    request: WorkerRequest,
    handle: &JobHandle,
) -> Result<IngestOutcome, ApiError> {
    let (sender, mut reports) = mpsc::channel::<Progress>(REPORTS);
    let told = async {
        while let Some(report) = reports.recv().await {
            handle.progress(report.done, report.total, "reading");
        }
    };
    let (outcome, ()) = tokio::join!(job.run(request, JOB_MAX, Some(sender)), told);
    match outcome {
        Ok(WorkerOutcome::Ingested(ingested)) => Ok(ingested),
        Ok(_) => Err(ApiError::internal("the worker answered another question")),
        Err(WorkerError::Failed(failure)) => Err(ApiError::bad_request(failure.message)),
        Err(error) => Err(failed(&error.into())),
    }
}

/// Takes what the worker wrote into the store.
async fn keep(
    node: &Arc<Node>,
    job: &Job,
    prefix: &FileName,
    (dataset, licence): (&str, &str),
    ingested: IngestOutcome,
    classes: Vec<String>,
) -> anyhow::Result<(Published, IngestReport)> {
    let prefix = prefix.as_str();
    let mut holds: Vec<Hold> = Vec::new();
    let mut shards = Vec::with_capacity(ingested.shards.len());
    let mut documents = 0_u32;
    for (number, (bytes, count)) in ingested.shards.iter().enumerate() {
        let file = name(&format!("{prefix}.train.{number}"))?;
        let blob = job.keep(&file, &node.store, limits::SHARD_BYTES_MAX).await?;
        holds.push(node.store.hold(blob));
        if node.store.size(&blob) != Some(*bytes) {
            bail!("the worker wrote another shard than it says");
        }
        shards.push(Shard { blob, bytes: *bytes, documents: *count });
        documents = documents.saturating_add(*count);
    }
    let mut report = IngestReport {
        held_out: None,
        held_out_bytes: ingested.held_out_bytes,
        held_out_documents: ingested.held_out_documents,
        duplicates: ingested.duplicates,
        rejected: ingested.rejected,
        examples: ingested.examples,
        classes,
    };
    if shards.is_empty() {
        let why: Vec<String> = report.rejected.iter().map(|(r, n)| format!("{n} x {r}")).collect();
        let read = ingested.documents;
        bail!("no document can be used of {read} that were read: {}", why.join(", "));
    }
    if ingested.held_out_bytes > 0 {
        let file = name(&format!("{prefix}.held-out.0"))?;
        let blob = job.keep(&file, &node.store, limits::EVALUATION_SUITE_BYTES_MAX).await?;
        holds.push(node.store.hold(blob));
        report.held_out = Some(blob);
    }
    let document =
        DatasetManifest { name: dataset.to_owned(), licence: licence.to_owned(), shards };
    document.validate()?;
    let encoded = codec::encode_checked(&document)?;
    holds.push(node.store.hold(ContentHash::of(&encoded)));
    let store = node.store.clone();
    let manifest = tokio::task::spawn_blocking(move || store.put_bytes(&encoded)).await??;
    Ok((Published { manifest, document, documents, skipped: 0, holds }, report))
}

/// The files under a path with names for the worker, and the classes of images in the order of
/// their labels. Blocks.
fn list(path: &Path, format: DataFormat) -> anyhow::Result<(Vec<Input>, Vec<String>)> {
    let mut files = Vec::new();
    visit(path, &mut files).with_context(|| format!("cannot read {}", path.display()))?;
    let wanted: &[&str] = match format {
        DataFormat::Text | DataFormat::Idx => &[],
        DataFormat::Jsonl => &["jsonl", "ndjson", "json"],
        DataFormat::Csv => &["csv"],
        DataFormat::Parquet => &["parquet"],
        DataFormat::Images => &["png", "jpg", "jpeg"],
    };
    let extension = |file: &Path| {
        file.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
    };
    files.retain(|file| wanted.is_empty() || wanted.contains(&extension(file).as_str()));
    if files.is_empty() {
        bail!("{} has no file of this format (.{})", path.display(), wanted.join(", ."));
    }
    if files.len() > FILES_MAX {
        let count = files.len();
        bail!("{count} files; at most {FILES_MAX} make a dataset: join them, or publish several");
    }
    if format != DataFormat::Images {
        let inputs = files
            .into_iter()
            .enumerate()
            .map(|(number, path)| Ok(Input { path, name: name(&format!("input-{number}"))? }));
        return Ok((inputs.collect::<anyhow::Result<_>>()?, Vec::new()));
    }
    let class = |file: &Path| {
        file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned())
    };
    let classes: BTreeSet<String> = files.iter().filter_map(|file| class(file)).collect();
    let classes = numbers_first(classes);
    let inputs = files.into_iter().enumerate().map(|(number, path)| {
        let label = class(&path).and_then(|class| classes.iter().position(|c| *c == class));
        let label = label.context("an image lies in no folder")?;
        let name = name(&format!("{label}.{number}.{}", extension(&path)))?;
        Ok(Input { path, name })
    });
    Ok((inputs.collect::<anyhow::Result<_>>()?, classes))
}

/// Folders that are numbers in the order of the numbers (10 comes after 9), else by name.
fn numbers_first(classes: BTreeSet<String>) -> Vec<String> {
    let mut classes: Vec<String> = classes.into_iter().collect();
    if classes.iter().all(|class| class.parse::<u32>().is_ok()) {
        classes.sort_by_key(|class| class.parse::<u32>().unwrap_or(u32::MAX));
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_labelled_by_their_folders() {
        let folder = tempfile::tempdir().expect("a folder");
        for class in ["9", "10", "2"] {
            let class = folder.path().join(class);
            std::fs::create_dir(&class).expect("made");
            std::fs::write(class.join("a.PNG"), b"x").expect("written");
            std::fs::write(class.join("notes.txt"), b"x").expect("written");
        }
        let (inputs, classes) = list(folder.path(), DataFormat::Images).expect("images");
        assert_eq!(classes, ["2", "9", "10"]);
        let names: BTreeSet<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names.len(), 3);
        assert!(names.iter().any(|name| name.starts_with("2.")), "10 is the third: {names:?}");
        assert!(list(folder.path(), DataFormat::Parquet).is_err());
        let (texts, _) = list(folder.path(), DataFormat::Text).expect("every file");
        assert_eq!(texts.len(), 6);
    }
}
