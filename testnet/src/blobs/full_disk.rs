//! `blobs full-disk`: the node that fetches runs out of space for blobs, in mid-fetch.
//!
//! Its folder of blobs is a tmpfs with room for half of the blob, in a mount namespace of this
//! command's own. The fetch must end with an error that says why and where; the node goes on, for
//! its ledger lies elsewhere; when the file system has grown, the same fetch must resume with what
//! was verified, and give the provider's bytes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::api::{Ending, Wanted};
use super::site::{Site, blobs_of};
use super::{FullDiskOptions, MIB, files, shown_mib};
use crate::workspace::Workspace;

/// Space of the file system beside that for the blob: names, pins, outboards.
const BESIDE_BYTES: u64 = 16 * MIB;
/// A message must say one of these, and where.
const WHY: [&str; 2] = ["no space left", "is full"];
/// What the fetch may lose although it was on the way to the disk: a batch and what is in flight.
const LOST_BYTES_MAX: u64 = 32 * MIB;

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    size_bytes: u64,
    room_bytes: u64,
    /// What the failed fetch said.
    said: String,
    said_why: bool,
    said_where: bool,
    /// Whether the node still answered.
    node_went_on: bool,
    /// Bytes that it still had when there was space again.
    kept_bytes: u64,
    identical: bool,
}

impl Report {
    pub(super) fn missed(&self) -> Vec<String> {
        let kept_min = (self.room_bytes - BESIDE_BYTES).saturating_sub(LOST_BYTES_MAX);
        let aims = [
            (self.said_why, format!("an error that says why: {}", self.said)),
            (self.said_where, format!("an error that names the folder: {}", self.said)),
            (self.node_went_on, "the node goes on while its blobs have no space".to_owned()),
            (
                self.kept_bytes >= kept_min,
                format!(
                    "it resumes with at least {}: {}",
                    shown_mib(kept_min),
                    shown_mib(self.kept_bytes)
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
        table.add_row(["room at first".to_owned(), shown_mib(self.room_bytes)]);
        table.add_row(["what it said".to_owned(), self.said.clone()]);
        table.add_row(["the node went on".to_owned(), yes(self.node_went_on)]);
        table.add_row(["kept when there was space".to_owned(), shown_mib(self.kept_bytes)]);
        table.add_row(["identical".to_owned(), yes(self.identical)]);
        println!("{table}");
    }
}

/// Fills the disk once.
pub(super) async fn run(workspace: &Workspace, options: &FullDiskOptions) -> Result<Report> {
    let mut site = Site::start(workspace, "full-disk").await?;
    let found = fill(&mut site, options.size_mib * MIB).await;
    let stopped = site.stop().await;
    let report = found?;
    stopped?;
    Ok(report)
}

async fn fill(site: &mut Site, size_bytes: u64) -> Result<Report> {
    let file = site.folder().join("blob.bin");
    files::random_file(&file, size_bytes, 1)?;
    let hash = site.api(0)?.add(&file).await?.hash;
    let room_bytes = size_bytes / 2 + BESIDE_BYTES;
    let client = site.add_stopped(|_| ())?;
    let blobs = blobs_of(site.node(client)?);
    std::fs::create_dir_all(&blobs)?;
    mount(&blobs, &format!("size={room_bytes},mode=700"))?;
    site.restart(client).await?;
    let target = site.folder().join("fetched.bin");
    let providers = vec![site.id(0)?];
    let wanted = Wanted { hash, providers, bytes_max: size_bytes, target: Some(&target) };
    let api = site.api(client)?;
    let job = api.start_get(&wanted).await?;
    let said = match api.end(job).await? {
        Ending::Failed(said) => said,
        Ending::Done(result) => bail!("it was fetched onto a disk without room: {result:?}"),
    };
    eprintln!("  without space: {said}");
    let lower = said.to_lowercase();
    let tip = site.node(0)?.client.status().await?.height.plus(1);
    let alive = site.node(client)?;
    let patience = crate::network::PATIENCE;
    let node_went_on =
        alive.wait_status("another block", patience, |s| s.height >= tip).await.is_ok();
    mount(&blobs, &format!("remount,size={}", size_bytes * 2 + BESIDE_BYTES))?;
    if !node_went_on {
        site.network.nodes.get_mut(client).context("the client was added")?.stop().await?;
        site.restart(client).await?;
    }
    let fetched = site.api(client)?.get(&wanted).await.context("with space again")?;
    ensure!(fetched.hash == hash, "another hash was fetched: {}", fetched.hash);
    let identical = files::hash_file(&target)? == hash;
    Ok(Report {
        size_bytes,
        room_bytes,
        said_why: WHY.iter().any(|why| lower.contains(why)),
        said_where: said.contains(&blobs.display().to_string()),
        said,
        node_went_on,
        kept_bytes: fetched.bytes_had,
        identical,
    })
}

fn mount(folder: &Path, options: &str) -> Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
    let status = mount.status().context("mount cannot be run")?;
    ensure!(status.success(), "no tmpfs at {}: mount ended with {status}", folder.display());
    Ok(())
}
