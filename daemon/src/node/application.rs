//! The ledger as the consensus engine sees it.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::amount::Height;
use protocol::block::{BoundBlock, DecidedBlock, Evidence};
use protocol::consensus::{ProposalBody, ValidatorSet};
use protocol::host::{ProposerKeys, Refused, Standing};
use protocol::ids::ValidatorId;
use protocol::join::TrustedBlock;
use tokio::sync::Notify;

use super::ledger::Ledger;
use crate::engine::{Application, ApplicationError, BlockVerdict, BuildRequest, Offered};
use crate::network::{NetworkHandle, Severity};

/// See the module.
pub struct Consensus {
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// With what this node proposes.
    pub keys: ProposerKeys,
    /// Tells the swarm of misbehaviour.
    pub network: NetworkHandle,
    /// Rung when a transaction has come in.
    pub arrivals: Arc<Notify>,
    /// A block that the owner trusts: no other may be decided at its height.
    pub trusted: Option<TrustedBlock>,
}

impl Consensus {
    /// The round is lost to the proposer of an invalid block anyway; its node's score suffers too.
    fn penalize(&self, proposer: &ValidatorId) {
        let node = self.ledger.read(|view| view.node_of_validator(proposer));
        if let Some(peer) = node.and_then(|n| crate::network::peer_id(&n.keys.node.node_id())) {
            self.network.report(peer, Severity::LowTolerance, "proposed an invalid block");
        }
    }
}

fn failed(refused: &Refused) -> ApplicationError {
    ApplicationError(refused.to_string())
}

#[async_trait]
impl Application for Consensus {
    async fn tip(&self) -> Result<Height, ApplicationError> {
        Ok(self.ledger.applied().height)
    }

    async fn history_min(&self) -> Result<Height, ApplicationError> {
        Ok(self.ledger.run(Ledger::first).await)
    }

    async fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, ApplicationError> {
        Ok(self.ledger.run(move |ledger| ledger.validators(height)).await)
    }

    async fn build(&self, request: BuildRequest) -> Result<BoundBlock, ApplicationError> {
        let deadline = tokio::time::Instant::now() + request.wait_max;
        loop {
            let arrival = self.arrivals.notified();
            if self.ledger.run(Ledger::wants_block).await {
                break;
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                break;
            }
        }
        let keys = self.keys.clone();
        self.ledger.run(move |ledger| ledger.build(&keys)).await.map_err(|e| failed(&e))
    }

    async fn check(
        &self,
        block: &Arc<BoundBlock>,
        offered: Offered,
    ) -> Result<BlockVerdict, ApplicationError> {
        let block = Arc::clone(block);
        let standing = match offered {
            Offered::By(_) => Standing::Proposed,
            Offered::Decided => Standing::Decided,
        };
        let Err(refused) = self.ledger.run(move |ledger| ledger.check(&block, standing)).await
        else {
            return Ok(BlockVerdict::Valid);
        };
        tracing::warn!(%refused, ?offered, "refused a block");
        // What we lack is not the proposer's fault.
        if let (Offered::By(proposer), false) = (offered, refused.is_own_lack()) {
            self.penalize(&proposer);
        }
        Ok(BlockVerdict::Invalid)
    }

    async fn store_body(&self, body: &ProposalBody) -> Result<(), ApplicationError> {
        let body = body.clone();
        self.ledger.run(move |ledger| ledger.store_body(&body)).await;
        Ok(())
    }

    async fn stored_bodies(&self, height: Height) -> Result<Vec<ProposalBody>, ApplicationError> {
        Ok(self.ledger.run(move |ledger| ledger.stored_bodies(height)).await)
    }

    async fn commit(
        &self,
        decided: DecidedBlock,
        block: Arc<BoundBlock>,
    ) -> Result<(), ApplicationError> {
        let (height, hash) = (decided.certificate.height, decided.certificate.block);
        if let Some(trusted) = self.trusted.filter(|t| t.height == height && t.hash != hash) {
            return Err(ApplicationError(format!(
                "block {height} of the chain that the peers follow is {hash}, not {} as `trusted` \
                 says: this is another chain, or `trusted` was typed wrongly",
                trusted.hash
            )));
        }
        let commit = self.ledger.run(move |ledger| ledger.commit(decided, &block));
        commit.await.map_err(|refused| failed(&refused))
    }

    async fn evidence(&self, found: Vec<Evidence>) {
        self.ledger.run(move |ledger| found.into_iter().for_each(|e| ledger.add_evidence(e))).await;
    }

    async fn decided(
        &self,
        start: Height,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<DecidedBlock>, ApplicationError> {
        Ok(self.ledger.run(move |ledger| ledger.decided_range(start, count_max, bytes_max)).await)
    }
}
