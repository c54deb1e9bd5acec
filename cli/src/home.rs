//! Making a home directory, all or nothing, and finding the daemon that runs in one.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use protocol::config::Config;
use protocol::home::{Home, KeyName, NodeIdentity, NodeSecrets};
use protocol::ledger::genesis::Genesis;
use thiserror::Error;

use crate::config::{self, ConfigFileError};
use crate::keys::{self, KeysError};

/// What a new home contains beside its keys.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// The configuration; what differs from the defaults is written out.
    pub config: Config,
    /// The genesis of the network, if it is known.
    pub genesis: Option<Genesis>,
}

/// Why a home cannot be made or used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Neither a home was named nor is there a user's home.
    #[error("no home for the node: set --home, AYNI_HOME or HOME")]
    Unknown,
    /// There is something already.
    #[error(
        "{0:?} exists already and is not touched; choose another --home, or move it away if you \
         are sure that its keys are not needed"
    )]
    Exists(PathBuf),
    /// There is no node.
    #[error("there is no node in {0:?}; make one with `ayni init`, or name its home with --home")]
    Missing(PathBuf),
    /// `node.json` is not what it should be.
    #[error("{path:?} is not a node's identity: {reason}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Configuration.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The configuration to write has no TOML form.
    #[error("the configuration cannot be written as TOML: {0}")]
    Render(String),
    /// The system refused.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |error| HomeError::Io { action, path, error }
}

/// The home that was named, or `~/.ayni`.
pub fn locate(named: Option<PathBuf>) -> Result<Home, HomeError> {
    let root = match named {
        Some(path) => path,
        None => {
            let user = env::var_os("HOME").filter(|home| !home.is_empty());
            PathBuf::from(user.ok_or(HomeError::Unknown)?).join(".ayni")
        }
    };
    std::path::absolute(&root).map(Home::new).map_err(failed("resolve", &root))
}

/// Makes a home: folder 0700, keys 0600, `config.toml`, `node.json`, perhaps `genesis.json`.
///
/// Everything is written and synced beside the place and then moved there, so that a home is
/// either whole or absent. An existing folder is refused unless it is empty.
pub fn init(
    home: &Home,
    secrets: &NodeSecrets,
    options: &InitOptions,
) -> Result<NodeIdentity, HomeError> {
    let root = home.root();
    let free = match fs::read_dir(root) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    if !free {
        return Err(HomeError::Exists(root.to_owned()));
    }
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(HomeError::Exists(root.to_owned()));
    };
    fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
    let draft =
        Draft::new(parent.join(format!(".{}.new-{}", name.to_string_lossy(), process::id())))?;
    let identity = fill(&Home::new(&draft.0), secrets, options)?;
    fs::rename(&draft.0, root).map_err(|error| match error.kind() {
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            HomeError::Exists(root.to_owned())
        }
        _ => failed("move the new home to", root)(error),
    })?;
    sync_folder(parent)?;
    Ok(identity)
}

/// A folder that is removed unless it was moved to its place.
struct Draft(PathBuf);

impl Draft {
    fn new(path: PathBuf) -> Result<Self, HomeError> {
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(failed("make the folder", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing there is the good case; anything else was an error already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fill(
    home: &Home,
    secrets: &NodeSecrets,
    options: &InitOptions,
) -> Result<NodeIdentity, HomeError> {
    let keys = home.keys();
    let made = fs::DirBuilder::new().mode(0o700).create(&keys);
    made.map_err(failed("make the folder", &keys))?;
    for name in KeyName::ALL {
        keys::write_key(&home.key(name), secrets.get(name))?;
    }
    let text = config::render(&options.config).map_err(|e| HomeError::Render(e.to_string()))?;
    keys::write_private(&home.config(), text.as_bytes())?;
    let identity = secrets.identity();
    write_json(&home.identity(), &identity)?;
    if let Some(genesis) = &options.genesis {
        write_json(&home.genesis(), genesis)?;
    }
    sync_folder(&keys)?;
    sync_folder(home.root())?;
    Ok(identity)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), HomeError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| failed("write", path)(io::Error::other(error)))?;
    text.push('\n');
    Ok(keys::write_private(path, text.as_bytes())?)
}

fn sync_folder(path: &Path) -> Result<(), HomeError> {
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("sync", path))
}

/// Puts missing keys back from `secrets`. Keys that are there must be the same; then nothing
/// that exists is changed. Returns the names of those that were written.
pub fn restore_keys(home: &Home, secrets: &NodeSecrets) -> Result<Vec<KeyName>, HomeError> {
    let identity = load_identity(home)?;
    if identity != secrets.identity() {
        return Err(HomeError::Identity {
            path: home.identity(),
            reason: "the keys to import are those of another node; import them into another --home"
                .to_owned(),
        });
    }
    let mut missing = Vec::new();
    for name in KeyName::ALL {
        match keys::load_key(home, name) {
            Ok(_) => {}
            Err(KeysError::Missing(_)) => missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    for name in &missing {
        keys::write_key(&home.key(*name), secrets.get(*name))?;
    }
    Ok(missing)
}

/// Reads `node.json`.
pub fn load_identity(home: &Home) -> Result<NodeIdentity, HomeError> {
    let path = home.identity();
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(HomeError::Missing(home.root().to_owned()));
        }
        text => text.map_err(failed("read", &path))?,
    };
    serde_json::from_str(&text)
        .map_err(|error| HomeError::Identity { path, reason: error.to_string() })
}

/// Where the daemon of this home listens: where the running daemon says, else where the
/// configuration puts it.
pub fn find_socket(home: &Home) -> Result<PathBuf, HomeError> {
    if let Ok(text) = fs::read_to_string(home.socket_note()) {
        let path = text.trim_end();
        if !path.is_empty() {
            return Ok(PathBuf::from(path));
        }
    }
    let identity = load_identity(home)?;
    let config = config::load(&home.config())?;
    let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let runtime = runtime.as_deref().map(Path::new);
    Ok(home.socket(config.api().socket.as_deref(), runtime, &identity.node))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").mode() & 0o777
    }

    #[test]
    fn a_home_is_whole_and_private() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let home = Home::new(dir.path().join("a/b"));
        let secrets = keys::draw_secrets().expect("randomness");
        let identity = init(&home, &secrets, &InitOptions::default()).expect("free place");
        assert_eq!(load_identity(&home).expect("written"), identity);
        assert_eq!(keys::load_secrets(&home).expect("written").identity(), identity);
        assert_eq!((mode(home.root()), mode(&home.keys())), (0o700, 0o700));
        assert!(KeyName::ALL.iter().all(|name| mode(&home.key(*name)) == 0o600));
        assert!(config::load(&home.config()).is_ok());

        let again = init(&home, &secrets, &InitOptions::default());
        assert!(matches!(again, Err(HomeError::Exists(_))));
        let beside = fs::read_dir(dir.path().join("a")).expect("readable").count();
        assert_eq!(beside, 1, "nothing is left beside the home");
    }

    #[test]
    fn what_exists_is_not_touched() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let secrets = keys::draw_secrets().expect("randomness");
        let file = dir.path().join("file");
        fs::write(&file, "precious").expect("writable");
        let refused = init(&Home::new(&file), &secrets, &InitOptions::default());
        assert!(matches!(refused, Err(HomeError::Exists(_))));
        assert_eq!(fs::read_to_string(&file).expect("kept"), "precious");
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).expect("writable");
        assert!(init(&Home::new(&empty), &secrets, &InitOptions::default()).is_ok());
    }

    #[test]
    fn missing_keys_are_restored_and_foreign_ones_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let home = Home::new(dir.path().join("h"));
        let secrets = keys::draw_secrets().expect("randomness");
        init(&home, &secrets, &InitOptions::default()).expect("free place");
        fs::remove_file(home.key(KeyName::Vrf)).expect("own file");
        assert_eq!(restore_keys(&home, &secrets).expect("own keys"), [KeyName::Vrf]);
        assert_eq!(restore_keys(&home, &secrets).expect("own keys"), []);
        let foreign = keys::draw_secrets().expect("randomness");
        assert!(matches!(restore_keys(&home, &foreign), Err(HomeError::Identity { .. })));
    }
}
