//! A height at which this node must not vote, remembered beside the engine's log.
//!
//! Written before the engine starts without a vote, so that a restart in between does not give
//! the vote back; removed once the height is decided.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use protocol::amount::Height;

fn marker(wal: &Path) -> PathBuf {
    let mut name = wal.file_name().unwrap_or_default().to_owned();
    name.push(".abstain");
    wal.with_file_name(name)
}

/// The height to abstain at, if any. A marker that cannot be parsed counts as the highest height:
/// better silent than wrong.
pub(super) fn load(wal: &Path) -> io::Result<Option<Height>> {
    match fs::read_to_string(marker(wal)) {
        Ok(text) => Ok(Some(Height::new(text.trim().parse().unwrap_or(u64::MAX)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Remembers the height durably.
pub(super) fn save(wal: &Path, height: Height) -> io::Result<()> {
    let path = marker(wal);
    let partial = path.with_extension("abstain-partial");
    let mut file = File::create(&partial)?;
    file.write_all(height.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    sync_parent(&path)
}

/// Forgets it.
pub(super) fn clear(wal: &Path) -> io::Result<()> {
    match fs::remove_file(marker(wal)) {
        Ok(()) => sync_parent(wal),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_height_survives_and_damage_means_silence() {
        let directory = tempfile::tempdir().expect("a directory");
        let wal = directory.path().join("consensus.wal");
        assert_eq!(load(&wal).expect("no marker"), None);
        save(&wal, Height::new(7)).expect("saved");
        assert_eq!(load(&wal).expect("a marker"), Some(Height::new(7)));
        fs::write(marker(&wal), "seven").expect("written");
        assert_eq!(load(&wal).expect("a marker"), Some(Height::new(u64::MAX)));
        clear(&wal).expect("cleared");
        clear(&wal).expect("cleared twice");
        assert_eq!(load(&wal).expect("no marker"), None);
    }
}
