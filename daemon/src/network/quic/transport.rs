//! Listening and dialling.
//!
//! A dial leaves from the port of a listener that reaches its target, so that routers and peers
//! see one address of ours; without one, from a port of its own. A dial in the listener's role
//! punches a hole: it sends to the target until the target's own dial comes through.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::Endpoint as Role;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::sync::{Semaphore, oneshot};

use super::listener::{Admission, Listener};
use super::{Connection, QuicConfig, QuicError, UDP_PAYLOAD_BYTES_MAX, connection, reset, tls};

/// What a UDP socket may hold for us, in bytes: some 10 ms of a fast line, while the thread that
/// reads is busy. The kernel grants what its administrator allows.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a caller may send ahead while its handshake waits to begin: a few first packets.
const AHEAD_BYTES_MAX: u64 = 32 * 1024;
/// Bytes of a hole punch's packets, and the least and most milliseconds between two of them, as
/// libp2p's specification proposes: the target's first try must soon meet an open hole.
const PUNCH_BYTES: usize = 64;
const PUNCH_MS_MIN: u64 = 10;
const PUNCH_MS_MAX: u64 = 200;
/// QUIC version 1 (RFC 9000).
const VERSION: u32 = 1;

pub(super) type Output = (PeerId, Connection);
pub(super) type Upgrade = BoxFuture<'static, Result<Output, QuicError>>;
pub(super) type Event = TransportEvent<Upgrade, QuicError>;

/// The transport; see [`super`]. It must be made, polled and used inside a tokio runtime.
pub struct QuicTransport {
    endpoint: EndpointConfig,
    server: ServerConfig,
    client: ClientConfig,
    admission: Admission,
    listeners: Vec<Listener>,
    /// Endpoints for dials that no listener serves: IPv4, IPv6.
    dialers: [Option<Endpoint>; 2],
    /// Who waits for a call from where.
    punches: HashMap<SocketAddr, oneshot::Sender<Upgrade>>,
    waker: Option<Waker>,
}

impl std::fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicTransport").field("listeners", &self.listeners.len()).finish()
    }
}

impl QuicTransport {
    /// The transport of the peer that owns `key`.
    ///
    /// # Errors
    /// When no certificate can be made of the key, or a value does not fit into QUIC's.
    pub fn new(key: &Keypair, config: &QuicConfig) -> Result<Self, QuicError> {
        Self::with_tls(key, config, tls::configs(key)?)
    }

    /// The same with given TLS configurations.
    pub(super) fn with_tls(
        key: &Keypair,
        config: &QuicConfig,
        (client, server): (QuicClientConfig, QuicServerConfig),
    ) -> Result<Self, QuicError> {
        let transport = Arc::new(transport_config(config)?);
        let mut client = ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::clone(&transport));
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server
            .transport_config(transport)
            .migration(false)
            .max_incoming(config.handshakes_max)
            .incoming_buffer_size(AHEAD_BYTES_MAX)
            .incoming_buffer_size_total(AHEAD_BYTES_MAX * config.handshakes_max as u64);
        let admission = Admission {
            handshakes: Arc::new(Semaphore::new(config.handshakes_max)),
            unproven_min: config.handshakes_max / 2,
            timeout: config.handshake_timeout,
        };
        Ok(Self {
            endpoint: endpoint_config(key)?,
            server,
            client,
            admission,
            listeners: Vec::new(),
            dialers: [None, None],
            punches: HashMap::new(),
            waker: None,
        })
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn open(
        &self,
        address: SocketAddr,
        server: Option<ServerConfig>,
    ) -> Result<(Endpoint, UdpSocket), QuicError> {
        let open = || {
            let socket = bind(address)?;
            let copy = socket.try_clone()?;
            let runtime = Arc::new(quinn::TokioRuntime);
            let endpoint = Endpoint::new(self.endpoint.clone(), server, socket, runtime)?;
            Ok((endpoint, copy))
        };
        open().map_err(|source| QuicError::Socket { address, source })
    }

    /// The endpoint that a dial to `target` leaves from.
    fn dialer(&mut self, target: &SocketAddr, port: PortUse) -> Result<Endpoint, QuicError> {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        if port == PortUse::New {
            return self.open(any, None).map(|(endpoint, _)| endpoint);
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.reaches(target)) {
            return Ok(listener.endpoint.clone());
        }
        let slot = usize::from(target.is_ipv6());
        if let Some(endpoint) = &self.dialers[slot] {
            return Ok(endpoint.clone());
        }
        let (endpoint, _) = self.open(any, None)?;
        self.dialers[slot] = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Sends to `target` until its call reaches a listener of ours.
    fn punch(&mut self, target: SocketAddr, expected: PeerId) -> Result<Upgrade, QuicError> {
        let listener = self.listeners.iter().find(|listener| listener.reaches(&target));
        let socket = listener.ok_or(QuicError::NotListening(target))?.clone_socket();
        self.punches.retain(|_, waiting| !waiting.is_closed());
        if self.punches.contains_key(&target) {
            return Err(QuicError::PunchUnderWay(target));
        }
        let (sender, called) = oneshot::channel();
        self.punches.insert(target, sender);
        let timeout = self.admission.timeout;
        Ok(async move {
            let knock = async {
                let failed = |source| QuicError::Punch { address: target, source };
                let socket = socket.and_then(tokio::net::UdpSocket::from_std).map_err(failed)?;
                loop {
                    let (packet, wait) = noise();
                    socket.send_to(&packet, target).await.map_err(failed)?;
                    tokio::time::sleep(wait).await;
                }
            };
            let upgrade = tokio::select! {
                failed = knock => return failed,
                upgrade = called => upgrade.map_err(|_| QuicError::HandshakeTimeout(target))?,
                () = tokio::time::sleep(timeout) => {
                    return Err(QuicError::HandshakeTimeout(target));
                }
            };
            let (found, connection) = upgrade.await?;
            if found != expected {
                return Err(QuicError::wrong_peer(expected, found));
            }
            Ok((found, connection))
        }
        .boxed())
    }

    /// Hands a call to whoever punches a hole for it.
    fn route(&mut self, event: Event) -> Option<Event> {
        let TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } = event
        else {
            return Some(event);
        };
        let waiting =
            socket_address(&send_back_addr).and_then(|(from, _)| self.punches.remove(&from));
        let upgrade = match waiting {
            Some(waiting) => waiting.send(upgrade).err()?,
            None => upgrade,
        };
        Some(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr })
    }
}

impl Transport for QuicTransport {
    type Output = Output;
    type Error = QuicError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<QuicError>> {
        let (address, _) =
            socket_address(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        let (endpoint, socket) =
            self.open(address, Some(self.server.clone())).map_err(TransportError::Other)?;
        let listener = Listener::new(id, endpoint, socket, self.admission.clone())
            .map_err(|error| TransportError::Other(QuicError::Watch(error)))?;
        self.listeners.push(listener);
        // Dials leave from the listener from now on; connections keep the old endpoint alive.
        self.dialers[usize::from(address.is_ipv6())] = None;
        self.wake();
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.listeners.iter_mut().find(|listener| listener.id == id) else {
            return false;
        };
        listener.close();
        self.wake();
        true
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Upgrade, TransportError<QuicError>> {
        let (target, expected) = match socket_address(&address) {
            Some((target, peer)) if target.port() != 0 && !target.ip().is_unspecified() => {
                (target, peer)
            }
            _ => return Err(TransportError::MultiaddrNotSupported(address)),
        };
        if options.role == Role::Listener {
            // Whom a hole is for must be known: anybody may call through it.
            let expected = expected.ok_or(TransportError::MultiaddrNotSupported(address))?;
            return self.punch(target, expected).map_err(TransportError::Other);
        }
        let endpoint = self.dialer(&target, options.port_use).map_err(TransportError::Other)?;
        let (client, timeout) = (self.client.clone(), self.admission.timeout);
        Ok(async move {
            // TLS wants a name, which is neither sent nor checked.
            let connecting = endpoint.connect_with(client, target, "peer")?;
            connection::establish(connecting, target, expected, timeout).await
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = &mut *self;
        let mut index = 0;
        while let Some(listener) = this.listeners.get_mut(index) {
            let Poll::Ready(event) = listener.poll(cx) else {
                index += 1;
                continue;
            };
            if matches!(event, TransportEvent::ListenerClosed { .. }) {
                this.listeners.remove(index);
            }
            if let Some(event) = this.route(event) {
                return Poll::Ready(event);
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn transport_config(config: &QuicConfig) -> Result<TransportConfig, QuicError> {
    let idle = config.idle_timeout.try_into();
    let idle = idle.map_err(|_| QuicError::Config("the idle timeout is too long"))?;
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .stream_receive_window(config.stream_window_bytes.into())
        .receive_window(config.connection_window_bytes.into())
        .send_window(config.send_window_bytes.into())
        .max_concurrent_bidi_streams(config.streams_max.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .allow_spin(false);
    Ok(transport)
}

fn endpoint_config(key: &Keypair) -> Result<EndpointConfig, QuicError> {
    let (tokens, ids) = reset::keys(key)?;
    let mut endpoint = EndpointConfig::new(Arc::new(tokens));
    endpoint
        .cid_generator(move || Box::new(ids))
        .supported_versions(vec![VERSION])
        .max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX)
        .map_err(|_| QuicError::Config("the packet size is out of QUIC's range"))?;
    Ok(endpoint)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::DGRAM, None)?;
    if address.is_ipv6() {
        // So that the same port can be listened on for IPv4 as well.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // A refusal costs speed only.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    rustix::net::bind(&socket, &address)?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// `/ip4|ip6/../udp/../quic-v1[/p2p/..]` as a socket address and the peer behind it.
fn socket_address(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else { return None };
    let Protocol::QuicV1 = parts.next()? else { return None };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    parts.next().is_none().then_some((SocketAddr::new(ip, port), peer))
}

pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// A packet that opens a hole and is nothing else, and how long to wait until the next.
fn noise() -> ([u8; PUNCH_BYTES], Duration) {
    let mut packet = [0; PUNCH_BYTES];
    getrandom::fill(&mut packet).expect("the system gives random bytes once it has booted");
    let wait = u64::from(packet[0]) % (PUNCH_MS_MAX - PUNCH_MS_MIN) + PUNCH_MS_MIN;
    (packet, Duration::from_millis(wait))
}
