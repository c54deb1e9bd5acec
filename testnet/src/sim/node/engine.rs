//! Drives Malachite's core: inputs in, effects handled in the order and with the flushes of the
//! engine's consensus actor (arc-malachitebft-engine 0.8.2, `consensus.rs`).

use futures::FutureExt as _;
use malachite_core_consensus::{
    Effect, Error as CoreError, Input, LivenessMsg, LocallyProposedValue, Params, Resumable as _,
    Resume, SignedConsensusMsg, State, process,
};
use malachite_core_types::{
    SignedMessage, ThresholdParams, ValueOrigin, ValuePayload, VoteExtensionPolicy,
};
use malachite_signing::VerifierExt as _;
use protocol::amount::Height as BlockHeight;
use protocol::consensus::VoteKind;
use protocol::ids::{BlockHash, ValidatorId};
use protocol::keys::Namespace;
use storage::{GuardEntry, Step};

use super::super::chain;
use super::super::context::{
    Address, Height, Proposal, Signature, SimContext, ValidatorSet, Value, Vote, defined,
};
use super::super::faults::SignOrder;
use super::super::message::{Message, Request};
use super::application::{to_evidence, to_protocol_certificate};
use super::{Io, Local, Node, Proposals, Stop};

/// Heights ahead whose messages are queued: the engine's default.
const QUEUE_HEIGHTS: usize = 10;
/// Messages queued of each: the engine's default.
const QUEUE_PER_HEIGHT: usize = 500;

type Resumed = Result<Resume<SimContext>, Stop>;

/// Runs a verification of the engine's own, which never waits here.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("verifying never waits")
}

impl Node {
    /// Starts the engine at the next height, with a vote unless the node abstains.
    pub(super) fn start_engine(&mut self, io: &mut Io<'_>) -> Result<(), Stop> {
        self.until = self.disk.abstains_until();
        self.votes = self.until.is_none();
        self.local.clear();
        self.timers.clear();
        self.building = None;
        self.is_catching_up = false;
        self.proposals = Proposals::default();
        let height = self.host.height();
        self.set = ValidatorSet::new(chain::validators(&self.host));
        // Zero is no public key, so it is in no validator set.
        let nobody = Address(ValidatorId::from_bytes([0; 32]));
        let params = Params {
            address: if self.votes { self.address } else { nobody },
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: self.votes,
        };
        self.core = Some(Box::new(State::new(
            SimContext,
            Height(height),
            self.set.clone(),
            params,
            QUEUE_HEIGHTS,
            QUEUE_PER_HEIGHT,
        )));
        self.start_height(io, height)?;
        self.drain(io)
    }

    /// Starts a height and replays the engine's log of it.
    pub(super) fn start_height(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
    ) -> Result<(), Stop> {
        self.set = ValidatorSet::new(chain::validators(&self.host));
        self.start_application(io, height)?;
        let entries = if self.votes && self.set.contains(&self.address) {
            self.disk.start_wal(height)
        } else {
            self.disk.reset_wal(height);
            Vec::new()
        };
        let start = Input::StartHeight(
            Height(height),
            self.set.clone(),
            false,
            None,
            VoteExtensionPolicy::Disabled,
        );
        self.process(io, start)?;
        if !entries.is_empty() {
            io.shared.counts.replayed += 1;
            self.is_recovering = true;
            if let Some(core) = self.core.as_mut() {
                core.record_recovered_own_precommit_extensions(entries.iter());
                core.index_wal_entries(entries.iter());
            }
            let replayed = entries.into_iter().try_for_each(|entry| self.process(io, entry));
            self.is_recovering = false;
            replayed?;
            if let Some(core) = self.core.as_mut() {
                core.reset_entries_index();
            }
        }
        self.feed_sync();
        self.request_blocks(io);
        Ok(())
    }

    /// Answers of the application, in order.
    pub(super) fn drain(&mut self, io: &mut Io<'_>) -> Result<(), Stop> {
        while let Some(local) = self.local.pop_front() {
            match local {
                Local::Input(input) => self.process(io, *input)?,
                Local::Decided(certificate) => self.decided(io, certificate)?,
                Local::Finalized(height, evidence) => self.finalized(io, height, evidence)?,
            }
        }
        Ok(())
    }

    /// One input of the core.
    pub(super) fn process(
        &mut self,
        io: &mut Io<'_>,
        input: Input<SimContext>,
    ) -> Result<(), Stop> {
        let Some(mut core) = self.core.take() else { return Ok(()) };
        let metrics = io.shared.metrics.clone();
        let result: Result<(), CoreError<SimContext>> = process!(
            input: input,
            state: &mut core,
            metrics: &metrics,
            with: effect => match self.effect(io, effect) {
                Ok(resume) => Ok::<_, Stop>(resume),
                Err(stop) => return Err(stop),
            }
        );
        self.core = Some(core);
        result.map_err(|error| self.failed(io, &format!("the engine's core failed: {error}")))
    }

    fn effect(&mut self, io: &mut Io<'_>, effect: Effect<SimContext>) -> Resumed {
        match effect {
            Effect::CancelAllTimeouts(r) => {
                self.timers.clear();
                Ok(r.resume_with(()))
            }
            Effect::CancelTimeout(timeout, r) => {
                self.timers.retain(|(known, _)| *known != timeout);
                Ok(r.resume_with(()))
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.timers.retain(|(known, _)| *known != timeout);
                let id = self.next_id();
                self.timers.push((timeout, id));
                let duration = io.shared.timeouts.duration_for(timeout);
                let after = self.own_time(duration);
                io.requests.push(Request::Timer { after, id });
                Ok(r.resume_with(()))
            }
            Effect::StartRound(height, round, _, _, r) => {
                self.flush()?;
                for value in self.started_round(height.0, defined(round)) {
                    let input = Input::ProposedValue(value, ValueOrigin::Consensus);
                    self.local.push_back(Local::Input(Box::new(input)));
                }
                Ok(r.resume_with(()))
            }
            Effect::GetValue(height, round, timeout, r) => {
                let timeout = io.shared.timeouts.duration_for(timeout);
                self.get_value(io, height.0, defined(round), timeout)?;
                Ok(r.resume_with(()))
            }
            Effect::RestreamProposal(height, round, _, address, value_id, r) => {
                self.restream(io, height.0, defined(round), address.0, value_id)?;
                Ok(r.resume_with(()))
            }
            Effect::WalAppend(height, entry, r) => {
                if !self.is_recovering && self.is_validator() {
                    self.disk.append_wal(height.0, entry)?;
                }
                Ok(r.resume_with(()))
            }
            signing @ (Effect::SignVote(..) | Effect::SignProposal(..)) => self.sign(io, signing),
            sending @ (Effect::PublishConsensusMsg(..)
            | Effect::PublishLivenessMsg(..)
            | Effect::RepublishVote(..)
            | Effect::RepublishRoundCertificate(..)) => self.send(io, sending),
            ending @ (Effect::Decide(..) | Effect::Finalize(..)) => self.end(ending),
            syncing @ (Effect::CertVerifiedSyncValue(..) | Effect::CertRejectedSyncValue(..)) => {
                self.synced(io, syncing)
            }
            other => Ok(Self::verify(io, other)),
        }
    }

    fn is_validator(&self) -> bool {
        self.votes && self.set.contains(&self.address)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if !self.is_recovering && self.is_validator() {
            self.disk.flush_wal()?;
        }
        Ok(())
    }

    /// Signs what the guard allows.
    fn sign(&mut self, io: &mut Io<'_>, effect: Effect<SimContext>) -> Resumed {
        match effect {
            Effect::SignVote(vote, r) => {
                let inner = *vote.inner();
                let step = match inner.kind {
                    VoteKind::Prevote => Step::Prevote,
                    VoteKind::Precommit => Step::Precommit,
                };
                self.ask(io, inner.height, inner.round, step, inner.block)?;
                let key = &self.secrets.consensus;
                let signature = io.shared.signatures.sign(key, Namespace::Vote, &inner);
                Ok(r.resume_with(SignedMessage::<SimContext, Vote>::new(
                    vote,
                    Signature(signature),
                )))
            }
            Effect::SignProposal(proposal, r) => {
                let inner = *proposal.inner();
                self.ask(io, inner.height, inner.round, Step::Proposal, Some(inner.block))?;
                let key = &self.secrets.consensus;
                let signature = io.shared.signatures.sign(key, Namespace::Proposal, &inner);
                Ok(r.resume_with(SignedMessage::<SimContext, Proposal>::new(
                    proposal,
                    Signature(signature),
                )))
            }
            other => unreachable!("not about signing: {other:?}"),
        }
    }

    /// Asks the guard; from then on what is signed stands.
    fn ask(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
        round: u32,
        step: Step,
        value: Option<BlockHash>,
    ) -> Result<(), Stop> {
        if !self.is_honest {
            return Ok(());
        }
        if io.shared.sign_order == SignOrder::LogFirst {
            self.flush()?;
        }
        if !self.disk.allows(&GuardEntry { height, round, step, value })? {
            io.shared.counts.refused += 1;
            return Err(Stop::Refused(height));
        }
        io.shared.checks.signed(self.validator, height, round, step, value);
        Ok(())
    }

    fn send(&mut self, io: &mut Io<'_>, effect: Effect<SimContext>) -> Resumed {
        match effect {
            Effect::PublishConsensusMsg(message, r) => {
                self.flush()?;
                let message = match message {
                    SignedConsensusMsg::Vote(vote) => Message::Vote(vote.into()),
                    SignedConsensusMsg::Proposal(proposal) => Message::Proposal(proposal.into()),
                };
                self.publish(io, message)?;
                Ok(r.resume_with(()))
            }
            Effect::PublishLivenessMsg(message, r) => {
                let message = match message {
                    LivenessMsg::Vote(vote) => Message::Vote(vote.into()),
                    LivenessMsg::PolkaCertificate(certificate) => {
                        Message::Polka(certificate.into())
                    }
                    LivenessMsg::SkipRoundCertificate(certificate) => {
                        Message::Round(certificate.into())
                    }
                };
                self.publish(io, message)?;
                Ok(r.resume_with(()))
            }
            Effect::RepublishVote(vote, r) => {
                self.publish(io, Message::Vote(vote.into()))?;
                Ok(r.resume_with(()))
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.publish(io, Message::Round(certificate.into()))?;
                Ok(r.resume_with(()))
            }
            other => unreachable!("not about sending: {other:?}"),
        }
    }

    /// The application hears of these in order, after what the core is doing now.
    fn end(&mut self, effect: Effect<SimContext>) -> Resumed {
        match effect {
            Effect::Decide(certificate, _, r) => {
                self.flush()?;
                self.local.push_back(Local::Decided(to_protocol_certificate(&certificate)));
                Ok(r.resume_with(()))
            }
            Effect::Finalize(certificate, _, evidence, r) => {
                let local = Local::Finalized(certificate.height.0, to_evidence(evidence));
                self.local.push_back(local);
                Ok(r.resume_with(()))
            }
            other => unreachable!("not about ending: {other:?}"),
        }
    }

    /// Verification, by the engine's own code over remembered signatures.
    fn verify(io: &Io<'_>, effect: Effect<SimContext>) -> Resume<SimContext> {
        use malachite_core_consensus::ConsensusMsg;
        let verifier = &io.shared.signatures;
        match effect {
            Effect::VerifySignature(message, key, r) => {
                let signature = &message.signature.0;
                let holds = match &message.message {
                    ConsensusMsg::Vote(vote) => {
                        verifier.holds(&key, Namespace::Vote, vote.inner(), signature)
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        verifier.holds(&key, Namespace::Proposal, proposal.inner(), signature)
                    }
                };
                r.resume_with(holds)
            }
            Effect::VerifyCommitCertificate(certificate, set, thresholds, r) => r.resume_with(now(
                verifier.verify_commit_certificate(&SimContext, &certificate, &set, thresholds),
            )),
            Effect::VerifyExtendedCommitCertificate(certificate, set, thresholds, policy, r) => r
                .resume_with(now(verifier.verify_extended_commit_certificate(
                    &SimContext,
                    &certificate,
                    &set,
                    thresholds,
                    policy,
                ))),
            Effect::VerifyPolkaCertificate(certificate, set, thresholds, r) => r.resume_with(now(
                verifier.verify_polka_certificate(&SimContext, &certificate, &set, thresholds),
            )),
            Effect::VerifyRoundCertificate(certificate, set, thresholds, r) => r.resume_with(now(
                verifier.verify_round_certificate(&SimContext, &certificate, &set, thresholds),
            )),
            // Extensions are disabled.
            Effect::ExtendVote(.., r) => r.resume_with(None),
            Effect::VerifyVoteExtension(.., r) => r.resume_with(Err(
                malachite_core_consensus::VoteExtensionError::InvalidVoteExtension,
            )),
            other => unreachable!("handled elsewhere: {other:?}"),
        }
    }

    /// A value that the application built or built before.
    pub(super) fn propose(&mut self, height: BlockHeight, round: u32, block: BlockHash) {
        let round = malachite_core_types::Round::new(round);
        let value = LocallyProposedValue::new(Height(height), round, Value(block));
        self.local.push_back(Local::Input(Box::new(Input::Propose(value))));
    }
}
