//! Making a dataset of a folder: text files joined into shards, shards and manifest as blobs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use protocol::codec;
use protocol::ids::ContentHash;
use protocol::limits;
use protocol::model::{DatasetManifest, Shard};
use storage::BlobStore;
use storage::blobs::Hold;

/// What became of a folder.
pub struct Published {
    /// Hash of the manifest.
    pub manifest: ContentHash,
    /// The manifest.
    pub document: DatasetManifest,
    /// Text files in it.
    pub documents: u32,
    /// Files left out: not UTF-8, empty, or over the size of a shard.
    pub skipped: u32,
    /// Keep all of it until something else does.
    pub holds: Vec<Hold>,
}

/// Every file under a path, in the order of names; links are left out.
pub(crate) fn visit(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            visit(&entry.path(), files)?;
        }
    } else if kind.is_file() {
        files.push(path.to_owned());
    }
    Ok(())
}

/// Stores the texts under `path` (a folder or a file) as a dataset. Blocks; reports after each
/// file and stops when `go_on` says so.
pub fn publish(
    store: &BlobStore,
    path: &Path,
    name: &str,
    licence: &str,
    mut go_on: impl FnMut(u64, u64) -> bool,
) -> anyhow::Result<Published> {
    let mut files = Vec::new();
    visit(path, &mut files).with_context(|| {
        format!("cannot read {}: give an existing folder or file of text", path.display())
    })?;
    let (mut shards, mut holds) = (Vec::new(), Vec::new());
    let mut text = Vec::new();
    let (mut in_shard, mut documents, mut skipped) = (0_u32, 0_u32, 0_u32);
    let total = u64::try_from(files.len())?;
    for (index, file) in files.iter().enumerate() {
        if !go_on(u64::try_from(index)?, total) {
            bail!("cancelled");
        }
        let size = fs::metadata(file)?.len();
        let bytes = if (1..limits::SHARD_BYTES_MAX).contains(&size) {
            fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
        } else {
            Vec::new()
        };
        if bytes.is_empty() || std::str::from_utf8(&bytes).is_err() {
            skipped += 1;
            continue;
        }
        let target = limits::SHARD_BYTES_TARGET;
        if !text.is_empty() && text.len() + bytes.len() > target {
            shards.push(put(store, &mut text, &mut in_shard, &mut holds)?);
        }
        text.extend_from_slice(&bytes);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        in_shard += 1;
        documents += 1;
    }
    if !text.is_empty() {
        shards.push(put(store, &mut text, &mut in_shard, &mut holds)?);
    }
    if shards.is_empty() {
        bail!(
            "there is no UTF-8 text under {}: {skipped} files were looked at; a dataset needs at \
             least one text file of less than 1 MiB",
            path.display()
        );
    }
    let document = DatasetManifest { name: name.to_owned(), licence: licence.to_owned(), shards };
    document.validate()?;
    let encoded = codec::encode_checked(&document)?;
    holds.push(store.hold(ContentHash::of(&encoded)));
    let manifest = store.put_bytes(&encoded)?;
    Ok(Published { manifest, document, documents, skipped, holds })
}

fn put(
    store: &BlobStore,
    text: &mut Vec<u8>,
    documents: &mut u32,
    holds: &mut Vec<Hold>,
) -> anyhow::Result<Shard> {
    holds.push(store.hold(ContentHash::of(text)));
    let shard = Shard {
        blob: store.put_bytes(text)?,
        bytes: u64::try_from(text.len())?,
        documents: *documents,
    };
    text.clear();
    *documents = 0;
    Ok(shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_shards_and_bad_files_are_counted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open(&dir.path().join("store")).expect("a store");
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("sub")).expect("writable");
        fs::write(data.join("a.txt"), "a".repeat(50_000)).expect("writable");
        fs::write(data.join("sub/b.txt"), "b".repeat(50_000)).expect("writable");
        fs::write(data.join("c.bin"), [0xFF, 0xFE]).expect("writable");
        fs::write(data.join("empty"), "").expect("writable");
        let made = publish(&store, &data, "two", "MIT", |_, _| true).expect("text is there");
        assert_eq!((made.documents, made.skipped), (2, 2));
        assert_eq!(made.document.shards.len(), 2);
        assert!(made.document.shards.iter().all(|s| store.contains(&s.blob)));
        assert!(store.contains(&made.manifest));
        let missing = publish(&store, &dir.path().join("none"), "x", "MIT", |_, _| true);
        assert!(missing.is_err());
        let only_bad = publish(&store, &data.join("c.bin"), "x", "MIT", |_, _| true);
        assert!(only_bad.is_err_and(|e| e.to_string().contains("no UTF-8 text")));
    }
}
