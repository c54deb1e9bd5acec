//! Signing and verifying for the engine.
//!
//! Signed are the canonical bytes of `protocol::consensus` types in their namespace, so whoever
//! knows the protocol can check what the engine made. Before each vote and proposal the signer
//! asks a [`VoteGuard`], which remembers on disk what was signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use malachite_core_types::{SignedMessage, ValidatorProof, VoteExtensionScope};
use malachite_signing::{Error, Signer, VerificationResult, Verifier};
use protocol::amount::Height;
use protocol::codec;
use protocol::consensus::VoteKind;
use protocol::ids::{BlockHash, ChainId};
use protocol::keys::{Namespace, PublicKey, SecretKey};
use thiserror::Error as ThisError;
use tokio::sync::watch;

use super::context::{AyniContext, Proposal, Signature, Vote};

/// What is about to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuardStep {
    /// A proposal.
    Propose,
    /// A prevote.
    Prevote,
    /// A precommit.
    Precommit,
}

/// The guard could not tell or could not remember.
#[derive(Debug, ThisError)]
#[error("the vote guard failed: {0}")]
pub struct GuardError(pub String);

/// Remembers what was signed, so that nothing is signed twice.
///
/// `allow` is called before a signature is made and must not return `Ok(true)` before the
/// decision is on disk. For one (height, round, step) it allows exactly one value, as often as it
/// is asked; it never allows a (height, round, step) below one it has allowed before that it has
/// forgotten. It may block for one disk write: it runs on a blocking thread.
pub trait VoteGuard: Send + Sync + 'static {
    /// Whether `value` (nil is `None`) may be signed.
    ///
    /// # Errors
    /// When the answer cannot be known or made durable; treated as a refusal.
    fn allow(
        &self,
        height: Height,
        round: u32,
        step: GuardStep,
        value: Option<BlockHash>,
    ) -> Result<bool, GuardError>;

    /// The highest height at which something was allowed and is still remembered. Above the last
    /// decided one without the engine's log, the engine does not know what it is locked on.
    fn highest(&self) -> Option<Height>;
}

/// Why the signer did not sign.
#[derive(Debug, ThisError)]
enum Refused {
    #[error("already signed something else at height {height}, round {round}, {step:?}")]
    Contradiction { height: Height, round: u32, step: GuardStep },
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("the signing thread failed: {0}")]
    Thread(String),
}

/// Signs with the consensus key what the guard allows.
///
/// A refusal is an error. The engine (0.8.2) cannot continue a height without the signature it
/// asked for, so its consensus actor fails; the height is left in `refusals`, and the supervisor
/// in [`mod@super::start`] restarts the engine without a vote until that height is final.
#[derive(Clone)]
pub(crate) struct GuardedSigner {
    pub(crate) chain: ChainId,
    pub(crate) key: SecretKey,
    pub(crate) guard: Arc<dyn VoteGuard>,
    pub(crate) refusals: watch::Sender<Option<Height>>,
    pub(crate) refused: Arc<AtomicU64>,
}

impl GuardedSigner {
    async fn ask(
        &self,
        height: Height,
        round: u32,
        step: GuardStep,
        value: Option<BlockHash>,
    ) -> Result<(), Error> {
        let guard = Arc::clone(&self.guard);
        let asked =
            tokio::task::spawn_blocking(move || guard.allow(height, round, step, value)).await;
        let refused = match asked {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => Refused::Contradiction { height, round, step },
            Ok(Err(error)) => Refused::Guard(error),
            Err(error) => Refused::Thread(error.to_string()),
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%height, round, ?step, error = %refused, "refusing to sign");
        self.refusals.send_replace(Some(height));
        Err(Error::from_source(Box::new(refused) as Box<dyn std::error::Error + Send + Sync>))
    }

    fn sign<T: codec::Canonical>(&self, namespace: Namespace, value: &T) -> Signature {
        Signature(self.key.sign(namespace, &self.chain, &codec::encode(value)))
    }
}

#[async_trait]
impl Signer<AyniContext> for GuardedSigner {
    async fn sign_vote(&self, vote: Vote) -> Result<SignedMessage<AyniContext, Vote>, Error> {
        let inner = vote.inner();
        let step = match inner.kind {
            VoteKind::Prevote => GuardStep::Prevote,
            VoteKind::Precommit => GuardStep::Precommit,
        };
        self.ask(inner.height, inner.round, step, inner.block).await?;
        let signature = self.sign(Namespace::Vote, inner);
        Ok(SignedMessage::new(vote, signature))
    }

    async fn sign_proposal(
        &self,
        proposal: Proposal,
    ) -> Result<SignedMessage<AyniContext, Proposal>, Error> {
        let inner = proposal.inner();
        self.ask(inner.height, inner.round, GuardStep::Propose, Some(inner.block)).await?;
        let signature = self.sign(Namespace::Proposal, inner);
        Ok(SignedMessage::new(proposal, signature))
    }

    /// Extensions are disabled; asked nevertheless, there is nothing to sign.
    async fn sign_vote_extension(
        &self,
        _: VoteExtensionScope<AyniContext>,
        (): (),
    ) -> Result<SignedMessage<AyniContext, ()>, Error> {
        Err(Error::new())
    }

    /// The engine's own network would send these; ours does not.
    async fn sign_validator_proof(
        &self,
        _: Vec<u8>,
        _: Vec<u8>,
    ) -> Result<ValidatorProof<AyniContext>, Error> {
        Err(Error::new())
    }
}

/// Verifies strictly, in the namespace of each message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StrictVerifier {
    pub(crate) chain: ChainId,
}

impl StrictVerifier {
    pub(crate) fn vote(&self, vote: &Vote, signature: &Signature, key: &PublicKey) -> bool {
        let payload = codec::encode(vote.inner());
        key.verify(Namespace::Vote, &self.chain, &payload, &signature.0).is_ok()
    }

    pub(crate) fn proposal(
        &self,
        proposal: &Proposal,
        signature: &Signature,
        key: &PublicKey,
    ) -> bool {
        let payload = codec::encode(proposal.inner());
        key.verify(Namespace::Proposal, &self.chain, &payload, &signature.0).is_ok()
    }
}

#[async_trait]
impl Verifier<AyniContext> for StrictVerifier {
    async fn verify_signed_vote(
        &self,
        vote: &Vote,
        signature: &Signature,
        key: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::from_bool(self.vote(vote, signature, key)))
    }

    async fn verify_signed_proposal(
        &self,
        proposal: &Proposal,
        signature: &Signature,
        key: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::from_bool(self.proposal(proposal, signature, key)))
    }

    async fn verify_signed_vote_extension(
        &self,
        _: &VoteExtensionScope<AyniContext>,
        (): &(),
        _: &Signature,
        _: &PublicKey,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::Invalid)
    }

    async fn verify_validator_proof(
        &self,
        _: &ValidatorProof<AyniContext>,
    ) -> Result<VerificationResult, Error> {
        Ok(VerificationResult::Invalid)
    }
}
