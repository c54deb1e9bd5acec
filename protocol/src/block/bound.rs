//! A block together with its hashes, which are computed once however often it is looked at.
//!
//! **Invariant.** Contents and parent certificate are those that the header names, so the header's
//! hash stands for the whole block. Without this a relay could put other transactions under an
//! honest proposer's signature and have an honest block judged invalid.

use thiserror::Error;

use super::{Block, Evidence, Header};
use crate::codec::{self, CodecError};
use crate::consensus::CommitCertificate;
use crate::ids::{BlockHash, ContentHash, TransactionHash};
use crate::transaction::{SignedTransaction, VerifiedTransaction};

/// Why bytes, or a block, are not what a header stands for.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Unbound {
    /// Not a block.
    #[error("no block: {0}")]
    Codec(#[from] CodecError),
    /// Other transactions or evidence than the header names.
    #[error("the contents are not those that the header names")]
    Contents,
    /// Another parent certificate than the header names.
    #[error("the parent certificate is not the one that the header names")]
    Certificate,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundBlock {
    block: Block,
    hash: BlockHash,
    transactions: Vec<TransactionHash>,
}

impl BoundBlock {
    /// Parses canonical bytes of a block.
    ///
    /// # Errors
    /// When they are none, or the header stands for something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unbound> {
        Self::bind(codec::decode(bytes)?)
    }

    /// Parses bytes that must be of the block with this hash; `None` when they are not.
    pub fn open(bytes: &[u8], hash: &BlockHash) -> Option<Self> {
        Self::parse(bytes).ok().filter(|bound| bound.hash == *hash)
    }

    /// Checks that a header stands for its block.
    ///
    /// # Errors
    /// When it stands for something else.
    pub fn bind(block: Block) -> Result<Self, Unbound> {
        let transactions: Vec<_> = block.transactions.iter().map(SignedTransaction::hash).collect();
        if block.header.transactions != Block::root_of(&transactions, &block.evidence) {
            return Err(Unbound::Contents);
        }
        let certificate = block.parent_certificate.as_ref();
        let certificate = certificate.map_or_else(ContentHash::default, CommitCertificate::hash);
        if block.header.parent_certificate != certificate {
            return Err(Unbound::Certificate);
        }
        Ok(Self { hash: block.header.hash(), block, transactions })
    }

    /// Puts a block together; the header's root of the contents is set, and the hash of the
    /// certificate must be right.
    pub(crate) fn assemble(
        mut header: Header,
        chosen: &[&VerifiedTransaction],
        evidence: Vec<Evidence>,
        parent_certificate: Option<CommitCertificate>,
    ) -> Self {
        let transactions: Vec<_> = chosen.iter().map(|verified| verified.hash()).collect();
        header.transactions = Block::root_of(&transactions, &evidence);
        let hash = header.hash();
        let signed = chosen.iter().map(|verified| verified.signed().clone()).collect();
        let block = Block { header, transactions: signed, parent_certificate, evidence };
        Self { block, hash, transactions }
    }

    /// The block.
    pub const fn block(&self) -> &Block {
        &self.block
    }

    /// The block alone.
    pub fn into_block(self) -> Block {
        self.block
    }

    /// Its header.
    pub const fn header(&self) -> &Header {
        &self.block.header
    }

    /// Its hash.
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Hashes of its transactions, in order.
    pub fn transactions(&self) -> &[TransactionHash] {
        &self.transactions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::{Height, TimestampMs};
    use crate::consensus::{Vote, VoteKind};
    use crate::ids::{Beacon, ChainId, StateRoot, ValidatorId};
    use crate::keys::Signature;

    #[test]
    fn exchanged_contents_are_noticed_though_the_header_is_right() {
        let block = Block {
            header: Header {
                chain: ChainId::default(),
                rules_version: 1,
                height: Height::new(1),
                proposer: ValidatorId::default(),
                time: TimestampMs::ZERO,
                parent: BlockHash::default(),
                parent_certificate: ContentHash::default(),
                transactions: Block::contents_root(&[], &[]),
                state: StateRoot::default(),
                next_validators: ContentHash::default(),
                beacon: Beacon::default(),
                beacon_proof: Vec::new(),
                snapshot: None,
            },
            transactions: Vec::new(),
            parent_certificate: None,
            evidence: Vec::new(),
        };
        let hash = block.header.hash();
        let opened = BoundBlock::open(&codec::encode(&block), &hash).expect("its own bytes");
        assert_eq!((opened.block(), opened.hash()), (&block, hash));
        assert_eq!(BoundBlock::open(&codec::encode(&block), &BlockHash::default()), None);
        let vote = Vote {
            height: Height::new(1),
            round: 0,
            kind: VoteKind::Prevote,
            block: None,
            validator: ValidatorId::default(),
        };
        let signed = (vote, Signature::from_bytes([0; 64]));
        let with_evidence = Block {
            evidence: vec![Evidence::DoubleVote { first: signed, second: signed }],
            ..block.clone()
        };
        let certificate = CommitCertificate {
            height: Height::ZERO,
            round: 0,
            block: BlockHash::default(),
            signatures: Vec::new(),
        };
        let with_certificate = Block { parent_certificate: Some(certificate), ..block };
        for exchanged in [with_evidence, with_certificate] {
            // By its header alone it would pass for the block that was signed.
            assert_eq!(exchanged.header.hash(), hash);
            assert_eq!(BoundBlock::open(&codec::encode(&exchanged), &hash), None);
        }
    }
}
