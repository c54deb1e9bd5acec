//! What is in the store: `ayni data ls`, `show` and `providers`.

use protocol::amount::TimestampMs;
use protocol::api::{
    BlobDetail, BlobFilter, BlobList, BlobQuery, BlobSummary, BlobsQuery, DataList, PinSummary,
};
use protocol::ids::ContentHash;
use protocol::limits::COLLECTION_FILES_MAX;
use serde::Serialize;

use super::{LsArguments, datasets};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{pairs, table};
use crate::text;

/// `ayni data ls` for programs.
#[derive(Serialize)]
struct Listing {
    #[serde(flatten)]
    data: Option<DataList>,
    #[serde(flatten)]
    blobs: BlobList,
}

pub(super) async fn list(context: &Context, arguments: &LsArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let only = match (arguments.pins, arguments.collections) {
        (true, _) => Some(BlobFilter::Pins),
        (_, true) => Some(BlobFilter::Collections),
        _ => None,
    };
    let data = if only.is_none() { Some(client.data().await?) } else { None };
    let mut blobs = client.list_blobs(&BlobsQuery { only, ..BlobsQuery::default() }).await?;
    // A page of a filtered list says how many were looked at, not how many there are.
    while let Some(after) = blobs.next
        && (arguments.all || only.is_some())
    {
        let page = BlobsQuery { only, after: Some(after), limit: None };
        let more = client.list_blobs(&page).await?;
        blobs.blobs.extend(more.blobs);
        blobs.next = more.next;
    }
    let listing = Listing { data, blobs };
    context.output.show(&listing, || describe_list(&listing, only))
}

fn describe_list(listing: &Listing, only: Option<BlobFilter>) -> String {
    let mut lines = String::new();
    if let Some(data) = &listing.data {
        lines = format!("{}\n\nBlobs\n", datasets::describe(data).trim_end());
    }
    let empty = match only {
        Some(BlobFilter::Pins) => "Nothing is pinned.",
        Some(BlobFilter::Collections) => "No collection is stored.",
        _ => "Nothing is stored.",
    };
    let list = &listing.blobs;
    lines.push_str(&table(&["HASH", "SIZE", "KIND", "PINS"], list.blobs.iter().map(row), empty));
    let quota = match list.quota_bytes {
        0 => String::new(),
        bytes => format!(" of {}", text::bytes(bytes)),
    };
    let more = if list.next.is_some() { "; more with --all" } else { "" };
    lines.push_str(&format!(
        "\n{} stored, {}{quota}{more}.",
        text::counted(list.blobs_stored, "blob"),
        text::bytes(list.bytes_stored)
    ));
    lines
}

fn row(blob: &BlobSummary) -> Vec<String> {
    let kind = if blob.collection { "collection" } else { "blob" };
    let pins: Vec<String> = blob.pins.iter().map(describe_pin).collect();
    vec![blob.hash.to_string(), text::bytes(blob.bytes), kind.to_owned(), pins.join(", ")]
}

/// A pin in a few words.
pub(super) fn describe_pin(pin: &PinSummary) -> String {
    let is_own = pin.name.as_str() == pin.hash.to_string();
    let name = if is_own { "(by hash)".to_owned() } else { pin.name.to_string() };
    let until = pin.until_s.map(|seconds| {
        format!(" until {}", text::time(TimestampMs::new(seconds.saturating_mul(1_000))))
    });
    let silent = if pin.announced { "" } else { ", not announced" };
    format!("{name}{}{silent}", until.unwrap_or_default())
}

pub(super) async fn show(context: &Context, hash: ContentHash, all: bool) -> Result<(), Failure> {
    let files = all.then(|| u32::try_from(COLLECTION_FILES_MAX).unwrap_or(u32::MAX));
    let blob = context.client()?.show_blob(hash, BlobQuery { files }).await?;
    context.output.show(&blob, || describe(&blob))
}

fn describe(blob: &BlobDetail) -> String {
    let here = if blob.bytes_here == blob.bytes {
        "all of it".to_owned()
    } else {
        format!(
            "{}, {} of {}",
            text::bytes(blob.bytes_here),
            blob.groups_here,
            text::counted(blob.groups, "group")
        )
    };
    let pins: Vec<String> = blob.pins.iter().map(describe_pin).collect();
    let pins = match (pins.is_empty(), blob.needed) {
        (true, true) => "none, but the node needs it".to_owned(),
        (true, false) => "none: `ayni data gc` removes it".to_owned(),
        (false, _) => pins.join(", "),
    };
    let mut rows = vec![
        ("hash", blob.hash.to_string()),
        ("size", format!("{} ({} bytes)", text::bytes(blob.bytes), blob.bytes)),
        ("here", here),
        ("pins", pins),
    ];
    let Some(collection) = &blob.collection else { return pairs(&rows) };
    rows.push(("files", format!("{}, {}", collection.files, text::bytes(collection.bytes))));
    rows.push(("chunks", format!("{} of {} here", collection.chunks_here, collection.chunks)));
    let listed = u64::try_from(collection.listed.len()).unwrap_or(u64::MAX);
    let files = collection
        .listed
        .iter()
        .map(|file| vec![file.path.clone(), text::bytes(file.bytes), file.media_type.clone()]);
    let files = table(&["FILE", "SIZE", "TYPE"], files, "It is empty.");
    let more = match collection.files.saturating_sub(listed) {
        0 => String::new(),
        more => format!("\n{} more with --all", text::counted(more, "file")),
    };
    format!("{}\n{files}{more}", pairs(&rows))
}

pub(super) async fn providers(context: &Context, hash: ContentHash) -> Result<(), Failure> {
    let found = context.client()?.providers(hash).await?;
    context.output.show(&found, || {
        let rows = found.providers.iter().map(|provider| {
            let held = if provider.bytes_held == provider.bytes {
                "all".to_owned()
            } else {
                text::bytes(provider.bytes_held)
            };
            let node = provider.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
            vec![node, provider.peer_id.clone(), text::bytes(provider.bytes), held]
        });
        let head = ["NODE", "PEER", "SIZE IT SAYS", "HELD"];
        table(&head, rows, "Nobody who was asked says that it has this blob.")
    })
}
