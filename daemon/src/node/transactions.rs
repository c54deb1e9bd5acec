//! Sending transactions: sign, keep, gossip, wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p::PeerId;
use protocol::amount::{Credits, Height};
use protocol::api::{ApiError, ErrorCode, TransactionReceipt};
use protocol::codec;
use protocol::gossip::TransactionBatch;
use protocol::host::MempoolError;
use protocol::ids::{AccountId, ChainId, TransactionHash};
use protocol::keys::SecretKey;
use protocol::ledger::state::View;
use protocol::ledger::{Rejection, fees};
use protocol::transaction::{Payload, SignedTransaction, Transaction, VerifiedTransaction};
use tokio::sync::{Mutex, Notify};

use super::ledger::Ledger;
use crate::network::{Acceptance, GossipMessage, NetworkHandle, Severity, Topic};

/// Bytes of a transaction beside its payload: ids, keys, numbers, two signatures.
const ENVELOPE_BYTES_MAX: usize = 384;
/// Times today's base fee that an own transaction may cost: 17 full blocks of growth.
const FEE_ROOM: u64 = 8;
/// Own transactions that are sent again until they are applied.
const OWN_MAX: usize = 256;
/// Blocks after which an own transaction that is neither applied nor pending is given up.
const GIVE_UP_BLOCKS: u64 = 1_000;

/// See the module.
pub struct Transactions {
    ledger: Arc<Ledger>,
    network: NetworkHandle,
    chain: ChainId,
    account: AccountId,
    sequence: AtomicU64,
    own: Mutex<Vec<(VerifiedTransaction, Height)>>,
    arrivals: Arc<Notify>,
}

/// Turns a refusal of the mempool into an answer for people.
pub fn refusal(error: &MempoolError) -> ApiError {
    let answer = match error {
        MempoolError::Rejected(rejection) => return rejected(rejection),
        MempoolError::Unfunded { .. } => ApiError::insufficient_funds(error.to_string()),
        MempoolError::Full | MempoolError::LaneFull | MempoolError::AccountFull => {
            ApiError::unavailable(error.to_string())
        }
        _ => ApiError::conflict(error.to_string()),
    };
    answer.with_rejection(error.code())
}

/// Turns a rule's refusal into an answer for people.
pub fn rejected(rejection: &Rejection) -> ApiError {
    let code = match rejection {
        Rejection::InsufficientFunds { .. } => ErrorCode::InsufficientFunds,
        Rejection::Unknown(_) => ErrorCode::NotFound,
        Rejection::NotAuthorized | Rejection::ForeignChain => ErrorCode::Denied,
        Rejection::Document(_) | Rejection::ZeroAmount => ErrorCode::BadRequest,
        _ => ErrorCode::Conflict,
    };
    let error = ApiError::new(code, rejection.to_string()).with_rejection(rejection.code());
    match code {
        ErrorCode::InsufficientFunds => error.with_hint(
            "`ayni credits balance` says what there is; others can send credits to this account",
        ),
        _ => error,
    }
}

/// A transaction without a tip, signed; nothing when it is too large. It may cost `fee_max`.
fn signed(
    chain: ChainId,
    account: AccountId,
    key: &SecretKey,
    nonce: u64,
    fee_max: Credits,
    payload: Payload,
) -> Option<VerifiedTransaction> {
    let transaction = Transaction {
        chain,
        account,
        key: key.public(),
        nonce,
        tip: Credits::ZERO,
        fee_max,
        stamp: None,
        fee_payer: None,
        payload,
    };
    SignedTransaction::sign(transaction, key).verify(&chain).ok()
}

/// What a transaction of this node may cost: some times today's base fee, so that it still fits
/// when demand has grown by the time it is included.
fn fee_max(view: &View<'_>, payload: &Payload) -> Credits {
    let size = codec::size(payload).saturating_add(ENVELOPE_BYTES_MAX);
    fees::base_fee(view.clock().base_fee, size).scaled(FEE_ROOM, 1)
}

impl Transactions {
    /// For one account on one chain; `arrivals` is rung when there is something to put in a block.
    pub fn new(
        ledger: Arc<Ledger>,
        network: NetworkHandle,
        chain: ChainId,
        account: AccountId,
        arrivals: Arc<Notify>,
    ) -> Self {
        let sequence = AtomicU64::new(super::ledger::now().get());
        Self { ledger, network, chain, account, sequence, own: Mutex::default(), arrivals }
    }

    /// Rung when a transaction has come in.
    pub fn arrivals(&self) -> Arc<Notify> {
        Arc::clone(&self.arrivals)
    }

    /// Signs a payload and sends it. A rule that would refuse it now is an error at once.
    pub async fn send(
        &self,
        key: &SecretKey,
        payload: Payload,
    ) -> Result<TransactionHash, ApiError> {
        let key = key.clone();
        let (account, chain) = (self.account, self.chain);
        let sent = self
            .ledger
            .run(move |ledger| {
                let fee_max = ledger.read(|view| fee_max(view, &payload));
                let make = |nonce| signed(chain, account, &key, nonce, fee_max, payload);
                let transaction = ledger
                    .submit_with(&account, &key.public(), make)
                    .map_err(|error| refusal(&error))?
                    .ok_or_else(|| ApiError::bad_request("the transaction is too large"))?;
                Ok::<_, ApiError>(transaction)
            })
            .await?;
        self.arrivals.notify_one();
        let hash = sent.hash();
        let mut own = self.own.lock().await;
        if own.len() < OWN_MAX {
            own.push((sent.clone(), self.ledger.applied().height));
        }
        drop(own);
        self.publish(vec![sent.signed().clone()]).await;
        Ok(hash)
    }

    /// Signs, sends and waits until the transaction is final.
    pub async fn send_and_wait(
        &self,
        key: &SecretKey,
        payload: Payload,
        patience: Duration,
    ) -> Result<TransactionReceipt, ApiError> {
        self.precheck(key, &payload)?;
        let mut applied = self.ledger.follow();
        let hash = self.send(key, payload).await?;
        let wait = async {
            loop {
                if let Some(height) = self.ledger.included(&hash) {
                    return Ok(TransactionReceipt { transaction: hash, height });
                }
                if !self.ledger.run(move |ledger| ledger.is_pending(&hash)).await
                    && self.ledger.included(&hash).is_none()
                {
                    return Err(ApiError::conflict(
                        "the ledger refused the transaction: the state has changed meanwhile",
                    )
                    .with_hint("look at the state and try again"));
                }
                if applied.changed().await.is_err() {
                    return Err(ApiError::unavailable("the node is shutting down"));
                }
            }
        };
        tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| {
            Err(ApiError::new(
                ErrorCode::TimedOut,
                format!("no block with the transaction within {} s", patience.as_secs()),
            )
            .with_hint("it may still be applied: `ayni status` says whether blocks come"))
        })
    }

    /// Tries a payload against the state as it is, so that people learn at once why not.
    fn precheck(&self, key: &SecretKey, payload: &Payload) -> Result<(), ApiError> {
        let (account, chain) = (self.account, self.chain);
        let tried = self.ledger.read(|view| {
            let nonce = view.nonce(&account, &key.public());
            let fee_max = fee_max(view, payload);
            let Some(verified) = signed(chain, account, key, nonce, fee_max, payload.clone())
            else {
                return Ok(());
            };
            protocol::ledger::try_transaction(view, &chain, None, &verified).map(|_| ())
        });
        tried.map_err(|rejection| rejected(&rejection))
    }

    async fn publish(&self, transactions: Vec<SignedTransaction>) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let batch = TransactionBatch { sequence, transactions };
        if let Ok(bytes) = codec::encode_checked(&batch) {
            self.network.publish(Topic::Transactions, bytes).await;
        }
    }

    /// Sends own transactions again that are not applied yet; call it every few seconds.
    pub async fn resend(&self) {
        let height = self.ledger.applied().height;
        let mut own = self.own.lock().await;
        let mut waiting = Vec::new();
        for (transaction, since) in std::mem::take(&mut *own) {
            let hash = transaction.hash();
            let gone = self.ledger.included(&hash).is_some()
                || height.get() > since.get().saturating_add(GIVE_UP_BLOCKS);
            if !gone && self.ledger.run(move |ledger| ledger.is_pending(&hash)).await {
                waiting.push((transaction, since));
            }
        }
        own.clone_from(&waiting);
        drop(own);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (transaction, _) in waiting {
            bytes += transaction.size();
            if bytes > protocol::limits::TRANSACTION_BATCH_BYTES_MAX / 2 {
                break;
            }
            batch.push(transaction.signed().clone());
        }
        if !batch.is_empty() {
            self.publish(batch).await;
        }
    }

    /// Takes in a batch from gossip.
    pub async fn receive(&self, message: GossipMessage) {
        let chain = self.chain;
        let bytes = message.bytes;
        let acceptance = self
            .ledger
            .run(move |ledger| {
                let Ok(batch) = codec::decode::<TransactionBatch>(&bytes) else {
                    return Acceptance::Reject;
                };
                if batch.transactions.is_empty() {
                    return Acceptance::Reject;
                }
                let mut useful = false;
                for signed in batch.transactions {
                    let Ok(verified) = signed.verify(&chain) else { return Acceptance::Reject };
                    match ledger.submit(verified) {
                        Ok(_) | Err(MempoolError::Known) => useful = true,
                        Err(_) => {}
                    }
                }
                if useful { Acceptance::Accept } else { Acceptance::Ignore }
            })
            .await;
        if acceptance == Acceptance::Reject {
            self.report(message.source, "a batch of transactions that does not verify");
        }
        self.arrivals.notify_one();
        self.network.validate(message.id, message.from, acceptance).await;
    }

    fn report(&self, peer: PeerId, reason: &'static str) {
        self.network.report(peer, Severity::LowTolerance, reason);
    }
}
