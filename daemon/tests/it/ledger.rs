//! A ledger in memory: toy blocks without transactions, and a guard that records signatures.
//! Both outlive the node they serve, like disks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ayni_daemon::engine::{
    Application, ApplicationError, BlockVerdict, BuildRequest, GuardError, GuardStep, Offered,
    VoteGuard,
};
use protocol::amount::{Height, TimestampMs};
use protocol::block::{Block, BoundBlock, DecidedBlock, Evidence, Header};
use protocol::codec;
use protocol::consensus::{CommitCertificate, ProposalBody, ValidatorSet};
use protocol::ids::{Beacon, BlockHash, ChainId, ContentHash, StateRoot, ValidatorId};
use tokio::sync::watch;

/// What a node has on its disk.
pub(crate) struct Ledger {
    chain: ChainId,
    me: ValidatorId,
    validators: ValidatorSet,
    blocks: Mutex<Vec<DecidedBlock>>,
    bodies: Mutex<Vec<ProposalBody>>,
    tip: watch::Sender<Height>,
}

impl Ledger {
    pub(crate) fn new(chain: ChainId, me: ValidatorId, validators: ValidatorSet) -> Arc<Self> {
        Arc::new(Self {
            chain,
            me,
            validators,
            blocks: Mutex::new(Vec::new()),
            bodies: Mutex::new(Vec::new()),
            tip: watch::Sender::new(Height::ZERO),
        })
    }

    pub(crate) fn watch_tip(&self) -> watch::Receiver<Height> {
        self.tip.subscribe()
    }

    pub(crate) fn height(&self) -> u64 {
        self.tip.borrow().get()
    }

    pub(crate) fn blocks(&self) -> Vec<DecidedBlock> {
        self.blocks.lock().expect("not poisoned").clone()
    }

    /// Hashes of the decided blocks; every certificate must verify and every parent must fit.
    pub(crate) fn verified_hashes(&self) -> Vec<BlockHash> {
        let mut parent = BlockHash::default();
        let blocks = self.blocks();
        let hashes = blocks.iter().zip(1_u64..).map(|(decided, height)| {
            let block: Block = codec::decode(&decided.block).expect("a block");
            decided.certificate.verify(&self.chain, &self.validators).expect("a certificate");
            assert_eq!(decided.certificate.block, block.header.hash());
            assert_eq!(block.header.height, Height::new(height));
            assert_eq!(block.header.parent, parent);
            parent = block.header.hash();
            parent
        });
        hashes.collect()
    }

    fn parent(&self) -> (BlockHash, Option<CommitCertificate>) {
        let blocks = self.blocks.lock().expect("not poisoned");
        blocks.last().map_or((BlockHash::default(), None), |decided| {
            (decided.certificate.block, Some(decided.certificate.clone()))
        })
    }
}

#[async_trait]
impl Application for Ledger {
    async fn tip(&self) -> Result<Height, ApplicationError> {
        Ok(*self.tip.borrow())
    }

    async fn history_min(&self) -> Result<Height, ApplicationError> {
        Ok(Height::new(1))
    }

    async fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, ApplicationError> {
        Ok((height <= self.tip.borrow().plus(2)).then(|| self.validators.clone()))
    }

    async fn build(&self, request: BuildRequest) -> Result<BoundBlock, ApplicationError> {
        tokio::time::sleep(request.wait_max).await;
        let (parent, parent_certificate) = self.parent();
        let block = Block {
            header: Header {
                chain: self.chain,
                rules_version: 1,
                height: request.height,
                proposer: self.me,
                time: TimestampMs::new(u64::from(request.round)),
                parent,
                parent_certificate: parent_certificate
                    .as_ref()
                    .map_or(ContentHash::default(), CommitCertificate::hash),
                transactions: Block::contents_root(&[], &[]),
                state: StateRoot::default(),
                next_validators: self.validators.hash(),
                beacon: Beacon::default(),
                beacon_proof: Vec::new(),
                snapshot: None,
            },
            transactions: Vec::new(),
            parent_certificate,
            evidence: Vec::new(),
        };
        BoundBlock::bind(block).map_err(|why| ApplicationError(why.to_string()))
    }

    async fn check(
        &self,
        bound: &Arc<BoundBlock>,
        _offered: Offered,
    ) -> Result<BlockVerdict, ApplicationError> {
        let block = bound.block();
        let (parent, _) = self.parent();
        let certified = match &block.parent_certificate {
            None => block.header.height == Height::new(1),
            Some(certificate) => {
                certificate.block == parent
                    && certificate.verify(&self.chain, &self.validators).is_ok()
            }
        };
        let follows =
            block.header.height == self.tip.borrow().plus(1) && block.header.parent == parent;
        Ok(if certified && follows { BlockVerdict::Valid } else { BlockVerdict::Invalid })
    }

    async fn store_body(&self, body: &ProposalBody) -> Result<(), ApplicationError> {
        self.bodies.lock().expect("not poisoned").push(body.clone());
        Ok(())
    }

    async fn stored_bodies(&self, height: Height) -> Result<Vec<ProposalBody>, ApplicationError> {
        let bodies = self.bodies.lock().expect("not poisoned");
        Ok(bodies.iter().filter(|body| body.offer.height == height).cloned().collect())
    }

    async fn commit(
        &self,
        decided: DecidedBlock,
        block: Arc<BoundBlock>,
    ) -> Result<(), ApplicationError> {
        let height = block.header().height;
        if height != self.tip.borrow().plus(1) {
            return Err(ApplicationError(format!("{height} does not follow the tip")));
        }
        self.blocks.lock().expect("not poisoned").push(decided);
        self.bodies.lock().expect("not poisoned").retain(|body| body.offer.height > height);
        self.tip.send_replace(height);
        Ok(())
    }

    async fn evidence(&self, _: Vec<Evidence>) {}

    async fn decided(
        &self,
        start: Height,
        count_max: usize,
        _: usize,
    ) -> Result<Vec<DecidedBlock>, ApplicationError> {
        let skipped = usize::try_from(start.get().saturating_sub(1)).unwrap_or(usize::MAX);
        Ok(self.blocks().into_iter().skip(skipped).take(count_max).collect())
    }
}

type Step = (u64, u32, GuardStep);

/// Remembers every signature of one key across restarts.
#[derive(Default)]
pub(crate) struct Guard {
    signed: Mutex<BTreeMap<Step, Option<BlockHash>>>,
    contradictions: Mutex<Vec<Step>>,
}

impl Guard {
    /// Pretends that something was signed that no log remembers.
    pub(crate) fn remember(&self, step: Step, value: Option<BlockHash>) {
        self.signed.lock().expect("not poisoned").insert(step, value);
    }

    pub(crate) fn contradictions(&self) -> Vec<Step> {
        self.contradictions.lock().expect("not poisoned").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.signed.lock().expect("not poisoned").len()
    }
}

impl VoteGuard for Guard {
    fn allow(
        &self,
        height: Height,
        round: u32,
        step: GuardStep,
        value: Option<BlockHash>,
    ) -> Result<bool, GuardError> {
        let step = (height.get(), round, step);
        let mut signed = self.signed.lock().expect("not poisoned");
        let allowed = *signed.entry(step).or_insert(value) == value;
        if !allowed {
            self.contradictions.lock().expect("not poisoned").push(step);
        }
        Ok(allowed)
    }

    fn highest(&self) -> Option<Height> {
        let signed = self.signed.lock().expect("not poisoned");
        signed.last_key_value().map(|((height, _, _), _)| Height::new(*height))
    }
}
