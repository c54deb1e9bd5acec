//! Provider records: who says that it has a collection or a blob that is meant to be found.
//!
//! A Kademlia table of the chain's own (`/ayni/<chain>/kad/1`; Maymounkov and Mazieres 2002) holds
//! provider records and nothing else. A record is a hint and no more: who fetches asks the provider
//! what it has and verifies every byte.
//!
//! Invariant: a record is stored only when the provider itself sent it, rationed per peer, in a
//! bounded table. Deliberately absent: values, and deciding what is announced.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{
    self, BucketInserts, GetProvidersOk, InboundRequest, Mode, QueryId, QueryResult, RecordKey,
    StoreInserts,
};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use protocol::ids::{ChainId, ContentHash};
use tokio::sync::mpsc;

use super::limiter::Rationed;
use super::swarm::Task;

/// How long a provider record is believed; kubo's figure.
const RECORD_TTL: Duration = Duration::from_secs(48 * 3_600);
/// How often own records are published again: two may get lost before one expires.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(22 * 3_600);
/// How long a search may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Keys of which records are kept, own ones included: some 20 MiB with five providers each.
const KEYS_MAX: usize = 65_536;
/// Providers kept of one key. More would not make a fetch faster.
const PROVIDERS_PER_KEY_MAX: usize = 20;
/// Peers that get a record: in a network smaller than this, everybody.
const REPLICATION: NonZeroUsize = NonZeroUsize::new(20).expect("not zero");
/// Searches at once; more are answered with nothing.
const SEARCHES_MAX: usize = 64;
/// Addresses of one peer that the table takes.
const ADDRESSES_PER_PEER_MAX: usize = 8;

pub(super) type Kademlia = kad::Behaviour<MemoryStore>;

/// A search whose findings go to whoever asked.
pub(super) type Searches = HashMap<QueryId, mpsc::Sender<PeerId>>;

/// The table of this chain.
pub(super) fn kademlia(chain: &ChainId, local: PeerId) -> Kademlia {
    let name = format!("/ayni/{chain}/kad/1");
    let protocol = StreamProtocol::try_from_owned(name).expect("it begins with a slash");
    let mut config = kad::Config::new(protocol);
    config
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_provider_record_ttl(Some(RECORD_TTL))
        .set_provider_publication_interval(Some(PUBLISH_INTERVAL))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(300)))
        .set_replication_factor(REPLICATION)
        .set_query_timeout(QUERY_TIMEOUT);
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: PROVIDERS_PER_KEY_MAX,
        max_provided_keys: KEYS_MAX,
    };
    let mut behaviour =
        kad::Behaviour::with_config(local, MemoryStore::with_config(local, store), config);
    behaviour.set_mode(Some(Mode::Server));
    behaviour
}

fn key(hash: &ContentHash) -> RecordKey {
    RecordKey::new(hash.as_bytes())
}

impl Task {
    /// Enters a peer of this chain that said where it listens.
    pub(super) fn route(&mut self, peer: &PeerId, addresses: &[Multiaddr]) {
        for address in addresses.iter().take(ADDRESSES_PER_PEER_MAX) {
            self.swarm.behaviour_mut().kad.add_address(peer, address.clone());
        }
    }

    pub(super) fn provide(&mut self, hash: &ContentHash) {
        if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(key(hash)) {
            tracing::warn!(%hash, ?error, "cannot announce any more collections");
        }
    }

    pub(super) fn withdraw(&mut self, hash: &ContentHash) {
        self.swarm.behaviour_mut().kad.stop_providing(&key(hash));
    }

    /// Searches; `found` is closed at the end.
    pub(super) fn search(&mut self, hash: &ContentHash, found: mpsc::Sender<PeerId>) {
        if self.searches.len() < SEARCHES_MAX {
            let query = self.swarm.behaviour_mut().kad.get_providers(key(hash));
            self.searches.insert(query, found);
        }
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            // Kademlia has checked that the provider sent it.
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record: Some(record) },
            } if self.ration(record.provider, Rationed::ProviderRecords, 1.0) => {
                let added = self.swarm.behaviour_mut().kad.store_mut().add_provider(record);
                added.unwrap_or_else(|error| tracing::debug!(?error, "a provider record is lost"));
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                    providers,
                    ..
                })) = result
                {
                    self.on_providers(id, providers);
                }
                if step.last {
                    self.searches.remove(&id);
                }
            }
            _ => {}
        }
    }

    fn on_providers(&mut self, id: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let local = *self.swarm.local_peer_id();
        for peer in providers.into_iter().filter(|peer| *peer != local) {
            // The addresses that the search met are known only while it runs.
            if !self.peers.contains_key(&peer) {
                let options = DialOpts::peer_id(peer).condition(PeerCondition::Disconnected);
                let _ = self.swarm.dial(options.build());
            }
            if let Some(found) = self.searches.get(&id) {
                // A full channel has enough providers.
                let _ = found.try_send(peer);
            }
        }
    }
}
