//! First look at a gossip message: decode it, check who signed it, decide whether to forward it.
//!
//! Everything here is cheap and needs no state but the current validator set. What is malformed
//! or forged is rejected; what comes from somebody who is not a validator now (but may be one at
//! another height) is dropped without blame, since a node that is behind syncs values anyway.

use std::sync::Arc;

use malachite_app::streaming::{StreamContent, StreamMessage};
use malachite_codec::Codec;
use malachite_core_consensus::{LivenessMsg, SignedConsensusMsg};
use malachite_core_types::{SignedMessage, Validator as _, ValidatorSet as _};
use malachite_engine::network::{NetworkEvent, Status};
use protocol::block::BoundBlock;
use protocol::codec;
use protocol::keys::Namespace;

use super::codec::EngineCodec;
use super::context::{AyniContext, Part, ValidatorSet, Vote};
use super::network_actor::to_engine_peer;
use super::signing::StrictVerifier;
use crate::network::{Acceptance, GossipMessage, Topic};

/// What became of a message.
pub(super) enum Checked {
    /// Give it to the engine.
    Deliver(Box<NetworkEvent<AyniContext>>, Acceptance),
    /// Drop it.
    Drop(Acceptance),
}

/// Checks a message against the current validators.
pub(super) fn check(
    verifier: StrictVerifier,
    validators: Option<&ValidatorSet>,
    message: &mut GossipMessage,
) -> Checked {
    let Some(from) = to_engine_peer(&message.from) else {
        return Checked::Drop(Acceptance::Ignore);
    };
    let bytes = std::mem::take(&mut message.bytes).into();
    match message.topic {
        Topic::Status => {
            // A status speaks of its publisher alone and is of use to neighbours only.
            if message.source != message.from {
                return Checked::Drop(Acceptance::Ignore);
            }
            let status: malachite_sync::Status<AyniContext> = match EngineCodec.decode(bytes) {
                Ok(status) => status,
                Err(_) => return Checked::Drop(Acceptance::Reject),
            };
            if status.peer_id != from {
                return Checked::Drop(Acceptance::Reject);
            }
            let event = NetworkEvent::Status(
                from,
                Status::new(status.tip_height, status.history_min_height),
            );
            Checked::Deliver(Box::new(event), Acceptance::Ignore)
        }
        Topic::Consensus => match EngineCodec.decode(bytes) {
            Ok(SignedConsensusMsg::Vote(vote)) => {
                let acceptance = check_vote(verifier, validators, &vote);
                deliver(acceptance, || NetworkEvent::Vote(from, vote))
            }
            Ok(SignedConsensusMsg::Proposal(proposal)) => {
                let who = super::context::Address(proposal.message.inner().proposer);
                let acceptance = match validators.and_then(|set| set.get_by_address(&who)) {
                    None => Acceptance::Ignore,
                    Some(proposer) => accept_if(verifier.proposal(
                        &proposal.message,
                        &proposal.signature,
                        proposer.public_key(),
                    )),
                };
                deliver(acceptance, || NetworkEvent::Proposal(from, proposal))
            }
            Err(_) => Checked::Drop(Acceptance::Reject),
        },
        Topic::Liveness => match EngineCodec.decode(bytes) {
            Ok(LivenessMsg::Vote(vote)) => {
                let acceptance = check_vote(verifier, validators, &vote);
                deliver(acceptance, || NetworkEvent::Vote(from, vote))
            }
            // The engine verifies certificates as a whole; here their signers must be known.
            Ok(LivenessMsg::PolkaCertificate(polka)) => {
                let known =
                    polka.polka_signatures.iter().all(|entry| is_known(validators, &entry.address));
                deliver(accept_known(known), || NetworkEvent::PolkaCertificate(from, polka))
            }
            Ok(LivenessMsg::SkipRoundCertificate(round)) => {
                let known =
                    round.round_signatures.iter().all(|entry| is_known(validators, &entry.address));
                deliver(accept_known(known), || NetworkEvent::RoundCertificate(from, round))
            }
            Err(_) => Checked::Drop(Acceptance::Reject),
        },
        Topic::Parts => {
            let mut part: StreamMessage<Part> = match EngineCodec.decode(bytes) {
                Ok(part) => part,
                Err(_) => return Checked::Drop(Acceptance::Reject),
            };
            let acceptance = check_part(verifier, validators, &mut part);
            let publisher = to_engine_peer(&message.source);
            deliver(acceptance, || NetworkEvent::ProposalPart(from, publisher, part))
        }
        Topic::Transactions | Topic::Blobs => Checked::Drop(Acceptance::Ignore),
    }
}

fn deliver(acceptance: Acceptance, event: impl FnOnce() -> NetworkEvent<AyniContext>) -> Checked {
    match acceptance {
        Acceptance::Accept => Checked::Deliver(Box::new(event()), acceptance),
        Acceptance::Ignore | Acceptance::Reject => Checked::Drop(acceptance),
    }
}

fn accept_if(valid: bool) -> Acceptance {
    if valid { Acceptance::Accept } else { Acceptance::Reject }
}

fn accept_known(known: bool) -> Acceptance {
    if known { Acceptance::Accept } else { Acceptance::Ignore }
}

fn is_known(validators: Option<&ValidatorSet>, who: &super::context::Address) -> bool {
    validators.is_some_and(|set| set.get_by_address(who).is_some())
}

fn check_vote(
    verifier: StrictVerifier,
    validators: Option<&ValidatorSet>,
    vote: &SignedMessage<AyniContext, Vote>,
) -> Acceptance {
    let who = super::context::Address(vote.message.inner().validator);
    match validators.and_then(|set| set.get_by_address(&who)) {
        None => Acceptance::Ignore,
        Some(voter) => accept_if(verifier.vote(&vote.message, &vote.signature, voter.public_key())),
    }
}

/// The proposer's signature over (height, round, block) and that the bytes are that block's, so
/// that a relay cannot exchange them. Whether it is this round's proposer depends on the
/// height's own validators and is checked by the application loop.
fn check_part(
    verifier: StrictVerifier,
    validators: Option<&ValidatorSet>,
    part: &mut StreamMessage<Part>,
) -> Acceptance {
    let StreamContent::Data(Part { body, block }) = &mut part.content else {
        return Acceptance::Reject;
    };
    let who = super::context::Address(body.proposer);
    match validators.and_then(|set| set.get_by_address(&who)) {
        None => Acceptance::Ignore,
        Some(proposer) => {
            let offer = codec::encode(&body.offer);
            let signed = proposer.public_key().verify(
                Namespace::ProposalPart,
                &verifier.chain,
                &offer,
                &body.signature,
            );
            if signed.is_ok() {
                *block = BoundBlock::open(&body.block, &body.offer.block).map(Arc::new);
            }
            accept_if(block.is_some())
        }
    }
}
