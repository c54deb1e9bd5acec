//! Reading the home directory: configuration, keys, genesis. Every refusal says what to do.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use protocol::codec::{self, Canonical};
use protocol::config::{CheckedConfig, Config};
use protocol::home::{Home, NodeIdentity, NodeSecrets, parse_key_file};
use protocol::ledger::genesis::Genesis;
use storage::lock::FileLock;

/// Reads and checks `config.toml`.
pub fn config(home: &Home) -> anyhow::Result<CheckedConfig> {
    let path = home.config();
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}: make a node with `ayni --home DIR init`", path.display())
    })?;
    let config: Config = toml::from_str(&text)
        .with_context(|| format!("{} is not a valid configuration", path.display()))?;
    config.validate().with_context(|| format!("{} has a value out of range", path.display()))
}

/// Takes the home for this process, for as long as the lock lives.
pub fn lock(home: &Home) -> anyhow::Result<FileLock> {
    FileLock::acquire(&home.root().join("LOCK"), home.root())
        .context("cannot take the home: `ayni node stop` stops the daemon that runs in it")
}

/// Reads the keys; a key file that others can read, or that is another node's, is refused.
pub fn secrets(home: &Home) -> anyhow::Result<NodeSecrets> {
    let secrets = read_keys(home)?;
    let path = home.identity();
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let identity: NodeIdentity = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a node's identity", path.display()))?;
    if identity != secrets.identity() {
        bail!(
            "the keys in {} are not those of {}: a key file belongs to another node. Restore the \
             node's own keys with `ayni keys import`; `ayni doctor` says which differ",
            home.keys().display(),
            path.display()
        );
    }
    Ok(secrets)
}

fn read_keys(home: &Home) -> anyhow::Result<NodeSecrets> {
    NodeSecrets::try_from_fn(|name| {
        let path = home.key(name);
        let metadata = fs::metadata(&path).with_context(|| {
            format!(
                "cannot read the {} key {}: restore it from your backup with `ayni keys import`",
                name.name(),
                path.display()
            )
        })?;
        if metadata.permissions().mode() & 0o077 != 0 {
            bail!(
                "{} can be read by others; make it private: chmod 600 {}",
                path.display(),
                path.display()
            );
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // What is not UTF-8 has a wrong character in it, and that is what is said then.
        parse_key_file(&String::from_utf8_lossy(&bytes)).with_context(|| {
            format!(
                "{} is corrupt; restore it from your backup with `ayni keys import`",
                path.display()
            )
        })
    })
}

/// A genesis, from the JSON of its file.
pub fn parse_genesis(json: &[u8]) -> anyhow::Result<Genesis> {
    if json.len() > Genesis::BYTES_MAX * 4 {
        bail!("the genesis is larger than any valid one");
    }
    let genesis: Genesis = serde_json::from_slice(json).context("the genesis is malformed")?;
    codec::encode_checked(&genesis).context("the genesis is too large")?;
    genesis.build().context("the genesis is not valid")?;
    Ok(genesis)
}

/// The genesis file, if there is one.
pub fn genesis(home: &Home) -> anyhow::Result<Option<(Vec<u8>, Genesis)>> {
    let path = home.genesis();
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let genesis =
        parse_genesis(&json).with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(Some((json, genesis)))
}

/// The program and leading arguments of the worker: as configured, or beside this program.
pub fn worker_command(configured: &[String], own: &Path) -> anyhow::Result<Vec<String>> {
    if !configured.is_empty() {
        return Ok(configured.to_vec());
    }
    let beside = own.with_file_name("ayni-worker");
    let text = beside.to_str().context("the program's path is not UTF-8")?;
    Ok(vec![text.to_owned()])
}
