//! Signatures: real ed25519, each made and verified once in the whole simulated network.
//!
//! What our own signer made is known to verify; anything else is verified for real at its first
//! meeting and remembered by (signature, key, namespace, payload), so that nothing that was
//! tampered with can pass for what was signed. Certificates are judged by the engine's own code
//! (`malachite_signing::VerifierExt`) on top of this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use malachite_core_types::{ValidatorProof, VoteExtensionScope};
use malachite_signing::{Error, VerificationResult, Verifier};
use protocol::codec::{self, Canonical};
use protocol::consensus::{CommitCertificate, ValidatorSet, Vote as ProtocolVote, VoteKind};
use protocol::ids::{ChainId, TransactionHash};
use protocol::keys::{Namespace, PublicKey, SecretKey, Signature as RawSignature};
use protocol::transaction::{SignedTransaction, VerifiedTransaction};

use super::context::{Proposal, Signature, SimContext, Vote};

/// One signature's question and its answer.
#[derive(Debug)]
struct Known {
    key: PublicKey,
    namespace: Namespace,
    payload: Vec<u8>,
    is_good: bool,
}

#[derive(Debug, Default)]
struct Memory {
    signatures: BTreeMap<[u8; 64], Known>,
    transactions: BTreeMap<TransactionHash, Option<VerifiedTransaction>>,
}

/// Signs and verifies for every node of one simulated network.
#[derive(Clone, Debug)]
pub(super) struct Signatures {
    chain: ChainId,
    memory: Arc<Mutex<Memory>>,
}

impl Signatures {
    pub(super) fn new(chain: ChainId) -> Self {
        Self { chain, memory: Arc::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs the canonical bytes of `value`.
    pub(super) fn sign<T: Canonical>(
        &self,
        key: &SecretKey,
        namespace: Namespace,
        value: &T,
    ) -> RawSignature {
        let payload = codec::encode(value);
        let signature = key.sign(namespace, &self.chain, &payload);
        let known = Known { key: key.public(), namespace, payload, is_good: true };
        self.memory().signatures.insert(*signature.as_bytes(), known);
        signature
    }

    /// Whether `signature` is `key`'s over the canonical bytes of `value`.
    pub(super) fn holds<T: Canonical>(
        &self,
        key: &PublicKey,
        namespace: Namespace,
        value: &T,
        signature: &RawSignature,
    ) -> bool {
        let payload = codec::encode(value);
        let mut memory = self.memory();
        if let Some(known) = memory.signatures.get(signature.as_bytes())
            && known.key == *key
            && known.namespace == namespace
            && known.payload == payload
        {
            return known.is_good;
        }
        let is_good = key.verify(namespace, &self.chain, &payload, signature).is_ok();
        let known = Known { key: *key, namespace, payload, is_good };
        memory.signatures.insert(*signature.as_bytes(), known);
        is_good
    }

    /// What `CommitCertificate::verify` decides, each signature verified once.
    pub(super) fn certifies(&self, certificate: &CommitCertificate, set: &ValidatorSet) -> bool {
        let mut previous = None;
        let mut signed: u64 = 0;
        for entry in &certificate.signatures {
            if previous.is_some_and(|p| p >= entry.validator) {
                return false;
            }
            previous = Some(entry.validator);
            let Some(validator) = set.get(&entry.validator) else { return false };
            let vote = ProtocolVote {
                height: certificate.height,
                round: certificate.round,
                kind: VoteKind::Precommit,
                block: Some(certificate.block),
                validator: entry.validator,
            };
            if !self.holds(&validator.key, Namespace::Vote, &vote, &entry.signature) {
                return false;
            }
            signed = signed.saturating_add(validator.power.get());
        }
        set.is_quorum(signed)
    }

    /// A transaction with verified signatures, or nothing.
    pub(super) fn transaction(&self, signed: &SignedTransaction) -> Option<VerifiedTransaction> {
        let hash = signed.hash();
        if let Some(known) = self.memory().transactions.get(&hash) {
            return known.clone();
        }
        let verified = signed.clone().verify(&self.chain).ok();
        self.memory().transactions.insert(hash, verified.clone());
        verified
    }
}

#[async_trait]
impl Verifier<SimContext> for Signatures {
    async fn verify_signed_vote(
        &self,
        vote: &Vote,
        signature: &Signature,
        key: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        let holds = self.holds(key, Namespace::Vote, vote.inner(), &signature.0);
        Ok(VerificationResult::from_bool(holds))
    }

    async fn verify_signed_proposal(
        &self,
        proposal: &Proposal,
        signature: &Signature,
        key: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        let holds = self.holds(key, Namespace::Proposal, proposal.inner(), &signature.0);
        Ok(VerificationResult::from_bool(holds))
    }

    /// Extensions are disabled.
    async fn verify_signed_vote_extension(
        &self,
        _: &VoteExtensionScope<SimContext>,
        (): &(),
        _: &Signature,
        _: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::Invalid)
    }

    /// Our network does not exchange these.
    async fn verify_validator_proof(
        &self,
        _: &ValidatorProof<SimContext>,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use protocol::amount::Height;
    use protocol::ids::BlockHash;

    use super::*;

    fn vote(block: u8) -> ProtocolVote {
        let key = SecretKey::from_seed(&[1; 32]).public();
        ProtocolVote {
            height: Height::new(3),
            round: 0,
            kind: VoteKind::Prevote,
            block: Some(BlockHash::from_bytes([block; 32])),
            validator: key.validator_id(),
        }
    }

    #[test]
    fn memory_never_lets_a_signature_stand_for_something_else() {
        let key = SecretKey::from_seed(&[1; 32]);
        let (public, other) = (key.public(), SecretKey::from_seed(&[2; 32]).public());
        let signatures = Signatures::new(ChainId::from_bytes([7; 32]));
        let signature = signatures.sign(&key, Namespace::Vote, &vote(1));
        for _ in 0..2 {
            assert!(signatures.holds(&public, Namespace::Vote, &vote(1), &signature));
            assert!(!signatures.holds(&public, Namespace::Vote, &vote(2), &signature));
            assert!(!signatures.holds(&other, Namespace::Vote, &vote(1), &signature));
            assert!(!signatures.holds(&public, Namespace::Proposal, &vote(1), &signature));
        }
        let elsewhere = Signatures::new(ChainId::from_bytes([8; 32]));
        assert!(!elsewhere.holds(&public, Namespace::Vote, &vote(1), &signature));
    }
}
