//! Reading what is stored again: `POST /v1/data/verify`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use protocol::api::{ApiError, Damage, JobId, JobKind, JobResult, LISTED_MAX, VerifyRequest};
use protocol::ids::ContentHash;
use storage::BlobStore;
use storage::blobs::{FsckReport, Verification};

use super::{blocking, count, millis, of_store};
use crate::api::JobHandle;
use crate::node::backend::NodeBackend;

/// What was found.
#[derive(Default)]
struct Found {
    blobs: u64,
    bytes: u64,
    damage: Vec<Damage>,
    damages: u64,
    repaired: u64,
}

impl Found {
    fn add(&mut self, hash: Option<ContentHash>, problem: impl Into<String>, repaired: bool) {
        self.damages += 1;
        self.repaired += u64::from(repaired);
        if self.damage.len() < LISTED_MAX {
            self.damage.push(Damage { hash, problem: problem.into(), repaired });
        }
    }
}

impl NodeBackend {
    pub(in crate::node::backend) fn verify_data(
        &self,
        request: VerifyRequest,
    ) -> Result<JobId, ApiError> {
        let VerifyRequest { hash, repair } = request;
        let store = self.node.store.clone();
        if let Some(hash) = hash.filter(|hash| !store.contains(hash)) {
            return Err(of_store(storage::BlobError::NotFound(hash)));
        }
        let in_use = Arc::clone(&self.node.data_in_use);
        self.node.jobs.start(JobKind::VerifyData, move |handle| async move {
            let _in_use = in_use.read_owned().await;
            let started = Instant::now();
            let work = move || match hash {
                Some(hash) => one(&store, hash, repair, &handle),
                None => all(&store, repair, &handle),
            };
            let found = blocking(work).await?;
            Ok(JobResult::VerifyData {
                blobs: found.blobs,
                bytes: found.bytes,
                damage: found.damage,
                damages: found.damages,
                repaired: found.repaired,
                elapsed_ms: millis(started.elapsed()),
            })
        })
    }
}

/// The whole store.
fn all(store: &BlobStore, repair: bool, handle: &JobHandle) -> Result<Found, ApiError> {
    let mut go_on = |done, total| {
        handle.progress(done, total, "reading");
        !handle.token().is_cancelled()
    };
    let report = store.fsck(repair, &mut go_on).map_err(of_store)?;
    Ok(of_report(&report, repair))
}

fn of_report(report: &FsckReport, repair: bool) -> Found {
    let mut found = Found { blobs: report.blobs, bytes: report.bytes, ..Found::default() };
    let after = |done: &str| if repair { format!(": {done}") } else { String::new() };
    let groups = [
        (&report.damaged, "its bytes are wrong", "removed; fetch it again"),
        (&report.missing, "its file is gone or was changed", "forgotten; add or fetch it again"),
        (&report.damaged_trees, "its hash tree is wrong", "made again from its bytes"),
        (&report.wrong_claims, "less of it is here than was noted", "noted what is here"),
    ];
    for (hashes, problem, done) in groups {
        for hash in hashes {
            found.add(Some(*hash), format!("{problem}{}", after(done)), repair);
        }
    }
    for path in &report.strays {
        let problem = format!("{} belongs to nothing{}", path.display(), after("removed"));
        found.add(None, problem, repair);
    }
    if report.pins_damaged {
        let problem = format!("the file of names and pins is damaged{}", after("mended"));
        found.add(None, problem, repair);
    }
    found
}

/// One blob, and the chunks of a collection.
fn one(
    store: &BlobStore,
    hash: ContentHash,
    repair: bool,
    handle: &JobHandle,
) -> Result<Found, ApiError> {
    let mut blobs = BTreeSet::from([hash]);
    let mut found = Found::default();
    match store.stored_collection(&hash) {
        Ok(Some(collection)) => blobs.extend(collection.chunks().map(|chunk| chunk.hash)),
        Ok(None) | Err(storage::BlobError::Damaged(_)) => {}
        Err(error) => return Err(of_store(error)),
    }
    let total = blobs.iter().filter_map(|blob| store.size(blob)).sum();
    for blob in &blobs {
        if handle.token().is_cancelled() {
            return Err(of_store(storage::BlobError::Cancelled));
        }
        let Some(size) = store.size(blob) else {
            found.add(Some(*blob), "it is not here", false);
            continue;
        };
        let is_intact = match store.verify(blob) {
            Ok(verification) => verification == Verification::Intact,
            Err(storage::BlobError::NotFound(_) | storage::BlobError::Changed { .. }) => false,
            Err(error) => return Err(of_store(error)),
        };
        if !is_intact {
            let repaired = repair && store.delete(blob).map_err(of_store)?;
            let after = if repaired { ": removed; fetch it again" } else { "" };
            found.add(Some(*blob), format!("what is stored is wrong{after}"), repaired);
        }
        found.blobs += 1;
        found.bytes = found.bytes.saturating_add(size);
        handle.progress(found.bytes, total, "reading");
    }
    debug_assert!(count(blobs.len()) >= found.blobs);
    Ok(found)
}
