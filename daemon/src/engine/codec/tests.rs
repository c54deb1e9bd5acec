//! The wire forms and their limits.

use super::*;

fn vote(round: u32) -> SignedConsensusMsg<AyniContext> {
    let vote = Vote::new(consensus::Vote {
        height: BlockHeight::new(3),
        round,
        kind: VoteKind::Precommit,
        block: Some(BlockHash::from_bytes([5; 32])),
        validator: ValidatorId::from_bytes([6; 32]),
    });
    let signature = Signature(protocol::keys::Signature::from_bytes([7; 64]));
    SignedConsensusMsg::Vote(SignedMessage::new(vote, signature))
}

#[test]
fn votes_round_trip_and_absurd_rounds_are_refused() {
    let bytes = EngineCodec.encode(&vote(2)).expect("encodes");
    assert_eq!(EngineCodec.decode(bytes), Ok(vote(2)));
    let bytes = EngineCodec.encode(&vote(u32::MAX)).expect("encodes");
    let decoded: Outcome<SignedConsensusMsg<AyniContext>> = EngineCodec.decode(bytes);
    assert_eq!(decoded, Err(EngineCodecError::Limit("round")));
}

#[test]
fn the_wire_form_of_a_vote_is_pinned() {
    let bytes = EngineCodec.encode(&vote(2)).expect("encodes");
    let hash = protocol::ids::ContentHash::of(&bytes);
    assert_eq!((bytes.len(), hash.short().as_str()), (133, "ea45062c"));
}

#[test]
fn ranges_and_batches_are_bounded() {
    let request = Request::ValueRequest(ValueRequest::new(
        Height(BlockHeight::new(9))..=Height(BlockHeight::new(8)),
    ));
    let bytes = EngineCodec.encode(&request).expect("encodes");
    let decoded: Outcome<Request<AyniContext>> = EngineCodec.decode(bytes);
    assert_eq!(decoded, Err(EngineCodecError::Limit("start of a range")));

    let certificate = consensus::CommitCertificate {
        height: BlockHeight::new(1),
        round: 0,
        block: BlockHash::default(),
        signatures: Vec::new(),
    };
    let values = |count| {
        let value = RawDecidedValue::new(Bytes::new(), to_extended(certificate.clone()));
        let values = vec![value; count];
        Response::ValueResponse(ValueResponse::new(Height(BlockHeight::new(1)), values))
    };
    let bytes = EngineCodec.encode(&values(SYNC_BATCH_MAX)).expect("encodes");
    assert_eq!(EngineCodec.encoded_len(&values(SYNC_BATCH_MAX)), Ok(bytes.len()));
    assert_eq!(EngineCodec.decode(bytes), Ok(values(SYNC_BATCH_MAX)));
    let bytes = EngineCodec.encode(&values(SYNC_BATCH_MAX + 1)).expect("encodes");
    let decoded: Outcome<Response<AyniContext>> = EngineCodec.decode(bytes);
    assert_eq!(decoded, Err(EngineCodecError::Limit("values")));
}
