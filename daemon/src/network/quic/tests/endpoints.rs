//! Listeners, dropped streams, dead peers and punched holes.

use std::net::UdpSocket;

use libp2p::multiaddr::Protocol;
use quinn::ConnectionError;

use super::super::{Connection, QuicError};
use super::*;

#[tokio::test]
async fn a_dropped_stream_is_seen_by_the_other_side() {
    let key = Keypair::generate_ed25519();
    let [mut one, mut other] = connect(boxed(ours(&key)), boxed(ours(&key))).await;
    let (dropped, mut left) = stream_between(&mut one.1, &mut other.1).await;
    drop(dropped);
    let mut end = Vec::new();
    assert_eq!(within(left.read_to_end(&mut end)).await.expect("a clean end"), 0);
    let chunk = vec![1; 64 * 1024];
    let failed = within(async {
        loop {
            if let Err(error) = left.write_all(&chunk).await {
                return error.kind();
            }
        }
    });
    assert_eq!(failed.await, std::io::ErrorKind::ConnectionReset);
    // The connection is none the worse.
    stream_between(&mut other.1, &mut one.1).await;
}

#[tokio::test]
async fn a_closed_connection_is_seen_by_the_other_side() {
    let key = Keypair::generate_ed25519();
    let [mut one, mut other] = connect(boxed(ours(&key)), boxed(ours(&key))).await;
    within(poll_fn(|cx| Pin::new(&mut one.1).poll_close(cx))).await.expect("closes");
    within(poll_fn(|cx| Pin::new(&mut one.1).poll_close(cx))).await.expect("closed it is");
    assert!(accept(&mut other.1).await.is_err());
    within(poll_fn(|cx| Pin::new(&mut other.1).poll_close(cx))).await.expect("closed as well");
}

#[tokio::test]
async fn a_wildcard_is_reported_as_the_addresses_of_this_machine() {
    let mut transport = ours(&Keypair::generate_ed25519());
    for _ in 0..2 {
        let id = ListenerId::next();
        let any = "/ip4/0.0.0.0/udp/0/quic-v1".parse().expect("valid");
        transport.listen_on(id, any).expect("listens");
        let mut ports = Vec::new();
        loop {
            let event = next_event(&mut transport).await;
            let TransportEvent::NewAddress { listener_id, listen_addr } = event else {
                panic!("{event:?}");
            };
            assert_eq!(listener_id, id);
            let parts: Vec<Protocol<'_>> = listen_addr.iter().collect();
            let [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1] = parts[..] else {
                panic!("{listen_addr}");
            };
            assert!(!ip.is_unspecified());
            ports.push(port);
            if ip.is_loopback() {
                break;
            }
        }
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        assert!(transport.remove_listener(id));
        // Other addresses of this machine may still come first.
        let reason = loop {
            match next_event(&mut transport).await {
                TransportEvent::ListenerClosed { reason, .. } => break reason,
                TransportEvent::NewAddress { .. } => {}
                event => panic!("{event:?}"),
            }
        };
        reason.expect("it was asked to");
        assert!(!transport.remove_listener(id), "it is gone");
    }
}

#[tokio::test]
async fn the_same_port_serves_ipv4_and_ipv6() {
    let mut transport = ours(&Keypair::generate_ed25519());
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a free port").port();
    for ip in ["/ip4/0.0.0.0", "/ip6/::"] {
        let address = format!("{ip}/udp/{port}/quic-v1").parse().expect("valid");
        transport.listen_on(ListenerId::next(), address).expect("listens");
    }
}

#[tokio::test]
async fn only_quic_addresses_are_taken() {
    let mut transport = ours(&Keypair::generate_ed25519());
    let refused = [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/127.0.0.1/udp/1/quic",
        "/ip4/127.0.0.1/udp/1/quic-v1/webtransport",
        "/dns/localhost/udp/1/quic-v1",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/0.0.0.0/udp/1/quic-v1",
    ];
    for address in refused {
        let dialled = transport.dial(address.parse().expect("valid"), DIAL);
        let refused = matches!(dialled, Err(TransportError::MultiaddrNotSupported(_)));
        assert!(refused, "{address} was dialled");
    }
}

/// The port that a dial is seen to come from.
async fn seen(listener: &mut QuicTransport, dial: super::super::transport::Upgrade) -> u16 {
    let dialled = tokio::spawn(dial);
    let event = next_event(listener).await;
    let TransportEvent::Incoming { upgrade, send_back_addr, .. } = event else {
        panic!("{event:?}");
    };
    within(upgrade).await.expect("accepted");
    within(dialled).await.expect("no panic").expect("dialled");
    port_of(&send_back_addr)
}

#[tokio::test]
async fn dials_leave_from_the_port_listened_on() {
    let mut target = ours(&Keypair::generate_ed25519());
    let address = listen(&mut target, loopback()).await;
    let mut dialler = ours(&Keypair::generate_ed25519());
    let early = dial(&mut dialler, address.clone());
    let early = seen(&mut target, early).await;
    let port = port_of(&listen(&mut dialler, loopback()).await);
    assert_ne!(early, port);
    let reused = dial(&mut dialler, address.clone());
    assert_eq!(seen(&mut target, reused).await, port);
    let fresh = DialOpts { port_use: PortUse::New, ..DIAL };
    let fresh = dialler.dial(address, fresh).expect("dials");
    assert_ne!(seen(&mut target, fresh).await, port);
}

/// Why a connection ended.
async fn end_of(connection: &mut Connection) -> ConnectionError {
    match accept(connection).await {
        Err(QuicError::Connection(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let config = QuicConfig {
        idle_timeout: Duration::from_millis(1_500),
        keep_alive: Duration::from_millis(300),
        ..QuicConfig::default()
    };
    let make = || QuicTransport::new(&Keypair::generate_ed25519(), &config).expect("a transport");
    let (mut dialler, mut listener) = (make(), make());
    let Line { address, task, .. } = relay(listen(&mut listener, loopback()).await).await;
    let mut incoming = serve(listener);
    let (_, mut dialled) = within(dial(&mut dialler, address)).await.expect("dialled");
    let (_, mut accepted) = within(incoming.recv()).await.expect("serves").expect("accepted");
    // Quiet is not dead: the probes keep it open for longer than the idle time.
    let quiet = tokio::time::timeout(config.idle_timeout * 2, accept(&mut dialled));
    assert!(quiet.await.is_err(), "a quiet connection ended");
    task.abort();
    assert_eq!(end_of(&mut dialled).await, ConnectionError::TimedOut);
    assert_eq!(end_of(&mut accepted).await, ConnectionError::TimedOut);
}

#[tokio::test]
async fn nobody_at_the_address_is_said_in_time() {
    let config =
        QuicConfig { handshake_timeout: Duration::from_millis(300), ..QuicConfig::default() };
    let mut dialler =
        QuicTransport::new(&Keypair::generate_ed25519(), &config).expect("a transport");
    // Bound and never answered.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let port = silent.local_addr().expect("bound").port();
    let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("valid");
    let dialled = within(dial(&mut dialler, address)).await;
    assert!(matches!(dialled, Err(QuicError::HandshakeTimeout(_))), "{dialled:?}");
}

#[tokio::test]
async fn a_node_that_came_back_ends_its_old_connections() {
    let key = Keypair::generate_ed25519();
    let first = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runs");
    let copy = key.clone();
    let (address, mut incoming) = first
        .spawn(async move {
            let mut listener = ours(&copy);
            let address = listen(&mut listener, loopback()).await;
            (address, serve(listener))
        })
        .await
        .expect("listens");
    // Long enough that only the reset can end it within this test's patience.
    let config = QuicConfig {
        idle_timeout: PATIENCE * 2,
        keep_alive: Duration::from_millis(100),
        ..QuicConfig::default()
    };
    let patient = QuicConfig { idle_timeout: PATIENCE * 2, ..QuicConfig::default() };
    let mut dialler =
        QuicTransport::new(&Keypair::generate_ed25519(), &config).expect("a transport");
    let (_, mut connection) = within(dial(&mut dialler, address.clone())).await.expect("dialled");
    // Something of the peer's must have arrived: before that it may not know that the handshake
    // is done, and only packets of connections that are established are answered with a reset.
    let (_, mut accepted) = within(incoming.recv()).await.expect("serves").expect("accepted");
    open(&mut accepted).await.expect("opens").write_all(b"!").await.expect("writes");
    accept(&mut connection).await.expect("accepts");
    // As with a killed process, nobody says goodbye: what would is gone before the connection is.
    let stop = tokio::task::spawn_blocking(move || first.shutdown_timeout(PATIENCE));
    within(stop).await.expect("stops");
    drop((accepted, incoming));
    let mut second = QuicTransport::new(&key, &patient).expect("a transport");
    let bound = within(async {
        while second.listen_on(ListenerId::next(), address.clone()).is_err() {
            tokio::task::yield_now().await;
        }
    });
    bound.await;
    serve(second);
    assert_eq!(end_of(&mut connection).await, ConnectionError::Reset);
}

#[tokio::test]
async fn a_hole_is_punched_from_the_port_listened_on() {
    let keys = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
    let peers = [0, 1].map(|side| keys[side].public().to_peer_id());
    let (mut listener, mut dialler) = (ours(&keys[0]), ours(&keys[1]));
    let not_listening = listener.dial(with_peer(&loopback_at(9), peers[1]), PUNCH);
    let refused = matches!(not_listening, Err(TransportError::Other(QuicError::NotListening(_))));
    assert!(refused, "punched from nowhere");

    let target = listen(&mut listener, loopback()).await;
    let caller = listen(&mut dialler, loopback()).await;
    let refused = matches!(
        listener.dial(caller.clone(), PUNCH),
        Err(TransportError::MultiaddrNotSupported(_))
    );
    assert!(refused, "punched for anybody");
    let punch = listener.dial(with_peer(&caller, peers[1]), PUNCH).expect("punches");
    let again = listener.dial(with_peer(&caller, peers[1]), PUNCH);
    let refused = matches!(again, Err(TransportError::Other(QuicError::PunchUnderWay(_))));
    assert!(refused, "punched twice");

    let mut incoming = serve(listener);
    let dialled = tokio::spawn(dial(&mut dialler, with_peer(&target, peers[0])));
    serve(dialler);
    let (found, mut accepted) = within(punch).await.expect("the call came");
    assert_eq!(found, peers[1]);
    let (found, mut dialled) = within(dialled).await.expect("no panic").expect("dialled");
    assert_eq!(found, peers[0]);
    let mut stream = open(&mut dialled).await.expect("opens");
    stream.write_all(b"!").await.expect("writes");
    accept(&mut accepted).await.expect("accepts");
    assert!(incoming.try_recv().is_err(), "the call was also reported as a stranger's");
}

#[tokio::test]
async fn a_hole_that_nobody_uses_is_given_up() {
    let config =
        QuicConfig { handshake_timeout: Duration::from_millis(300), ..QuicConfig::default() };
    let mut listener =
        QuicTransport::new(&Keypair::generate_ed25519(), &config).expect("a transport");
    listen(&mut listener, loopback()).await;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let address = loopback_at(silent.local_addr().expect("bound").port());
    let punch = listener.dial(with_peer(&address, PeerId::random()), PUNCH).expect("punches");
    let (punched, knocked) = within(async {
        let mut packet = [0; 2_048];
        tokio::join!(punch, silent.recv_from(&mut packet))
    })
    .await;
    assert!(matches!(punched, Err(QuicError::HandshakeTimeout(_))), "{punched:?}");
    knocked.expect("the hole was opened");
    // The place is free again.
    drop(listener.dial(with_peer(&address, PeerId::random()), PUNCH).expect("punches"));
}

fn loopback_at(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().expect("valid")
}

fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    address.clone().with_p2p(peer).expect("no other peer")
}
