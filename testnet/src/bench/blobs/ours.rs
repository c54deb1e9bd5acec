//! Two nodes of Ayni: one that provides, and for each run a new one that fetches.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use protocol::ids::ContentHash;
use tokio::time::Instant;

use super::Cores;
use super::report::Sample;
use crate::bench::process::{cpu, peak_kib};
use crate::blobs::api::Wanted;
use crate::blobs::site::{Site, settle_disk};
use crate::workspace::Workspace;

/// The provider and its network.
pub(super) struct Ours {
    site: Site,
    cores: Cores,
    hash: Option<ContentHash>,
}

impl Ours {
    /// Starts the provider on its core.
    pub(super) async fn start(workspace: &Workspace, cores: Cores) -> Result<Self> {
        let mut site = Site::start(workspace, "bench").await?;
        site.pin(0, cores.provider).await?;
        Ok(Self { site, cores, hash: None })
    }

    /// A folder for what is measured.
    pub(super) fn folder(&self) -> &Path {
        self.site.folder()
    }

    /// Takes a file into the provider's store.
    pub(super) async fn provide(&mut self, file: &Path) -> Result<()> {
        let added = self.site.api(0)?.add(file).await?;
        let bytes = std::fs::metadata(file)?.len();
        ensure!(added.bytes == bytes, "{} of {bytes} bytes were added", added.bytes);
        self.hash = Some(added.hash);
        Ok(())
    }

    /// A new node fetches it into its store.
    pub(super) async fn fetch(&mut self, bytes: u64) -> Result<Sample> {
        let hash = self.hash.context("nothing is provided yet")?;
        let client = self.site.add(Some(self.cores.client), |_| ()).await?;
        settle_disk();
        let (provider_pid, client_pid) = (self.site.pid(0)?, self.site.pid(client)?);
        let providers = vec![self.site.id(0)?];
        let wanted = Wanted { hash, providers, bytes_max: bytes, target: None };
        let api = self.site.api(client)?;
        let before = (cpu(provider_pid)?, cpu(client_pid)?);
        let start = Instant::now();
        let fetched = api.get(&wanted).await?;
        let seconds = start.elapsed().as_secs_f64();
        let since =
            |pid, before: Duration| -> Result<f64> { Ok((cpu(pid)? - before).as_secs_f64()) };
        let sample = Sample {
            bytes,
            seconds,
            client_cpu_s: since(client_pid, before.1)?,
            provider_cpu_s: since(provider_pid, before.0)?,
            client_peak_kib: peak_kib(client_pid)?,
            provider_peak_kib: peak_kib(provider_pid)?,
        };
        ensure!(
            (fetched.hash, fetched.bytes) == (hash, bytes),
            "{} bytes of {} were fetched, not {bytes} of {hash}",
            fetched.bytes,
            fetched.hash
        );
        self.site.network.remove_last().await?;
        Ok(sample)
    }

    /// Stops the network.
    pub(super) async fn stop(self) -> Result<()> {
        self.site.stop().await
    }
}
