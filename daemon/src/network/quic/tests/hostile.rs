//! Certificates that prove nothing, peers that are somebody else, and floods of callers.

use quinn::ConnectionError;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::quic::{self, Version};
use rustls::{CipherSuite, ClientConfig, ServerConfig};

use super::super::{QuicError, tls};
use super::*;

/// libp2p's extension.
const EXTENSION: [u64; 9] = [1, 3, 6, 1, 4, 1, 53594, 1, 1];

/// How a certificate of the node `key` is spoilt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    NoExtension,
    TwoExtensions,
    SignedByAnother,
    UnknownKeyType,
    Expired,
    NotYetValid,
    TwoCertificates,
    OtherTlsKey,
}

fn octets(bytes: &[u8]) -> Vec<u8> {
    [&[4, u8::try_from(bytes.len()).expect("short")], bytes].concat()
}

fn extension(key: &Keypair, tls_key: &KeyPair, flaw: Flaw) -> CustomExtension {
    let message = [b"libp2p-tls-handshake:", tls_key.public_key_der().as_slice()].concat();
    let other = Keypair::generate_ed25519();
    let signer = if flaw == Flaw::SignedByAnother { &other } else { key };
    let mut public = key.public().encode_protobuf();
    if flaw == Flaw::UnknownKeyType {
        // The field of the type comes first; 2 is secp256k1.
        public[1] = 2;
    }
    let signature = signer.sign(&message).expect("signs");
    let content = [octets(&public), octets(&signature)].concat();
    let length = u8::try_from(content.len()).expect("short");
    // Beyond 127 bytes a length takes a byte that says so.
    let head: &[u8] = if length < 128 { &[0x30, length] } else { &[0x30, 0x81, length] };
    let mut extension =
        CustomExtension::from_oid_content(&EXTENSION, [head, content.as_slice()].concat());
    extension.set_criticality(true);
    extension
}

fn configs(key: &Keypair, flaw: Flaw) -> (ClientConfig, ServerConfig) {
    let tls_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = CertificateParams::default();
    if flaw != Flaw::NoExtension {
        params.custom_extensions.push(extension(key, &tls_key, flaw));
    }
    match flaw {
        Flaw::TwoExtensions => params.custom_extensions.push(extension(key, &tls_key, flaw)),
        Flaw::Expired => params.not_after = rcgen::date_time_ymd(2020, 1, 1),
        Flaw::NotYetValid => params.not_before = rcgen::date_time_ymd(3000, 1, 1),
        _ => {}
    }
    let certificate = CertificateDer::from(params.self_signed(&tls_key).expect("signs"));
    let count = if flaw == Flaw::TwoCertificates { 2 } else { 1 };
    // The private key of another certificate: the handshake's own signature is wrong.
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let secret = if flaw == Flaw::OtherTlsKey { other } else { tls_key };
    let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(secret.serialize_der()));
    tls::with_chain(vec![certificate; count], &secret, true).expect("a configuration")
}

fn with_flaw(key: &Keypair, flaw: Flaw) -> QuicTransport {
    let (client, server) = configs(key, flaw);
    let client = QuicClientConfig::try_from(client).expect("fits QUIC");
    let server = QuicServerConfig::try_from(server).expect("fits QUIC");
    QuicTransport::with_tls(key, &QuicConfig::default(), (client, server)).expect("a transport")
}

/// Whether each side of a connection took the other for what it says.
async fn handshake(mut dialler: QuicTransport, mut listener: QuicTransport) -> [bool; 2] {
    let address = listen(&mut listener, loopback()).await;
    let mut incoming = serve(listener);
    let dialled = within(dial(&mut dialler, address)).await;
    let accepted = within(incoming.recv()).await.expect("serves");
    [dialled.is_ok(), accepted.is_ok()]
}

#[tokio::test]
async fn only_a_sound_certificate_is_taken() {
    let key = Keypair::generate_ed25519();
    let flaws = [
        Flaw::NoExtension,
        Flaw::TwoExtensions,
        Flaw::SignedByAnother,
        Flaw::UnknownKeyType,
        Flaw::Expired,
        Flaw::NotYetValid,
        Flaw::TwoCertificates,
        Flaw::OtherTlsKey,
    ];
    let sound = || ours(&Keypair::generate_ed25519());
    assert_eq!(handshake(with_flaw(&key, Flaw::None), sound()).await, [true, true]);
    assert_eq!(handshake(sound(), with_flaw(&key, Flaw::None)).await, [true, true]);
    for flaw in flaws {
        let [_, accepted] = handshake(with_flaw(&key, flaw), sound()).await;
        assert!(!accepted, "a listener took a caller with {flaw:?}");
        let [dialled, _] = handshake(sound(), with_flaw(&key, flaw)).await;
        assert!(!dialled, "a dialler took a listener with {flaw:?}");
    }
}

#[tokio::test]
async fn somebody_else_at_the_address_is_refused() {
    let mut listener = ours(&Keypair::generate_ed25519());
    let address = listen(&mut listener, loopback()).await;
    serve(listener);
    let mut dialler = ours(&Keypair::generate_ed25519());
    let expected = Keypair::generate_ed25519().public().to_peer_id();
    let dialled = within(dial(&mut dialler, address.with_p2p(expected).expect("no peer"))).await;
    match dialled {
        Err(QuicError::WrongPeer { expected: wanted, .. }) => assert_eq!(*wanted, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn callers_beyond_the_bound_are_refused() {
    let config = QuicConfig { handshakes_max: 4, ..QuicConfig::default() };
    let mut listener =
        QuicTransport::new(&Keypair::generate_ed25519(), &config).expect("a transport");
    let address = listen(&mut listener, loopback()).await;
    let mut dialler = ours(&Keypair::generate_ed25519());
    // The handshakes are never looked after, so that their places stay taken. From the third on
    // callers have to prove their address, which they do.
    let mut kept = Vec::new();
    for _ in 0..4 {
        let dialled = tokio::spawn(dial(&mut dialler, address.clone()));
        match next_event(&mut listener).await {
            TransportEvent::Incoming { upgrade, .. } => kept.push(upgrade),
            other => panic!("{other:?}"),
        }
        within(dialled).await.expect("no panic").expect("there is room");
    }
    let mut events = Box::pin(poll_fn(|cx| Pin::new(&mut listener).poll(cx)));
    tokio::select! {
        dialled = within(dial(&mut dialler, address.clone())) => {
            let refused = matches!(
                dialled,
                Err(QuicError::Connection(ConnectionError::ConnectionClosed(_)))
            );
            assert!(refused, "{dialled:?}");
        }
        _ = &mut events => panic!("a fifth caller was let in"),
    }
    drop(events);
    // A place that is given back can be taken.
    kept.pop();
    let dialled = tokio::spawn(dial(&mut dialler, address));
    let _upgrade = next_event(&mut listener).await;
    within(dialled).await.expect("no panic").expect("there is room again");
}

/// Carries what one side of a handshake has to say; each change of keys begins a new message.
fn pass(from: &mut quic::Connection, to: &mut quic::Connection) {
    loop {
        let mut message = Vec::new();
        let change = from.write_hs(&mut message);
        to.read_hs(&message).expect("the other side goes on");
        if change.is_none() {
            return;
        }
    }
}

/// The cipher that two peers settle on, by whether each has AES instructions.
fn cipher(client_aes: bool, server_aes: bool) -> CipherSuite {
    let config = |aes| {
        let key = Keypair::generate_ed25519();
        let (certificate, secret) = libp2p_tls::certificate::generate(&key).expect("generates");
        tls::with_chain(vec![certificate], &secret, aes).expect("a configuration")
    };
    let name = "peer".try_into().expect("a name");
    let (client, server) = (config(client_aes).0.into(), config(server_aes).1.into());
    let client = quic::ClientConnection::new(client, Version::V1, name, Vec::new());
    let server = quic::ServerConnection::new(server, Version::V1, Vec::new());
    let mut client = quic::Connection::from(client.expect("begins"));
    let mut server = quic::Connection::from(server.expect("begins"));
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    let suites = [client.negotiated_cipher_suite(), server.negotiated_cipher_suite()];
    let suites = suites.map(|suite| suite.expect("settled").suite());
    assert_eq!(suites[0], suites[1]);
    suites[0]
}

#[test]
fn aes_is_used_where_both_have_it() {
    assert_eq!(cipher(true, true), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(cipher(true, false), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(cipher(false, true), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(cipher(false, false), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    // On the machines we test on, that is everywhere.
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    assert_eq!(tls::aes_is_fast(), flags.split_whitespace().any(|flag| flag == "aes"));
}
