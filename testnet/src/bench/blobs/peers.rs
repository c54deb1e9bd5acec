//! The other programs: built from `testnet/peers` when they are first needed, each in a workspace
//! of its own, so that their libraries never come into Ayni's build.
//!
//! All of them speak alike: `provide ..` says in a line of JSON what the other end needs and
//! serves until its standard input ends; `fetch ..` downloads once and says what it cost.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::Cores;
use super::report::Sample;
use crate::bench::process::{cpu, peak_kib};
use crate::network::process::pinned;
use crate::workspace::Workspace;

/// A program to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// iroh-blobs over iroh, file stores on both ends.
    Iroh,
    /// The crate `libp2p-perf`.
    Libp2pPerf,
    /// A stream of the libp2p that Ayni is built on.
    Libp2pStream,
}

impl Program {
    /// All of them, in the order of their turns.
    pub(super) const ALL: [Self; 3] = [Self::Iroh, Self::Libp2pPerf, Self::Libp2pStream];

    /// As people call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Iroh => "iroh-blobs",
            Self::Libp2pPerf => "libp2p-perf",
            Self::Libp2pStream => "libp2p-stream",
        }
    }

    /// Its folder under `testnet/peers`.
    const fn folder(self) -> &'static str {
        match self {
            Self::Iroh => "iroh",
            Self::Libp2pPerf => "libp2p-perf",
            Self::Libp2pStream => "libp2p-stream",
        }
    }

    fn target(self, workspace: &Workspace) -> PathBuf {
        workspace.target().join("peers").join(self.folder())
    }

    fn path(self, workspace: &Workspace) -> PathBuf {
        let name = match self {
            Self::Iroh => "peer-iroh-blobs",
            Self::Libp2pPerf => "peer-libp2p-perf",
            Self::Libp2pStream => "peer-libp2p-stream",
        };
        self.target(workspace).join("release").join(name)
    }
}

/// Builds what is not built yet; cargo tells its progress on standard error.
pub(super) fn build(workspace: &Workspace) -> Result<()> {
    for program in Program::ALL {
        let manifest = workspace.root().join("testnet/peers").join(program.folder());
        let manifest = manifest.join("Cargo.toml");
        if !program.path(workspace).is_file() {
            eprintln!("bench blobs: {} is built once; this takes some minutes", program.name());
        }
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(&manifest);
        cargo.arg("--target-dir").arg(program.target(workspace)).stdout(Stdio::null());
        let status = cargo.status().context("cargo cannot be run")?;
        ensure!(status.success(), "{} cannot be built: cargo ended with {status}", program.name());
    }
    Ok(())
}

/// What a `fetch` says.
#[derive(Debug, Deserialize)]
struct Cost {
    seconds: f64,
    bytes: u64,
    user_s: f64,
    system_s: f64,
    peak_kib: u64,
}

/// A provider that runs.
pub(super) struct Peer {
    program: Program,
    path: PathBuf,
    cores: Cores,
    /// Where the client of each run has its store.
    store: PathBuf,
    told: Value,
    child: Child,
}

impl Peer {
    /// Starts the provider and waits until it can be asked.
    pub(super) async fn provide(
        workspace: &Workspace,
        program: Program,
        cores: Cores,
        folder: &Path,
        file: &Path,
    ) -> Result<Self> {
        let path = program.path(workspace);
        let mut command = pinned(&path, Some(cores.provider));
        command.arg("provide");
        if program == Program::Iroh {
            let store = folder.join("iroh-provider");
            std::fs::create_dir_all(&store)?;
            command.arg(store).arg(file);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{}", path.display()))?;
        let stdout = child.stdout.take().context("it has a standard output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let told = serde_json::from_str(&line.context("it ended without a word")?)?;
        Ok(Self { program, path, cores, store: folder.join("iroh-client"), told, child })
    }

    /// As people call it.
    pub(super) const fn name(&self) -> &'static str {
        self.program.name()
    }

    /// A new client fetches all of it.
    pub(super) async fn fetch(&mut self, bytes: u64) -> Result<Sample> {
        let pid = self.child.id().context("the provider has ended")?;
        let mut command = pinned(&self.path, Some(self.cores.client));
        command.arg("fetch");
        if self.program == Program::Iroh {
            std::fs::create_dir_all(&self.store)?;
            command.arg(&self.store).arg(self.told("hash")?).arg(self.told("peer")?);
            command.arg(self.told("address")?);
        } else {
            command.arg(self.told("address")?).arg(bytes.to_string());
        }
        let before = cpu(pid)?;
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = command.output().await.context("it cannot be started")?;
        ensure!(output.status.success(), "the client ended with {}", output.status);
        let cost: Cost = serde_json::from_slice(&output.stdout).context("what a fetch says")?;
        ensure!(cost.bytes == bytes, "{} bytes were fetched, not {bytes}", cost.bytes);
        let sample = Sample {
            bytes,
            seconds: cost.seconds,
            client_cpu_s: cost.user_s + cost.system_s,
            provider_cpu_s: (cpu(pid)? - before).as_secs_f64(),
            client_peak_kib: cost.peak_kib,
            provider_peak_kib: peak_kib(pid)?,
        };
        if self.store.exists() {
            std::fs::remove_dir_all(&self.store)?;
        }
        Ok(sample)
    }

    fn told(&self, key: &str) -> Result<&str> {
        let value = self.told.get(key).and_then(Value::as_str);
        value.with_context(|| format!("the provider said no {key}: {}", self.told))
    }

    /// Ends the provider.
    pub(super) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        ensure!(status.success(), "the provider {} ended with {status}", self.name());
        Ok(())
    }
}
