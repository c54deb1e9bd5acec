//! The libp2p behaviours and their limits.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    StreamProtocol, allow_block_list, connection_limits, identify, memory_connection_limits, ping,
};
use protocol::ids::ChainId;
use protocol::limits;

use super::codec::{MetaCodec, SyncCodec};
use super::discovery::{Kademlia, kademlia};
use super::wire::{META_PROTOCOL, SYNC_PROTOCOL, Topic};
use super::{NetworkConfig, StartError};

/// Gossip that only peers of our topics can subscribe to.
pub(super) type Gossip = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// Requests of one peer that are served at once, per protocol.
const STREAMS_PER_CONNECTION_MAX: usize = 16;
/// A request without an answer fails after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// One gossip frame: the largest message, its signature, and the start of the next frame.
const FRAME_BYTES_MAX: usize = limits::CONSENSUS_MESSAGE_BYTES_MAX + 256 * 1024;

/// Everything the swarm does.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) memory: memory_connection_limits::Behaviour,
    pub(super) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) gossip: Gossip,
    pub(super) sync: request_response::Behaviour<SyncCodec>,
    pub(super) meta: request_response::Behaviour<MetaCodec>,
    pub(super) kad: Kademlia,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// What identify calls the protocol family: peers of another chain are disconnected.
pub(super) fn protocol_version(chain: &ChainId) -> String {
    format!("/ayni/{chain}/1")
}

impl Behaviour {
    pub(super) fn new(config: &NetworkConfig, key: &Keypair) -> Result<Self, StartError> {
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(64))
            .with_max_pending_outgoing(Some(64))
            .with_max_established(Some(config.connections_max))
            // Gossipsub sends its subscriptions on a peer's first connection only. Beside a
            // connection that died with a killed process, a second one would stay deaf: the
            // new process must wait until the old connection is found dead and closed.
            .with_max_established_per_peer(Some(1));
        let identify = identify::Config::new(protocol_version(&config.chain), key.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        let requests = || {
            request_response::Config::default()
                .with_request_timeout(REQUEST_TIMEOUT)
                .with_max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        };
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            memory: memory_connection_limits::Behaviour::with_max_bytes(config.memory_bytes_max),
            blocked: allow_block_list::Behaviour::default(),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new()),
            gossip: gossip(config, key)?,
            sync: request_response::Behaviour::with_codec(
                SyncCodec,
                [(StreamProtocol::new(SYNC_PROTOCOL), ProtocolSupport::Full)],
                requests(),
            ),
            meta: request_response::Behaviour::with_codec(
                MetaCodec,
                [(StreamProtocol::new(META_PROTOCOL), ProtocolSupport::Full)],
                requests(),
            ),
            kad: kademlia(&config.chain, key.public().to_peer_id()),
            streams: libp2p_stream::Behaviour::new(),
        })
    }
}

fn gossip(config: &NetworkConfig, key: &Keypair) -> Result<Gossip, StartError> {
    let mut builder = gossipsub::ConfigBuilder::default();
    builder
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .heartbeat_interval(config.heartbeat)
        .heartbeat_initial_delay(config.heartbeat / 4)
        .connection_handler_queue_len(512)
        // The limit of a whole frame, which may hold several messages; the topics' own follow.
        .max_transmit_size(FRAME_BYTES_MAX)
        .message_id_fn(message_id);
    for kind in Topic::ALL {
        // The frame also carries source, sequence number, key and signature.
        builder.max_transmit_size_for_topic(
            kind.bytes_max() + 1024,
            topic(&config.chain, kind).hash(),
        );
    }
    let built = builder.build().map_err(|error| StartError::Config(error.to_string()))?;
    let whitelist: HashSet<_> =
        Topic::ALL.iter().map(|kind| topic(&config.chain, *kind).hash()).collect();
    let mut behaviour = Gossip::new_with_subscription_filter(
        MessageAuthenticity::Signed(key.clone()),
        built,
        WhitelistSubscriptionFilter(whitelist),
    )
    .map_err(|error| StartError::Config(error.to_owned()))?;
    behaviour
        .with_peer_score(score_params(&config.chain), PeerScoreThresholds::default())
        .map_err(StartError::Config)?;
    for kind in Topic::ALL {
        behaviour
            .subscribe(&topic(&config.chain, kind))
            .map_err(|error| StartError::Config(error.to_string()))?;
    }
    Ok(behaviour)
}

/// The gossipsub topic of a kind.
pub(super) fn topic(chain: &ChainId, kind: Topic) -> IdentTopic {
    IdentTopic::new(kind.name(chain))
}

/// BLAKE3 of the message with its publisher and sequence number (both signed): a vote that is
/// broadcast again must arrive again, and so must a transaction that peers refused because they
/// were a block behind. Mempools know a transaction by its hash, whoever publishes it.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(message.topic.as_str().as_bytes());
    hasher.update(&[0]);
    if let Some(source) = &message.source {
        hasher.update(&source.to_bytes());
    }
    hasher.update(&message.sequence_number.unwrap_or(0).to_le_bytes());
    hasher.update(&message.data);
    MessageId::new(hasher.finalize().as_bytes())
}

/// Invalid messages weigh heavily, first deliveries a little; delivery quotas stay off because
/// an idle chain is silent. Our own score (-100..=0) enters as the application's.
fn score_params(chain: &ChainId) -> PeerScoreParams {
    let per_topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 20.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.97,
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: Topic::ALL
            .iter()
            .map(|kind| (topic(chain, *kind).hash(), per_topic.clone()))
            .collect(),
        topic_score_cap: 20.0,
        app_specific_weight: 1.0,
        // Test networks put every node on one address.
        ip_colocation_factor_whitelist: HashSet::from([
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]),
        ..PeerScoreParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_again_is_no_duplicate() {
        let chain = ChainId::default();
        let published = |sequence_number, topic_of| gossipsub::Message {
            source: None,
            data: b"the same bytes".to_vec(),
            sequence_number: Some(sequence_number),
            topic: topic(&chain, topic_of).hash(),
        };
        let first = message_id(&published(1, Topic::Transactions));
        assert_eq!(first, message_id(&published(1, Topic::Transactions)), "forwarded");
        assert_ne!(first, message_id(&published(2, Topic::Transactions)), "sent again");
    }
}
