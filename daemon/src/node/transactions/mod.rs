//! Sending transactions: sign, keep, gossip, wait.
//!
//! **Invariant.** What is acknowledged to a client is on disk (`journal`), is sent until it is
//! applied or gone from the pool (`own`), and is back in the pool after a restart.

mod incoming;
mod journal;
mod outgoing;
mod own;
mod submit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use protocol::amount::Credits;
use protocol::api::{ApiError, ErrorCode, TransactionReceipt};
use protocol::codec;
use protocol::host::MempoolError;
use protocol::ids::{AccountId, ChainId, TransactionHash};
use protocol::keys::SecretKey;
use protocol::ledger::state::View;
use protocol::ledger::{Rejection, fees};
use protocol::transaction::{Payload, SignedTransaction, Transaction, VerifiedTransaction};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ledger::Ledger;
use crate::network::{Acceptance, GossipMessage, NetworkHandle};
use incoming::Incoming;
use journal::Journal;
use own::Own;

/// Bytes of a transaction beside its payload: ids, keys, numbers, two signatures.
const ENVELOPE_BYTES_MAX: usize = 384;
/// Times today's base fee that an own transaction may cost: 17 full blocks of growth.
const FEE_ROOM: u64 = 8;
/// See the module.
pub struct Transactions {
    ledger: Arc<Ledger>,
    network: NetworkHandle,
    chain: ChainId,
    account: AccountId,
    arrivals: Arc<Notify>,
    own: Arc<Own>,
    journal: Journal,
    outgoing: mpsc::Sender<Bytes>,
    incoming: mpsc::Sender<GossipMessage>,
}

/// What sending transactions needs.
pub struct Setup {
    /// The ledger.
    pub ledger: Arc<Ledger>,
    /// The network.
    pub network: NetworkHandle,
    /// The chain.
    pub chain: ChainId,
    /// Whose transactions the node makes itself.
    pub account: AccountId,
    /// Where pending transactions are kept.
    pub dir: PathBuf,
}

/// Puts transactions of an earlier run back into the pool, as far as they still can apply.
fn restore(ledger: &Ledger, chain: &ChainId, own: &Own, transactions: Vec<Vec<u8>>) {
    if transactions.is_empty() {
        return;
    }
    let count = transactions.len();
    let parsed: Vec<_> = transactions
        .into_iter()
        .filter_map(|bytes| Some((VerifiedTransaction::parse(&bytes, chain).ok()?, bytes)))
        .collect();
    let verified = parsed.iter().map(|(verified, _)| verified.clone()).collect();
    let mut pending = 0_usize;
    for (result, (_, bytes)) in ledger.submit_many(verified).into_iter().zip(parsed) {
        if let Ok(hash) = result {
            own.add(hash, bytes.into());
            pending += 1;
        }
    }
    tracing::info!(kept = count, pending, "restored pending transactions");
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
    /// Restores what an earlier run acknowledged and starts the tasks. Blocks.
    pub fn open(setup: Setup, tracker: &TaskTracker, token: &CancellationToken) -> Result<Self> {
        let Setup { ledger, network, chain, account, dir } = setup;
        let arrivals = Arc::new(Notify::new());
        let own = Arc::new(Own::default());
        let (journal, restored) = Journal::open(
            dir,
            chain,
            Arc::clone(&ledger),
            Arc::clone(&own),
            tracker,
            token.clone(),
        )?;
        restore(&ledger, &chain, &own, restored);
        let (outgoing, gathered) = mpsc::channel(outgoing::QUEUE);
        // Later than every number of an earlier start.
        let sequence = super::ledger::now().get();
        tracker.spawn(outgoing::run(network.clone(), gathered, sequence, token.clone()));
        let (incoming, messages) = mpsc::channel(incoming::QUEUE);
        let task = Incoming {
            ledger: Arc::clone(&ledger),
            network: network.clone(),
            chain,
            arrivals: Arc::clone(&arrivals),
        };
        tracker.spawn(task.run(messages, token.clone()));
        Ok(Self { ledger, network, chain, account, arrivals, own, journal, outgoing, incoming })
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
        let bytes = Bytes::from(codec::encode(sent.signed()));
        self.own.add(hash, bytes.clone());
        self.gossip(std::slice::from_ref(&bytes)).await;
        if let Err(why) = self.journal.keep(vec![bytes]).await {
            tracing::warn!(%why, transaction = %hash.short(), "a restart would lose a transaction");
        }
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

    /// Sends own transactions again that are not applied yet; call it every few seconds.
    pub async fn resend(&self) {
        let own = Arc::clone(&self.own);
        let due = self.ledger.run(move |ledger| own.due(ledger)).await;
        self.gossip(&due).await;
    }

    /// Takes in a batch from gossip, or drops it when too many wait.
    pub async fn receive(&self, message: GossipMessage) {
        if let Err(refused) = self.incoming.try_send(message) {
            let message = refused.into_inner();
            self.network.validate(message.id, message.from, Acceptance::Ignore).await;
        }
    }
}
