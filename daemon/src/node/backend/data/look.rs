//! What is in the store, and who else has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::api::{
    ApiError, BlobDetail, BlobFilter, BlobList, BlobQuery, BlobSummary, BlobsQuery,
    CollectionDetail, FILES_SHOWN, FileSummary, Provider, Providers,
};
use protocol::blobs::collection::{Collection, MAGIC};
use protocol::blobs::wire::Availability;
use protocol::blobs::{GroupRanges, bytes_of, groups_of};
use protocol::ids::ContentHash;
use protocol::limits::COLLECTION_BYTES_MAX;
use storage::BlobStore;

use super::keep::pins_of;
use super::{blocking, count, of_store};
use crate::network;
use crate::node::backend::NodeBackend;
use crate::node::{Node, roots};

/// Bytes of these groups.
fn bytes_in(ranges: &GroupRanges, size: u64) -> u64 {
    ranges.runs().iter().fold(0, |sum, run| {
        let bytes = bytes_of(*run, size);
        sum.saturating_add(bytes.end.saturating_sub(bytes.start))
    })
}

/// Size, groups here and bytes here of a blob, as its holder says.
fn held(availability: &Availability) -> Option<(u64, u64, u64)> {
    match availability {
        Availability::None => None,
        Availability::All { size } => Some((*size, groups_of(*size), *size)),
        Availability::Some { size, ranges } => {
            Some((*size, ranges.groups(), bytes_in(ranges, *size)))
        }
    }
}

/// Whether a blob says that it is a collection: a hint, read without its hash.
fn looks_like_collection(store: &BlobStore, hash: &ContentHash, bytes: u64) -> bool {
    let length = count(MAGIC.len());
    if bytes < length || bytes > u64::try_from(COLLECTION_BYTES_MAX).unwrap_or(u64::MAX) {
        return false;
    }
    store.read_start(hash, MAGIC.len()).is_ok_and(|start| Collection::is_announced_by(&start))
}

impl NodeBackend {
    pub(in crate::node::backend) async fn list_blobs(
        &self,
        query: BlobsQuery,
    ) -> Result<BlobList, ApiError> {
        let node = Arc::clone(&self.node);
        blocking(move || list(&node, query)).await
    }

    pub(in crate::node::backend) async fn show_blob(
        &self,
        hash: ContentHash,
        query: BlobQuery,
    ) -> Result<BlobDetail, ApiError> {
        let node = Arc::clone(&self.node);
        blocking(move || show(&node, hash, query)).await
    }

    pub(in crate::node::backend) async fn find_providers(
        &self,
        hash: ContentHash,
    ) -> Result<Providers, ApiError> {
        let found = self.node.blobs.providers(hash).await;
        let provider = |(peer, availability): (libp2p::PeerId, Availability)| {
            let (bytes, _, bytes_held) = held(&availability)?;
            let node = network::node_id(&peer);
            Some(Provider { node, peer_id: peer.to_string(), bytes, bytes_held })
        };
        Ok(Providers { providers: found.into_iter().filter_map(provider).collect() })
    }
}

fn list(node: &Node, query: BlobsQuery) -> Result<BlobList, ApiError> {
    let store = &node.store;
    let pins = store.pins().map_err(of_store)?;
    let filter = query.only.unwrap_or_default();
    let named: BTreeSet<ContentHash> =
        pins.names.values().chain(pins.pins.keys()).copied().collect();
    let limit = usize::try_from(query.limit()).unwrap_or(usize::MAX);
    let all = store.list();
    let blobs_stored = count(all.len());
    let behind = |hash: &ContentHash| query.after.is_none_or(|after| *hash > after);
    let wanted = all.into_iter().filter(|(hash, _)| behind(hash));
    let wanted = wanted.filter(|(hash, _)| filter != BlobFilter::Pins || named.contains(hash));
    // One more says whether there is another page.
    let mut page: Vec<(ContentHash, u64)> = wanted.take(limit.saturating_add(1)).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().map(|(hash, _)| *hash).filter(|_| more);
    let summary = |(hash, bytes): (ContentHash, u64)| {
        let collection = looks_like_collection(store, &hash, bytes);
        if filter == BlobFilter::Collections && !collection {
            return None;
        }
        let announced = node.announcer.contains(&hash);
        let pins =
            if named.contains(&hash) { pins_of(&pins, &hash, announced) } else { Vec::new() };
        Some(BlobSummary { hash, bytes, collection, pins })
    };
    Ok(BlobList {
        blobs: page.into_iter().filter_map(summary).collect(),
        next,
        blobs_stored,
        bytes_stored: store.used_bytes(),
        quota_bytes: store.limits().bytes_max,
    })
}

fn show(node: &Node, hash: ContentHash, query: BlobQuery) -> Result<BlobDetail, ApiError> {
    let store = &node.store;
    let Some((bytes, groups_here, bytes_here)) = held(&store.availability(&hash)) else {
        return Err(of_store(storage::BlobError::NotFound(hash)));
    };
    let pins = store.pins().map_err(of_store)?;
    let collection = store.stored_collection(&hash).map_err(of_store)?;
    let files = query.files.unwrap_or(FILES_SHOWN);
    Ok(BlobDetail {
        hash,
        bytes,
        bytes_here,
        groups: groups_of(bytes),
        groups_here,
        pins: pins_of(&pins, &hash, node.announcer.contains(&hash)),
        needed: roots::roots(node).map_err(|error| super::failed(&error))?.contains(&hash),
        collection: collection.map(|collection| describe(store, &collection, files)),
    })
}

fn describe(store: &BlobStore, collection: &Collection, files: u32) -> CollectionDetail {
    let chunks: BTreeSet<ContentHash> = collection.chunks().map(|chunk| chunk.hash).collect();
    let listed = collection.files().iter().take(usize::try_from(files).unwrap_or(usize::MAX));
    let listed = listed.map(|file| FileSummary {
        path: file.path.to_string(),
        bytes: file.bytes,
        media_type: file.media_type.to_string(),
        chunks: count(file.chunks.len()),
    });
    CollectionDetail {
        files: count(collection.files().len()),
        bytes: collection.bytes(),
        chunks: count(chunks.len()),
        chunks_here: count(chunks.iter().filter(|chunk| store.contains(chunk)).count()),
        listed: listed.collect(),
    }
}
