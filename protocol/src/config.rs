//! The node's configuration: what stands in `config.toml`, and the checked form that the node
//! gets to see. Every key has a default, so an empty file is a valid one; an unknown key is an
//! error, because a misspelt one would otherwise be a silent default. Reading and parsing the
//! file is the programs' part.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::join::{AddressError, JoinError, JoinString, TrustedBlock, check_address};
use crate::transaction::Capabilities;

/// Addresses in one list of the configuration: each costs a socket or a dial.
pub const ADDRESSES_MAX: usize = 64;

/// `config.toml` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Peers.
    pub network: NetworkConfig,
    /// The process that computes.
    pub worker: WorkerConfig,
    /// Storing and exchanging blobs.
    pub blobs: BlobsConfig,
    /// Training.
    pub training: TrainingConfig,
    /// What the node offers to do.
    pub capabilities: CapabilitiesConfig,
    /// Consensus.
    pub chain: ChainConfig,
    /// The local interface.
    pub api: ApiConfig,
    /// What is written to the log.
    pub log: LogConfig,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Multiaddresses to listen on; port 0 takes a free one.
    pub listen: Vec<String>,
    /// Multiaddresses that are dialled again whenever the connection is lost.
    pub persistent_peers: Vec<String>,
    /// Join string of the network; not needed where a genesis file is.
    pub join: Option<String>,
    /// Connections at most, in both directions together.
    pub connections_max: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            listen: vec![
                "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
                "/ip4/127.0.0.1/tcp/0".to_owned(),
            ],
            persistent_peers: Vec::new(),
            join: None,
            connections_max: 64,
        }
    }
}

/// `[worker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Whether there is one. Without it the node neither trains nor reviews nor merges.
    pub enabled: bool,
    /// Program and leading arguments; empty means the `ayni-worker` beside `aynid`.
    pub command: Vec<String>,
    /// Threads it may use.
    pub threads: u32,
    /// Added to its niceness.
    pub nice: u8,
    /// Memory it may use in MiB; 0 for no limit.
    pub memory_max_mib: u32,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { enabled: true, command: Vec::new(), threads: 1, nice: 10, memory_max_mib: 0 }
    }
}

/// `[blobs]`. Rates are in bytes per second, without hashes and framing; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlobsConfig {
    /// Bytes of blobs that may be stored; 0 for no limit but the disk.
    pub quota_bytes: u64,
    /// What all uploads together may send.
    pub upload_bytes_per_s: u64,
    /// What the uploads to one peer may send.
    pub upload_per_peer_bytes_per_s: u64,
    /// Requests served at once.
    pub uploads_max: u32,
    /// Blobs fetched at once.
    pub fetches_max: u32,
}

impl Default for BlobsConfig {
    fn default() -> Self {
        Self {
            quota_bytes: 0,
            upload_bytes_per_s: 0,
            upload_per_peer_bytes_per_s: 0,
            uploads_max: 64,
            fetches_max: 8,
        }
    }
}

/// `[training]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Join the rounds of every model without being asked.
    pub auto_join: bool,
    /// Absolute path of a folder of text that trains here and never leaves.
    pub private_data: Option<PathBuf>,
    /// Noise on deltas with private data, in ppm of the clipping norm; 0 for none. Rounds whose
    /// deltas are sparse are then trained without private data.
    pub privacy_noise_ppm: u32,
    /// Norm to which such a delta is clipped, in ppm.
    pub privacy_clip_norm_ppm: u32,
    /// δ of the privacy guarantee in parts per billion.
    pub privacy_delta_ppb: u32,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            auto_join: false,
            private_data: None,
            privacy_noise_ppm: 0,
            privacy_clip_norm_ppm: 1_000_000,
            privacy_delta_ppb: 10_000,
        }
    }
}

/// `[capabilities]`. Duties are drawn only from those who offer them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapabilitiesConfig {
    /// Reviews contributions.
    pub reviews: bool,
    /// Merges deltas and attests heads.
    pub merges: bool,
    /// Serves blobs to others.
    pub hosts: bool,
    /// Takes part in consensus when it has stake.
    pub validates: bool,
}

impl Default for CapabilitiesConfig {
    fn default() -> Self {
        Self { reviews: true, merges: true, hosts: true, validates: true }
    }
}

/// `[chain]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// How long a proposer waits for transactions before it proposes an empty block.
    pub block_wait_ms: u32,
    /// Whether every block is fetched and kept. Otherwise a node that is far behind starts from a
    /// snapshot, and blocks behind older snapshots are deleted: two to four intervals are kept.
    pub archive: bool,
    /// `HEIGHT:HASH` of a block that is known to be final, from somebody who is trusted: what peers
    /// send is then believed only if it contains this block.
    pub trusted: Option<String>,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self { block_wait_ms: 1_000, archive: false, trusted: None }
    }
}

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Path of the socket, see [`crate::home::Home::socket`]; relative to the home.
    pub socket: Option<PathBuf>,
    /// Let users of the socket folder's group read, but change nothing.
    pub group_read: bool,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,libp2p=warn`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info,libp2p=warn,arc_malachitebft=warn,malachitebft=warn".to_owned() }
    }
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A value is out of its range.
    #[error("[{section}] {key}: {reason}")]
    OutOfRange {
        /// The table.
        section: &'static str,
        /// The key.
        key: &'static str,
        /// What is allowed.
        reason: &'static str,
    },
    /// Not an address.
    #[error("[network] {key}: {error}")]
    Address {
        /// The key.
        key: &'static str,
        /// What is wrong.
        error: AddressError,
    },
    /// Not a join string.
    #[error("[network] join: {0}")]
    Join(JoinError),
    /// Not a trusted block.
    #[error("[chain] trusted: {0}; `ayni chain blocks` of a node that you trust shows one")]
    Trusted(JoinError),
}

/// A configuration whose every value has been checked; the only kind that the node accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedConfig {
    network: NetworkConfig,
    join: Option<JoinString>,
    trusted: Option<TrustedBlock>,
    worker: WorkerConfig,
    blobs: BlobsConfig,
    training: TrainingConfig,
    capabilities: Capabilities,
    chain: ChainConfig,
    api: ApiConfig,
    log: LogConfig,
}

impl CheckedConfig {
    /// Peers; the join string is in [`CheckedConfig::join`].
    pub const fn network(&self) -> &NetworkConfig {
        &self.network
    }

    /// The network to join.
    pub const fn join(&self) -> Option<&JoinString> {
        self.join.as_ref()
    }

    /// The block that is trusted: of `[chain]`, else of the join string.
    pub fn trusted(&self) -> Option<TrustedBlock> {
        self.trusted.or_else(|| self.join().and_then(JoinString::trusted))
    }

    /// The process that computes.
    pub const fn worker(&self) -> &WorkerConfig {
        &self.worker
    }

    /// Storing and exchanging blobs.
    pub const fn blobs(&self) -> &BlobsConfig {
        &self.blobs
    }

    /// Training.
    pub const fn training(&self) -> &TrainingConfig {
        &self.training
    }

    /// What the node offers: without a worker, no reviews and no merges.
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Consensus.
    pub const fn chain(&self) -> &ChainConfig {
        &self.chain
    }

    /// The local interface.
    pub const fn api(&self) -> &ApiConfig {
        &self.api
    }

    /// What is logged.
    pub const fn log(&self) -> &LogConfig {
        &self.log
    }
}

fn require(
    ok: bool,
    section: &'static str,
    key: &'static str,
    reason: &'static str,
) -> Result<(), ConfigError> {
    if ok { Ok(()) } else { Err(ConfigError::OutOfRange { section, key, reason }) }
}

fn check_addresses(key: &'static str, addresses: &[String]) -> Result<(), ConfigError> {
    require(addresses.len() <= ADDRESSES_MAX, "network", key, "at most 64 addresses")?;
    addresses
        .iter()
        .try_for_each(|address| check_address(address))
        .map_err(|error| ConfigError::Address { key, error })
}

impl Config {
    /// Checks every value.
    pub fn validate(self) -> Result<CheckedConfig, ConfigError> {
        check_addresses("listen", &self.network.listen)?;
        check_addresses("persistent_peers", &self.network.persistent_peers)?;
        let join = self.network.join.as_deref().map(str::parse).transpose();
        let join = join.map_err(ConfigError::Join)?;
        let connections = self.network.connections_max;
        require((1..=4_096).contains(&connections), "network", "connections_max", "1 to 4,096")?;
        self.validate_worker()?;
        self.validate_blobs()?;
        let wait = self.chain.block_wait_ms;
        require((1..=60_000).contains(&wait), "chain", "block_wait_ms", "1 to 60,000")?;
        let trusted = self.chain.trusted.as_deref().map(str::parse).transpose();
        let trusted = trusted.map_err(ConfigError::Trusted)?;
        let private = self.training.private_data.as_ref();
        let absolute = private.is_none_or(|path| path.is_absolute());
        require(absolute, "training", "private_data", "an absolute path, beginning with \"/\"")?;
        let clip = self.training.privacy_clip_norm_ppm;
        require(clip > 0, "training", "privacy_clip_norm_ppm", "above 0")?;
        let delta = self.training.privacy_delta_ppb;
        let small = (1..=100_000_000).contains(&delta);
        require(small, "training", "privacy_delta_ppb", "1 to 100,000,000")?;
        let level = self.log.level.len();
        require((1..=1_024).contains(&level), "log", "level", "for example \"info\"")?;
        let CapabilitiesConfig { reviews, merges, hosts, validates } = self.capabilities;
        let worker = self.worker.enabled;
        Ok(CheckedConfig {
            network: self.network,
            join,
            trusted,
            worker: self.worker,
            blobs: self.blobs,
            training: self.training,
            capabilities: Capabilities {
                reviews: reviews && worker,
                merges: merges && worker,
                hosts,
                validates,
            },
            chain: self.chain,
            api: self.api,
            log: self.log,
        })
    }

    fn validate_blobs(&self) -> Result<(), ConfigError> {
        let blobs = &self.blobs;
        let rate = |rate: u64| rate == 0 || rate >= crate::limits::BLOB_UPLOAD_RATE_MIN;
        let least = "0 for no limit, or at least 65536";
        require(rate(blobs.upload_bytes_per_s), "blobs", "upload_bytes_per_s", least)?;
        let per_peer = rate(blobs.upload_per_peer_bytes_per_s);
        require(per_peer, "blobs", "upload_per_peer_bytes_per_s", least)?;
        let uploads = (1..=4_096).contains(&blobs.uploads_max);
        require(uploads, "blobs", "uploads_max", "1 to 4,096")?;
        require((1..=256).contains(&blobs.fetches_max), "blobs", "fetches_max", "1 to 256")
    }

    fn validate_worker(&self) -> Result<(), ConfigError> {
        let worker = &self.worker;
        require((1..=1_024).contains(&worker.threads), "worker", "threads", "1 to 1,024")?;
        require(worker.nice <= 19, "worker", "nice", "0 to 19")?;
        let memory = worker.memory_max_mib;
        require(memory == 0 || memory >= 64, "worker", "memory_max_mib", "0 for none, or >= 64")?;
        let command = worker.command.iter();
        let fits = worker.command.len() <= 64 && command.clone().all(|part| part.len() <= 4_096);
        require(fits, "worker", "command", "at most 64 parts of 4,096 bytes")?;
        let named = worker.command.first().is_none_or(|program| !program.is_empty());
        require(named, "worker", "command", "a program first, or nothing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let checked = Config::default().validate().expect("defaults");
        assert_eq!(checked.join(), None);
        assert!(checked.capabilities().reviews);
    }

    #[test]
    fn without_a_worker_nothing_is_promised_that_needs_one() {
        let mut config = Config::default();
        config.worker.enabled = false;
        let offered = config.validate().expect("valid").capabilities();
        let expect = Capabilities { reviews: false, merges: false, hosts: true, validates: true };
        assert_eq!(offered, expect);
    }

    #[test]
    fn refusals_name_section_and_key() {
        let check = |change: &dyn Fn(&mut Config), expect: &str| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().expect_err(expect).to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check(&|c| c.network.listen = vec!["localhost:1".into()], "[network] listen");
        check(&|c| c.network.persistent_peers = vec!["x".into()], "[network] persistent_peers");
        check(&|c| c.network.join = Some("x".into()), "[network] join");
        check(&|c| c.network.connections_max = 0, "[network] connections_max");
        check(&|c| c.worker.threads = 0, "[worker] threads");
        check(&|c| c.worker.nice = 20, "[worker] nice");
        check(&|c| c.worker.memory_max_mib = 1, "[worker] memory_max_mib");
        check(&|c| c.worker.command = vec![String::new()], "[worker] command");
        check(&|c| c.training.private_data = Some("x".into()), "[training] private_data");
        check(&|c| c.chain.block_wait_ms = 0, "[chain] block_wait_ms");
        check(&|c| c.chain.trusted = Some("7:x".into()), "[chain] trusted");
        check(&|c| c.log.level = String::new(), "[log] level");
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = serde_json::from_str::<Config>(r#"{"network":{"listn":[]}}"#);
        assert!(error.expect_err("misspelt").to_string().contains("unknown field `listn`"));
    }
}
