//! The task that owns the swarm.
//!
//! It turns swarm events into consumer events and commands into swarm calls, and applies the
//! pure policies: scores, token buckets, the address book. It never waits for a consumer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures::StreamExt;
use libp2p::connection_limits::Exceeded;
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, ResponseChannel};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, gossipsub, identify, noise, tcp, yamux};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behaviour::{Behaviour, BehaviourEvent, protocol_version, topic};
use super::discovery::Searches;
use super::events::{EngineEvent, MetaRequestId, NetworkEvent, SyncRequestId};
use super::handle::{Command, Counters, LocalInfo, NetworkHandle, RequestError, Waiting};
use super::limiter::{Limiter, Rationed};
use super::peers::PeerBook;
use super::quic::{QuicConfig, QuicTransport};
use super::score::{ScoreBook, Severity, Verdict};
use super::wire::{MetaRequest, MetaResponse, PeerStatus, Topic};
use super::{NetworkConfig, StartError};

/// Bytes of gossip that may wait for their consumer.
const QUEUED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Requests of peers that may wait for an answer.
const INBOUND_MAX: usize = 512;
/// Requests of ours that may wait for an answer.
const OUTBOUND_MAX: usize = 512;
/// A silent QUIC connection is dead after this long.
const QUIC_IDLE: Duration = Duration::from_secs(8);
/// How often a quiet connection is probed: several times before it counts as dead.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A peer that dials although it has a connection must answer on that one within this time, or
/// it is closed. Below the second pause between its dials, so that its third attempt succeeds.
const DOUBT_MAX: Duration = Duration::from_millis(700);
/// How often dials, bans and statuses are looked after.
const TICK: Duration = Duration::from_millis(250);
/// How often each peer is asked for its status.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

type MetaReply = oneshot::Sender<Result<MetaResponse, RequestError>>;

/// Who waits for the answer to a metadata request of ours.
pub(super) enum MetaWaiter {
    Handle(MetaRequest, MetaReply),
    Status,
}

pub(super) struct Peer {
    pub(super) address: Multiaddr,
    pub(super) outbound: bool,
    pub(super) since: Duration,
    pub(super) agent: String,
    pub(super) listening: Vec<Multiaddr>,
    pub(super) rtt: Option<Duration>,
    pub(super) status: Option<PeerStatus>,
    pub(super) identified: bool,
    pub(super) asked: Duration,
    /// Since when its connection may be dead; nothing while there is no reason to think so.
    pub(super) doubted: Option<Duration>,
    pub(super) topics: BTreeSet<Topic>,
}

pub(super) struct Task {
    pub(super) config: NetworkConfig,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) started: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) queued: Arc<Semaphore>,
    pub(super) engine: Option<mpsc::Sender<EngineEvent>>,
    pub(super) node: Option<mpsc::Sender<NetworkEvent>>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) book: PeerBook,
    pub(super) scores: ScoreBook<PeerId>,
    pub(super) limiter: Limiter<PeerId>,
    pub(super) local: LocalInfo,
    pub(super) topics: HashMap<gossipsub::TopicHash, Topic>,
    pub(super) next_id: u64,
    pub(super) sync_in:
        Waiting<SyncRequestId, (request_response::InboundRequestId, ResponseChannel<Vec<u8>>)>,
    pub(super) sync_out: Waiting<request_response::OutboundRequestId, SyncRequestId>,
    pub(super) meta_in:
        Waiting<MetaRequestId, (request_response::InboundRequestId, ResponseChannel<MetaResponse>)>,
    pub(super) meta_out: Waiting<request_response::OutboundRequestId, MetaWaiter>,
    pub(super) searches: Searches,
}

pub(super) fn start(
    config: NetworkConfig,
    key: Keypair,
    tracker: &TaskTracker,
    token: CancellationToken,
) -> Result<NetworkHandle, StartError> {
    let behaviour = Behaviour::new(&config, &key)?;
    let quic = QuicConfig {
        idle_timeout: QUIC_IDLE,
        keep_alive: QUIC_KEEP_ALIVE,
        ..QuicConfig::default()
    };
    let quic = QuicTransport::new(&key, &quic)
        .map_err(|error| StartError::Transport(error.to_string()))?;
    let mut swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| StartError::Transport(error.to_string()))?
        .with_other_transport(|_| quic)
        .map_err(|error| StartError::Transport(error.to_string()))?
        .with_behaviour(|_| behaviour)
        .map_err(|error| StartError::Transport(error.to_string()))?
        .with_swarm_config(|swarm| {
            swarm
                .with_smart_dial()
                .with_idle_connection_timeout(Duration::from_secs(120))
                .with_max_negotiating_inbound_streams(64)
        })
        .build();
    for address in &config.listen {
        let failed = |reason: String| StartError::Listen { address: address.clone(), reason };
        check_free(address).map_err(|error| failed(error.to_string()))?;
        swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
    }
    let local = *swarm.local_peer_id();
    let counters = Arc::new(Counters::default());
    let (commands, receiver) = mpsc::channel(1_024);
    let handle = NetworkHandle {
        local,
        commands,
        streams: swarm.behaviour().streams.new_control(),
        counters: Arc::clone(&counters),
        next_sync_id: Arc::new(AtomicU64::new(0)),
    };
    let topics = Topic::ALL.map(|kind| (topic(&config.chain, kind).hash(), kind)).into();
    let task = Task {
        book: PeerBook::new(local, config.bootstrap.clone()),
        config,
        swarm,
        started: Instant::now(),
        counters,
        queued: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
        engine: None,
        node: None,
        peers: BTreeMap::new(),
        scores: ScoreBook::default(),
        limiter: Limiter::default(),
        local: LocalInfo::default(),
        topics,
        next_id: 0,
        sync_in: Waiting::new(INBOUND_MAX),
        sync_out: Waiting::new(OUTBOUND_MAX),
        meta_in: Waiting::new(INBOUND_MAX),
        meta_out: Waiting::new(OUTBOUND_MAX),
        searches: Searches::new(),
    };
    tracker.spawn(task.run(receiver, token));
    Ok(handle)
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, token: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                _ = tick.tick() => self.on_tick(),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
            }
        }
        tracing::debug!("network stopped");
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    pub(super) fn tell_engine(&mut self, event: EngineEvent) -> bool {
        offer(&mut self.engine, event, &self.counters)
    }

    pub(super) fn tell_node(&mut self, event: NetworkEvent) -> bool {
        offer(&mut self.node, event, &self.counters)
    }

    fn on_tick(&mut self) {
        let now = self.now();
        for peer in self.scores.expire(now) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        self.close_dead(now);
        let connected: BTreeSet<PeerId> = self.peers.keys().copied().collect();
        for dial in self.book.due(now, &connected, self.config.peers_target) {
            if dial.peer.is_some_and(|peer| !self.scores.admits(now, &peer)) {
                continue;
            }
            let options = match (dial.peer, dial.addresses.first()) {
                (Some(peer), _) => DialOpts::peer_id(peer).addresses(dial.addresses).build(),
                (None, Some(address)) => DialOpts::from(address.clone()),
                (None, None) => continue,
            };
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%error, "dial refused");
            }
        }
        let due: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.identified && now >= peer.asked + STATUS_INTERVAL)
            .map(|(id, _)| *id)
            .collect();
        for peer in due {
            self.ask_status(peer);
        }
    }

    /// A peer dials us although it is connected: it may have been killed and be back, while its
    /// old connection has not timed out. One that lives answers on it and keeps it.
    fn doubt(&mut self, peer: PeerId) {
        let now = self.now();
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.doubted.is_none() {
            entry.doubted = Some(now);
            self.ask_status(peer);
        }
    }

    /// Closes what was doubted and stayed silent; the peer's next dial is then its first
    /// connection again.
    fn close_dead(&mut self, now: Duration) {
        let silent = |peer: &Peer| peer.doubted.is_some_and(|since| now >= since + DOUBT_MAX);
        let dead: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| silent(peer)).map(|(id, _)| *id).collect();
        for peer in dead {
            tracing::info!(%peer, "closing a dead connection: the peer has come back");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn ask_status(&mut self, peer: PeerId) {
        let now = self.now();
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.asked = now;
        }
        let id = self.swarm.behaviour_mut().meta.send_request(&peer, Some(MetaRequest::Status));
        // Without room the answer is passed over; the next interval asks again.
        let _ = self.meta_out.insert(id, MetaWaiter::Status);
    }

    /// Takes from the peer's bucket; an empty bucket costs the peer score.
    pub(super) fn ration(&mut self, peer: PeerId, what: Rationed, amount: f64) -> bool {
        let now = self.now();
        if self.limiter.take(now, peer, what, amount) {
            return true;
        }
        Counters::add(&self.counters.rate_limited);
        self.report(peer, Severity::HighTolerance, "rate exceeded");
        false
    }

    pub(super) fn report(&mut self, peer: PeerId, severity: Severity, reason: &'static str) {
        let now = self.now();
        Counters::add(&self.counters.faults);
        let verdict = self.scores.report(now, peer, severity);
        let score = self.scores.score(now, &peer);
        tracing::debug!(%peer, ?severity, reason, score, "peer fault");
        self.swarm.behaviour_mut().gossip.set_application_score(&peer, score);
        match verdict {
            Verdict::Keep => {}
            Verdict::Disconnect => {
                tracing::info!(%peer, reason, score, "disconnecting peer");
                Counters::add(&self.counters.disconnected);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Verdict::Ban => {
                tracing::warn!(%peer, reason, score, "banning peer");
                Counters::add(&self.counters.banned);
                self.swarm.behaviour_mut().blocked.block_peer(peer);
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                self.tell_engine(EngineEvent::Listening(address.clone()));
                self.tell_node(NetworkEvent::Listening(address));
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, num_established, .. } => {
                self.on_connected(peer_id, &endpoint, num_established.get());
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.peers.remove(&peer_id);
                self.limiter.remove(&peer_id);
                self.tell_engine(EngineEvent::Disconnected(peer_id));
                self.tell_node(NetworkEvent::Disconnected(peer_id));
            }
            SwarmEvent::IncomingConnectionError {
                peer_id: Some(peer),
                error: ListenError::Denied { cause },
                ..
            } if cause.downcast_ref::<Exceeded>().is_some() => self.doubt(peer),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                tracing::debug!(?peer_id, %error, "dial failed");
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint, connections: u32) {
        let now = self.now();
        if !self.scores.admits(now, &peer) {
            // Insisting makes it worse, up to a ban.
            let _ = self.swarm.disconnect_peer_id(peer);
            self.report(peer, Severity::HighTolerance, "came back too early");
        }
        let outbound = endpoint.is_dialer();
        let address = endpoint.get_remote_address().clone();
        self.book.connected(peer, outbound.then_some(&address));
        if connections > 1 {
            return;
        }
        self.peers.insert(
            peer,
            Peer {
                address,
                outbound,
                since: now,
                agent: String::new(),
                listening: Vec::new(),
                rtt: None,
                status: None,
                identified: false,
                asked: now,
                doubted: None,
                topics: BTreeSet::new(),
            },
        );
        self.tell_engine(EngineEvent::Connected(peer));
        self.tell_node(NetworkEvent::Connected(peer));
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(event) => {
                if let (Some(peer), Ok(rtt)) = (self.peers.get_mut(&event.peer), event.result) {
                    peer.rtt = Some(rtt);
                }
            }
            BehaviourEvent::Sync(event) => self.on_sync(event),
            BehaviourEvent::Meta(event) => self.on_meta(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            _ => {}
        }
    }

    fn on_identified(&mut self, id: PeerId, info: identify::Info) {
        if info.protocol_version != protocol_version(&self.config.chain) {
            tracing::info!(peer = %id, "peer is on another chain");
            let _ = self.swarm.disconnect_peer_id(id);
            return;
        }
        let agent = info.agent_version.chars().filter(|c| !c.is_control()).take(64).collect();
        let mut listening = info.listen_addrs;
        listening.truncate(16);
        self.book.learn(id, listening.clone());
        self.route(&id, &listening);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.agent = agent;
        peer.listening = listening;
        if !std::mem::replace(&mut peer.identified, true) {
            self.ask_status(id);
        }
    }
}

/// Whether a port is free. The TCP transport shares its ports, so that a second process with the
/// same address would silently take half of the first one's connections; and no transport says
/// clearly what is wrong.
fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind((ip, port)).map(|_| ()),
        Some(Protocol::Udp(port)) => UdpSocket::bind((ip, port)).map(|_| ()),
        _ => Ok(()),
    }
}

/// Puts an event into a consumer's queue; drops and counts it when the queue is full, and forgets
/// a consumer that has gone.
fn offer<E>(sender: &mut Option<mpsc::Sender<E>>, event: E, counters: &Counters) -> bool {
    let Some(open) = sender else { return false };
    match open.try_send(event) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            Counters::add(&counters.events_dropped);
            false
        }
        Err(mpsc::error::TrySendError::Closed(_)) => {
            *sender = None;
            false
        }
    }
}
