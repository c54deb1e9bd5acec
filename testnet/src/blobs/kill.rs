//! `blobs kill`: the node that fetches is killed with SIGKILL, again and again, in mid-fetch.
//!
//! One node provides a blob; another one, new each time, fetches it, is killed when it has come to
//! a drawn share of it, is started again and asked again. What it had reported before it died, less
//! what it then says it still had, is fetched a second time: at most one batch. The file that it
//! writes in the end must be the provider's.
//!
//! **Invariant.** Where it is killed is drawn from the seed. Deliberately absent: power cuts (the
//! tests of `storage` have them).

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::api::{LOOK, Wanted, ending};
use super::site::{Site, settle_disk};
use super::{KillOptions, MIB, files, shown_mib};
use crate::crash_store::chain::Draw;
use crate::workspace::Workspace;

/// What a kill may cost: a batch, as it is synced in the background. A node that comes back finds
/// again what had reached its file by then, so this is what was on its way there.
const BATCH_BYTES: u64 = 16 * MIB;
/// Share of the blob after which no kill falls, in percent: the fetch must not have ended.
const KILL_BEFORE_PERCENT: u64 = 95;

/// One kill.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kill {
    /// Bytes that it had reported when it was killed.
    reported_bytes: u64,
    /// Bytes that it still had when it was back.
    kept_bytes: u64,
    /// What must be fetched again of what it had reported.
    again_bytes: u64,
    /// Seconds from its start until it was connected again.
    back_after_s: f64,
    /// Seconds from then until all was there.
    rest_took_s: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    size_bytes: u64,
    /// Every kill; each has a fetch of its own.
    kills: Vec<Kill>,
    /// Those whose file was the provider's.
    identical: u64,
    /// Fetches whose second life says it had and fetched more or less than the blob.
    miscounted: u64,
    again_bytes_max: u64,
    again_bytes_allowed: u64,
}

impl Report {
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.again_bytes_max > self.again_bytes_allowed {
            missed.push(format!(
                "at most {} fetched again after a kill (one batch): {}",
                shown_mib(self.again_bytes_allowed),
                shown_mib(self.again_bytes_max)
            ));
        }
        let (same, all) = (self.identical, self.kills.len() as u64);
        if same != all {
            missed.push(format!("the result is identical: in {same} of {all} fetches"));
        }
        if self.miscounted > 0 {
            missed.push(format!(
                "what a resumed fetch had and what it fetched make the blob: not in {} fetches",
                self.miscounted
            ));
        }
        missed
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "kill",
            "reported before",
            "kept",
            "fetched again",
            "back after, s",
            "rest took, s",
        ]);
        for (number, kill) in self.kills.iter().enumerate() {
            table.add_row([
                (number + 1).to_string(),
                shown_mib(kill.reported_bytes),
                shown_mib(kill.kept_bytes),
                shown_mib(kill.again_bytes),
                format!("{:.2}", kill.back_after_s),
                format!("{:.2}", kill.rest_took_s),
            ]);
        }
        println!("{table}");
        println!(
            "{} fetches of {}, each killed once: at most {} fetched again ({} allowed: one batch), \
             {} files identical",
            self.kills.len(),
            shown_mib(self.size_bytes),
            shown_mib(self.again_bytes_max),
            shown_mib(self.again_bytes_allowed),
            self.identical
        );
    }
}

/// Kills as often as asked.
pub(super) async fn run(workspace: &Workspace, options: &KillOptions) -> Result<Report> {
    let mut site = Site::start(workspace, "kill").await?;
    let found = storm(&mut site, options).await;
    let stopped = site.stop().await;
    let report = found?;
    stopped?;
    Ok(report)
}

async fn storm(site: &mut Site, options: &KillOptions) -> Result<Report> {
    let size_bytes = options.size_mib * MIB;
    let file = site.folder().join("blob.bin");
    files::random_file(&file, size_bytes, options.seed)?;
    let hash = site.api(0)?.add(&file).await?.hash;
    let mut draw = Draw(options.seed);
    let mut report = Report {
        seed: options.seed,
        size_bytes,
        kills: Vec::new(),
        identical: 0,
        miscounted: 0,
        again_bytes_max: 0,
        again_bytes_allowed: BATCH_BYTES,
    };
    for number in 1..=options.kills {
        let target = site.folder().join("fetched.bin");
        let providers = vec![site.id(0)?];
        let wanted = Wanted { hash, providers, bytes_max: size_bytes, target: Some(&target) };
        settle_disk();
        let client = site.add(None, |_| ()).await?;
        let point = draw.below(size_bytes / 100 * KILL_BEFORE_PERCENT);
        let (kill, accounted) = killed_fetch(site, client, &wanted, point)
            .await
            .with_context(|| format!("kill {number}"))?;
        report.miscounted += u64::from(accounted != size_bytes);
        report.identical += u64::from(files::hash_file(&target)? == hash);
        eprintln!(
            "  kill {number} of {} at {}: {} fetched again",
            options.kills,
            shown_mib(kill.reported_bytes),
            shown_mib(kill.again_bytes)
        );
        report.kills.push(kill);
        std::fs::remove_file(&target)?;
        site.network.remove_last().await?;
    }
    report.again_bytes_max = report.kills.iter().map(|kill| kill.again_bytes).max().unwrap_or(0);
    Ok(report)
}

/// One fetch, killed at `point`; the kill, and the bytes that its second life accounts for.
async fn killed_fetch(
    site: &mut Site,
    client: usize,
    wanted: &Wanted<'_>,
    point: u64,
) -> Result<(Kill, u64)> {
    let api = site.api(client)?;
    let job = api.start_get(wanted).await?;
    let reported_bytes = loop {
        let seen = api.job(job).await?;
        if let Some(ending) = ending(&seen) {
            bail!("the fetch ended before it was killed at {point} bytes: {ending:?}");
        }
        if seen.progress.total > 0 && seen.progress.done >= point {
            break seen.progress.done;
        }
        sleep(LOOK).await;
    };
    let node = site.network.nodes.get_mut(client).context("the client was added")?;
    node.kill().await?;
    let start = Instant::now();
    site.restart(client).await?;
    let back_after_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let fetched = site.api(client)?.get(wanted).await?;
    ensure!(fetched.hash == wanted.hash, "another hash was fetched: {}", fetched.hash);
    let kill = Kill {
        reported_bytes,
        kept_bytes: fetched.bytes_had,
        again_bytes: reported_bytes.saturating_sub(fetched.bytes_had),
        back_after_s,
        rest_took_s: start.elapsed().as_secs_f64(),
    };
    Ok((kill, fetched.bytes_had + fetched.bytes_fetched))
}
