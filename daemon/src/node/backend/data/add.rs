//! Taking data in: files and folders by path, bytes by upload.
//!
//! **Invariant.** What was taken in is held until it is pinned, and a job that is cancelled leaves
//! nothing that the next collection of garbage would not remove.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use protocol::api::{
    AddMode, AddRequest, ApiError, BlobReceipt, JobId, JobKind, JobResult, LISTED_MAX, PinName,
    UploadQuery,
};
use protocol::ids::ContentHash;
use protocol::limits::BLOB_BYTES_MAX;
use storage::BlobStore;
use storage::blobs::{FolderOptions, Hold, ImportMode, Stored};
use tokio::sync::mpsc;

use super::datasets::check_readable;
use super::keep::{check_name, keep};
use super::{blocking, count, failed, millis, of_store};
use crate::api::{JobHandle, Piece};
use crate::node::backend::NodeBackend;

/// What was taken in.
struct Added {
    hash: ContentHash,
    bytes: u64,
    files: u64,
    collection: bool,
    bytes_new: u64,
    mode: AddMode,
    skipped: Vec<String>,
    files_skipped: u64,
    /// Until it is pinned.
    hold: Hold,
}

const fn import_mode(mode: AddMode) -> ImportMode {
    match mode {
        AddMode::Copy => ImportMode::Copy,
        AddMode::Reflink => ImportMode::Reflink,
        AddMode::InPlace => ImportMode::InPlace,
    }
}

impl NodeBackend {
    /// Refuses the node's own home, which has its keys: what is added can be had by anybody.
    fn check_not_own(&self, path: &Path) -> Result<(), ApiError> {
        let (Ok(path), Ok(home)) = (path.canonicalize(), self.node.home.root().canonicalize())
        else {
            return Ok(());
        };
        if path.starts_with(&home) || home.starts_with(&path) {
            let shown = home.display();
            return Err(ApiError::bad_request(format!(
                "the keys of this node lie in {shown}, and what is added can be had by anybody"
            ))
            .with_hint("add a copy that lies elsewhere, without the node's home"));
        }
        Ok(())
    }

    /// The caller may name paths.
    pub(in crate::node::backend) fn add_data(
        &self,
        request: AddRequest,
    ) -> Result<JobId, ApiError> {
        let path = PathBuf::from(&request.path);
        check_readable(&path)?;
        self.check_not_own(&path)?;
        let is_folder = path.is_dir();
        if request.mode != AddMode::Copy && request.chunked {
            return Err(ApiError::bad_request("a file can be cut only where it is copied")
                .with_hint("leave out `chunked`, or copy the file"));
        }
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::AddData, move |handle| async move {
            let _in_use = Arc::clone(&node.data_in_use).read_owned().await;
            let started = Instant::now();
            let (store, chunked) = (node.store.clone(), is_folder || request.chunked);
            let mode = request.mode;
            let added = blocking(move || {
                if chunked {
                    folder(&store, &path, mode, &handle)
                } else {
                    file(&store, &path, mode, &handle)
                }
            })
            .await?;
            let name = request.name.unwrap_or_else(|| PinName::from(added.hash));
            check_name(&name, &added.hash)?;
            let pin = keep(&node, name, added.hash, None, request.announce).await?;
            drop(added.hold);
            Ok(JobResult::AddData {
                hash: added.hash,
                bytes: added.bytes,
                files: added.files,
                collection: added.collection,
                bytes_new: added.bytes_new,
                mode: added.mode,
                pin: pin.name,
                announced: pin.announced,
                skipped: added.skipped,
                files_skipped: added.files_skipped,
                elapsed_ms: millis(started.elapsed()),
            })
        })
    }

    /// A small blob that came in one piece.
    pub(in crate::node::backend) async fn keep_blob(
        &self,
        bytes: Bytes,
    ) -> Result<BlobReceipt, ApiError> {
        let length = count(bytes.len());
        let _in_use = self.node.data_in_use.read().await;
        let _hold = self.node.store.hold(ContentHash::of(&bytes));
        let hash = self.node.put_blob(bytes.to_vec()).await.map_err(|e| failed(&e))?;
        keep(&self.node, hash.into(), hash, None, true).await?;
        Ok(BlobReceipt { hash, bytes: length })
    }

    /// A blob that comes piece by piece.
    pub(in crate::node::backend) async fn take_upload(
        &self,
        query: UploadQuery,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<BlobReceipt, ApiError> {
        let _in_use = self.node.data_in_use.read().await;
        let store = self.node.store.clone();
        let max = BLOB_BYTES_MAX;
        if let Some(bytes) = query.bytes.filter(|bytes| *bytes > max) {
            return Err(of_store(storage::BlobError::TooLarge { size: bytes, max }));
        }
        let (quota, used) = (store.limits().bytes_max, store.used_bytes());
        let wanted = query.bytes.unwrap_or(0);
        if quota > 0 && used.saturating_add(wanted) > quota {
            let error = storage::BlobError::QuotaExceeded { used, wanted, max: quota };
            return Err(of_store(error));
        }
        let imported = blocking(move || receive(&store, max, pieces)).await?;
        let name = query.name.unwrap_or_else(|| imported.hash.into());
        check_name(&name, &imported.hash)?;
        keep(&self.node, name, imported.hash, None, query.announce.unwrap_or(true)).await?;
        Ok(BlobReceipt { hash: imported.hash, bytes: imported.size })
    }
}

/// Writes pieces as they come. Blocks. Without an end it is no blob.
fn receive(
    store: &BlobStore,
    max: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<storage::blobs::Imported, ApiError> {
    let mut importer = store.importer(max);
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => importer.write(&bytes).map_err(of_store)?,
            Some(Piece::End) => break,
            None => return Err(ApiError::bad_request("the upload was cut off")),
        }
    }
    if importer.size() == 0 {
        return Err(ApiError::bad_request("the body is empty, and an empty blob is useless"));
    }
    importer.finish().map_err(of_store)
}

/// A file as one blob. Blocks.
fn file(
    store: &BlobStore,
    path: &Path,
    mode: AddMode,
    handle: &JobHandle,
) -> Result<Added, ApiError> {
    let total = std::fs::metadata(path).map_or(0, |found| found.len());
    let mut progress = |done| {
        handle.progress(done, total, "reading");
        !handle.token().is_cancelled()
    };
    let imported =
        store.import(path, import_mode(mode), BLOB_BYTES_MAX, &mut progress).map_err(of_store)?;
    let is_new = imported.stored != Stored::AlreadyHere;
    Ok(Added {
        hash: imported.hash,
        bytes: imported.size,
        files: 1,
        collection: false,
        bytes_new: if is_new { imported.size } else { 0 },
        mode: match imported.stored {
            Stored::Copied => AddMode::Copy,
            Stored::Reflinked => AddMode::Reflink,
            Stored::InPlace => AddMode::InPlace,
            Stored::AlreadyHere => mode,
        },
        skipped: Vec::new(),
        files_skipped: 0,
        hold: imported.hold,
    })
}

/// A folder, or a file cut by its contents, as a collection. Blocks.
fn folder(
    store: &BlobStore,
    path: &Path,
    mode: AddMode,
    handle: &JobHandle,
) -> Result<Added, ApiError> {
    let mut progress = |done| {
        handle.progress(done, 0, "reading");
        !handle.token().is_cancelled()
    };
    let options = FolderOptions {
        mode: import_mode(mode),
        chunked: mode == AddMode::Copy,
        skip_special: true,
    };
    let (imported, report) =
        store.import_folder(path, &options, &mut progress).map_err(of_store)?;
    let skipped = report.skipped_paths.iter().take(LISTED_MAX);
    Ok(Added {
        hash: imported.hash,
        bytes: report.bytes,
        files: report.files,
        collection: true,
        bytes_new: report.new_bytes,
        mode,
        skipped: skipped.map(|path| path.display().to_string()).collect(),
        files_skipped: report.skipped,
        hold: imported.hold,
    })
}
