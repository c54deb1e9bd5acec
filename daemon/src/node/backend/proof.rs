//! Proofs of a balance, from a block that whoever checks them trusts.

use std::time::Duration;

use protocol::amount::{Credits, Height};
use protocol::api::{ApiError, BalanceProof, ProofQuery, TrustedBy, TrustedPoint};
use protocol::block::Header;
use protocol::codec;
use protocol::consensus::{CommitCertificate, ValidatorSet};
use protocol::ids::AccountId;
use protocol::join::JoinString;
use protocol::ledger::state::{View, account_key};
use protocol::proof::{self, BuildError, ChainReader, StateProof};

use super::NodeBackend;
use crate::node::ledger::Ledger;

/// The header that commits a state is the next one: blocks come within seconds, or not at all.
const NEXT_BLOCK_MAX: Duration = Duration::from_secs(30);

/// An account as the state of a height has it.
struct Stated {
    height: Height,
    balance: Credits,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    path: StateProof,
}

impl ChainReader for Ledger {
    type Error = ApiError;

    fn decided(&self, height: Height) -> Result<Option<(Header, CommitCertificate)>, ApiError> {
        let Some(decided) = Self::decided(self, height) else { return Ok(None) };
        let parts = decided.header_and_certificate();
        parts.map(Some).map_err(|error| ApiError::internal(format!("block {height}: {error}")))
    }

    fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, ApiError> {
        Ok(self.past_validators(height))
    }
}

impl NodeBackend {
    pub(super) async fn prove_balance(&self, query: ProofQuery) -> Result<BalanceProof, ApiError> {
        let account = query.account.unwrap_or_else(|| self.node.account());
        let (trusted_by, trusted) = self.trusted(query).await?;
        let mut applied = self.node.ledger.follow();
        let stated = self.node.ledger.run(move |ledger| state_of(ledger, account)).await?;
        let next = stated.height.plus(1);
        let wait = applied.wait_for(|applied| applied.height >= next);
        match tokio::time::timeout(NEXT_BLOCK_MAX, wait).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(ApiError::unavailable("the node is shutting down")),
            Err(_) => {
                let message = format!("no block {next} came to commit the state that is proven");
                return Err(ApiError::timed_out(message)
                    .with_hint("`ayni status` says whether blocks come; try again"));
            }
        }
        let (height, balance) = (stated.height, stated.balance);
        let Stated { key, value, path, .. } = stated;
        let build =
            move |ledger: &Ledger| proof::build(ledger, trusted.height, height, key, value, path);
        let proof = self.node.ledger.run(build).await.map_err(refused)?;
        Ok(BalanceProof {
            chain: self.node.chain,
            account,
            balance_micro: balance,
            height,
            trusted,
            trusted_by,
            bridges: u32::try_from(proof.bridges.len()).unwrap_or(u32::MAX),
            proof: hex::encode(codec::encode(&proof)),
        })
    }

    /// The block that the proof begins with: it must be one of this node's chain.
    async fn trusted(&self, query: ProofQuery) -> Result<(TrustedBy, TrustedPoint), ApiError> {
        let join = self.node.config.join().and_then(JoinString::trusted);
        let (by, height, hash) = match (query.trusted_height, join) {
            (Some(height), _) => (TrustedBy::Caller, height, query.trusted_hash),
            (None, _) if query.trusted_hash.is_some() => {
                return Err(ApiError::bad_request("a trusted hash needs its height beside it"));
            }
            (None, Some(join)) => (TrustedBy::JoinString, join.height, Some(join.hash)),
            // Of those that are here: earlier ones may be deleted.
            (None, None) => {
                let first = self.node.ledger.run(Ledger::first).await;
                (TrustedBy::FirstBlock, first, None)
            }
        };
        let own = self.node.ledger.run(move |ledger| ledger.block_hash(height)).await;
        let own = own.ok_or_else(|| {
            ApiError::not_found(format!("this node has no block {height} to begin a proof with"))
                .with_hint("trust a block that it has: `ayni chain blocks` lists the last ones")
        })?;
        if hash.is_some_and(|hash| hash != own) {
            let message = format!("block {height} of this node is {own}, not the one you trust");
            return Err(ApiError::conflict(message)
                .with_hint("one of the two is of another chain, or was typed wrongly"));
        }
        Ok((by, TrustedPoint { height, hash: own }))
    }
}

fn state_of(ledger: &Ledger, account: AccountId) -> Result<Stated, ApiError> {
    let key = account_key(&account);
    let read = |view: &View<'_>| (view.clock().height, view.account(&account).balance);
    let ((height, balance), proven) = ledger.prove(&key, read);
    let (value, path) = proven.map_err(|error| {
        ApiError::internal(format!("the state cannot be proven: {error}"))
            .with_hint("`aynid ledger check` says whether the store is whole")
    })?;
    Ok(Stated { height, balance, key, value, path })
}

fn refused(error: BuildError<ApiError>) -> ApiError {
    match error {
        BuildError::Read(error) => error,
        error => {
            let hint = "name a later block with --trusted: `ayni chain blocks` lists the last ones";
            ApiError::unavailable(error.to_string()).with_hint(hint)
        }
    }
}
