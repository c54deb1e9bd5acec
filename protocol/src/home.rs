//! The node's home directory: names of files, the format of key files, the public identity.
//!
//! `ayni init` makes it and `aynid` reads it; neither depends on the other, so what they share
//! is here. Paths are joined and texts parsed; nothing is opened.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AccountId, NodeId};
use crate::keys::{PublicKey, SecretKey};
use crate::transaction::NodeKeys;

/// Longest path of a Unix socket in bytes: `sun_path` has 108 with its final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// At `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The configuration, see [`crate::config`].
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The public identity, a [`NodeIdentity`].
    pub fn identity(&self) -> PathBuf {
        self.0.join("node.json")
    }

    /// The genesis file, if the network was founded here or the file was given.
    pub fn genesis(&self) -> PathBuf {
        self.0.join("genesis.json")
    }

    /// The folder of key files (0700).
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// A key file (0600).
    pub fn key(&self, name: KeyName) -> PathBuf {
        self.keys().join(name.file_name())
    }

    /// Everything that the daemon stores.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What a daemon started in the background prints.
    pub fn log(&self) -> PathBuf {
        self.0.join("aynid.log")
    }

    /// A text file with the path of the socket, written by the running daemon.
    pub fn socket_note(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// Where the socket is: as configured; else `<runtime dir>/ayni/<node>.sock`, where the
    /// runtime dir is `$XDG_RUNTIME_DIR`; else `run/ayni.sock` inside the home.
    pub fn socket(
        &self,
        configured: Option<&Path>,
        runtime_dir: Option<&Path>,
        node: &NodeId,
    ) -> PathBuf {
        match (configured, runtime_dir) {
            (Some(path), _) => self.0.join(path),
            (None, Some(dir)) => dir.join("ayni").join(format!("{}.sock", node.short())),
            (None, None) => self.0.join("run").join("ayni.sock"),
        }
    }
}

/// The path is too long for a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the socket path {path:?} has {bytes} bytes, and a Unix socket can have at most {max}; \
     set `socket` under [api] in config.toml to a shorter path, or use a shorter home",
    max = SOCKET_PATH_BYTES_MAX
)]
pub struct SocketPathTooLong {
    /// The path.
    pub path: PathBuf,
    /// Its length.
    pub bytes: usize,
}

/// Checks that a Unix socket can have this path.
pub fn check_socket_path(path: &Path) -> Result<(), SocketPathTooLong> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(SocketPathTooLong { path: path.to_owned(), bytes });
    }
    Ok(())
}

/// The keys of a home directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyName {
    /// Owns the credits; may be kept elsewhere.
    Account,
    /// libp2p identity.
    Node,
    /// Consensus votes.
    Consensus,
    /// Beacon contributions.
    Vrf,
    /// Duty transactions.
    Duty,
}

impl KeyName {
    /// All keys.
    pub const ALL: [Self; 5] = [Self::Account, Self::Node, Self::Consensus, Self::Vrf, Self::Duty];

    /// `account`, `node`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Node => "node",
            Self::Consensus => "consensus",
            Self::Vrf => "vrf",
            Self::Duty => "duty",
        }
    }

    /// Name of its file in the folder of keys.
    pub fn file_name(self) -> String {
        format!("{}.key", self.name())
    }
}

/// A key file that holds no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// Wrong length.
    #[error("it has {0} characters where a key has 64 hexadecimal digits and a line end")]
    Length(usize),
    /// Other characters.
    #[error("it has a character that is not a hexadecimal digit")]
    NotHex,
    /// 32 bytes that no generator gives.
    #[error("the key is all zeros")]
    Zero,
}

/// Parses a key file: 64 hexadecimal digits and a line end. The error never quotes the content.
pub fn parse_key_file(text: &str) -> Result<SecretKey, KeyFileError> {
    let digits = text.strip_suffix('\n').unwrap_or(text);
    if digits.len() != 64 {
        return Err(KeyFileError::Length(text.chars().count()));
    }
    let mut seed = [0; 32];
    hex::decode_to_slice(digits, &mut seed).map_err(|_| KeyFileError::NotHex)?;
    if seed == [0; 32] {
        return Err(KeyFileError::Zero);
    }
    Ok(SecretKey::from_seed(&seed))
}

/// The text of a key file.
pub fn format_key_file(key: &SecretKey) -> String {
    format!("{}\n", hex::encode(key.to_seed()))
}

/// The secret keys of a node with its account.
#[derive(Clone)]
pub struct NodeSecrets {
    /// Owns the credits.
    pub account: SecretKey,
    /// libp2p identity.
    pub node: SecretKey,
    /// Consensus votes.
    pub consensus: SecretKey,
    /// Beacon contributions.
    pub vrf: SecretKey,
    /// Duty transactions.
    pub duty: SecretKey,
}

impl NodeSecrets {
    /// Makes each key with `make`, in the order of [`KeyName::ALL`].
    pub fn try_from_fn<E>(
        mut make: impl FnMut(KeyName) -> Result<SecretKey, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            account: make(KeyName::Account)?,
            node: make(KeyName::Node)?,
            consensus: make(KeyName::Consensus)?,
            vrf: make(KeyName::Vrf)?,
            duty: make(KeyName::Duty)?,
        })
    }

    /// One of them.
    pub const fn get(&self, name: KeyName) -> &SecretKey {
        match name {
            KeyName::Account => &self.account,
            KeyName::Node => &self.node,
            KeyName::Consensus => &self.consensus,
            KeyName::Vrf => &self.vrf,
            KeyName::Duty => &self.duty,
        }
    }

    /// What may be shown to everybody.
    pub fn identity(&self) -> NodeIdentity {
        let account_key = self.account.public();
        NodeIdentity {
            account: account_key.account_id(),
            account_key,
            node: self.node.public().node_id(),
            keys: NodeKeys {
                node: self.node.public(),
                consensus: self.consensus.public(),
                vrf: self.vrf.public(),
                duty: self.duty.public(),
            },
        }
    }
}

/// The content of `node.json`: public keys and the ids that follow from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// The account that the account key founds.
    pub account: AccountId,
    /// The account key.
    pub account_key: PublicKey,
    /// The node.
    pub node: NodeId,
    /// The node's keys.
    pub keys: NodeKeys,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files() {
        let key = SecretKey::from_seed(&[9; 32]);
        let text = format_key_file(&key);
        assert_eq!(text.len(), 65);
        assert_eq!(parse_key_file(&text).expect("own text").to_seed(), [9; 32]);
        let error = |text: &str| parse_key_file(text).map(|_| ()).expect_err("must be refused");
        assert_eq!(error(""), KeyFileError::Length(0));
        assert_eq!(error(&text[..40]), KeyFileError::Length(40));
        assert_eq!(error(&format!("{text}\n")), KeyFileError::Length(66));
        assert_eq!(error(&"g".repeat(64)), KeyFileError::NotHex);
        assert_eq!(error(&"0".repeat(64)), KeyFileError::Zero);
        assert_eq!(error(&"é".repeat(32)), KeyFileError::NotHex);
    }

    #[test]
    fn the_socket_goes_where_it_is_told() {
        let home = Home::new("/h");
        let node = NodeId::from_bytes([0xcd; 32]);
        let path = |configured: Option<&str>, runtime: Option<&str>| {
            home.socket(configured.map(Path::new), runtime.map(Path::new), &node)
        };
        assert_eq!(path(Some("/s"), Some("/r")), Path::new("/s"));
        assert_eq!(path(Some("a/s"), None), Path::new("/h/a/s"));
        assert_eq!(path(None, Some("/r")), Path::new("/r/ayni/cdcdcdcd.sock"));
        assert_eq!(path(None, None), Path::new("/h/run/ayni.sock"));
        assert!(check_socket_path(Path::new(&"x".repeat(107))).is_ok());
        assert!(check_socket_path(Path::new(&"x".repeat(108))).is_err());
    }
}
