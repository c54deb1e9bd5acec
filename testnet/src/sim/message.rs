//! What travels between nodes, and what a node asks of the simulated world.

use std::rc::Rc;

use malachite_core_types::{PolkaCertificate, RoundCertificate, SignedProposal, SignedVote};
use protocol::amount::Height;
use protocol::block::DecidedBlock;
use protocol::consensus::ProposalBody;
use protocol::transaction::SignedTransaction;

use super::context::SimContext;

/// Virtual time in microseconds.
pub(super) type Time = u64;

/// One millisecond.
pub(super) const MS: Time = 1_000;
/// One second.
pub(super) const SECOND: Time = 1_000 * MS;

/// A message between nodes.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A vote, fresh or again.
    Vote(Rc<SignedVote<SimContext>>),
    /// A proposal.
    Proposal(Rc<SignedProposal<SimContext>>),
    /// A polka certificate.
    Polka(Rc<PolkaCertificate<SimContext>>),
    /// A round certificate.
    Round(Rc<RoundCertificate<SimContext>>),
    /// A block's body.
    Body(Rc<ProposalBody>),
    /// A transaction.
    Transaction(Rc<SignedTransaction>),
    /// The sender's tip.
    Status(Height),
    /// Asks for decided blocks from a height on.
    Request(Height),
    /// Decided blocks.
    Response(Rc<Vec<DecidedBlock>>),
}

impl Message {
    /// Name for traces.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Vote(_) => "vote",
            Self::Proposal(_) => "proposal",
            Self::Polka(_) => "polka",
            Self::Round(_) => "round",
            Self::Body(_) => "body",
            Self::Transaction(_) => "transaction",
            Self::Status(_) => "status",
            Self::Request(_) => "request",
            Self::Response(_) => "response",
        }
    }

    /// Bytes that tell this message from others, for the event hash.
    pub(super) fn digest(&self) -> [u8; 8] {
        let first = |bytes: &[u8]| bytes.first_chunk::<8>().copied().unwrap_or_default();
        match self {
            Self::Vote(vote) => first(vote.signature.0.as_bytes()),
            Self::Proposal(proposal) => first(proposal.signature.0.as_bytes()),
            Self::Polka(certificate) => first(certificate.value_id.as_bytes()),
            Self::Round(certificate) => certificate.round.as_i64().to_le_bytes(),
            Self::Body(body) => first(body.signature.as_bytes()),
            Self::Transaction(transaction) => first(transaction.signature.as_bytes()),
            Self::Status(height) | Self::Request(height) => height.get().to_le_bytes(),
            Self::Response(blocks) => {
                blocks.first().map_or([0; 8], |b| first(b.certificate.block.as_bytes()))
            }
        }
    }

    /// Height and round, for traces.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Vote(vote) => {
                let vote = vote.message.inner();
                let block = vote.block.map_or_else(|| "nil".to_owned(), |block| block.short());
                format!("{:?} {}/{} {block}", vote.kind, vote.height, vote.round)
            }
            Self::Proposal(proposal) => {
                let inner = proposal.message.inner();
                let block = inner.block.short();
                format!("{}/{} pol {:?} {block}", inner.height, inner.round, inner.pol_round)
            }
            Self::Body(body) => {
                let offer = &body.offer;
                format!("{}/{} {}", offer.height, offer.round, offer.block.short())
            }
            Self::Polka(certificate) => format!("{}/{}", certificate.height, certificate.round),
            Self::Round(certificate) => format!("{}/{}", certificate.height, certificate.round),
            Self::Status(height) | Self::Request(height) => height.to_string(),
            Self::Transaction(_) => String::new(),
            Self::Response(blocks) => format!("{} blocks", blocks.len()),
        }
    }
}

/// What a node asks of the world.
pub(super) enum Request {
    /// To every other instance.
    Broadcast(Message),
    /// To one instance.
    Send(usize, Message),
    /// Wake the engine's timer `id`.
    Timer {
        /// From now on.
        after: Time,
        /// Known to the node.
        id: u64,
    },
    /// Wake the builder.
    Build {
        /// From now on.
        after: Time,
        /// Known to the node.
        id: u64,
    },
    /// Wake the sync.
    SyncTimeout {
        /// From now on.
        after: Time,
        /// Known to the node.
        id: u64,
    },
}
