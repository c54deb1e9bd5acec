//! What the engine needs from the node: the ledger behind consensus.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use protocol::amount::Height;
use protocol::block::{BoundBlock, DecidedBlock, Evidence};
use protocol::consensus::{ProposalBody, ValidatorSet};
use protocol::ids::ValidatorId;
use thiserror::Error;

/// The application failed for a reason of its own (disk, database). Never a peer's fault.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ApplicationError(pub String);

/// A block to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildRequest {
    /// Height of the block.
    pub height: Height,
    /// Consensus round.
    pub round: u32,
    /// Longest useful wait for transactions; zero while the node is catching up.
    pub wait_max: Duration,
}

/// Whether a block may follow the current tip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockVerdict {
    /// It obeys the rules.
    Valid,
    /// It does not. Must be a pure function of the ledger and the block.
    Invalid,
}

/// Where a block that is to be checked comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// This validator signed it as its proposal.
    By(ValidatorId),
    /// It was decided; a peer handed it over with its certificate.
    Decided,
}

/// The node, as the engine sees it.
///
/// Calls come one at a time and in order, except `build`, which runs beside the others. A method
/// that returns success has made durable what its description says; the engine acts on it (votes,
/// proposes, acknowledges) at once. An error stops the engine: a node whose disk fails must not
/// vote.
#[async_trait]
pub trait Application: Send + Sync + 'static {
    /// The last height that is durably decided; zero for a fresh chain.
    async fn tip(&self) -> Result<Height, ApplicationError>;

    /// The first height whose decided block can still be served to others.
    async fn history_min(&self) -> Result<Height, ApplicationError>;

    /// The validators of `height`, known for every height up to two above the tip (the set of
    /// h+1 follows from the state after h-1); nothing above that.
    async fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, ApplicationError>;

    /// Builds the block that this node proposes on the current tip, waiting at most `wait_max`
    /// for transactions. Nothing needs to be durable yet: the loop calls [`Self::store_body`]
    /// before the block is proposed, and never asks twice for one (height, round) that it stored.
    ///
    /// Must stop soon when the future is dropped; it is dropped when the height is decided.
    async fn build(&self, request: BuildRequest) -> Result<BoundBlock, ApplicationError>;

    /// Checks a block for `height`, which is the tip's successor. The signature of the proposer
    /// over the body and the header's hash, chain and height are already checked. The header's
    /// proposer may differ from the one who offers it: a block is offered again in later rounds.
    async fn check(
        &self,
        block: &Arc<BoundBlock>,
        offered: Offered,
    ) -> Result<BlockVerdict, ApplicationError>;

    /// Stores a signed body durably (proposal log): returns after the sync. Called for own bodies
    /// before they are proposed and for valid bodies of others before they are voted on.
    async fn store_body(&self, body: &ProposalBody) -> Result<(), ApplicationError>;

    /// The bodies stored for `height`, after a restart.
    async fn stored_bodies(&self, height: Height) -> Result<Vec<ProposalBody>, ApplicationError>;

    /// Commits a decided block: returns after block and certificate are durable, and then
    /// [`Self::tip`] is its height. `block` is the decoded form of `decided.block`.
    async fn commit(
        &self,
        decided: DecidedBlock,
        block: Arc<BoundBlock>,
    ) -> Result<(), ApplicationError>;

    /// Evidence of double votes that this node saw. May be kept for a later block; evidence is
    /// local to a node and must be verified again by everybody who applies it.
    async fn evidence(&self, found: Vec<Evidence>);

    /// Decided blocks from `start` on, in order without gaps, at most `count_max` with at most
    /// `bytes_max` bytes together (but at least one, if there is one).
    async fn decided(
        &self,
        start: Height,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<DecidedBlock>, ApplicationError>;
}
