//! Transactions that a client has signed itself: verify, keep, acknowledge, gossip.

use std::sync::Arc;

use bytes::Bytes;
use protocol::api::{ApiError, SubmitResult, SubmitTransactions, Submitted, TransactionState};
use protocol::ids::TransactionHash;
use protocol::transaction::{Unverified, VerifiedTransaction};

use super::Transactions;

fn accepted(hash: TransactionHash) -> SubmitResult {
    SubmitResult { code: SubmitResult::ACCEPTED.to_owned(), transaction: Some(hash), message: None }
}

fn refused(
    code: &str,
    transaction: Option<TransactionHash>,
    message: impl ToString,
) -> SubmitResult {
    SubmitResult { code: code.to_owned(), transaction, message: Some(message.to_string()) }
}

impl Transactions {
    /// Judges transactions in order. Those that are accepted are on disk when this returns.
    pub async fn submit(&self, request: SubmitTransactions) -> Result<Submitted, ApiError> {
        let bytes = request.transactions;
        if bytes.is_empty() {
            return Err(ApiError::bad_request("there is no transaction in the request"));
        }
        if !self.own.has_room(bytes.len()) {
            return Err(ApiError::unavailable(
                "this node looks after as many pending transactions as it can",
            )
            .with_hint("try again after the next blocks, or ask another node"));
        }
        let chain = self.chain;
        let own = Arc::clone(&self.own);
        let (results, taken) = self
            .ledger
            .run(move |ledger| {
                let parsed: Vec<Result<VerifiedTransaction, Unverified>> =
                    bytes.iter().map(|b| VerifiedTransaction::parse(b, &chain)).collect();
                let good = parsed.iter().flatten().cloned().collect();
                let mut judged = ledger.submit_many(good).into_iter();
                let mut taken = Vec::new();
                let results = parsed.iter().zip(&bytes).map(|(parsed, bytes)| match parsed {
                    Err(why) => refused(why.code(), None, why),
                    Ok(verified) => match judged.next() {
                        Some(Ok(hash)) => {
                            own.add(hash, bytes.clone());
                            taken.push(bytes.clone());
                            accepted(hash)
                        }
                        Some(Err(why)) => refused(why.code(), Some(verified.hash()), why),
                        // One judgement for each good one.
                        None => refused("busy", Some(verified.hash()), "not judged"),
                    },
                });
                let results: Vec<_> = results.collect();
                (results, taken)
            })
            .await;
        self.arrivals.notify_one();
        if !taken.is_empty() {
            self.gossip(&taken).await;
            self.journal.keep(taken).await.map_err(|why| {
                ApiError::unavailable(format!("the transactions could not be stored: {why}"))
                    .with_hint("they may still be applied; check the disk of the node")
            })?;
        }
        Ok(Submitted { results })
    }

    /// Where a transaction stands.
    pub async fn state(&self, hash: TransactionHash) -> TransactionState {
        if let Some(height) = self.ledger.included(&hash) {
            return TransactionState::Final { height };
        }
        let pending = self.ledger.run(move |ledger| ledger.is_pending(&hash)).await;
        match (pending, self.ledger.included(&hash)) {
            (_, Some(height)) => TransactionState::Final { height },
            (true, None) => TransactionState::Pending,
            (false, None) => TransactionState::Unknown,
        }
    }

    /// Puts transactions into the next gossip batches.
    pub(super) async fn gossip(&self, transactions: &[Bytes]) {
        for bytes in transactions {
            // Closed only at shutdown; then another start sends them.
            let _ = self.outgoing.send(bytes.clone()).await;
        }
    }
}
