//! TLS 1.3 as libp2p specifies it: self-signed certificates that carry the peer's identity.
//!
//! Making and checking a certificate is `libp2p_tls::certificate`'s work. Ours is the order of the
//! ciphers, and that exactly one valid certificate is demanded of both sides. Sessions are never
//! resumed: it would save little, and a ticket lets strangers on the path recognise a caller.

use std::sync::Arc;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme, SupportedCipherSuite,
};

use super::QuicError;
use crate::network::node_id;

/// The protocol name that libp2p's specification demands.
const ALPN: &[u8] = b"libp2p";

/// What certificates may be signed with, in our order of preference.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Whether the processor has instructions for AES. With them AES-GCM costs a third of ChaCha20;
/// without, it is several times slower, and constant time only because it is.
pub(super) fn aes_is_fast() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The ciphers in our order. AES-128 before AES-256: fewer rounds, and its strength is beyond
/// reach as well.
fn ciphers(aes_is_fast: bool) -> Vec<SupportedCipherSuite> {
    let aes128 = cipher_suite::TLS13_AES_128_GCM_SHA256;
    let aes256 = cipher_suite::TLS13_AES_256_GCM_SHA384;
    let chacha = cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    if aes_is_fast { vec![aes128, aes256, chacha] } else { vec![chacha, aes128, aes256] }
}

/// Both sides' configurations for the peer that owns `key`.
pub(super) fn configs(key: &Keypair) -> Result<(QuicClientConfig, QuicServerConfig), QuicError> {
    let failed = |error: &dyn std::error::Error| QuicError::Certificate(error.to_string());
    let (certificate, secret) = certificate::generate(key).map_err(|error| failed(&error))?;
    let (client, server) =
        with_chain(vec![certificate], &secret, aes_is_fast()).map_err(|error| failed(&error))?;
    Ok((
        QuicClientConfig::try_from(client).map_err(|error| failed(&error))?,
        QuicServerConfig::try_from(server).map_err(|error| failed(&error))?,
    ))
}

/// Both sides' configurations with given certificates.
pub(super) fn with_chain(
    chain: Vec<CertificateDer<'static>>,
    secret: &PrivateKeyDer<'static>,
    aes_is_fast: bool,
) -> Result<(ClientConfig, ServerConfig), Error> {
    // The same cryptography as libp2p's TLS is built with, post-quantum key exchange included.
    let provider = Arc::new(CryptoProvider {
        cipher_suites: ciphers(aes_is_fast),
        ..aws_lc_rs::default_provider()
    });
    let secret = aws_lc_rs::sign::any_ecdsa_type(secret)?;
    let identity = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, secret)));
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier))
        .with_client_cert_resolver(identity.clone());
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Verifier))
        .with_cert_resolver(identity);
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    // The caller's order counts, for it may lack AES; unless we lack it ourselves.
    server.ignore_client_order = !aes_is_fast;
    Ok((client, server))
}

/// The peer that a connection's certificates prove; they were verified in the handshake.
pub(super) fn peer_of(connection: &quinn::Connection) -> Result<PeerId, QuicError> {
    let identity = connection.peer_identity().ok_or(QuicError::NoIdentity)?;
    let chain =
        identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| QuicError::NoIdentity)?;
    let certificate = chain.first().ok_or(QuicError::NoIdentity)?;
    let certificate = certificate::parse(certificate).map_err(|_| QuicError::NoIdentity)?;
    Ok(certificate.peer_id())
}

/// Accepts exactly one valid libp2p certificate of an ed25519 identity, from either side.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn check(certificate: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !more.is_empty() {
            return Err(refused("libp2p demands exactly one certificate"));
        }
        // Checks the validity period, the self-signature, the extension and its signature.
        let parsed = certificate::parse(certificate).map_err(refused)?;
        if node_id(&parsed.peer_id()).is_none() {
            return Err(refused("the identity is not an ed25519 key"));
        }
        Ok(())
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)
            .map_err(refused)?
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn refused(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let why: Box<dyn std::error::Error + Send + Sync> = why.into();
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::from(why))))
}

/// TLS 1.2 is not configured; whoever gets here all the same is refused.
fn old() -> Error {
    Error::General("libp2p demands TLS 1.3".to_owned())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(certificate, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(certificate, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
