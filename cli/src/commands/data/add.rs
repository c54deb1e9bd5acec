//! `ayni data add`: by path where the node may open it, else by sending the bytes.

use std::fs::File;
use std::path::Path;

use ayni_cli::client::{Client, ClientError, Pieces};
use protocol::api::{AddMode, AddRequest, BlobReceipt, ErrorCode, JobResult, UploadQuery};

use super::AddArguments;
use super::datasets::absolute;
use crate::context::Context;
use crate::failure::{Failure, USAGE};
use crate::progress::upload_bar;
use crate::text;

pub(super) async fn run(context: &Context, arguments: AddArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let mode = match (arguments.in_place, arguments.reflink) {
        (true, _) => AddMode::InPlace,
        (_, true) => AddMode::Reflink,
        _ => AddMode::Copy,
    };
    let request = AddRequest {
        path: absolute(&arguments.path)?,
        mode,
        name: arguments.name,
        chunked: arguments.chunked,
        announce: !arguments.no_announce,
    };
    match client.add_data(&request).await {
        Ok(job) => {
            let result = context.wait_transfer(&client, job).await?;
            context.output.show(&result, || added(&result))
        }
        // The node runs as another user, who may not be able to read it.
        Err(ClientError::Api(error))
            if error.code == ErrorCode::Denied && is_sendable(&request) =>
        {
            let receipt = send(context, &client, &request).await?;
            context.output.show(&receipt, || uploaded(&receipt))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_sendable(request: &AddRequest) -> bool {
    request.mode == AddMode::Copy && !request.chunked && Path::new(&request.path).is_file()
}

async fn send(
    context: &Context,
    client: &Client,
    request: &AddRequest,
) -> Result<BlobReceipt, Failure> {
    let refuse = |error: std::io::Error| {
        Failure::new(USAGE, format!("cannot read {}: {error}", request.path))
    };
    let file = File::open(&request.path).map_err(refuse)?;
    let bytes = file.metadata().map_err(refuse)?.len();
    let options = UploadQuery {
        name: request.name.clone(),
        announce: Some(request.announce),
        bytes: Some(bytes),
    };
    let bar = upload_bar(context.output.is_json(), bytes);
    let moved = bar.clone();
    let body = Pieces::new(file, move |bytes| moved.inc(bytes));
    let receipt = client.upload(&options, body).await;
    bar.finish_and_clear();
    Ok(receipt?)
}

fn uploaded(receipt: &BlobReceipt) -> String {
    format!("{}\nSent {} to the node; it is pinned.", receipt.hash, text::bytes(receipt.bytes))
}

fn added(result: &JobResult) -> String {
    let JobResult::AddData {
        hash,
        bytes,
        files,
        collection,
        bytes_new,
        mode,
        pin,
        announced,
        skipped,
        files_skipped,
        elapsed_ms,
    } = result
    else {
        return "Done.".to_owned();
    };
    let what = if *collection { text::counted(*files, "file") } else { "A blob".to_owned() };
    let how = match mode {
        AddMode::Copy => "copied",
        AddMode::Reflink => "sharing blocks with the original",
        AddMode::InPlace => "left where it is: do not change it",
    };
    let told = if *announced { "announced" } else { "not announced" };
    let kept = if pin.as_str() == hash.to_string() {
        "pinned".to_owned()
    } else {
        format!("pinned as {pin}")
    };
    let mut lines = format!(
        "{hash}\n{what}, {}, {} of it new here, {how}; {kept}, {told} ({}).",
        text::bytes(*bytes),
        text::bytes(*bytes_new),
        text::duration(*elapsed_ms),
    );
    if *files_skipped > 0 {
        let names = skipped.iter().map(|name| format!("\n  {}", crate::output::clean(name)));
        let count = text::counted(*files_skipped, "link or special file");
        lines.push_str(&format!("\nLeft out: {count}:{}", names.collect::<String>()));
    }
    lines
}
