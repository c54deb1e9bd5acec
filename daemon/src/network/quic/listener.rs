//! A listening endpoint: its addresses, and its bound on handshakes.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use libp2p::core::transport::ListenerId;
use quinn::{Endpoint, Incoming, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::QuicError;
use super::transport::{Event, multiaddr};

/// Callers that are turned away before others of the swarm's work get their turn.
const REFUSALS_AT_ONCE: usize = 32;

/// What a listener needs to know of its transport.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    /// One permit for each handshake that may be under way.
    pub(super) handshakes: Arc<Semaphore>,
    /// With fewer permits than this left, callers must first prove that they are where they say.
    pub(super) unproven_min: usize,
    pub(super) timeout: Duration,
}

pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) endpoint: Endpoint,
    /// The endpoint's socket, to punch holes with.
    socket: UdpSocket,
    address: SocketAddr,
    /// Present when listening on every address of this machine.
    watcher: Option<IfWatcher>,
    /// Whether the address was reported; only for listeners on a single one.
    reported: bool,
    accepting: BoxFuture<'static, Option<Incoming>>,
    admission: Admission,
    /// Set once the listener is told to end; it says so once and is then dropped.
    closed: bool,
}

fn accept(endpoint: &Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        endpoint: Endpoint,
        socket: UdpSocket,
        admission: Admission,
    ) -> Result<Self, std::io::Error> {
        let address = socket.local_addr()?;
        let watcher = address.ip().is_unspecified().then(IfWatcher::new).transpose()?;
        let accepting = accept(&endpoint);
        Ok(Self {
            id,
            endpoint,
            socket,
            address,
            reported: watcher.is_some(),
            watcher,
            accepting,
            admission,
            closed: false,
        })
    }

    /// Whether its socket reaches `target`: same family, and loopback only to loopback.
    pub(super) fn reaches(&self, target: &SocketAddr) -> bool {
        let ip = self.address.ip();
        !self.closed
            && self.address.is_ipv4() == target.is_ipv4()
            && (ip.is_unspecified() || ip.is_loopback() == target.ip().is_loopback())
    }

    pub(super) fn clone_socket(&self) -> std::io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// Ends it and its connections.
    pub(super) fn close(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.closed = true;
    }

    /// What happened; the event `ListenerClosed` is the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let listener_id = self.id;
        if self.closed {
            return Poll::Ready(Event::ListenerClosed { listener_id, reason: Ok(()) });
        }
        if !std::mem::replace(&mut self.reported, true) {
            let listen_addr = multiaddr(self.address);
            return Poll::Ready(Event::NewAddress { listener_id, listen_addr });
        }
        if let Poll::Ready(event) = self.poll_addresses(cx) {
            return Poll::Ready(event);
        }
        for _ in 0..REFUSALS_AT_ONCE {
            let Some(incoming) = ready!(self.accepting.poll_unpin(cx)) else {
                self.closed = true;
                return Poll::Ready(Event::ListenerClosed { listener_id, reason: Ok(()) });
            };
            self.accepting = accept(&self.endpoint);
            if let Some(event) = self.admit(incoming) {
                return Poll::Ready(event);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let listener_id = self.id;
        let (port, ipv4) = (self.address.port(), self.address.is_ipv4());
        let Some(watcher) = &mut self.watcher else { return Poll::Pending };
        let full = |ip: IpAddr| (ip.is_ipv4() == ipv4).then(|| multiaddr((ip, port).into()));
        loop {
            match ready!(watcher.poll_if_event(cx)) {
                Ok(IfEvent::Up(net)) => {
                    if let Some(listen_addr) = full(net.addr()) {
                        return Poll::Ready(Event::NewAddress { listener_id, listen_addr });
                    }
                }
                Ok(IfEvent::Down(net)) => {
                    if let Some(listen_addr) = full(net.addr()) {
                        return Poll::Ready(Event::AddressExpired { listener_id, listen_addr });
                    }
                }
                Err(error) => {
                    let error = QuicError::Watch(error);
                    return Poll::Ready(Event::ListenerError { listener_id, error });
                }
            }
        }
    }

    /// Begins the handshake of a caller if there is room; else refuses it, or has it prove its
    /// address, without keeping anything of it.
    fn admit(&self, incoming: Incoming) -> Option<Event> {
        let address = incoming.remote_address();
        let few = self.admission.handshakes.available_permits() < self.admission.unproven_min;
        if few && incoming.may_retry() && !incoming.remote_address_validated() {
            // Cannot fail: it may be retried.
            let _ = incoming.retry();
            return None;
        }
        let Ok(permit) = Arc::clone(&self.admission.handshakes).try_acquire_owned() else {
            tracing::debug!(%address, "refusing a caller: too many handshakes are under way");
            incoming.refuse();
            return None;
        };
        let upgrade = self.upgrade(incoming, address, permit);
        Some(Event::Incoming {
            listener_id: self.id,
            upgrade,
            local_addr: multiaddr(self.address),
            send_back_addr: multiaddr(address),
        })
    }

    fn upgrade(
        &self,
        incoming: Incoming,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> super::transport::Upgrade {
        let timeout = self.admission.timeout;
        // Accepted at once: packets of the handshake may follow before this future is polled.
        let connecting = incoming.accept();
        async move {
            let _permit = permit;
            super::connection::establish(connecting?, address, None, timeout).await
        }
        .boxed()
    }
}
