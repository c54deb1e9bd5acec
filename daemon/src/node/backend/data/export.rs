//! Writing what was fetched to a path that the daemon's own user named.
//!
//! **Invariant.** What exists is replaced only when that was asked for, and a folder only when
//! nothing in it is foreign to the collection. Deliberately absent: following links (a link at the
//! target is itself what exists); and writing, which the store does whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::api::ApiError;
use protocol::blobs::collection::{Collection, RelativePath};
use protocol::ids::ContentHash;
use protocol::limits::COLLECTION_FILES_MAX;
use storage::{BlobError, BlobStore};

use super::of_store;

/// Entries of a folder that are looked at before it is replaced.
const ENTRIES_MAX: usize = 4 * COLLECTION_FILES_MAX;

/// Where to write; checked.
#[derive(Clone, Debug)]
pub(super) struct Target {
    path: PathBuf,
    force: bool,
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ApiError {
    ApiError::bad_request(format!("cannot {what} {}: {error}", path.display()))
        .with_hint("name a target in a folder that the daemon's user may write to")
}

impl Target {
    /// Checks an absolute path before anything is fetched for it. Blocks.
    pub(super) fn check(path: PathBuf, force: bool) -> Result<Self, ApiError> {
        let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(ApiError::bad_request("the target does not end in a name"));
        };
        let found = fs::metadata(folder).map_err(|error| cannot("write to", folder, &error))?;
        if !found.is_dir() {
            return Err(ApiError::bad_request(format!("{} is not a folder", folder.display())));
        }
        let target = Self { path, force };
        if target.exists() && !force {
            return Err(target.taken());
        }
        Ok(target)
    }

    fn exists(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    fn taken(&self) -> ApiError {
        ApiError::conflict(format!("{} exists already", self.path.display()))
            .with_hint("name another target, or replace it with --force")
    }

    /// Writes a blob, or the files of a collection; the path. Blocks. `progress` hears the bytes
    /// written and says whether to go on.
    pub(super) fn write(
        &self,
        store: &BlobStore,
        hash: &ContentHash,
        collection: Option<&Collection>,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String, ApiError> {
        self.check_replaced(collection)?;
        let written = match collection {
            None => store.export_blob(hash, &self.path, self.force, progress),
            Some(collection) => store.export(collection, &self.path, self.force, progress),
        };
        written.map_err(|error| match error {
            BlobError::Exists { .. } => self.taken(),
            error => of_store(error),
        })?;
        Ok(self.path.to_string_lossy().into_owned())
    }

    /// Whether what exists may be replaced.
    fn check_replaced(&self, collection: Option<&Collection>) -> Result<(), ApiError> {
        let Ok(found) = fs::symlink_metadata(&self.path) else { return Ok(()) };
        if !self.force {
            return Err(self.taken());
        }
        if !found.is_dir() {
            return Ok(());
        }
        let foreign = match collection {
            None => Some(self.path.clone()),
            Some(collection) => foreign(&self.path, collection)
                .map_err(|error| cannot("read", &self.path, &error))?,
        };
        match foreign {
            None => Ok(()),
            Some(path) => Err(ApiError::conflict(format!(
                "{} would be lost: it is not in the collection",
                path.display()
            ))
            .with_hint("remove the folder yourself, or name another target")),
        }
    }
}

/// The first thing in a folder that a collection does not name.
fn foreign(folder: &Path, collection: &Collection) -> io::Result<Option<PathBuf>> {
    let mut waiting = vec![(folder.to_owned(), String::new())];
    let mut seen = 0_usize;
    while let Some((path, prefix)) = waiting.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            seen += 1;
            let name = entry.file_name();
            let Some(relative) = join(&prefix, &name).filter(|_| seen <= ENTRIES_MAX) else {
                return Ok(Some(entry.path()));
            };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push((entry.path(), relative));
            } else {
                let path = RelativePath::new(&relative).ok();
                let known = path.is_some_and(|path| collection.file(&path).is_some());
                if !kind.is_file() || !known {
                    return Ok(Some(entry.path()));
                }
            }
        }
    }
    Ok(None)
}

fn join(prefix: &str, name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    Some(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") })
}

#[cfg(test)]
mod tests {
    use protocol::api::ErrorCode;
    use protocol::blobs::collection::{Chunk, CollectionFile, MediaType};
    use tempfile::TempDir;

    use super::*;

    fn store() -> (TempDir, BlobStore, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open(&dir.path().join("store")).expect("a store");
        let out = dir.path().join("out");
        fs::create_dir(&out).expect("writable");
        (dir, store, out)
    }

    fn collection(store: &BlobStore, files: &[(&str, &[u8])]) -> (ContentHash, Collection) {
        let file = |(path, bytes): &(&str, &[u8])| CollectionFile {
            path: RelativePath::new(path).expect("a good path"),
            bytes: bytes.len() as u64,
            media_type: MediaType::default(),
            chunks: vec![Chunk {
                hash: store.put_bytes(bytes).expect("writable"),
                bytes: bytes.len() as u64,
            }],
        };
        let made = Collection::new(files.iter().map(file).collect()).expect("good files");
        let hash = store.put_bytes(&made.to_bytes().expect("small")).expect("writable");
        (hash, made)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("there");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names.map(|name| name.into_string().expect("UTF-8")).collect()
    }

    fn write(
        target: &Target,
        store: &BlobStore,
        hash: &ContentHash,
        collection: Option<&Collection>,
    ) -> Result<String, ErrorCode> {
        target.write(store, hash, collection, &mut |_| true).map_err(|error| error.code)
    }

    #[test]
    fn a_file_is_written_whole_and_replaced_only_on_demand() {
        let (_dir, store, out) = store();
        let hash = store.put_bytes(b"new").expect("writable");
        let path = out.join("file");
        let target = Target::check(path.clone(), false).expect("free");
        assert_eq!(write(&target, &store, &hash, None), Ok(path.display().to_string()));
        assert_eq!(
            (fs::read(&path).expect("there"), names(&out)),
            (b"new".to_vec(), vec!["file".to_owned()])
        );
        assert!(Target::check(path.clone(), false).is_err());
        // It came to be while the blob was fetched.
        assert_eq!(write(&target, &store, &hash, None), Err(ErrorCode::Conflict));
        fs::write(&path, "old").expect("writable");
        let forced = Target::check(path.clone(), true).expect("told to");
        assert!(write(&forced, &store, &hash, None).is_ok());
        assert_eq!(fs::read(&path).expect("there"), b"new");
        let none = ContentHash::of(b"not here");
        assert_eq!(write(&forced, &store, &none, None), Err(ErrorCode::NotFound));
        assert_eq!(names(&out), ["file"], "nothing is left beside it");
        assert!(Target::check(out.join("none/file"), false).is_err());
        assert!(Target::check(PathBuf::from("/"), true).is_err());
    }

    #[test]
    fn a_link_at_the_target_is_replaced_and_not_followed() {
        let (dir, store, out) = store();
        let hash = store.put_bytes(b"new").expect("writable");
        let outside = dir.path().join("outside");
        fs::write(&outside, "mine").expect("writable");
        let path = out.join("link");
        std::os::unix::fs::symlink(&outside, &path).expect("writable");
        assert!(Target::check(path.clone(), false).is_err());
        let forced = Target::check(path.clone(), true).expect("told to");
        assert!(write(&forced, &store, &hash, None).is_ok());
        assert_eq!(fs::read(&outside).expect("there"), b"mine");
        assert!(fs::symlink_metadata(&path).expect("there").is_file());
    }

    #[test]
    fn a_folder_is_replaced_only_when_nothing_foreign_is_lost() {
        let (_dir, store, out) = store();
        let (hash, made) = collection(&store, &[("a", b"1"), ("b/c", b"2")]);
        let path = out.join("folder");
        let target = Target::check(path.clone(), true).expect("free");
        assert!(write(&target, &store, &hash, Some(&made)).is_ok());
        assert_eq!(fs::read(path.join("b/c")).expect("there"), b"2");
        fs::write(path.join("a"), "changed").expect("writable");
        assert!(write(&target, &store, &hash, Some(&made)).is_ok());
        assert_eq!(fs::read(path.join("a")).expect("there"), b"1");
        fs::write(path.join("b/mine"), "x").expect("writable");
        assert_eq!(write(&target, &store, &hash, Some(&made)), Err(ErrorCode::Conflict));
        assert_eq!(write(&target, &store, &hash, None), Err(ErrorCode::Conflict));
        assert_eq!(fs::read(path.join("b/mine")).expect("there"), b"x");
        assert_eq!(names(&out), ["folder"]);
    }
}
