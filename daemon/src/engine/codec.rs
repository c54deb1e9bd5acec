//! Everything the engine writes to its log or to peers, as canonical bytes of own wire types.
//!
//! Decoding bounds sizes, counts and rounds before the engine sees a value. Stream messages carry
//! exactly one part, so their stream id and sequence number follow from the part and do not
//! travel.

use bytes::Bytes;
use malachite_app::streaming::{StreamContent, StreamId, StreamMessage};
use malachite_codec::{Codec, HasEncodedLen};
use malachite_core_consensus::{LivenessMsg, ProposedValue, SignedConsensusMsg};
use malachite_core_types::{
    NilOrVal, PolkaCertificate, PolkaSignature, Round, RoundCertificate, RoundCertificateType,
    RoundSignature, SignedMessage, ValidatorProof, Validity, VoteType,
};
use malachite_sync::{RawDecidedValue, Request, Response, Status, ValueRequest, ValueResponse};
use protocol::amount::Height as BlockHeight;
use protocol::block::DecidedBlock;
use protocol::codec::{self, Canonical, CodecError};
use protocol::consensus::{self, ProposalBody, VoteKind};
use protocol::ids::{BlockHash, ValidatorId};
use protocol::limits::VALIDATORS_MAX;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::certificate::{to_extended, to_protocol_certificate};
use super::context::{
    Address, AyniContext, Height, Part, Proposal, ROUND_MAX, Signature, Value, Vote, vote_type,
};
use crate::network::wire::{SYNC_REQUEST_BYTES_MAX, SYNC_RESPONSE_BYTES_MAX};

/// Decided blocks in one sync response.
pub const SYNC_BATCH_MAX: usize = 5;

/// Encodes and decodes for the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineCodec;

/// Why bytes or a value were refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EngineCodecError {
    /// Not canonical bytes of the type, or too many.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// More entries or a higher round than the protocol allows.
    #[error("{0} is above its limit")]
    Limit(&'static str),
    /// The engine's value has no wire form.
    #[error("{0} has no wire form")]
    Unsupported(&'static str),
}

type Outcome<T> = Result<T, EngineCodecError>;

#[derive(Serialize, Deserialize)]
struct WireVote(consensus::Vote, protocol::keys::Signature);

#[derive(Serialize, Deserialize)]
enum WireConsensus {
    Vote(WireVote),
    Proposal(consensus::Proposal, protocol::keys::Signature),
}

impl Canonical for WireConsensus {
    const BYTES_MAX: usize = 256;
}

#[derive(Serialize, Deserialize)]
struct WirePolka {
    height: BlockHeight,
    round: u32,
    block: BlockHash,
    signatures: Vec<(ValidatorId, protocol::keys::Signature)>,
}

impl Canonical for WirePolka {
    const BYTES_MAX: usize = 128 * VALIDATORS_MAX + 128;
}

#[derive(Serialize, Deserialize)]
struct WireRound {
    height: BlockHeight,
    round: u32,
    is_skip: bool,
    signatures: Vec<(VoteKind, Option<BlockHash>, ValidatorId, protocol::keys::Signature)>,
}

#[derive(Serialize, Deserialize)]
enum WireLiveness {
    Vote(WireVote),
    Polka(WirePolka),
    Round(WireRound),
}

impl Canonical for WireLiveness {
    // A skip certificate may hold a prevote and a precommit of everybody.
    const BYTES_MAX: usize = 2 * 160 * VALIDATORS_MAX + 128;
}

#[derive(Serialize, Deserialize)]
struct WireProposed {
    height: BlockHeight,
    round: u32,
    valid_round: Option<u32>,
    proposer: ValidatorId,
    block: BlockHash,
    is_valid: bool,
}

impl Canonical for WireProposed {
    const BYTES_MAX: usize = 128;
}

#[derive(Serialize, Deserialize)]
struct WireStatus {
    peer: Vec<u8>,
    tip: BlockHeight,
    history_min: BlockHeight,
}

impl Canonical for WireStatus {
    const BYTES_MAX: usize = 128;
}

#[derive(Serialize, Deserialize)]
struct WireRequest {
    start: BlockHeight,
    end: BlockHeight,
}

impl Canonical for WireRequest {
    const BYTES_MAX: usize = SYNC_REQUEST_BYTES_MAX;
}

#[derive(Serialize, Deserialize)]
struct WireResponse {
    start: BlockHeight,
    values: Vec<DecidedBlock>,
}

impl Canonical for WireResponse {
    const BYTES_MAX: usize = SYNC_RESPONSE_BYTES_MAX;
}

const _: () = assert!(SYNC_BATCH_MAX * DecidedBlock::BYTES_MAX + 16 <= SYNC_RESPONSE_BYTES_MAX);

fn bytes<T: Canonical>(value: &T) -> Outcome<Bytes> {
    Ok(codec::encode_checked(value)?.into())
}

fn round(round: u32) -> Outcome<Round> {
    if round > ROUND_MAX {
        return Err(EngineCodecError::Limit("round"));
    }
    Ok(Round::new(round))
}

fn number(round: Round) -> Outcome<u32> {
    round.as_u32().ok_or(EngineCodecError::Unsupported("a nil round"))
}

impl WireVote {
    fn new(vote: &SignedMessage<AyniContext, Vote>) -> Self {
        Self(*vote.message.inner(), vote.signature.0)
    }

    fn open(self) -> Outcome<SignedMessage<AyniContext, Vote>> {
        round(self.0.round)?;
        Ok(SignedMessage::new(Vote::new(self.0), Signature(self.1)))
    }
}

impl WirePolka {
    fn new(certificate: &PolkaCertificate<AyniContext>) -> Outcome<Self> {
        Ok(Self {
            height: certificate.height.0,
            round: number(certificate.round)?,
            block: certificate.value_id,
            signatures: certificate
                .polka_signatures
                .iter()
                .map(|entry| (entry.address.0, entry.signature.0))
                .collect(),
        })
    }

    fn open(self) -> Outcome<PolkaCertificate<AyniContext>> {
        if self.signatures.len() > VALIDATORS_MAX {
            return Err(EngineCodecError::Limit("signatures"));
        }
        let signatures = self.signatures.into_iter();
        Ok(PolkaCertificate {
            height: Height(self.height),
            round: round(self.round)?,
            value_id: self.block,
            polka_signatures: signatures
                .map(|(who, signature)| PolkaSignature::new(Address(who), Signature(signature)))
                .collect(),
        })
    }
}

impl WireRound {
    fn new(certificate: &RoundCertificate<AyniContext>) -> Outcome<Self> {
        let signatures = certificate.round_signatures.iter().map(|entry| {
            let kind = match entry.vote_type {
                VoteType::Prevote => VoteKind::Prevote,
                VoteType::Precommit => VoteKind::Precommit,
            };
            let block = match entry.value_id {
                NilOrVal::Nil => None,
                NilOrVal::Val(block) => Some(block),
            };
            (kind, block, entry.address.0, entry.signature.0)
        });
        Ok(Self {
            height: certificate.height.0,
            round: number(certificate.round)?,
            is_skip: certificate.cert_type == RoundCertificateType::Skip,
            signatures: signatures.collect(),
        })
    }

    fn open(self) -> Outcome<RoundCertificate<AyniContext>> {
        if self.signatures.len() > 2 * VALIDATORS_MAX {
            return Err(EngineCodecError::Limit("signatures"));
        }
        let signatures = self.signatures.into_iter().map(|(kind, block, who, signature)| {
            RoundSignature::new(
                vote_type(kind),
                block.map_or(NilOrVal::Nil, NilOrVal::Val),
                Address(who),
                Signature(signature),
            )
        });
        Ok(RoundCertificate {
            height: Height(self.height),
            round: round(self.round)?,
            cert_type: if self.is_skip {
                RoundCertificateType::Skip
            } else {
                RoundCertificateType::Precommit
            },
            round_signatures: signatures.collect(),
        })
    }
}

/// The one stream message of a body. The id names (height, round, block), so that two bodies of
/// one proposer are two streams.
pub(crate) fn stream_message(body: ProposalBody) -> StreamMessage<Part> {
    let id = StreamId::new(codec::encode(&body.offer).into());
    StreamMessage::new(id, 0, StreamContent::Data(Part::new(body)))
}

impl Codec<Part> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<Part> {
        let body: ProposalBody = codec::decode(&input)?;
        round(body.offer.round)?;
        Ok(Part::new(body))
    }

    fn encode(&self, part: &Part) -> Outcome<Bytes> {
        bytes(&part.body)
    }
}

impl Codec<StreamMessage<Part>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<StreamMessage<Part>> {
        let part: Part = self.decode(input)?;
        Ok(stream_message(part.body))
    }

    fn encode(&self, message: &StreamMessage<Part>) -> Outcome<Bytes> {
        match &message.content {
            StreamContent::Data(part) => self.encode(part),
            StreamContent::Fin => Err(EngineCodecError::Unsupported("the end of a stream")),
        }
    }
}

impl Codec<SignedConsensusMsg<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<SignedConsensusMsg<AyniContext>> {
        Ok(match codec::decode(&input)? {
            WireConsensus::Vote(vote) => SignedConsensusMsg::Vote(vote.open()?),
            WireConsensus::Proposal(proposal, signature) => {
                round(proposal.round)?;
                round(proposal.pol_round.unwrap_or(0))?;
                SignedConsensusMsg::Proposal(SignedMessage::new(
                    Proposal::new(proposal),
                    Signature(signature),
                ))
            }
        })
    }

    fn encode(&self, message: &SignedConsensusMsg<AyniContext>) -> Outcome<Bytes> {
        bytes(&match message {
            SignedConsensusMsg::Vote(vote) => WireConsensus::Vote(WireVote::new(vote)),
            SignedConsensusMsg::Proposal(proposal) => {
                WireConsensus::Proposal(*proposal.message.inner(), proposal.signature.0)
            }
        })
    }
}

impl Codec<LivenessMsg<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<LivenessMsg<AyniContext>> {
        Ok(match codec::decode(&input)? {
            WireLiveness::Vote(vote) => LivenessMsg::Vote(vote.open()?),
            WireLiveness::Polka(polka) => LivenessMsg::PolkaCertificate(polka.open()?),
            WireLiveness::Round(round) => LivenessMsg::SkipRoundCertificate(round.open()?),
        })
    }

    fn encode(&self, message: &LivenessMsg<AyniContext>) -> Outcome<Bytes> {
        bytes(&match message {
            LivenessMsg::Vote(vote) => WireLiveness::Vote(WireVote::new(vote)),
            LivenessMsg::PolkaCertificate(polka) => WireLiveness::Polka(WirePolka::new(polka)?),
            LivenessMsg::SkipRoundCertificate(round) => WireLiveness::Round(WireRound::new(round)?),
        })
    }
}

impl Codec<PolkaCertificate<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<PolkaCertificate<AyniContext>> {
        codec::decode::<WirePolka>(&input)?.open()
    }

    fn encode(&self, certificate: &PolkaCertificate<AyniContext>) -> Outcome<Bytes> {
        bytes(&WirePolka::new(certificate)?)
    }
}

impl Codec<ProposedValue<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<ProposedValue<AyniContext>> {
        let wire: WireProposed = codec::decode(&input)?;
        Ok(ProposedValue {
            height: Height(wire.height),
            round: round(wire.round)?,
            valid_round: wire.valid_round.map_or(Ok(Round::Nil), round)?,
            proposer: Address(wire.proposer),
            value: Value(wire.block),
            validity: Validity::from_bool(wire.is_valid),
        })
    }

    fn encode(&self, value: &ProposedValue<AyniContext>) -> Outcome<Bytes> {
        bytes(&WireProposed {
            height: value.height.0,
            round: number(value.round)?,
            valid_round: value.valid_round.as_u32(),
            proposer: value.proposer.0,
            block: value.value.0,
            is_valid: value.validity.is_valid(),
        })
    }
}

impl Codec<Status<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<Status<AyniContext>> {
        let wire: WireStatus = codec::decode(&input)?;
        let peer_id = malachite_peer::PeerId::from_bytes(&wire.peer)
            .map_err(|_| EngineCodecError::Unsupported("this peer id"))?;
        Ok(Status {
            peer_id,
            tip_height: Height(wire.tip),
            history_min_height: Height(wire.history_min),
        })
    }

    fn encode(&self, status: &Status<AyniContext>) -> Outcome<Bytes> {
        bytes(&WireStatus {
            peer: status.peer_id.to_bytes(),
            tip: status.tip_height.0,
            history_min: status.history_min_height.0,
        })
    }
}

impl Codec<Request<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<Request<AyniContext>> {
        let wire: WireRequest = codec::decode(&input)?;
        if wire.end < wire.start {
            return Err(EngineCodecError::Limit("start of a range"));
        }
        Ok(Request::ValueRequest(ValueRequest::new(Height(wire.start)..=Height(wire.end))))
    }

    fn encode(&self, request: &Request<AyniContext>) -> Outcome<Bytes> {
        let Request::ValueRequest(request) = request;
        bytes(&WireRequest { start: request.range.start().0, end: request.range.end().0 })
    }
}

impl Codec<Response<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, input: Bytes) -> Outcome<Response<AyniContext>> {
        let wire: WireResponse = codec::decode(&input)?;
        if wire.values.len() > SYNC_BATCH_MAX {
            return Err(EngineCodecError::Limit("values"));
        }
        let mut values = Vec::with_capacity(wire.values.len());
        for decided in wire.values {
            if decided.certificate.signatures.len() > VALIDATORS_MAX {
                return Err(EngineCodecError::Limit("signatures"));
            }
            round(decided.certificate.round)?;
            values
                .push(RawDecidedValue::new(decided.block.into(), to_extended(decided.certificate)));
        }
        Ok(Response::ValueResponse(ValueResponse::new(Height(wire.start), values)))
    }

    fn encode(&self, response: &Response<AyniContext>) -> Outcome<Bytes> {
        bytes(&wire_response(response))
    }
}

impl HasEncodedLen<Response<AyniContext>> for EngineCodec {
    fn encoded_len(&self, response: &Response<AyniContext>) -> Outcome<usize> {
        Ok(codec::encode(&wire_response(response)).len())
    }
}

fn wire_response(response: &Response<AyniContext>) -> WireResponse {
    let Response::ValueResponse(response) = response;
    let values = response.values.iter().map(|value| DecidedBlock {
        block: value.value_bytes.to_vec(),
        certificate: to_protocol_certificate(&value.certificate.trim_vote_extensions()),
    });
    WireResponse { start: response.start_height.0, values: values.collect() }
}

/// Our network does not carry validator proofs: a vote's own signature says who voted.
impl Codec<ValidatorProof<AyniContext>> for EngineCodec {
    type Error = EngineCodecError;

    fn decode(&self, _: Bytes) -> Outcome<ValidatorProof<AyniContext>> {
        Err(EngineCodecError::Unsupported("a validator proof"))
    }

    fn encode(&self, _: &ValidatorProof<AyniContext>) -> Outcome<Bytes> {
        Err(EngineCodecError::Unsupported("a validator proof"))
    }
}

#[cfg(test)]
mod tests;
