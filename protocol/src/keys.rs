//! ed25519 keys and domain-separated signatures.
//!
//! Signed bytes are a namespace, the chain id and the payload, each with its length, so that a
//! signature made for one purpose or chain is worthless for another. Verification is strict and
//! weak public keys are refused while they are parsed. Randomness comes from the caller.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, Verifier as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::ids::{AccountId, ChainId, NodeId, ValidatorId, derive};
use crate::remembered::Remembered;

/// What a signature is for. The text is part of the signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// A transaction.
    Transaction,
    /// The same transaction, signed by the account that pays its fee.
    FeePayer,
    /// Proof that a key named in a registration or rotation is held by the registrant.
    Possession,
    /// A consensus vote.
    Vote,
    /// A consensus proposal.
    Proposal,
    /// A block body offered for a (height, round).
    ProposalPart,
    /// A consensus vote extension (unused by the rules, but the engine can ask).
    Extension,
    /// Proof that a validator key belongs to a peer id.
    ValidatorProof,
}

impl Namespace {
    const fn text(self) -> &'static str {
        match self {
            Self::Transaction => "ayni/tx/1",
            Self::FeePayer => "ayni/fee-payer/1",
            Self::Possession => "ayni/possession/1",
            Self::Vote => "ayni/vote/1",
            Self::Proposal => "ayni/proposal/1",
            Self::ProposalPart => "ayni/proposal-part/1",
            Self::Extension => "ayni/extension/1",
            Self::ValidatorProof => "ayni/validator-proof/1",
        }
    }
}

/// Why a key or signature was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum KeyError {
    /// Not a point of the curve, or one of small order.
    #[error("public key is malformed or weak")]
    WeakKey,
    /// Not hex of the right length.
    #[error("expected {0} hexadecimal digits")]
    Hex(usize),
    /// The signature does not verify.
    #[error("signature does not verify")]
    BadSignature,
}

/// Parsed keys that are remembered, about 4 MiB. Parsing one costs a square root (5 us), and every
/// entry and transaction names some; a busy ledger asks for the same few thousand all the time.
const PARSED_MAX: usize = 16_384;

/// The eight points of small order, as their canonical bytes: of order 1, 2, 4, 4, 8, 8, 8, 8.
const SMALL_ORDER: [[u8; 32]; 8] = {
    const ORDER_8: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ];
    const ORDER_8_NEGATED: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ];
    const fn ends(low: u8, middle: u8, high: u8) -> [u8; 32] {
        let mut bytes = [middle; 32];
        bytes[0] = low;
        bytes[31] = high;
        bytes
    }
    const fn odd(mut bytes: [u8; 32]) -> [u8; 32] {
        bytes[31] |= 0x80;
        bytes
    }
    [
        ends(1, 0, 0),
        ends(0xec, 0xff, 0x7f),
        ends(0, 0, 0),
        ends(0, 0, 0x80),
        ORDER_8,
        odd(ORDER_8),
        ORDER_8_NEGATED,
        odd(ORDER_8_NEGATED),
    ]
};

/// Keys that were parsed and found good. Only saves work: what is looked up equals what would be
/// parsed.
static PARSED: Remembered<PublicKey> = Remembered::new(PARSED_MAX);

/// Votes that are remembered, about 1 MiB: those of dozens of heights with a hundred validators. A
/// vote is verified when it comes, in the certificate of its block, and in the next block.
const VOTES_MAX: usize = 16_384;

/// Votes that this process has verified or signed.
static VOTES: Remembered<()> = Remembered::new(VOTES_MAX);

/// A parsed ed25519 public key, never weak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Parses 32 bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        PARSED.get_or(bytes, || Self::parse(bytes))
    }

    fn parse(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::WeakKey)?;
        if key.is_weak() {
            return Err(KeyError::WeakKey);
        }
        Ok(Self(key))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies `signature` over `payload` for `namespace` on `chain`.
    pub fn verify(
        &self,
        namespace: Namespace,
        chain: &ChainId,
        payload: &[u8],
        signature: &Signature,
    ) -> Result<(), KeyError> {
        let message = signed_bytes(namespace, chain, payload);
        let verify = || {
            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
            self.verify_strict(&message, &signature)
        };
        match namespace {
            Namespace::Vote => VOTES.get_or(&vote_name(self, &message, signature), verify),
            _ => verify(),
        }
    }

    /// What `VerifyingKey::verify_strict` accepts and nothing else, a square root cheaper. Strict
    /// is: neither the key nor R of small order. Keys are not, by their parsing. And what `verify`
    /// accepts has for R the canonical bytes of a point, so those of small order are eight strings.
    fn verify_strict(
        &self,
        message: &[u8],
        signature: &ed25519_dalek::Signature,
    ) -> Result<(), KeyError> {
        if SMALL_ORDER.contains(signature.r_bytes()) {
            return Err(KeyError::BadSignature);
        }
        self.0.verify(message, signature).map_err(|_| KeyError::BadSignature)
    }

    /// The account that this key founds.
    pub fn account_id(&self) -> AccountId {
        AccountId::from_bytes(derive("ayni 2026 account id v1", &[self.as_bytes()]))
    }

    /// The node whose node key this is.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(*self.as_bytes())
    }

    /// The validator whose consensus key this is.
    pub fn validator_id(&self) -> ValidatorId {
        ValidatorId::from_bytes(*self.as_bytes())
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::Hex(64))?;
        Self::from_bytes(&bytes)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.as_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            let bytes = <[u8; 32]>::deserialize(deserializer)?;
            Self::from_bytes(&bytes).map_err(D::Error::custom)
        }
    }
}

/// An ed25519 signature, not yet verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Wraps raw bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = hex::encode(self.0);
        text.truncate(16);
        write!(f, "Signature({text})")
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&hex::encode(self.0))
        } else {
            let (low, high) = self.0.split_at(32);
            (
                <[u8; 32]>::try_from(low).unwrap_or_default(),
                <[u8; 32]>::try_from(high).unwrap_or_default(),
            )
                .serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 64];
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            hex::decode_to_slice(text, &mut bytes).map_err(D::Error::custom)?;
        } else {
            let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
            let (low_slot, high_slot) = bytes.split_at_mut(32);
            low_slot.copy_from_slice(&low);
            high_slot.copy_from_slice(&high);
        }
        Ok(Self(bytes))
    }
}

/// A secret key. Never printed; zeroed on drop by `ed25519-dalek`.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

impl SecretKey {
    /// From 32 secret bytes, which the caller drew from the operating system.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32 secret bytes, for key files only.
    pub fn to_seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `payload` for `namespace` on `chain`.
    pub fn sign(&self, namespace: Namespace, chain: &ChainId, payload: &[u8]) -> Signature {
        let message = signed_bytes(namespace, chain, payload);
        let signature = Signature(self.0.sign(&message).to_bytes());
        if namespace == Namespace::Vote {
            VOTES.put(vote_name(&self.public(), &message, &signature), ());
        }
        signature
    }

    /// A secret 32-byte value bound to `purpose`, for salts that must survive a restart:
    /// a keyed hash of the secret and the parts.
    pub fn derive_salt(&self, purpose: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        let seed = self.0.to_bytes();
        let mut all: Vec<&[u8]> = vec![&seed];
        all.extend_from_slice(parts);
        derive(purpose, &all)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// Names one signature of one key over one message.
fn vote_name(key: &PublicKey, message: &[u8], signature: &Signature) -> [u8; 32] {
    derive("ayni 2026 verified vote v1", &[key.as_bytes(), message, signature.as_bytes()])
}

fn signed_bytes(namespace: Namespace, chain: &ChainId, payload: &[u8]) -> Vec<u8> {
    let text = namespace.text().as_bytes();
    let mut message = Vec::with_capacity(payload.len().saturating_add(64));
    message.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    message.extend_from_slice(text);
    message.extend_from_slice(chain.as_bytes());
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_bound_to_purpose_and_chain() {
        let key = SecretKey::from_seed(&[7; 32]);
        let chain = ChainId::from_bytes([1; 32]);
        let other = ChainId::from_bytes([2; 32]);
        let signature = key.sign(Namespace::Vote, &chain, b"payload");
        let public = key.public();
        assert!(public.verify(Namespace::Vote, &chain, b"payload", &signature).is_ok());
        assert!(public.verify(Namespace::Vote, &other, b"payload", &signature).is_err());
        assert!(public.verify(Namespace::Proposal, &chain, b"payload", &signature).is_err());
        assert!(public.verify(Namespace::Vote, &chain, b"payloae", &signature).is_err());
    }

    #[test]
    fn a_remembered_vote_stands_for_nothing_else() {
        let (key, other) = (SecretKey::from_seed(&[7; 32]), SecretKey::from_seed(&[8; 32]));
        let chain = ChainId::from_bytes([1; 32]);
        let verify = |key: &SecretKey, payload: &[u8], signature: &Signature| {
            key.public().verify(Namespace::Vote, &chain, payload, signature)
        };
        let good = key.sign(Namespace::Vote, &chain, b"payload");
        let mut bad = *good.as_bytes();
        bad[40] ^= 1;
        let bad = Signature::from_bytes(bad);
        for _ in 0..2 {
            assert_eq!(verify(&key, b"payload", &good), Ok(()));
            assert_eq!(verify(&key, b"payload", &bad), Err(KeyError::BadSignature));
            assert_eq!(verify(&key, b"payloae", &good), Err(KeyError::BadSignature));
            assert_eq!(verify(&other, b"payload", &good), Err(KeyError::BadSignature));
        }
    }

    #[test]
    fn weak_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::WeakKey));
        assert_eq!(PublicKey::from_bytes(&[0; 32]), Err(KeyError::WeakKey));
    }

    #[test]
    fn a_remembered_key_is_the_key_and_a_refused_one_is_not_remembered() {
        let key = SecretKey::from_seed(&[9; 32]).public();
        let bytes = *key.as_bytes();
        assert_eq!(PublicKey::from_bytes(&bytes), Ok(key));
        assert_eq!(PublicKey::from_bytes(&bytes), Ok(key));
        // Not the coordinate of any point.
        let mut none = [0; 32];
        none[0] = 2;
        for _ in 0..2 {
            assert_eq!(PublicKey::from_bytes(&none), Err(KeyError::WeakKey));
        }
    }

    #[test]
    fn a_signature_with_a_point_of_small_order_is_refused_though_the_equation_holds() {
        use curve25519_dalek::constants::EIGHT_TORSION;
        use curve25519_dalek::traits::IsIdentity;
        use curve25519_dalek::{EdwardsPoint, Scalar};
        use sha2::{Digest, Sha512};

        let torsion: Vec<_> = EIGHT_TORSION.iter().map(|p| p.compress().to_bytes()).collect();
        assert!(torsion.iter().all(|point| SMALL_ORDER.contains(point)));

        // A key with a part of small order, so that every such point can stand for R.
        let secret = Scalar::from(1_234_567_u64);
        let point = EdwardsPoint::mul_base(&secret) + EIGHT_TORSION[1];
        let key = PublicKey::from_bytes(&point.compress().to_bytes()).expect("not weak");
        let mut met = [false; 8];
        for tag in 0..200_u8 {
            for (at, r) in torsion.iter().enumerate() {
                let hash = Sha512::new().chain_update(r).chain_update(key.as_bytes());
                let wide = hash.chain_update([tag]).finalize();
                let k = Scalar::from_bytes_mod_order_wide(&wide.into());
                if !(EIGHT_TORSION[1] * k + EIGHT_TORSION[at]).is_identity() {
                    continue;
                }
                let s = (k * secret).to_bytes();
                let signature = ed25519_dalek::Signature::from_components(*r, s);
                assert!(key.0.verify(&[tag], &signature).is_ok(), "the equation holds");
                assert!(key.0.verify_strict(&[tag], &signature).is_err());
                assert!(key.verify_strict(&[tag], &signature).is_err());
                met[at] = true;
            }
        }
        assert_eq!(met, [true; 8]);
    }
}
