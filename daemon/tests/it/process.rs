//! A node as a real process: its home, `aynid`, and the client of its interface.

use std::fs::{self, File};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cli::client::Client;
use cli::home::{InitOptions, init};
use cli::keys::draw_secrets;
use protocol::amount::{Credits, TimestampMs};
use protocol::api::Status;
use protocol::config::Config;
use protocol::home::{Home, NodeIdentity, NodeSecrets};
use protocol::ledger::genesis::{Genesis, GenesisAccount, GenesisNode, RULES_VERSION};
use protocol::ledger::parameters::LedgerParameters;
use protocol::transaction::Capabilities;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// No condition may take longer than this to hold.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when a test fails.
const LAST_LINES: usize = 25;

/// What every account has in the beginning.
pub(crate) const BALANCE: Credits = Credits::from_micro(1_000_000_000);

/// A configuration for tests: a loopback port that the system picks, no worker, fast blocks.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.worker.enabled = false;
    config.chain.block_wait_ms = 100;
    // Snapshots come so often in the tests' genesis that a test would outlive its blocks.
    config.chain.archive = true;
    config.log.level = "info,arc_malachitebft=warn,arc_malachitebft_core_consensus=warn,\
                        arc_malachitebft_engine=warn,arc_malachitebft_sync=warn"
        .to_owned();
    config
}

/// Keys of `count` nodes.
pub(crate) fn secrets(count: usize) -> Vec<NodeSecrets> {
    (0..count).map(|_| draw_secrets().expect("the system gives randomness")).collect()
}

/// A genesis with these nodes as validators. `network` makes the chain another one.
pub(crate) fn genesis(network: &str, secrets: &[NodeSecrets]) -> Genesis {
    let identities: Vec<_> = secrets.iter().map(NodeSecrets::identity).collect();
    Genesis {
        network: network.to_owned(),
        time: TimestampMs::new(1_700_000_000_000),
        rules_version: RULES_VERSION,
        // Snapshots as often as the rules allow, so that every test lives through them.
        parameters: LedgerParameters { snapshot_interval_blocks: 20, ..Default::default() },
        accounts: identities
            .iter()
            .map(|i| GenesisAccount { key: i.account_key, balance: BALANCE })
            .collect(),
        nodes: identities
            .iter()
            .map(|i| GenesisNode {
                account: i.account_key,
                keys: i.keys.clone(),
                capabilities: Capabilities {
                    reviews: false,
                    merges: false,
                    hosts: true,
                    validates: true,
                },
                stake: Credits::from_micro(1_000_000_000),
                allowance: Credits::from_micro(100_000_000),
            })
            .collect(),
    }
}

/// A node; killed when dropped, and then its last words are shown if the test has failed.
pub(crate) struct Daemon {
    /// Its home.
    pub(crate) home: Home,
    /// Who it is.
    pub(crate) identity: NodeIdentity,
    /// Access to its interface.
    pub(crate) client: Client,
    child: Option<Child>,
}

impl Daemon {
    /// Makes the home; starts nothing.
    pub(crate) fn new(
        root: &Path,
        secrets: &NodeSecrets,
        config: Config,
        genesis: Option<Genesis>,
    ) -> Self {
        let home = Home::new(root);
        let identity =
            init(&home, secrets, &InitOptions { config, genesis }).expect("a free place");
        let client = Client::new(root.join("run").join("ayni.sock"));
        Self { home, identity, client, child: None }
    }

    /// Replaces the configuration, as its owner would with an editor.
    pub(crate) fn configure(&self, config: &Config) {
        let text = cli::config::render(config).expect("a configuration has a TOML form");
        fs::write(self.home.config(), text).expect("the home is writable");
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.home.log());
        let mut command = Command::new(env!("CARGO_BIN_EXE_aynid"));
        command
            .arg("--home")
            .arg(self.home.root())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the home is writable"))
            .kill_on_drop(true);
        command
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        self.child = Some(self.command().spawn().expect("aynid was built"));
    }

    /// Starts the daemon; returns once it has said this, or answers, whatever comes first.
    pub(crate) async fn start_until_log(&mut self, said: &str) {
        let before = self.log().len();
        self.spawn();
        let deadline = Instant::now() + PATIENCE;
        while !self.log().split_off(before).contains(said) {
            if self.client.status().await.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "aynid never says {said:?}");
        }
    }

    /// Starts the daemon; the first status that it gives.
    pub(crate) async fn start(&mut self) -> Status {
        self.spawn();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = self.client.status().await {
                return status;
            }
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("a child of ours") {
                panic!("aynid ended at once: {status}");
            }
            assert!(Instant::now() < deadline, "aynid does not answer");
            sleep(LOOK).await;
        }
    }

    /// Runs the daemon, which must end by itself; how it ended and what it said.
    pub(crate) async fn refuses(&self) -> (ExitStatus, String) {
        let before = self.log().len();
        let mut child = self.command().spawn().expect("aynid was built");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = ended.expect("aynid ends by itself").expect("a child of ours");
        (status, self.log().split_off(before))
    }

    /// `kill -9`: no handler runs, no connection is closed, nothing is flushed.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("a child of ours");
    }

    /// Asks it to stop; it must end well.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        self.client.stop().await.expect("it answers");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = ended.expect("aynid stops when asked").expect("a child of ours");
        assert!(status.success(), "aynid stopped with {status}");
    }

    /// Its status, which must hold `wanted` in time.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.client.status().await;
            match &status {
                Ok(status) if wanted(status) => return status.clone(),
                _ => assert!(Instant::now() < deadline, "waited in vain for {what}: {status:?}"),
            }
            sleep(LOOK).await;
        }
    }

    /// Everything that it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.log()).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
            tell(&format!("--- {}", self.home.root().display()));
            lines.iter().rev().for_each(|line| tell(line));
        }
    }
}

/// Says something to whoever runs the tests.
#[expect(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
pub(crate) fn tell(text: &str) {
    eprintln!("{text}");
}
