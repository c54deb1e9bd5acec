//! The loop between the engine and the [`Application`].
//!
//! It answers the engine's messages in order. Building a block may wait for transactions, so it
//! runs beside the loop; everything else is awaited. (The engine's connector actor hands over one
//! message at a time and itself waits for the answer to `GetValue`, so `wait_max` also bounds how
//! long a proposer leaves other messages waiting. That is why a node that is catching up builds
//! without waiting.)
//!
//! **Invariant.** A body is stored before the engine hears that it is valid, a block is durable
//! before `Decided` is acknowledged, and one (height, round) never gets a second own block.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use malachite_app_channel::{AppMsg, NetworkMsg, Reply};
use malachite_core_consensus::{LocallyProposedValue, ProposedValue, VoteExtensionError};
use malachite_core_types::{
    CommitCertificate as EngineCertificate, HeightParams, LinearTimeouts, Round, Validity,
};
use malachite_engine::host::{Next, SyncedValueOutcome};
use malachite_sync::RawDecidedValue;
use protocol::amount::Height as BlockHeight;
use protocol::block::{BoundBlock, DecidedBlock};
use protocol::codec;
use protocol::consensus::{BodyOffer, ProposalBody};
use protocol::ids::{BlockHash, ChainId, ValidatorId};
use protocol::keys::{Namespace, SecretKey, Signature};
use thiserror::Error;
use tokio::sync::mpsc;

use super::application::{Application, ApplicationError, BlockVerdict, BuildRequest, Offered};
use super::certificate::{to_evidence, to_extended, to_protocol_certificate};
use super::codec::{SYNC_BATCH_MAX, stream_message};
use super::context::{Address, AyniContext, Height, Part, ValidatorSet, Value, defined};
use super::proposals::{Judged, Place, Proposals};
use crate::network::wire::SYNC_RESPONSE_BYTES_MAX;

/// Why the loop ended.
#[derive(Debug, Error)]
pub(super) enum LoopError {
    /// The application failed: the node must not go on voting.
    #[error("the ledger failed: {0}")]
    Application(#[from] ApplicationError),
    /// The engine asked for something that its own rules exclude.
    #[error("the engine broke its contract: {0}")]
    Contract(&'static str),
}

/// How the loop ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopEnd {
    /// The engine has gone.
    EngineClosed,
    /// The height to abstain at is decided: the engine may vote again.
    VoteAgain,
}

/// The round under which the body of a synced block is stored: one that is never played.
pub const SYNCED_ROUND: u32 = u32::MAX;

type Building = Pin<Box<dyn Future<Output = Result<Option<BoundBlock>, ApplicationError>> + Send>>;

struct Build {
    height: BlockHeight,
    round: u32,
    reply: Reply<LocallyProposedValue<AyniContext>>,
    future: Building,
}

pub(super) struct AppLoop {
    pub(super) chain: ChainId,
    pub(super) key: Option<SecretKey>,
    pub(super) application: Arc<dyn Application>,
    pub(super) network: mpsc::Sender<NetworkMsg<AyniContext>>,
    pub(super) timeouts: LinearTimeouts,
    pub(super) block_wait: Duration,
    pub(super) abstain_until: Option<BlockHeight>,
    pub(super) proposals: Proposals,
    pub(super) validators: BTreeMap<BlockHeight, ValidatorSet>,
    pub(super) is_catching_up: bool,
}

impl AppLoop {
    /// Runs until the engine closes its channel. Dropping the future loses at most a build.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<AppMsg<AyniContext>>,
    ) -> Result<LoopEnd, LoopError> {
        let mut build: Option<Build> = None;
        loop {
            let built = async {
                match &mut build {
                    Some(build) => (&mut build.future).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                built = built => {
                    if let Some(finished) = build.take() {
                        self.built(finished, built?).await?;
                    }
                }
                message = messages.recv() => match message {
                    None => return Ok(LoopEnd::EngineClosed),
                    Some(AppMsg::GetValue { height, round, timeout, reply }) => {
                        build = self.get_value(height, round, timeout, reply).await?;
                    }
                    Some(AppMsg::Finalized { certificate, evidence, reply, .. }) => {
                        build = None;
                        let found = to_evidence(evidence);
                        if !found.is_empty() {
                            self.application.evidence(found).await;
                        }
                        if self.abstain_until.is_some_and(|until| certificate.height.0 >= until) {
                            return Ok(LoopEnd::VoteAgain);
                        }
                        let next = certificate.height.0.plus(1);
                        let params = self.start(next).await?;
                        let _ = reply.send(Next::Start(Height(next), params));
                    }
                    Some(message) => Box::pin(self.answer(message)).await?,
                },
            }
        }
    }

    /// Messages that need nothing but an answer. A reply nobody waits for any more is no error.
    async fn answer(&mut self, message: AppMsg<AyniContext>) -> Result<(), LoopError> {
        match message {
            AppMsg::ConsensusReady { reply } => {
                let height = self.application.tip().await?.plus(1);
                let params = self.start(height).await?;
                let _ = reply.send((Height(height), params));
            }
            AppMsg::StartedRound { height, round, reply_value, .. } => {
                let seen = self.started_round(height.0, defined(round));
                let _ = reply_value.send(seen);
            }
            AppMsg::ReceivedProposalPart { part, reply, .. } => {
                let value = match part.content.into_data() {
                    Some(part) => self.received(part).await?,
                    None => None,
                };
                let _ = reply.send(value);
            }
            AppMsg::Decided { certificate, reply, .. } => {
                self.decided(&certificate).await?;
                let _ = reply.send(());
            }
            AppMsg::RestreamProposal { height, round, address, value_id, .. } => {
                self.restream(height.0, defined(round), address.0, value_id).await?;
            }
            AppMsg::GetHistoryMinHeight { reply } => {
                let _ = reply.send(Height(self.application.history_min().await?));
            }
            AppMsg::GetDecidedValues { range, reply } => {
                let count = range.end().0.get().saturating_sub(range.start().0.get());
                let count = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(1);
                let blocks = self
                    .application
                    .decided(
                        range.start().0,
                        count.min(SYNC_BATCH_MAX),
                        SYNC_RESPONSE_BYTES_MAX / 2,
                    )
                    .await?;
                let values = blocks.into_iter().take(SYNC_BATCH_MAX).map(|decided| {
                    RawDecidedValue::new(decided.block.into(), to_extended(decided.certificate))
                });
                let _ = reply.send(values.collect());
            }
            AppMsg::ProcessSyncedValue { height, round, proposer, value_bytes, reply } => {
                let outcome = self.synced(height, round, proposer, &value_bytes).await?;
                let _ = reply.send(outcome);
            }
            // Extensions are disabled.
            AppMsg::ExtendVote { reply, .. } => {
                let _ = reply.send(None);
            }
            AppMsg::VerifyVoteExtensions { extensions, reply, .. } => {
                let refused = extensions
                    .into_iter()
                    .map(|(who, ())| (who, Err(VoteExtensionError::InvalidVoteExtension)));
                let _ = reply.send(refused.collect());
            }
            AppMsg::GetValue { .. } | AppMsg::Finalized { .. } => {
                return Err(LoopError::Contract("handled by the loop itself"));
            }
        }
        Ok(())
    }

    /// Prepares a height: its validators, and the bodies that were stored or came early.
    async fn start(&mut self, height: BlockHeight) -> Result<HeightParams<AyniContext>, LoopError> {
        self.validators.retain(|known, _| *known >= height);
        let validators = self
            .validators_of(height)
            .await?
            .ok_or(LoopError::Contract("no validators for the next height"))?;
        if self.proposals.height() != height {
            let stored = self.application.stored_bodies(height).await?;
            let early = self.proposals.start(height);
            for part in stored.into_iter().map(Part::new).chain(early) {
                if part.body.verify(&self.chain, validators.inner()).is_ok()
                    && self.proposals.place(&part.body) == Place::Current
                {
                    self.judge(part).await?;
                }
            }
        }
        Ok(HeightParams::new(validators, self.timeouts, None))
    }

    async fn validators_of(
        &mut self,
        height: BlockHeight,
    ) -> Result<Option<ValidatorSet>, LoopError> {
        if let Some(known) = self.validators.get(&height) {
            return Ok(Some(known.clone()));
        }
        let Some(set) = self.application.validators(height).await? else {
            return Ok(None);
        };
        let set = ValidatorSet::new(set);
        self.validators.insert(height, set.clone());
        Ok(Some(set))
    }

    /// What was already judged for this round and later ones.
    fn started_round(
        &mut self,
        height: BlockHeight,
        round: u32,
    ) -> Vec<ProposedValue<AyniContext>> {
        if height != self.proposals.height() {
            return Vec::new();
        }
        self.proposals.enter(round);
        self.proposals.since_round(round).map(proposed).collect()
    }

    /// Starts building, unless the (height, round) already has its block.
    async fn get_value(
        &mut self,
        height: Height,
        round: Round,
        timeout: Duration,
        reply: Reply<LocallyProposedValue<AyniContext>>,
    ) -> Result<Option<Build>, LoopError> {
        let (height, number) = (height.0, defined(round));
        let Some(key) = &self.key else {
            return Err(LoopError::Contract("asked to propose without a key"));
        };
        let me = key.public().validator_id();
        if let Some(body) = self.proposals.by_proposer(number, &me).cloned() {
            let value = Value(body.offer.block);
            self.publish(body).await;
            let _ = reply.send(LocallyProposedValue::new(Height(height), round, value));
            return Ok(None);
        }
        let wait_max =
            if self.is_catching_up { Duration::ZERO } else { self.block_wait.min(timeout / 2) };
        let request = BuildRequest { height, round: number, wait_max };
        let application = Arc::clone(&self.application);
        let future: Building = Box::pin(async move {
            // Too late is the same as never: the round ends without our proposal.
            match tokio::time::timeout(timeout, application.build(request)).await {
                Ok(block) => block.map(Some),
                Err(_) => Ok(None),
            }
        });
        Ok(Some(Build { height, round: number, reply, future }))
    }

    async fn built(&mut self, build: Build, block: Option<BoundBlock>) -> Result<(), LoopError> {
        let Some(block) = block else {
            tracing::warn!(height = %build.height, round = build.round, "building took too long");
            return Ok(());
        };
        if build.height != self.proposals.height() || block.header().height != build.height {
            return Ok(());
        }
        let hash = block.hash();
        let bytes = codec::encode_checked(block.block())
            .map_err(|error| ApplicationError(format!("built a block that is refused: {error}")))?;
        let body = self.offer(build.height, build.round, bytes, Arc::new(block)).await?;
        self.publish(body).await;
        let value =
            LocallyProposedValue::new(Height(build.height), Round::new(build.round), Value(hash));
        let _ = build.reply.send(value);
        Ok(())
    }

    /// Signs, stores and keeps an own body.
    async fn offer(
        &mut self,
        height: BlockHeight,
        round: u32,
        bytes: Vec<u8>,
        block: Arc<BoundBlock>,
    ) -> Result<ProposalBody, LoopError> {
        let Some(key) = &self.key else {
            return Err(LoopError::Contract("asked to propose without a key"));
        };
        let offer = BodyOffer { height, round, block: block.hash() };
        let signature = key.sign(Namespace::ProposalPart, &self.chain, &codec::encode(&offer));
        let proposer = key.public().validator_id();
        let body = ProposalBody { offer, proposer, block: bytes, signature };
        self.application.store_body(&body).await?;
        self.proposals.keep(Judged { body: body.clone(), block, is_valid: true });
        Ok(body)
    }

    async fn publish(&self, body: ProposalBody) {
        let message = NetworkMsg::PublishProposalPart(stream_message(body));
        // The channel closes only when the engine has gone.
        let _ = self.network.send(message).await;
    }

    /// A body from the network: verify, place, judge.
    async fn received(
        &mut self,
        part: Part,
    ) -> Result<Option<ProposedValue<AyniContext>>, LoopError> {
        let body = &part.body;
        let place = self.proposals.place(body);
        if place == Place::Nowhere {
            return Ok(None);
        }
        let Some(validators) = self.validators_of(body.offer.height).await? else {
            return Ok(None);
        };
        if body.verify(&self.chain, validators.inner()).is_err() {
            tracing::debug!(offer = ?body.offer, "body is not by the round's proposer");
            return Ok(None);
        }
        match place {
            Place::Current => self.judge(part).await,
            Place::Early => {
                self.proposals.keep_early(part);
                Ok(None)
            }
            Place::Nowhere => Ok(None),
        }
    }

    /// Judges a body of the current height whose signature is verified.
    async fn judge(&mut self, part: Part) -> Result<Option<ProposedValue<AyniContext>>, LoopError> {
        let Part { body, block } = part;
        let known = block.filter(|block| block.hash() == body.offer.block);
        let parsed = || BoundBlock::open(&body.block, &body.offer.block).map(Arc::new);
        let Some(block) = known.or_else(parsed) else {
            // Not the bytes of the block that was offered: says nothing about that block.
            return Ok(None);
        };
        let header = block.header();
        let is_fitting = header.height == body.offer.height && header.chain == self.chain;
        let offered = Offered::By(body.proposer);
        let is_valid =
            is_fitting && self.application.check(&block, offered).await? == BlockVerdict::Valid;
        if is_valid {
            self.application.store_body(&body).await?;
        } else {
            tracing::warn!(offer = ?body.offer, "proposed block is invalid");
        }
        let judged = Judged { body, block, is_valid };
        let value = proposed(&judged);
        self.proposals.keep(judged);
        Ok(Some(value))
    }

    async fn decided(
        &mut self,
        certificate: &EngineCertificate<AyniContext>,
    ) -> Result<(), LoopError> {
        let certificate = to_protocol_certificate(certificate);
        let hash = certificate.block;
        let was_judged = self.proposals.since_round(0).any(|j| j.body.offer.block == hash);
        self.is_catching_up = !was_judged && self.proposals.is_synced(&hash);
        let (bytes, block) = match self.proposals.block(&hash) {
            Some((bytes, block)) => (bytes.to_vec(), Arc::clone(block)),
            None => self.stored(certificate.height, &hash).await?,
        };
        self.application.commit(DecidedBlock { block: bytes, certificate }, block).await?;
        Ok(())
    }

    /// A block of which only the stored body is left.
    async fn stored(
        &self,
        height: BlockHeight,
        hash: &BlockHash,
    ) -> Result<(Vec<u8>, Arc<BoundBlock>), LoopError> {
        let stored = self.application.stored_bodies(height).await?;
        let bytes = stored
            .into_iter()
            .find(|body| body.offer.block == *hash)
            .map(|body| body.block)
            .ok_or(LoopError::Contract("decided a block that was never seen"))?;
        let block = BoundBlock::open(&bytes, hash)
            .ok_or(LoopError::Contract("decided a block that does not decode"))?;
        Ok((bytes, Arc::new(block)))
    }

    /// Offers a block again: as it was, or, when it is ours to propose in a later round, anew.
    async fn restream(
        &mut self,
        height: BlockHeight,
        round: u32,
        proposer: ValidatorId,
        block: BlockHash,
    ) -> Result<(), LoopError> {
        if height != self.proposals.height() {
            return Ok(());
        }
        if let Some(body) = self.proposals.find(round, &proposer, &block).cloned() {
            self.publish(body).await;
            return Ok(());
        }
        let is_ours = self.key.as_ref().is_some_and(|key| key.public().validator_id() == proposer);
        let known = self.proposals.block(&block);
        let known = known.map(|(bytes, block)| (bytes.to_vec(), Arc::clone(block)));
        if let (true, Some((bytes, block))) = (is_ours, known) {
            let body = self.offer(height, round, bytes, block).await?;
            self.publish(body).await;
        }
        Ok(())
    }

    /// A block whose certificate the engine has verified.
    async fn synced(
        &mut self,
        height: Height,
        round: Round,
        proposer: Address,
        bytes: &[u8],
    ) -> Result<SyncedValueOutcome<AyniContext>, LoopError> {
        if height.0 != self.proposals.height() {
            return Ok(SyncedValueOutcome::LocalTransientError);
        }
        let Ok(block) = BoundBlock::parse(bytes).map(Arc::new) else {
            return Ok(SyncedValueOutcome::PeerFault);
        };
        let hash = block.hash();
        if block.header().height != height.0 || block.header().chain != self.chain {
            return Ok(SyncedValueOutcome::PeerFault);
        }
        let verdict = self.application.check(&block, Offered::Decided).await?;
        let is_valid = verdict == BlockVerdict::Valid;
        if is_valid {
            // Before the engine writes of it into its log: after a crash in between the engine
            // decides the block again, and its bytes must be there. No signature: this is no
            // offer, and whoever reads it as one finds that it does not verify.
            let offer = BodyOffer { height: height.0, round: SYNCED_ROUND, block: hash };
            let signature = Signature::from_bytes([0; 64]);
            let body =
                ProposalBody { offer, proposer: proposer.0, block: bytes.to_vec(), signature };
            self.application.store_body(&body).await?;
        }
        self.proposals.keep_synced(bytes.to_vec(), block);
        Ok(SyncedValueOutcome::Verdict(ProposedValue {
            height,
            round,
            valid_round: Round::Nil,
            proposer,
            value: Value(hash),
            validity: Validity::from_bool(is_valid),
        }))
    }
}

fn proposed(judged: &Judged) -> ProposedValue<AyniContext> {
    ProposedValue {
        height: Height(judged.body.offer.height),
        round: Round::new(judged.body.offer.round),
        valid_round: Round::Nil,
        proposer: Address(judged.body.proposer),
        value: Value(judged.body.offer.block),
        validity: Validity::from_bool(judged.is_valid),
    }
}
