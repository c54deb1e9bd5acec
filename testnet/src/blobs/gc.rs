//! `blobs gc`: garbage is collected again and again while a blob is fetched.
//!
//! The fetching node first holds a blob that nothing pins. The collections must delete it, and
//! nothing of the blob that arrives; the fetch must end with the provider's bytes.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::time::sleep;

use super::api::Wanted;
use super::site::Site;
use super::{GcOptions, MIB, files, shown_mib};
use crate::workspace::Workspace;

/// Size of what nothing pins.
const GARBAGE_BYTES: u64 = 8 * MIB;
/// Between two collections.
const PAUSE: Duration = Duration::from_millis(50);
/// Fewest collections that must have fallen into the fetch, else nothing is shown.
const COLLECTIONS_MIN: u64 = 3;

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    size_bytes: u64,
    /// Collections that began and ended during the fetch.
    collections: u64,
    garbage_deleted: bool,
    bytes_fetched: u64,
    identical: bool,
}

impl Report {
    pub(super) fn missed(&self) -> Vec<String> {
        let aims = [
            (
                self.collections >= COLLECTIONS_MIN,
                format!("{COLLECTIONS_MIN} collections during the fetch: {}", self.collections),
            ),
            (self.garbage_deleted, "what nothing pins is deleted".to_owned()),
            (
                self.bytes_fetched == self.size_bytes,
                format!(
                    "nothing is fetched twice: {} for {}",
                    shown_mib(self.bytes_fetched),
                    shown_mib(self.size_bytes)
                ),
            ),
            (self.identical, "the result is identical".to_owned()),
        ];
        aims.into_iter().filter(|(met, _)| !met).map(|(_, aim)| aim).collect()
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        let yes = |is| if is { "yes" } else { "no" }.to_owned();
        table.add_row(["blob".to_owned(), shown_mib(self.size_bytes)]);
        table.add_row(["collections during the fetch".to_owned(), self.collections.to_string()]);
        table.add_row(["garbage deleted".to_owned(), yes(self.garbage_deleted)]);
        table.add_row(["fetched".to_owned(), shown_mib(self.bytes_fetched)]);
        table.add_row(["identical".to_owned(), yes(self.identical)]);
        println!("{table}");
    }
}

/// One fetch.
pub(super) async fn run(workspace: &Workspace, options: &GcOptions) -> Result<Report> {
    let mut site = Site::start(workspace, "gc").await?;
    let found = collect(&mut site, options.size_mib * MIB).await;
    let stopped = site.stop().await;
    let report = found?;
    stopped?;
    Ok(report)
}

async fn collect(site: &mut Site, size_bytes: u64) -> Result<Report> {
    let (file, litter) = (site.folder().join("blob.bin"), site.folder().join("litter.bin"));
    files::random_file(&file, size_bytes, 1)?;
    files::random_file(&litter, GARBAGE_BYTES, 2)?;
    let hash = site.api(0)?.add(&file).await?.hash;
    let client = site.add(None, |_| ()).await?;
    let api = site.api(client)?;
    let garbage = api.add(&litter).await?.hash;
    api.unpin(garbage).await?;
    let target = site.folder().join("fetched.bin");
    let providers = vec![site.id(0)?];
    let wanted = Wanted { hash, providers, bytes_max: size_bytes, target: Some(&target) };
    let job = api.start_get(&wanted).await?;
    let mut collections = 0;
    let fetched = loop {
        api.collect_garbage().await?;
        if api.job(job).await?.state.is_finished() {
            break api.fetched(job).await?;
        }
        collections += 1;
        sleep(PAUSE).await;
    };
    Ok(Report {
        size_bytes,
        collections,
        garbage_deleted: !api.has(garbage).await?,
        bytes_fetched: fetched.bytes_fetched,
        identical: fetched.hash == hash && files::hash_file(&target)? == hash,
    })
}
