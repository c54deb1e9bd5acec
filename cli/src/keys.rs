//! Key files and backups of keys. Secrets are drawn from the operating system, written 0600 and
//! never printed.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{collections::BTreeMap, fs};

use protocol::home::{
    Home, KeyFileError, KeyName, NodeIdentity, NodeSecrets, format_key_file, parse_key_file,
};
use protocol::keys::SecretKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Key files and backups are short; whatever is longer is something else.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why keys cannot be read or written.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The system gives no random numbers.
    #[error("the system gave no random numbers: {0}")]
    NoRandomness(getrandom::Error),
    /// There is no such file.
    #[error("the key file {0:?} is missing; restore it with `ayni keys import BACKUP`")]
    Missing(PathBuf),
    /// Others can read or change it.
    #[error(
        "the key file {path:?} is open to other users (mode {mode:o}); close it with \
         `chmod 600 {path}`, and think about who may have copied it", path = path.display()
    )]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds no key.
    #[error(
        "the key file {path:?} is corrupt: {error}; restore it with `ayni keys import BACKUP` \
         after moving the corrupt file away"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong; never the content.
        error: KeyFileError,
    },
    /// Not a backup, or a damaged one.
    #[error("{path:?} is not a backup of Ayni keys: {reason}")]
    NotABackup {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It exists.
    #[error("{0:?} exists already and is not overwritten; name another file")]
    Exists(PathBuf),
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

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |error| KeysError::Io { action, path, error }
}

/// A new key from the operating system's randomness.
pub fn draw_key() -> Result<SecretKey, KeysError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeysError::NoRandomness)?;
    Ok(SecretKey::from_seed(&seed))
}

/// A full set of new keys.
pub fn draw_secrets() -> Result<NodeSecrets, KeysError> {
    NodeSecrets::try_from_fn(|_| draw_key())
}

/// Reads one key of a home, refusing files that others can read.
pub fn load_key(home: &Home, name: KeyName) -> Result<SecretKey, KeysError> {
    let path = home.key(name);
    let text = read_private(&path)?;
    parse_key_file(&text).map_err(|error| KeysError::Corrupt { path, error })
}

/// Reads all keys of a home.
pub fn load_secrets(home: &Home) -> Result<NodeSecrets, KeysError> {
    NodeSecrets::try_from_fn(|name| load_key(home, name))
}

/// Writes one key file, 0600, which must not exist.
pub fn write_key(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    write_private(path, format_key_file(key).as_bytes())
}

fn read_private(path: &Path) -> Result<String, KeysError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(KeysError::Missing(path.to_owned()));
        }
        file => file.map_err(failed("open", path))?,
    };
    let metadata = file.metadata().map_err(failed("look at", path))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Loose { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed("read", path))?;
    String::from_utf8(bytes)
        .map_err(|_| KeysError::Corrupt { path: path.to_owned(), error: KeyFileError::NotHex })
}

/// Writes a new file for the owner only, and syncs it.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(KeysError::Exists(path.to_owned()));
        }
        file => file.map_err(failed("create", path))?,
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a file is worse than none; the first error is the one to tell.
        let _ = fs::remove_file(path);
        failed("write", path)(error)
    })
}

/// Name of the backup format.
const BACKUP_FORMAT: &str = "ayni-keys/1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    format: String,
    /// What the keys must give: shows a damaged backup.
    identity: NodeIdentity,
    /// Secret keys by name, 64 hexadecimal digits each.
    keys: BTreeMap<String, String>,
}

/// Writes a backup of all keys into a new file, 0600.
pub fn write_backup(path: &Path, secrets: &NodeSecrets) -> Result<(), KeysError> {
    let digits = |name| format_key_file(secrets.get(name)).trim_end().to_owned();
    let backup = Backup {
        format: BACKUP_FORMAT.to_owned(),
        identity: secrets.identity(),
        keys: KeyName::ALL.map(|name| (name.name().to_owned(), digits(name))).into(),
    };
    let mut text = serde_json::to_string_pretty(&backup)
        .map_err(|error| failed("write", path)(io::Error::other(error)))?;
    text.push('\n');
    write_private(path, text.as_bytes())
}

/// Reads a backup and checks that its keys give its identity.
pub fn read_backup(path: &Path) -> Result<NodeSecrets, KeysError> {
    let refuse = |reason: String| KeysError::NotABackup { path: path.to_owned(), reason };
    let file = fs::File::open(path).map_err(failed("open", path))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| refuse(error.to_string()))?;
    // Only the position: the text around it may be a secret.
    let backup: Backup = serde_json::from_str(&text)
        .map_err(|e| refuse(format!("line {}, column {}", e.line(), e.column())))?;
    if backup.format != BACKUP_FORMAT {
        return Err(refuse(format!("its format is not {BACKUP_FORMAT:?}")));
    }
    let secrets = NodeSecrets::try_from_fn(|name| {
        let digits = backup.keys.get(name.name());
        let digits = digits.ok_or_else(|| refuse(format!("it has no {} key", name.name())))?;
        parse_key_file(digits).map_err(|e| refuse(format!("its {} key: {e}", name.name())))
    })?;
    if secrets.identity() != backup.identity {
        return Err(refuse("its keys do not give the identity that it states".to_owned()));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn backups_read_back_and_show_damage() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("backup.json");
        let secrets = draw_secrets().expect("randomness");
        write_backup(&path, &secrets).expect("free name");
        assert_eq!(fs::metadata(&path).expect("written").mode() & 0o777, 0o600);
        assert_eq!(read_backup(&path).expect("whole").identity(), secrets.identity());
        assert!(matches!(write_backup(&path, &secrets), Err(KeysError::Exists(_))));

        let other = draw_secrets().expect("randomness");
        let text = fs::read_to_string(&path).expect("written");
        let digits = |s: &NodeSecrets| format_key_file(&s.duty).trim_end().to_owned();
        let swapped = text.replace(&digits(&secrets), &digits(&other));
        fs::write(&path, swapped).expect("writable");
        let error = read_backup(&path).map(|_| ()).expect_err("damaged").to_string();
        assert!(error.contains("do not give the identity"), "{error}");
        fs::write(&path, &text[..text.len() / 2]).expect("writable");
        let error = read_backup(&path).map(|_| ()).expect_err("cut off").to_string();
        assert!(error.contains("line"), "{error}");
    }

    #[test]
    fn key_files_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let home = Home::new(dir.path());
        fs::create_dir(home.keys()).expect("writable");
        let load = || load_key(&home, KeyName::Duty);
        assert!(matches!(load(), Err(KeysError::Missing(_))));
        let path = home.key(KeyName::Duty);
        write_key(&path, &draw_key().expect("randomness")).expect("free name");
        assert!(load().is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("own file");
        assert!(matches!(load(), Err(KeysError::Loose { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
        fs::write(&path, [0xff; 65]).expect("own file");
        assert!(matches!(load(), Err(KeysError::Corrupt { error: KeyFileError::NotHex, .. })));
    }
}
