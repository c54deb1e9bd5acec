//! The transport against libp2p's own, against hostile peers, and against itself.

mod endpoints;
mod hostile;
mod interop;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, SubstreamBox};
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent,
};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{QuicConfig, QuicTransport};

/// Nothing in these tests takes this long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const DIAL: DialOpts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
const PUNCH: DialOpts = DialOpts { role: Endpoint::Listener, port_use: PortUse::New };

type AnyTransport = Boxed<(PeerId, StreamMuxerBox)>;
type Established = std::io::Result<(PeerId, StreamMuxerBox)>;

fn loopback() -> Multiaddr {
    "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("a valid address")
}

fn ours(key: &Keypair) -> QuicTransport {
    QuicTransport::new(key, &QuicConfig::default()).expect("a transport")
}

fn boxed(transport: QuicTransport) -> AnyTransport {
    transport.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed()
}

fn theirs(key: &Keypair) -> AnyTransport {
    libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(key))
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed()
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

async fn next_event<T: Transport + Unpin>(
    transport: &mut T,
) -> TransportEvent<T::ListenerUpgrade, T::Error> {
    within(poll_fn(|cx| Pin::new(&mut *transport).poll(cx))).await
}

/// Listens and gives the address.
async fn listen<T: Transport + Unpin>(transport: &mut T, on: Multiaddr) -> Multiaddr {
    let id = ListenerId::next();
    assert!(transport.listen_on(id, on).is_ok(), "cannot listen");
    match next_event(transport).await {
        TransportEvent::NewAddress { listener_id, listen_addr } => {
            assert_eq!(listener_id, id);
            listen_addr
        }
        _ => panic!("the first event is the address"),
    }
}

/// Polls `transport` for good and hands out what its callers' handshakes came to.
fn serve<T>(mut transport: T) -> mpsc::Receiver<Result<T::Output, T::Error>>
where
    T: Transport + Unpin + Send + 'static,
    T::Output: Send,
    T::Error: Send,
    T::ListenerUpgrade: Send,
{
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let event = poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await;
            if let TransportEvent::Incoming { upgrade, .. } = event {
                let sender = sender.clone();
                tokio::spawn(async move { sender.send(upgrade.await).await });
            }
        }
    });
    receiver
}

fn dial<T: Transport>(transport: &mut T, address: Multiaddr) -> T::Dial {
    match transport.dial(address, DIAL) {
        Ok(dial) => dial,
        Err(TransportError::MultiaddrNotSupported(address)) => panic!("{address} is refused"),
        Err(TransportError::Other(error)) => panic!("{error}"),
    }
}

/// A connection between two transports, the dialler's end first.
async fn connect(
    mut dialler: AnyTransport,
    mut listener: AnyTransport,
) -> [(PeerId, StreamMuxerBox); 2] {
    let address = listen(&mut listener, loopback()).await;
    let mut incoming = serve(listener);
    let dialled = within(dial(&mut dialler, address)).await.expect("dialled");
    serve(dialler);
    let accepted: Established = within(incoming.recv()).await.expect("serves");
    [dialled, accepted.expect("accepted")]
}

async fn open<M: StreamMuxer + Unpin>(muxer: &mut M) -> Result<M::Substream, M::Error> {
    within(poll_fn(|cx| Pin::new(&mut *muxer).poll_outbound(cx))).await
}

async fn accept<M: StreamMuxer + Unpin>(muxer: &mut M) -> Result<M::Substream, M::Error> {
    within(poll_fn(|cx| Pin::new(&mut *muxer).poll_inbound(cx))).await
}

/// A stream between two ends: opened by the first, which must say something to be heard.
async fn stream_between(
    one: &mut StreamMuxerBox,
    other: &mut StreamMuxerBox,
) -> (SubstreamBox, SubstreamBox) {
    let mut opened = open(one).await.expect("opens");
    opened.write_all(b"?").await.expect("writes");
    opened.flush().await.expect("flushes");
    let mut accepted = accept(other).await.expect("accepts");
    let mut byte = [0];
    within(accepted.read_exact(&mut byte)).await.expect("reads");
    (opened, accepted)
}

fn port_of(address: &Multiaddr) -> u16 {
    let Some(Protocol::Udp(port)) = address.iter().nth(1) else { panic!("{address}") };
    port
}

/// A path on which packets can be lost.
struct Line {
    address: Multiaddr,
    /// Aborted, both ends fall silent.
    task: AbortHandle,
    /// Larger packets are lost.
    packet_bytes_max: Arc<AtomicUsize>,
}

/// A path to `target`, for one caller.
async fn relay(target: Multiaddr) -> Line {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let front = bind().await.expect("binds");
    let back = bind().await.expect("binds");
    back.connect(("127.0.0.1", port_of(&target))).await.expect("connects");
    let port = front.local_addr().expect("bound").port();
    let packet_bytes_max = Arc::new(AtomicUsize::new(usize::MAX));
    let bound = Arc::clone(&packet_bytes_max);
    let task = tokio::spawn(async move {
        let mut caller = None;
        let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut there) => {
                    caller = Some(from);
                    if length <= bound.load(Ordering::Relaxed) {
                        back.send(&there[..length]).await.expect("sends");
                    }
                }
                Ok(length) = back.recv(&mut here) => {
                    let caller = caller.expect("it called first");
                    if length <= bound.load(Ordering::Relaxed) {
                        front.send_to(&here[..length], caller).await.expect("sends");
                    }
                }
            }
        }
    });
    let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("valid");
    Line { address, task: task.abort_handle(), packet_bytes_max }
}
