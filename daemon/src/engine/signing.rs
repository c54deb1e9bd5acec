//! Signing and verifying for the engine.
//!
//! Signed are the canonical bytes of `protocol::consensus` types in their namespace, so whoever
//! knows the protocol can check what the engine made. Before each vote and proposal the signer
//! syncs the engine's log and then asks a [`VoteGuard`], which remembers on disk what was signed.
//!
//! **Invariant.** What led to a signature is durable before the guard knows of the signature. The
//! other way round, a crash between the two leaves a node whose log leads it to another vote: the
//! guard refuses it and the node is silent for the height, and two such in four halt the chain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use malachite_core_types::{SignedMessage, ValidatorProof, VoteExtensionScope};
use malachite_engine::wal::{Msg as LogMessage, WalRef};
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
    #[error("the consensus log cannot be synced: {0}")]
    Log(String),
    #[error("the signing thread failed: {0}")]
    Thread(String),
}

/// The engine's log, which the engine opens by itself and after the signer is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct EngineLog(Arc<OnceLock<WalRef<AyniContext>>>);

impl EngineLog {
    /// Tells of the log; to be called before the engine starts a height.
    pub(crate) fn set(&self, log: WalRef<AyniContext>) {
        // A second one would be another engine's, which has a signer of its own.
        let _ = self.0.set(log);
    }

    async fn sync(&self) -> Result<(), Refused> {
        let log = self.0.get().ok_or_else(|| Refused::Log("it is not open".to_owned()))?;
        let answered = log.call(LogMessage::Flush, None).await;
        match answered {
            Ok(ractor::rpc::CallResult::Success(synced)) => {
                synced.map_err(|error| Refused::Log(error.to_string()))
            }
            Ok(_) => Err(Refused::Log("it was closed".to_owned())),
            Err(error) => Err(Refused::Log(error.to_string())),
        }
    }
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
    pub(crate) log: EngineLog,
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
        let Err(refused) = self.record(height, round, step, value).await else { return Ok(()) };
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%height, round, ?step, error = %refused, "refusing to sign");
        self.refusals.send_replace(Some(height));
        Err(Error::from_source(Box::new(refused) as Box<dyn std::error::Error + Send + Sync>))
    }

    async fn record(
        &self,
        height: Height,
        round: u32,
        step: GuardStep,
        value: Option<BlockHash>,
    ) -> Result<(), Refused> {
        self.log.sync().await?;
        let guard = Arc::clone(&self.guard);
        let asked =
            tokio::task::spawn_blocking(move || guard.allow(height, round, step, value)).await;
        match asked.map_err(|error| Refused::Thread(error.to_string()))?? {
            true => Ok(()),
            false => Err(Refused::Contradiction { height, round, step }),
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use protocol::consensus;
    use ractor::{Actor, ActorProcessingErr, ActorRef};

    use super::*;

    type Order = Arc<Mutex<Vec<&'static str>>>;

    /// A log that notes when it is synced, and may fail to.
    struct NotingLog {
        order: Order,
        is_full: bool,
    }

    #[async_trait]
    impl Actor for NotingLog {
        type Msg = LogMessage<AyniContext>;
        type State = ();
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<Self::Msg>,
            (): (),
        ) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<Self::Msg>,
            message: Self::Msg,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            if let LogMessage::Flush(reply) = message {
                self.order.lock().expect("no panic").push("log");
                let answer = if self.is_full { Err(eyre::eyre!("disk full")) } else { Ok(()) };
                reply.send(answer)?;
            }
            Ok(())
        }
    }

    struct NotingGuard(Order);

    impl VoteGuard for NotingGuard {
        fn allow(
            &self,
            _: Height,
            _: u32,
            _: GuardStep,
            value: Option<BlockHash>,
        ) -> Result<bool, GuardError> {
            self.0.lock().expect("no panic").push("guard");
            Ok(value.is_none())
        }

        fn highest(&self) -> Option<Height> {
            None
        }
    }

    fn vote(block: Option<BlockHash>) -> Vote {
        Vote::new(consensus::Vote {
            height: Height::new(1),
            round: 0,
            kind: VoteKind::Prevote,
            block,
            validator: SecretKey::from_seed(&[3; 32]).public().validator_id(),
        })
    }

    async fn signer(log: Option<bool>) -> (GuardedSigner, Order) {
        let order = Order::default();
        let signer = GuardedSigner {
            chain: ChainId::from_bytes([1; 32]),
            key: SecretKey::from_seed(&[3; 32]),
            log: EngineLog::default(),
            guard: Arc::new(NotingGuard(Arc::clone(&order))),
            refusals: watch::Sender::new(None),
            refused: Arc::default(),
        };
        if let Some(is_full) = log {
            let actor = NotingLog { order: Arc::clone(&order), is_full };
            let (log, _) = Actor::spawn(None, actor, ()).await.expect("spawns");
            signer.log.set(log);
        }
        (signer, order)
    }

    #[tokio::test]
    async fn the_log_is_synced_before_the_guard_is_asked() {
        let (signer, order) = signer(Some(false)).await;
        signer.sign_vote(vote(None)).await.expect("signs");
        assert_eq!(*order.lock().expect("no panic"), ["log", "guard"]);
        assert_eq!(signer.refused.load(Ordering::Relaxed), 0);

        let other = vote(Some(BlockHash::from_bytes([9; 32])));
        signer.sign_vote(other).await.expect_err("the guard refuses");
        assert_eq!(*signer.refusals.borrow(), Some(Height::new(1)));
    }

    #[tokio::test]
    async fn without_a_synced_log_nothing_is_signed_and_the_guard_is_not_asked() {
        for log in [None, Some(true)] {
            let (signer, order) = signer(log).await;
            signer.sign_vote(vote(None)).await.expect_err("refuses");
            assert!(!order.lock().expect("no panic").contains(&"guard"));
            assert_eq!(*signer.refusals.borrow(), Some(Height::new(1)));
            assert_eq!(signer.refused.load(Ordering::Relaxed), 1);
        }
    }
}
