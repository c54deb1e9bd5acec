//! A node as a process: its home, its daemon, its client.
//!
//! The daemon is stopped by its process id: asked first, killed after a while, and killed when
//! the value is dropped, so that no way out of this program leaves one behind. Its worker ends by
//! itself when the daemon is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cli::client::Client;
use protocol::api::Status;
use protocol::home::{Home, NodeIdentity};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// A daemon must answer by then; it replays its ledger first.
const START_MAX: Duration = Duration::from_secs(60);
/// A daemon that was asked to stop is killed then.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How often a starting daemon is asked: often, because what comes back is timed and killed again.
const START_LOOK: Duration = Duration::from_millis(20);
/// How often a condition is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// A command that starts a program, on one core only if one is named.
pub(crate) fn pinned(program: &Path, core: Option<usize>) -> Command {
    match core {
        Some(core) => {
            // It becomes the program: the process id is the program's.
            let mut command = Command::new("taskset");
            command.arg("--cpu-list").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A node of a local network.
pub(crate) struct NodeProcess {
    /// Its number, from 0.
    pub(crate) index: usize,
    /// Its home.
    pub(crate) home: Home,
    /// Who it is.
    pub(crate) identity: NodeIdentity,
    /// Access to its interface.
    pub(crate) client: Client,
    /// The only core that it may use, from its next start on.
    pub(crate) core: Option<usize>,
    program: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node whose home exists; not started yet.
    pub(crate) fn new(index: usize, home: Home, identity: NodeIdentity, program: PathBuf) -> Self {
        let client = Client::new(home.root().join("run").join("ayni.sock"));
        Self { index, home, identity, client, core: None, program, child: None }
    }

    /// `node-1`, as people see it.
    pub(crate) fn name(&self) -> String {
        format!("node-{}", self.index)
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self) -> Result<Status> {
        self.spawn()?;
        self.answer().await
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.log())
            .with_context(|| format!("{} cannot be written", self.home.log().display()))?;
        let child = pinned(&self.program, self.core)
            .arg("--home")
            .arg(self.home.root())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} could not be started", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the daemon that was started answers.
    pub(crate) async fn answer(&mut self) -> Result<Status> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Ok(status) = self.client.status().await {
                return Ok(status);
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} ended at once ({status}): {}", self.name(), self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} does not answer; its log is {}", self.name(), self.home.log().display());
            }
            sleep(START_LOOK).await;
        }
    }

    /// An error if the daemon was started and has ended by itself.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        match ended {
            Some(status) => {
                bail!("{} ended by itself ({status}): {}", self.name(), self.last_words())
            }
            None => Ok(()),
        }
    }

    /// Waits until the daemon ends without being asked; how it ended, and what it said last.
    pub(crate) async fn ends_by_itself(
        &mut self,
        patience: Duration,
    ) -> Result<(ExitStatus, String)> {
        let mut child = self.child.take().context("the daemon was not started")?;
        match timeout(patience, child.wait()).await {
            Ok(status) => Ok((status?, self.last_words())),
            Err(_) => {
                self.child = Some(child);
                bail!(
                    "{} has not ended in {} s; its log is {}",
                    self.name(),
                    patience.as_secs(),
                    self.home.log().display()
                )
            }
        }
    }

    /// The last error of its log, else the last line.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.home.log()).unwrap_or_default();
        let is_error = |line: &&str| line.contains(" ERROR ") || line.starts_with("aynid: ");
        let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty());
        let last = lines.clone().next().unwrap_or("no log");
        lines.find(is_error).unwrap_or(last).to_owned()
    }

    /// `kill -9`, and nothing else.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.with_context(|| format!("{} cannot be killed", self.name()))
    }

    /// Asks the daemon to stop and waits; kills it when it does not.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // It may have ended already; then waiting is enough.
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(STOP_MAX, child.wait()).await {
            Ok(status) => {
                status?;
                Ok(())
            }
            Err(_) => {
                eprintln!("  {} does not stop when asked; killing it", self.name());
                child.kill().await.with_context(|| format!("{} cannot be killed", self.name()))
            }
        }
    }

    /// Waits until `done` says so of the node's status.
    pub(crate) async fn wait_status(
        &self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.client.status().await;
            if let Ok(status) = &status
                && done(status)
            {
                return Ok(status.clone());
            }
            if Instant::now() > deadline {
                let seen =
                    status.map_or_else(|e| e.to_string(), |s| format!("height {}", s.height));
                bail!(
                    "{} waited {} s in vain for {what} ({seen}); its log is {}",
                    self.name(),
                    patience.as_secs(),
                    self.home.log().display()
                );
            }
            sleep(LOOK).await;
        }
    }

    /// Folder of everything that the node has on disk.
    pub(crate) fn disk(&self) -> &Path {
        self.home.root()
    }
}
