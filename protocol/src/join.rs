//! Join strings: what a newcomer needs to find a network and to know that it is the right one.
//!
//! `ayni:<chain id>@<multiaddr>[,<multiaddr>...][#<height>:<block hash>]`. The chain id is 64
//! hexadecimal digits. The optional last part names a block that is known to be final; it is
//! required once the chain is older than the unbonding delay. Addresses are checked for their
//! outward form here and parsed by the network.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::amount::Height;
use crate::ids::{BlockHash, ChainId};

/// A whole join string: people paste it, and it must fit a message.
pub const JOIN_BYTES_MAX: usize = 4 * 1024;
/// Addresses in one join string: each costs a dial.
pub const JOIN_ADDRESSES_MAX: usize = 16;
/// One multiaddress; the longest useful ones (a relayed QUIC address) have about 200 bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

const SCHEME: &str = "ayni:";

/// A parsed join string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    chain: ChainId,
    addresses: Vec<String>,
    trusted: Option<TrustedBlock>,
}

/// A block that is known to be final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedBlock {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
}

/// Why a join string was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// Does not begin with `ayni:`.
    #[error("a join string begins with \"ayni:\"; this one begins with {0:?}")]
    Scheme(String),
    /// Longer than [`JOIN_BYTES_MAX`].
    #[error("the join string has {0} bytes, at most {max} are allowed", max = JOIN_BYTES_MAX)]
    TooLong(usize),
    /// No `@`.
    #[error("the join string has no \"@\" between the chain id and the addresses")]
    NoAddresses,
    /// The chain id is not 64 hexadecimal digits.
    #[error("the chain id {0:?} is not 64 hexadecimal digits; was the string cut off?")]
    Chain(String),
    /// More addresses than [`JOIN_ADDRESSES_MAX`].
    #[error("{0} addresses, at most {max} are allowed", max = JOIN_ADDRESSES_MAX)]
    TooManyAddresses(usize),
    /// An address that cannot be one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The part after `#` is not `<height>:<hash>`.
    #[error("the trusted block {0:?} is not <height>:<64 hexadecimal digits>")]
    Trusted(String),
}

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{address:?} is not a multiaddress: {reason}, for example /ip4/192.0.2.1/udp/4001/quic-v1")]
pub struct AddressError {
    /// The address, shortened.
    pub address: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// Checks the outward form of a multiaddress: `/a/b/...`, printable, bounded, and without the
/// characters that separate the parts of a join string.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    let refuse = |reason| Err(AddressError { address: shorten(address), reason });
    if address.len() > ADDRESS_BYTES_MAX {
        return refuse("it is too long; use a shorter form");
    }
    if !address.starts_with('/') || address.len() < 2 {
        return refuse("write one that begins with \"/\"");
    }
    if !address.bytes().all(|b| b.is_ascii_graphic() && !b",#@".contains(&b)) {
        return refuse("it has a space, a comma or another character that none has");
    }
    if address.ends_with('/') || address.contains("//") {
        return refuse("it has an empty part");
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

impl JoinString {
    /// From its parts.
    pub fn new(
        chain: ChainId,
        addresses: Vec<String>,
        trusted: Option<TrustedBlock>,
    ) -> Result<Self, JoinError> {
        if addresses.is_empty() {
            return Err(JoinError::NoAddresses);
        }
        if addresses.len() > JOIN_ADDRESSES_MAX {
            return Err(JoinError::TooManyAddresses(addresses.len()));
        }
        for address in &addresses {
            check_address(address)?;
        }
        let join = Self { chain, addresses, trusted };
        let length = join.to_string().len();
        if length > JOIN_BYTES_MAX {
            return Err(JoinError::TooLong(length));
        }
        Ok(join)
    }

    /// The chain to join.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// Addresses to dial, at least one.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// A block that is known to be final.
    pub const fn trusted(&self) -> Option<TrustedBlock> {
        self.trusted
    }
}

impl fmt::Display for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@{}", self.chain, self.addresses.join(","))?;
        match &self.trusted {
            Some(block) => write!(f, "#{}:{}", block.height, block.hash),
            None => Ok(()),
        }
    }
}

impl FromStr for JoinString {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > JOIN_BYTES_MAX {
            return Err(JoinError::TooLong(text.len()));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| JoinError::Scheme(text.chars().take(8).collect()))?;
        let (rest, trusted) = match rest.split_once('#') {
            Some((rest, trusted)) => (rest, Some(trusted.parse()?)),
            None => (rest, None),
        };
        let (chain, addresses) = rest.split_once('@').ok_or(JoinError::NoAddresses)?;
        let chain = chain.parse().map_err(|_| JoinError::Chain(shorten(chain)))?;
        Self::new(chain, addresses.split(',').map(str::to_owned).collect(), trusted)
    }
}

impl FromStr for TrustedBlock {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || JoinError::Trusted(shorten(text));
        let (height, hash) = text.split_once(':').ok_or_else(refuse)?;
        // `u64::from_str` takes a leading plus, which would be a second spelling.
        if !height.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refuse());
        }
        Ok(Self {
            height: Height::new(height.parse().map_err(|_| refuse())?),
            hash: hash.parse().map_err(|_| refuse())?,
        })
    }
}

impl Serialize for JoinString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JoinString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> ChainId {
        ChainId::from_bytes([0xab; 32])
    }

    #[test]
    fn round_trips() {
        let addresses =
            vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned(), "/dns4/a.example/tcp/9".to_owned()];
        let trusted =
            TrustedBlock { height: Height::new(42), hash: BlockHash::from_bytes([1; 32]) };
        for trusted in [None, Some(trusted)] {
            let join = JoinString::new(chain(), addresses.clone(), trusted).expect("valid parts");
            assert_eq!(join.to_string().parse(), Ok(join));
        }
    }

    #[test]
    fn refusals_name_the_part() {
        let check = |text: &str, expect: &str| {
            let error = text.parse::<JoinString>().expect_err(text).to_string();
            assert!(error.contains(expect), "{text:?}: {error}");
        };
        let id = chain();
        check("http://x", "begins with \"ayni:\"");
        check(&format!("ayni:{id}"), "no \"@\"");
        check("ayni:abcd@/ip4/1.2.3.4/tcp/1", "cut off");
        check(&format!("ayni:{id}@1.2.3.4:80"), "begins with \"/\"");
        check(&format!("ayni:{id}@/ip4/1 /tcp/1"), "a space");
        check(&format!("ayni:{id}@/ip4//tcp"), "empty part");
        check(&format!("ayni:{id}@/ip4/1.2.3.4/tcp/1#12"), "trusted block");
        check(&format!("ayni:{id}@/ip4/1.2.3.4/tcp/1#+1:{id}"), "trusted block");
        check(&format!("ayni:{id}@/{}", "a".repeat(300)), "too long");
        check(&format!("ayni:{id}@{}", vec!["/a"; 17].join(",")), "17 addresses");
        check(&format!("ayni:{}", "x".repeat(5_000)), "bytes");
    }
}
