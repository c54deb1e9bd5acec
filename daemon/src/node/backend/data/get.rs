//! Fetching a blob or a collection: `POST /v1/data/get`.
//!
//! **Invariant.** Dropping the job's future at any await loses nothing that was verified: what has
//! arrived of a blob stays in the store, and the same request goes on from there. A target is
//! there whole or not at all.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::PeerId;
use protocol::api::{
    ApiError, FetchPriority, GetRequest, JobId, JobKind, JobResult, PROVIDERS_NAMED_MAX, PinName,
};
use protocol::blobs::collection::Collection;
use protocol::ids::NodeId;
use protocol::limits::BLOB_BYTES_MAX;

use super::export::Target;
use super::tally::Tally;
use super::{blocking, count, millis, of_fetch, of_store};
use crate::api::JobHandle;
use crate::blobs::Priority;
use crate::network;
use crate::node::Node;
use crate::node::backend::NodeBackend;

/// How often the progress of one blob is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long a collection's chunks wait for what a search in the table of providers finds; connected
/// peers are asked anyway.
const SEARCH_MAX: Duration = Duration::from_secs(1);

const fn priority(priority: FetchPriority) -> Priority {
    match priority {
        FetchPriority::Bulk => Priority::Bulk,
        FetchPriority::Normal => Priority::Normal,
        FetchPriority::Urgent => Priority::Urgent,
    }
}

/// A node id or a peer id.
fn parse_provider(text: &str) -> Result<PeerId, ApiError> {
    let node = text.parse::<NodeId>().ok().and_then(|node| network::peer_id(&node));
    node.or_else(|| PeerId::from_str(text).ok()).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        ApiError::bad_request(format!("{shown:?} is neither a node id nor a peer id"))
            .with_hint("`ayni peers` and `ayni data providers HASH` show ids")
    })
}

impl NodeBackend {
    /// The caller may name paths if the request does.
    pub(in crate::node::backend) async fn get_data(
        &self,
        request: GetRequest,
    ) -> Result<JobId, ApiError> {
        if request.providers.len() > PROVIDERS_NAMED_MAX {
            let message = format!("at most {PROVIDERS_NAMED_MAX} providers can be named");
            return Err(ApiError::bad_request(message));
        }
        let hints: Vec<PeerId> =
            request.providers.iter().map(|text| parse_provider(text)).collect::<Result<_, _>>()?;
        if let Some(name) = &request.pin {
            super::keep::check_name(name, &request.hash)?;
        }
        let target = match &request.target {
            None => None,
            Some(path) => {
                let (path, force) = (PathBuf::from(path), request.force);
                Some(blocking(move || Target::check(path, force)).await?)
            }
        };
        let node = Arc::clone(&self.node);
        self.node.jobs.start(JobKind::GetData, move |handle| async move {
            let _in_use = Arc::clone(&node.data_in_use).read_owned().await;
            Get::new(node, request, hints, target, handle).run().await
        })
    }
}

struct Get {
    node: Arc<Node>,
    request: GetRequest,
    hints: Vec<PeerId>,
    /// Who says that it has the blob, unless that is known already.
    search: Option<BoxFuture<'static, Vec<PeerId>>>,
    target: Option<Target>,
    tally: Tally,
    handle: JobHandle,
}

impl Get {
    fn new(
        node: Arc<Node>,
        request: GetRequest,
        hints: Vec<PeerId>,
        target: Option<Target>,
        handle: JobHandle,
    ) -> Self {
        let (network, hash) = (node.network.clone(), request.hash);
        let search = async move {
            let (mut found, mut peers) = (Vec::new(), network.search(hash).await);
            let deadline = tokio::time::sleep(SEARCH_MAX);
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    peer = peers.recv() => match peer {
                        Some(peer) => found.push(peer),
                        None => break found,
                    },
                    () = &mut deadline => break found,
                }
            }
        };
        let tally = Tally::new(handle.clone());
        Self { node, request, hints, search: Some(search.boxed()), target, tally, handle }
    }

    async fn run(mut self) -> Result<JobResult, ApiError> {
        let started = Instant::now();
        let hash = self.request.hash;
        // From before it is here until it is pinned or written.
        let _hold = self.node.store.hold(hash);
        let size = self.fetch_root().await?;
        let store = self.node.store.clone();
        let collection = blocking(move || store.stored_collection(&hash).map_err(of_store)).await?;
        let collection = collection.map(Arc::new);
        let (mut bytes, mut files) = (size, 1);
        if let Some(collection) = &collection {
            (bytes, files) = (collection.bytes(), count(collection.files().len()));
            self.check_size(bytes)?;
            self.fetch_chunks(collection).await?;
        }
        let pin = self.keep().await?;
        let target = self.write(collection.clone()).await?;
        let (bytes_had, bytes_fetched) = self.tally.bytes();
        Ok(JobResult::GetData {
            hash,
            bytes,
            files,
            collection: collection.is_some(),
            bytes_fetched,
            bytes_had,
            sources: self.tally.sources(),
            target,
            pin,
            elapsed_ms: millis(started.elapsed()),
        })
    }

    fn check_size(&self, size: u64) -> Result<(), ApiError> {
        match self.request.bytes_max {
            Some(max) if size > max => Err(ApiError::bad_request(format!(
                "{} has {size} bytes where at most {max} are wanted",
                self.request.hash
            ))),
            _ => Ok(()),
        }
    }

    /// Fetches the blob, and meanwhile hears who has it. Its size.
    async fn fetch_root(&mut self) -> Result<u64, ApiError> {
        let (hash, blobs) = (self.request.hash, self.node.blobs.clone());
        if let Some(size) = self.node.store.size(&hash) {
            self.check_size(size)?;
            self.tally.was_here(size);
            return Ok(size);
        }
        let bytes_max = self.request.bytes_max.unwrap_or(BLOB_BYTES_MAX).min(BLOB_BYTES_MAX);
        let urgency = priority(self.request.priority);
        let mut fetch = Box::pin(blobs.fetch_as(urgency, hash, bytes_max, self.hints.clone()));
        let mut look = tokio::time::interval(LOOK);
        let mut watch = None;
        let size = loop {
            tokio::select! {
                biased;
                result = &mut fetch => break result.map_err(|error| of_fetch(&error))?,
                _ = look.tick() => {
                    watch = watch.or_else(|| blobs.progress(&hash));
                    if let Some(progress) = &watch {
                        let progress = progress.borrow().clone();
                        self.tally.follow(&progress);
                    }
                }
                found = found(&mut self.search), if self.search.is_some() => {
                    self.search = None;
                    self.hints.extend(found);
                }
            }
        };
        if let Some(progress) = watch {
            let last = progress.borrow().clone();
            self.tally.follow(&last);
        }
        self.tally.arrived_whole(size);
        Ok(size)
    }

    /// Fetches what is in a collection and not here.
    async fn fetch_chunks(&mut self, collection: &Collection) -> Result<(), ApiError> {
        let mut known = BTreeSet::new();
        let (mut missing, mut bytes, mut had) = (Vec::new(), 0_u64, 0_u64);
        for chunk in collection.chunks().filter(|chunk| known.insert(chunk.hash)) {
            bytes = bytes.saturating_add(chunk.bytes);
            if self.node.store.contains(&chunk.hash) {
                had = had.saturating_add(chunk.bytes);
            } else {
                missing.push((chunk.hash, chunk.bytes));
            }
        }
        self.tally.expect(bytes, had);
        if missing.is_empty() {
            return Ok(());
        }
        if self.search.is_some() {
            let found = found(&mut self.search).await;
            self.hints.extend(found);
        }
        let mut asked = BTreeSet::new();
        self.hints.retain(|peer| asked.insert(*peer));
        self.hints.truncate(PROVIDERS_NAMED_MAX);
        let (node, urgency) = (Arc::clone(&self.node), priority(self.request.priority));
        let (local, tally) = (node.network.local_peer(), &mut self.tally);
        let mut arrived = |source| tally.arrived(source, &local);
        let results = node.blobs.fetch_all_as(urgency, &missing, &self.hints, &mut arrived).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
            let mut refusal = of_fetch(error);
            let all = missing.len();
            refusal.message = format!("{failed} of {all} chunks are missing: {}", refusal.message);
            return Err(refusal);
        }
        let wrong = results
            .iter()
            .zip(&missing)
            .find(|(result, (_, bytes))| result.as_ref().is_ok_and(|size| size != bytes));
        match wrong {
            None => Ok(()),
            Some((_, (hash, bytes))) => Err(ApiError::conflict(format!(
                "the collection is wrong: it says that chunk {hash} has {bytes} bytes"
            ))
            .with_hint("whoever made it must add the folder again")),
        }
    }

    /// Pins it when that was asked for, or when it would be lost otherwise.
    async fn keep(&mut self) -> Result<Option<PinName>, ApiError> {
        let name = match (&self.request.pin, &self.target) {
            (Some(name), _) => Some(name.clone()),
            (None, None) => Some(PinName::from(self.request.hash)),
            (None, Some(_)) => None,
        };
        if let Some(name) = &name {
            super::keep::keep(&self.node, name.clone(), self.request.hash, None, true).await?;
        }
        Ok(name)
    }

    async fn write(
        &mut self,
        collection: Option<Arc<Collection>>,
    ) -> Result<Option<String>, ApiError> {
        let Some(target) = self.target.take() else { return Ok(None) };
        self.tally.say("writing");
        let (store, hash) = (self.node.store.clone(), self.request.hash);
        let token = self.handle.token().clone();
        let mut go_on = move |_| !token.is_cancelled();
        let write = move || target.write(&store, &hash, collection.as_deref(), &mut go_on);
        blocking(write).await.map(Some)
    }
}

/// The end of a search.
async fn found(search: &mut Option<BoxFuture<'static, Vec<PeerId>>>) -> Vec<PeerId> {
    match search {
        Some(search) => search.await,
        None => Vec::new(),
    }
}
