//! One, two and four providers, each of which may give so many bytes a second.

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use protocol::config::Config;
use serde::Serialize;
use tokio::time::Instant;

use super::Options;
use super::report::Spread;
use crate::blobs::api::Wanted;
use crate::blobs::site::{Site, quiet, settle_disk};
use crate::blobs::{MIB, files};
use crate::workspace::Workspace;

/// What a provider may give in a second, in MiB: so little that four of them leave a core free.
const LIMIT_MIB_PER_S: u64 = 50;
/// Providers asked at once.
const PROVIDERS: [usize; 3] = [1, 2, 4];
/// Runs at most: each takes seconds by the limit itself, and varies little.
const RUNS_MAX: usize = 3;

/// What they gave.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scaling {
    limit_mib_per_s: u64,
    size_mib: u64,
    runs: usize,
    /// By number of providers.
    pub(super) rows: Vec<Row>,
}

/// So many providers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    providers: usize,
    mib_per_s: Spread,
    /// Median speed over that of one.
    over_one: f64,
    /// The smallest share of the blob that one of them gave, in the last run.
    least_share: f64,
}

impl Scaling {
    /// How much more so many providers gave than one.
    pub(super) fn over_one(&self, providers: usize) -> f64 {
        let row = self.rows.iter().find(|row| row.providers == providers);
        row.map_or(0.0, |row| row.over_one)
    }

    pub(super) fn print(&self) {
        println!(
            "\n{} MiB from providers limited to {} MiB/s each; median of {} runs (least to most)",
            self.size_mib, self.limit_mib_per_s, self.runs
        );
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "providers",
            "MiB/s",
            "over one",
            "least share of one",
        ]);
        for row in &self.rows {
            let Spread { median, min, max } = row.mib_per_s;
            table.add_row([
                row.providers.to_string(),
                format!("{median:.1} ({min:.1} to {max:.1})"),
                format!("{:.2}", row.over_one),
                format!("{:.0} %", row.least_share * 100.0),
            ]);
        }
        println!("{table}");
    }
}

/// Measures all numbers of providers, one after another.
pub(super) async fn measure(workspace: &Workspace, options: &Options) -> Result<Scaling> {
    eprintln!("bench blobs: providers limited to {LIMIT_MIB_PER_S} MiB/s");
    let mut site = Site::start_with(workspace, "scaling", limited).await?;
    let measured = on_site(&mut site, options).await;
    let stopped = site.stop().await;
    let scaling = measured?;
    stopped?;
    Ok(scaling)
}

fn limited(index: usize, config: &mut Config) {
    quiet(index, config);
    config.blobs.upload_bytes_per_s = LIMIT_MIB_PER_S * MIB;
}

async fn on_site(site: &mut Site, options: &Options) -> Result<Scaling> {
    // Half the size: one provider alone takes ten seconds for it.
    let size_mib = (options.size_mib / 2).max(64);
    let bytes = size_mib * MIB;
    let file = site.folder().join("blob.bin");
    files::random_file(&file, bytes, 2)?;
    let most = PROVIDERS.into_iter().max().unwrap_or(1);
    for _ in 1..most {
        site.add(None, |config| limited(0, config)).await?;
    }
    let runs = options.runs.min(RUNS_MAX);
    let mut rows: Vec<Row> = Vec::new();
    let mut holders = 0;
    for providers in PROVIDERS {
        // Only those who are asked hold it: whoever else did might be found, and asked too.
        let mut hash = None;
        for holder in holders..providers {
            hash = Some(site.api(holder)?.add(&file).await?.hash);
        }
        holders = providers;
        let hash = hash.context("each number of providers is larger than the one before")?;
        let ids = (0..providers).map(|at| site.id(at)).collect::<Result<_>>()?;
        let wanted = Wanted { hash, providers: ids, bytes_max: bytes, target: None };
        let mut speeds = Vec::new();
        let mut least_share = 0.0;
        for run in 1..=runs {
            let (speed, share) = fetch(site, &wanted, providers).await?;
            eprintln!("  {providers} providers, run {run} of {runs}: {speed:.1} MiB/s");
            speeds.push(speed);
            least_share = share;
        }
        let mib_per_s = Spread::of(speeds)?;
        let one = rows.first().map_or(mib_per_s.median, |first| first.mib_per_s.median);
        let over_one = mib_per_s.median / one;
        rows.push(Row { providers, mib_per_s, over_one, least_share });
    }
    Ok(Scaling { limit_mib_per_s: LIMIT_MIB_PER_S, size_mib, runs, rows })
}

/// A new node fetches it: MiB/s, and the smallest share of it that one provider gave.
async fn fetch(site: &mut Site, wanted: &Wanted<'_>, providers: usize) -> Result<(f64, f64)> {
    let client = site.add(None, |_| ()).await?;
    settle_disk();
    let start = Instant::now();
    let fetched = site.api(client)?.get(wanted).await?;
    let seconds = start.elapsed().as_secs_f64();
    let given = fetched.sources.iter().map(|source| source.bytes).min();
    let least = if fetched.sources.len() < providers { 0 } else { given.unwrap_or(0) };
    site.network.remove_last().await?;
    let mib = wanted.bytes_max as f64 / MIB as f64;
    Ok((mib / seconds, least as f64 / wanted.bytes_max as f64))
}
