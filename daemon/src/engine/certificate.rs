//! Commit certificates and evidence, between the engine's types and the protocol's.

use malachite_core_consensus::MisbehaviorEvidence;
use malachite_core_types::{
    CommitCertificate as EngineCertificate, ExtendedCommitCertificate, ExtendedCommitSignature,
    Round,
};
use protocol::block::Evidence;
use protocol::consensus::{CommitCertificate, CommitSignature};

use super::context::{Address, AyniContext, Height, Signature, defined};

/// The protocol's certificate: signatures in ascending order of validator id, nobody twice.
pub fn to_protocol_certificate(certificate: &EngineCertificate<AyniContext>) -> CommitCertificate {
    let mut signatures: Vec<CommitSignature> = certificate
        .commit_signatures
        .iter()
        .map(|entry| CommitSignature { validator: entry.address.0, signature: entry.signature.0 })
        .collect();
    signatures.sort_by_key(|entry| entry.validator);
    signatures.dedup_by_key(|entry| entry.validator);
    CommitCertificate {
        height: certificate.height.0,
        round: defined(certificate.round),
        block: certificate.value_id,
        signatures,
    }
}

/// The engine's certificate, as value sync carries it.
pub(crate) fn to_extended(
    certificate: CommitCertificate,
) -> ExtendedCommitCertificate<AyniContext> {
    ExtendedCommitCertificate {
        height: Height(certificate.height),
        round: Round::new(certificate.round),
        value_id: certificate.block,
        commit_signatures: certificate
            .signatures
            .into_iter()
            .map(|entry| {
                ExtendedCommitSignature::new(
                    Address(entry.validator),
                    Signature(entry.signature),
                    None,
                )
            })
            .collect(),
    }
}

/// Double votes as evidence. Double proposals have no evidence type in the protocol: a second
/// proposal costs a validator at most a round, its votes are what can break safety.
pub(crate) fn to_evidence(found: MisbehaviorEvidence<AyniContext>) -> Vec<Evidence> {
    let votes = found.votes.into_iter().flat_map(|(_, pairs)| pairs).map(|(a, b)| {
        Evidence::double_vote(
            (*a.message.inner(), a.signature.0),
            (*b.message.inner(), b.signature.0),
        )
    });
    let proposals = found.proposals.iter().flat_map(|(_, pairs)| pairs).map(|(a, b)| {
        Evidence::double_proposal(
            (*a.message.inner(), a.signature.0),
            (*b.message.inner(), b.signature.0),
        )
    });
    votes.chain(proposals).collect()
}
