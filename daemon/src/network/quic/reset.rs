//! Connection ids and reset tokens that outlive the process.
//!
//! A node that was killed and came back gets packets of connections that it no longer knows. It
//! answers with a stateless reset, which carries a token that only the connection's owner could
//! know; the peer then gives the connection up at once. For that, both the tokens and the way to
//! recognise own connection ids must follow from the node's key.

use libp2p::identity::Keypair;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

use super::QuicError;

/// Random bytes of an id: no two connections ever share one, not even over restarts, for its
/// token becomes public with a reset.
const NONCE_BYTES: usize = 12;
/// Bytes of the keyed tag behind them; without it every stray packet would be answered.
const TAG_BYTES: usize = 4;

/// The keys of a node.
pub(super) fn keys(key: &Keypair) -> Result<(ResetKey, IdKey), QuicError> {
    let derive = |domain: &[u8]| {
        let secret = key.derive_secret(domain);
        secret.ok_or_else(|| QuicError::Certificate("the key has no secret part".to_owned()))
    };
    Ok((ResetKey(derive(b"ayni quic reset tokens")?), IdKey(derive(b"ayni quic connection ids")?)))
}

/// Makes reset tokens: keyed BLAKE3 of the connection id.
pub(super) struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        // Compares in constant time.
        let same = blake3::Hash::from_slice(signature).is_ok_and(|given| given == expected);
        if same { Ok(()) } else { Err(CryptoError) }
    }
}

/// Makes connection ids and recognises them.
#[derive(Clone, Copy)]
pub(super) struct IdKey([u8; 32]);

impl IdKey {
    fn tag(&self, nonce: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        blake3::Hasher::new_keyed(&self.0).update(nonce).finalize_xof().fill(&mut tag);
        tag
    }
}

impl ConnectionIdGenerator for IdKey {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; NONCE_BYTES + TAG_BYTES];
        let (nonce, tag) = id.split_at_mut(NONCE_BYTES);
        getrandom::fill(nonce).expect("the system gives random bytes once it has booted");
        tag.copy_from_slice(&self.tag(nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (nonce, tag) = id.split_at_checked(NONCE_BYTES).ok_or(InvalidCid)?;
        if self.tag(nonce) == tag { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        NONCE_BYTES + TAG_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
