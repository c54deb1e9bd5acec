//! Proofs of a balance, to be checked offline by somebody who trusts one block.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, Height};
use crate::ids::{AccountId, BlockHash, ChainId};

/// A block that somebody trusts, `height:hash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedPoint {
    /// Its height.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
}

/// Why a text is no trusted block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a trusted block; write HEIGHT:HASH, the hash with 64 hexadecimal digits")]
pub struct TrustedPointError(String);

impl FromStr for TrustedPoint {
    type Err = TrustedPointError;

    fn from_str(text: &str) -> Result<Self, TrustedPointError> {
        let refused = || TrustedPointError(text.chars().take(80).collect());
        let (height, hash) = text.split_once(':').ok_or_else(refused)?;
        // `u64::from_str` takes a leading plus, which would be a second spelling.
        if !height.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused());
        }
        let height = Height::new(height.parse().map_err(|_| refused())?);
        Ok(Self { height, hash: hash.parse().map_err(|_| refused())? })
    }
}

impl fmt::Display for TrustedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.height, self.hash)
    }
}

/// Query of `GET /v1/credits/proof`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    /// Whose balance; without it, the node's own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Height of the block that the verifier trusts; without it, the one of the node's join string
    /// or its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_height: Option<Height>,
    /// Hash of that block, if the node should check that its own chain has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_hash: Option<BlockHash>,
}

/// Who named the trusted block of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustedBy {
    /// Whoever asked.
    Caller,
    /// The node's join string.
    JoinString,
    /// Nobody: the node's first block was taken.
    FirstBlock,
}

/// `GET /v1/credits/proof`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceProof {
    /// The chain.
    pub chain: ChainId,
    /// Whose balance.
    pub account: AccountId,
    /// The balance.
    pub balance_micro: Credits,
    /// Block after which it is so.
    pub height: Height,
    /// The block that the verifier must trust.
    pub trusted: TrustedPoint,
    /// Who named it.
    pub trusted_by: TrustedBy,
    /// Headers between the two in the proof.
    pub bridges: u32,
    /// Canonical bytes of the [`crate::proof::Proof`], in hexadecimal.
    pub proof: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_blocks_read_back() {
        let hash = BlockHash::from_bytes([0xab; 32]);
        let point = TrustedPoint { height: Height::new(7), hash };
        assert_eq!(point.to_string().parse(), Ok(point));
        for bad in ["", "7", "7:", ":ab", "7:ab", &format!("+7:{hash}"), &format!("{hash}:7")] {
            assert!(bad.parse::<TrustedPoint>().is_err(), "{bad}");
        }
    }
}
