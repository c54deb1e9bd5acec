//! What stays and what goes: pins, removing one blob, collecting garbage.
//!
//! A pin with a name is a name of the store, a pin by hash is a pin of the store, which may have a
//! lease. Both keep the chunks of a collection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use protocol::api::{
    ApiError, GcRequest, JobId, JobKind, JobResult, LEASE_MAX_S, PinName, PinRequest, PinSummary,
    RemoveRequest, Removed, UnpinRequest, Unpinned,
};
use protocol::ids::ContentHash;
use storage::BlobStore;
use storage::blobs::{Name, Pins, Retention};

use super::{blocking, count, failed, millis, of_store};
use crate::node::announce::{self, unix_seconds};
use crate::node::backend::NodeBackend;
use crate::node::{Node, roots};

/// Refuses a name that is another blob's hash: nobody could tell what it means.
pub(super) fn check_name(name: &PinName, hash: &ContentHash) -> Result<(), ApiError> {
    match name.as_str().parse::<ContentHash>() {
        Ok(other) if other != *hash => {
            Err(ApiError::bad_request("the name of the pin is the hash of another blob")
                .with_hint("give it a name that says what it is"))
        }
        _ => Ok(()),
    }
}

fn is_own_hash(name: &PinName, hash: &ContentHash) -> bool {
    name.as_str() == hash.to_string()
}

fn store_name(name: &PinName) -> Result<Name, ApiError> {
    Name::new(name.as_str()).ok_or_else(|| ApiError::bad_request("not the name of a pin"))
}

/// Keeps a blob, and tells others if it is to be announced.
pub(super) async fn keep(
    node: &Arc<Node>,
    name: PinName,
    hash: ContentHash,
    lease_s: Option<u64>,
    announce: bool,
) -> Result<PinSummary, ApiError> {
    let shared = Arc::clone(node);
    let (pin, left) = blocking(move || {
        let store = &shared.store;
        let mut left = None;
        let mut until_s = None;
        if is_own_hash(&name, &hash) {
            until_s = lease_s.map(|seconds| unix_seconds().saturating_add(seconds));
            let retention = until_s.map_or(Retention::Forever, Retention::Until);
            store.pin(&[(hash, retention)]).map_err(of_store)?;
        } else {
            let name = store_name(&name)?;
            let before = store.pins().map_err(of_store)?.names.get(&name).copied();
            left = before.filter(|before| *before != hash);
            store.set_name(name, hash).map_err(of_store)?;
        }
        if announce {
            shared.announcer.insert(hash).map_err(|error| failed(&error.into()))?;
        }
        let announced = shared.announcer.contains(&hash);
        Ok((PinSummary { name, hash, until_s, announced }, left))
    })
    .await?;
    if left.is_some() {
        // What had the name before may be kept by nothing now.
        announce::tidy(node).await;
    }
    Ok(pin)
}

/// Every pin of a blob.
pub(super) fn pins_of(pins: &Pins, hash: &ContentHash, announced: bool) -> Vec<PinSummary> {
    let summary = |name, until_s| PinSummary { name, hash: *hash, until_s, announced };
    let by_hash = pins.pins.get(hash).map(|retention| {
        let until_s = match retention {
            Retention::Forever => None,
            Retention::Until(seconds) => Some(*seconds),
        };
        summary(PinName::from(*hash), until_s)
    });
    let named = pins.names.iter().filter(|(_, named)| *named == hash);
    // A name that this interface did not give may have other characters.
    let named = named.filter_map(|(name, _)| Some(summary(name.as_str().parse().ok()?, None)));
    by_hash.into_iter().chain(named).collect()
}

/// Takes pins away. Blocks.
fn take_away(store: &BlobStore, pins: &[PinSummary]) -> Result<(), ApiError> {
    for pin in pins {
        if is_own_hash(&pin.name, &pin.hash) {
            store.unpin(&pin.hash).map_err(of_store)?;
        } else {
            store.remove_name(&store_name(&pin.name)?).map_err(of_store)?;
        }
    }
    Ok(())
}

/// What pins and the node keep, without what keeps `but`. Blocks, and reads every collection.
fn kept(node: &Node, but: Option<&ContentHash>) -> Result<BTreeSet<ContentHash>, ApiError> {
    let mut all = roots::roots(node).map_err(|error| failed(&error))?;
    let pins = node.store.pins().map_err(of_store)?;
    let now = unix_seconds();
    let lasting = pins.pins.iter().filter(|(_, until)| !until.has_ended(now));
    let pinned: Vec<ContentHash> = lasting
        .map(|(hash, _)| *hash)
        .chain(pins.names.into_values())
        .filter(|hash| Some(hash) != but)
        .collect();
    for hash in pinned {
        all.insert(hash);
        if let Some(collection) = node.store.stored_collection(&hash).map_err(of_store)? {
            all.extend(collection.chunks().map(|chunk| chunk.hash));
        }
    }
    Ok(all)
}

impl NodeBackend {
    pub(in crate::node::backend) async fn pin_blob(
        &self,
        request: PinRequest,
    ) -> Result<PinSummary, ApiError> {
        let PinRequest { hash, name, lease_s, announce } = request;
        if let Some(name) = &name {
            check_name(name, &hash)?;
        }
        if lease_s.is_some_and(|seconds| !(1..=LEASE_MAX_S).contains(&seconds)) {
            return Err(ApiError::bad_request(format!("a lease has 1 to {LEASE_MAX_S} seconds")));
        }
        if lease_s.is_some() && name.as_ref().is_some_and(|name| !is_own_hash(name, &hash)) {
            return Err(ApiError::bad_request("a name keeps a blob for ever")
                .with_hint("leave the name or the lease out"));
        }
        // From before it is looked for until it is pinned.
        let _hold = self.node.store.hold(hash);
        if !self.node.store.contains(&hash) {
            return Err(ApiError::not_found(format!("blob {hash} is not here"))
                .with_hint("`ayni data get HASH --pin NAME` fetches and keeps it"));
        }
        let name = name.unwrap_or_else(|| hash.into());
        keep(&self.node, name, hash, lease_s, announce).await
    }

    pub(in crate::node::backend) async fn unpin_blob(
        &self,
        request: UnpinRequest,
    ) -> Result<Unpinned, ApiError> {
        let node = Arc::clone(&self.node);
        let gone = blocking(move || {
            let pins = node.store.pins().map_err(of_store)?;
            let name = store_name(&request.pin)?;
            let gone = match (pins.names.get(&name), request.pin.as_str().parse::<ContentHash>()) {
                (Some(hash), _) => {
                    let announced = node.announcer.contains(hash);
                    vec![PinSummary {
                        name: request.pin.clone(),
                        hash: *hash,
                        until_s: None,
                        announced,
                    }]
                }
                (None, Ok(hash)) => pins_of(&pins, &hash, node.announcer.contains(&hash)),
                (None, Err(_)) => Vec::new(),
            };
            if gone.is_empty() {
                return Err(ApiError::not_found(format!("there is no pin {}", request.pin))
                    .with_hint("`ayni data ls --pins` lists them"));
            }
            take_away(&node.store, &gone)?;
            Ok(gone)
        })
        .await?;
        announce::tidy(&self.node).await;
        Ok(Unpinned { pins: gone })
    }

    pub(in crate::node::backend) async fn remove_blob(
        &self,
        request: RemoveRequest,
    ) -> Result<Removed, ApiError> {
        let alone = Arc::clone(&self.node.data_in_use).try_write_owned().map_err(|_| {
            ApiError::conflict("data is being added or fetched, which may use some of this")
                .with_hint("wait until it is done, or cancel it, and try again")
        })?;
        let node = Arc::clone(&self.node);
        let removed = blocking(move || {
            let _alone = alone;
            remove(&node, request)
        })
        .await?;
        announce::tidy(&self.node).await;
        Ok(removed)
    }

    pub(in crate::node::backend) fn collect_garbage(
        &self,
        request: GcRequest,
    ) -> Result<JobId, ApiError> {
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::GcData, move |handle| async move {
            let started = Instant::now();
            handle.progress(0, 0, "looking for what is kept");
            let shared = Arc::clone(&node);
            let collect = move || {
                if request.dry_run { estimate(&shared) } else { collect(&shared) }
            };
            let mut result = blocking(collect).await?;
            announce::tidy(&node).await;
            if let JobResult::GcData { elapsed_ms, .. } = &mut result {
                *elapsed_ms = millis(started.elapsed());
            }
            Ok(result)
        })
    }
}

/// Removes a blob with its pins, and the chunks of a collection that nothing else keeps. Blocks.
fn remove(node: &Node, request: RemoveRequest) -> Result<Removed, ApiError> {
    let RemoveRequest { hash, force } = request;
    let store = &node.store;
    if !store.contains(&hash) {
        if store.discard_partial(&hash).map_err(of_store)? {
            return Ok(Removed { hash, blobs: 1, bytes: 0, pins: Vec::new() });
        }
        return Err(of_store(storage::BlobError::NotFound(hash)));
    }
    let pins = store.pins().map_err(of_store)?;
    let gone = pins_of(&pins, &hash, node.announcer.contains(&hash));
    let named: Vec<&str> = gone
        .iter()
        .filter(|pin| !is_own_hash(&pin.name, &hash))
        .map(|pin| pin.name.as_str())
        .collect();
    if !named.is_empty() && !force {
        return Err(ApiError::conflict(format!("{hash} is pinned as {}", named.join(", ")))
            .with_hint("unpin it first, or remove it and its pins with --force"));
    }
    let kept = kept(node, Some(&hash))?;
    if kept.contains(&hash) {
        return Err(ApiError::conflict(format!("{hash} is needed by the node or a collection"))
            .with_hint("`ayni data ls --collections --pins` shows what is kept"));
    }
    let collection = store.stored_collection(&hash).map_err(of_store)?;
    take_away(store, &gone)?;
    let chunks = collection.iter().flat_map(|collection| collection.chunks()).map(|c| c.hash);
    let unkept: BTreeSet<ContentHash> = chunks.filter(|chunk| !kept.contains(chunk)).collect();
    let mut removed = Removed { hash, blobs: 0, bytes: 0, pins: gone };
    for blob in std::iter::once(hash).chain(unkept) {
        let bytes = store.size(&blob).unwrap_or(0);
        if store.delete(&blob).map_err(of_store)? {
            removed.blobs += 1;
            removed.bytes = removed.bytes.saturating_add(bytes);
        }
    }
    Ok(removed)
}

/// Deletes what nothing keeps. Blocks.
fn collect(node: &Arc<Node>) -> Result<JobResult, ApiError> {
    // What cannot be listed is found out before anything is deleted.
    roots::roots(node).map_err(|error| failed(&error))?;
    let (shared, mut failure) = (Arc::clone(node), None);
    // Listed again once the store notes everything new, so that nothing falls between.
    let needed = std::iter::once_with(|| {
        roots::roots(&shared).unwrap_or_else(|error| {
            failure = Some(error);
            shared.store.list().into_iter().map(|(hash, _)| hash).collect()
        })
    });
    let report = node.store.gc(unix_seconds(), needed.flatten()).map_err(of_store)?;
    if let Some(error) = failure {
        return Err(failed(&error));
    }
    Ok(JobResult::GcData {
        dry_run: false,
        blobs_kept: report.blobs.saturating_sub(report.removed),
        bytes_kept: node.store.total_bytes(),
        blobs_removed: report.removed,
        bytes_removed: report.removed_bytes,
        pins_expired: report.pins_ended,
        elapsed_ms: 0,
    })
}

/// What would be deleted; what running jobs hold is counted with it. Blocks.
fn estimate(node: &Arc<Node>) -> Result<JobResult, ApiError> {
    let kept = kept(node, None)?;
    let (mut stay, mut go) = ((0_u64, 0_u64), (0_u64, 0_u64));
    for (hash, bytes) in node.store.list() {
        let sum = if kept.contains(&hash) { &mut stay } else { &mut go };
        *sum = (sum.0 + 1, sum.1.saturating_add(bytes));
    }
    let now = unix_seconds();
    let pins = node.store.pins().map_err(of_store)?;
    let expired = pins.pins.values().filter(|until| until.has_ended(now)).count();
    Ok(JobResult::GcData {
        dry_run: true,
        blobs_kept: stay.0,
        bytes_kept: stay.1,
        blobs_removed: go.0,
        bytes_removed: go.1,
        pins_expired: count(expired),
        elapsed_ms: 0,
    })
}
