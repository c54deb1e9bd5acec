//! `blobs small`: very many small files as one collection, added, fetched and exported.

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::time::Instant;

use super::api::Wanted;
use super::site::{Site, settle_disk};
use super::{MIB, SmallOptions, files};
use crate::workspace::Workspace;

/// Each step ends within this for 10,000 files: seconds, not minutes. A sync for each file would
/// take about a minute on an ordinary disk.
const STEP_S_MAX: f64 = 10.0;
/// The files for which that is stated.
const FILES: u64 = 10_000;
/// What the manifest may add to the bytes of the files.
const MANIFEST_BYTES_MAX: u64 = 16 * MIB;

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    files: u64,
    file_bytes: usize,
    /// Files that are after the export what they were before.
    identical: u64,
    bytes_fetched: u64,
    /// Seconds to take the folder into the provider's store, durably.
    add_s: f64,
    /// Seconds to fetch it into another node's store, durably.
    get_s: f64,
    /// Seconds to write it from there into a folder.
    export_s: f64,
}

impl Report {
    fn steps(&self) -> [(&'static str, f64); 3] {
        [("add", self.add_s), ("get", self.get_s), ("export", self.export_s)]
    }

    pub(super) fn missed(&self) -> Vec<String> {
        let allowed = STEP_S_MAX * (self.files as f64 / FILES as f64).max(1.0);
        let slow = self.steps().into_iter().filter(|(_, seconds)| *seconds > allowed);
        let mut missed: Vec<_> = slow
            .map(|(step, s)| format!("{step} of {} files in {allowed:.0} s: {s:.1}", self.files))
            .collect();
        if self.identical != self.files {
            missed.push(format!("all files identical: {} of {}", self.identical, self.files));
        }
        missed
    }

    pub(super) fn print(&self) {
        println!("\n{} files of {} bytes as one collection", self.files, self.file_bytes);
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "seconds", "files/s"]);
        for (step, seconds) in self.steps() {
            let rate = self.files as f64 / seconds;
            table.add_row([step.to_owned(), format!("{seconds:.2}"), format!("{rate:.0}")]);
        }
        println!("{table}");
        println!(
            "{} bytes came over the network; {} files are what they were",
            self.bytes_fetched, self.identical
        );
    }
}

/// Adds, fetches, exports, compares.
pub(super) async fn run(workspace: &Workspace, options: &SmallOptions) -> Result<Report> {
    let mut site = Site::start(workspace, "small").await?;
    let found = measure(&mut site, options).await;
    let stopped = site.stop().await;
    let report = found?;
    stopped?;
    Ok(report)
}

async fn measure(site: &mut Site, options: &SmallOptions) -> Result<Report> {
    let folder = site.folder().join("small");
    let bytes = files::random_folder(&folder, options.files, options.file_bytes, 1)?;
    let client = site.add(None, |_| ()).await?;
    settle_disk();
    let start = Instant::now();
    let added = site.api(0)?.add(&folder).await?;
    let add_s = start.elapsed().as_secs_f64();
    eprintln!("  added in {add_s:.2} s");
    settle_disk();
    let mut wanted = Wanted {
        hash: added.hash,
        providers: vec![site.id(0)?],
        bytes_max: bytes + MANIFEST_BYTES_MAX,
        target: None,
    };
    let api = site.api(client)?;
    let start = Instant::now();
    let fetched = api.get(&wanted).await?;
    let get_s = start.elapsed().as_secs_f64();
    eprintln!("  fetched in {get_s:.2} s");
    let target = site.folder().join("exported");
    wanted.target = Some(&target);
    let start = Instant::now();
    api.get(&wanted).await?;
    let export_s = start.elapsed().as_secs_f64();
    let identical =
        files::check_equal_folders(&folder, &target).context("what was exported is compared")?;
    Ok(Report {
        files: options.files,
        file_bytes: options.file_bytes,
        identical,
        bytes_fetched: fetched.bytes_fetched,
        add_s,
        get_s,
        export_s,
    })
}
