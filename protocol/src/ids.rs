//! Identifiers: 32-byte values that cannot be mistaken for one another.
//!
//! In JSON every id is lower-case hex; in canonical bytes it is its 32 bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A hex string that is not 32 bytes.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("expected 64 hexadecimal digits, got {0:?}")]
pub struct ParseIdError(pub String);

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError(text.chars().take(80).collect()))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id!(
    /// BLAKE3 of some bytes: a blob, a manifest, a checkpoint.
    ContentHash
);
id!(
    /// Hash of the canonical genesis. Part of every signed message.
    ChainId
);
id!(
    /// Hash of a block header.
    BlockHash
);
id!(
    /// Hash of a signed transaction.
    TransactionHash
);
id!(
    /// Authenticated root of the ledger state (Jellyfish Merkle tree over BLAKE3).
    StateRoot
);
id!(
    /// An account: BLAKE3 of the public key that first controlled it.
    AccountId
);
id!(
    /// A node: the bytes of its ed25519 node key, from which the libp2p peer id follows.
    NodeId
);
id!(
    /// A validator: the bytes of its ed25519 consensus key.
    ValidatorId
);
id!(
    /// A model: hash of its specification.
    ModelId
);
id!(
    /// A certified state of a model: hash of checkpoint, outer-optimizer state and parameters.
    HeadId
);
id!(
    /// A contribution: hash of model, training round and author.
    ContributionId
);
id!(
    /// A hiding commitment, see [`crate::commitment`].
    Commitment
);
id!(
    /// The random beacon of a height.
    Beacon
);

impl ContentHash {
    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// BLAKE3 in key-derivation mode: `context` names the purpose, so that hashes made for one
/// purpose are never equal to hashes made for another.
pub fn derive(context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hasher.update(&len.to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
