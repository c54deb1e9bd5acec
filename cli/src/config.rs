//! `config.toml`: reading it with errors that name the line, and writing one in which every key
//! is explained.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use protocol::config::{CheckedConfig, Config, ConfigError};
use thiserror::Error;
use toml::Value;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read the configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// It is not TOML, or has an unknown key or a value of the wrong type.
    #[error("the configuration {path:?} is not valid:\n{message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
    /// A value is out of its range.
    #[error("the configuration {path:?} is not valid: {error}")]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ConfigError,
    },
}

/// Reads and checks a configuration; a missing file is an empty one.
pub fn load(path: &Path) -> Result<CheckedConfig, ConfigFileError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| ConfigFileError::Read { path: path.to_owned(), error })?,
    };
    let config: Config = toml::from_str(&text).map_err(|error| {
        let message = error.to_string().trim_end().to_owned();
        ConfigFileError::Parse { path: path.to_owned(), message }
    })?;
    config.validate().map_err(|error| ConfigFileError::Value { path: path.to_owned(), error })
}

/// Section, key, explanation, and an example for keys that have no default.
const KEYS: &[(&str, &str, &str, &str)] = &[
    ("network", "listen", "Addresses to listen on; port 0 takes a free one.", ""),
    ("network", "persistent_peers", "Peers that are dialled again when lost.", ""),
    ("network", "join", "The network to join; not needed beside a genesis.json.", "\"ayni:...\""),
    ("network", "connections_max", "Connections at most, in both directions.", ""),
    ("worker", "enabled", "Without a worker the node neither trains nor reviews.", ""),
    ("worker", "command", "Program and arguments; [] is the ayni-worker beside aynid.", ""),
    ("worker", "threads", "Threads it may use.", ""),
    ("worker", "nice", "Added to its niceness: 19 is the most polite.", ""),
    ("worker", "memory_max_mib", "Memory it may use; 0 for no limit.", ""),
    ("blobs", "quota_bytes", "Bytes of blobs that may be stored; 0 for no limit but the disk.", ""),
    ("blobs", "upload_bytes_per_s", "What all uploads together may send; 0 for no limit.", ""),
    ("blobs", "upload_per_peer_bytes_per_s", "What uploads to one peer may send.", ""),
    ("blobs", "uploads_max", "Requests of peers that are served at once.", ""),
    ("blobs", "fetches_max", "Blobs that are fetched at once.", ""),
    ("training", "auto_join", "Join the rounds of every model without being asked.", ""),
    (
        "training",
        "private_data",
        "A folder of text that trains here and never leaves. A delta may still reveal it.",
        "\"/home/me/texts\"",
    ),
    (
        "training",
        "privacy_noise_ppm",
        "Noise on deltas with private data, in ppm of the clipping norm; 0 for none.",
        "",
    ),
    ("training", "privacy_clip_norm_ppm", "Norm to which such a delta is clipped.", ""),
    ("training", "privacy_delta_ppb", "Delta of the privacy guarantee in parts per billion.", ""),
    ("capabilities", "reviews", "Review what others contribute.", ""),
    ("capabilities", "merges", "Merge deltas and attest heads.", ""),
    ("capabilities", "hosts", "Serve blobs to others.", ""),
    ("capabilities", "validates", "Take part in consensus when there is stake.", ""),
    ("chain", "block_wait_ms", "How long a proposer waits for transactions.", ""),
    (
        "chain",
        "archive",
        "Keep every block, and fetch every one; else none behind older snapshots.",
        "",
    ),
    (
        "chain",
        "trusted",
        "A block known to be final: peers must have it. Needed where the chain is old.",
        "\"HEIGHT:HASH\"",
    ),
    ("api", "socket", "Path of the socket; relative to this folder.", "\"run/ayni.sock\""),
    ("api", "group_read", "Let users of the socket folder's group read.", ""),
    ("log", "level", "error, warn, info, debug, trace, or \"info,libp2p=warn\".", ""),
];

/// The text of a `config.toml`: every key with its explanation, those that differ from the
/// default set, the others as comments with the default.
pub fn render(config: &Config) -> Result<String, toml::ser::Error> {
    let (set, default) = (Value::try_from(config)?, Value::try_from(Config::default())?);
    let look = |value: &Value, section: &str, key: &str| {
        value.get(section).and_then(|table| table.get(key)).cloned()
    };
    let mut text = String::from(
        "# Configuration of an Ayni node. Every key is optional: a line that begins with \"#\"\n\
         # shows the default. Unknown keys are errors. Restart the node after a change.\n",
    );
    let mut current = "";
    for (section, key, explanation, example) in KEYS {
        if *section != current {
            text.push_str(&format!("\n[{section}]\n"));
            current = section;
        }
        text.push_str(&format!("# {explanation}\n"));
        let (mine, usual) = (look(&set, section, key), look(&default, section, key));
        match (&mine, &usual) {
            (Some(value), usual) if Some(value) != usual.as_ref() => {
                text.push_str(&format!("{key} = {value}\n"));
            }
            (_, Some(value)) => text.push_str(&format!("# {key} = {value}\n")),
            (_, None) => text.push_str(&format!("# {key} = {example}\n")),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        toml::from_str(text).expect("own text")
    }

    #[test]
    fn the_rendered_file_means_what_was_rendered() {
        let text = render(&Config::default()).expect("plain values");
        assert_eq!(parse(&text), Config::default());

        let mut config = Config::default();
        config.network.join = Some("ayni:x".to_owned());
        config.network.listen = vec!["/ip4/1.2.3.4/tcp/5".to_owned()];
        config.worker.command = vec!["a \"b\"".to_owned(), "c\\d".to_owned()];
        config.training.private_data = Some("/p q".into());
        config.capabilities.hosts = false;
        config.blobs.quota_bytes = 7;
        config.api.socket = Some("s".into());
        assert_eq!(parse(&render(&config).expect("plain values")), config);
    }

    #[test]
    fn every_key_is_explained_and_every_default_is_true() {
        let text = render(&Config::default()).expect("plain values");
        let uncommented: String = text
            .lines()
            .filter(|line| !line.contains("\"ayni:...\"") && !line.contains("HEIGHT:HASH"))
            .filter(|line| !line.contains("/home/me") && !line.contains("run/ayni.sock"))
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(parse(&uncommented), Config::default());
        let Value::Table(sections) = Value::try_from(Config::default()).expect("plain") else {
            panic!("a configuration is a table");
        };
        for (section, table) in &sections {
            for key in table.as_table().expect("sections are tables").keys() {
                let explained = KEYS.iter().any(|(s, k, ..)| s == section && k == key);
                assert!(explained, "[{section}] {key} is not explained");
            }
        }
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("config.toml");
        assert!(load(&path).is_ok(), "a missing file is an empty one");
        let check = |text: &str, expect: &[&str]| {
            fs::write(&path, text).expect("writable");
            let error = load(&path).expect_err(text).to_string();
            for part in expect {
                assert!(error.contains(part), "{error}");
            }
        };
        check("[network]\nlistn = []\n", &["config.toml", "line 2", "unknown field `listn`"]);
        check("[worker]\nthreads = \"two\"\n", &["line 2", "invalid type"]);
        check("[worker\n", &["line 1"]);
        check("[worker]\nthreads = 0\n", &["[worker] threads", "1 to 1,024"]);
    }
}
