//! Accounts that sign transfers, and what they have signed before the clock starts.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use bytes::Bytes;
use protocol::amount::Credits;
use protocol::codec;
use protocol::ids::{ChainId, ContentHash, TransactionHash, derive};
use protocol::keys::SecretKey;
use protocol::ledger::genesis::Genesis;
use protocol::transaction::{Payload, SignedTransaction, Transaction};

/// Each transfer moves this.
const AMOUNT: Credits = Credits::from_micro(1);
/// Each transfer may cost this: far above what it does.
const FEE_MAX: Credits = Credits::from_micro(1_000_000);
/// Highest tip; tips vary so that the pool's order is exercised.
const TIP_MAX: u64 = 50;
/// What a signer has: enough for every fee of a run.
pub(crate) const BALANCE: Credits = Credits::from_micro(1_000_000_000_000);

/// Key of a signer.
pub(crate) fn key(index: usize) -> SecretKey {
    SecretKey::from_seed(&derive("ayni 2026 bench signer v1", &[&index.to_le_bytes()]))
}

/// A signed transfer.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) bytes: Bytes,
    pub(crate) hash: TransactionHash,
}

/// Signed transfers, each signer's in nonce order, for the node that the signer uses.
pub(crate) struct Accounts {
    /// By node, then by signer.
    by_node: Vec<VecDeque<VecDeque<Transfer>>>,
}

impl Accounts {
    /// Signs `transfers` transfers, spread over the signers, on all cores. Signers are dealt to
    /// `nodes` nodes in turn.
    pub(crate) fn sign(
        genesis: &Genesis,
        nodes: usize,
        signers: usize,
        transfers: usize,
    ) -> Result<Self> {
        let chain = genesis.chain_id();
        let each = transfers.div_ceil(signers);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = signers.div_ceil(threads);
        let signed: Vec<Vec<VecDeque<Transfer>>> = std::thread::scope(|scope| {
            let work: Vec<_> = (0..signers)
                .step_by(share)
                .map(|first| {
                    let range = first..signers.min(first + share);
                    scope.spawn(move || range.map(|s| queue(chain, signers, s, each)).collect())
                })
                .collect();
            work.into_iter()
                .map(|thread| thread.join().ok().context("a signing thread failed"))
                .collect::<Result<_>>()
        })?;
        let mut by_node = vec![VecDeque::new(); nodes];
        for (index, queue) in signed.into_iter().flatten().enumerate() {
            by_node[index % nodes].push_back(queue);
        }
        Ok(Self { by_node })
    }

    /// Up to `count` transfers for a node, of as many signers as there are.
    pub(crate) fn take(&mut self, node: usize, count: usize) -> Vec<Transfer> {
        let mut taken = Vec::with_capacity(count);
        let signers = &mut self.by_node[node];
        while taken.len() < count
            && let Some(mut queue) = signers.pop_front()
        {
            if let Some(transfer) = queue.pop_front() {
                taken.push(transfer);
                signers.push_back(queue);
            }
        }
        taken
    }
}

fn queue(chain: ChainId, signers: usize, index: usize, count: usize) -> VecDeque<Transfer> {
    let key = key(index);
    let account = key.public().account_id();
    (0..count)
        .map(|nonce| {
            // Each transfer to another signer, so that both ends of it are spread.
            let to = self::key((index + 1 + nonce * 7) % signers).public().account_id();
            let mixed = (index * 31 + nonce * 17) as u64;
            let transaction = Transaction {
                chain,
                account,
                key: key.public(),
                nonce: nonce as u64,
                tip: Credits::from_micro(mixed % TIP_MAX),
                fee_max: FEE_MAX,
                stamp: None,
                fee_payer: None,
                payload: Payload::Transfer { to, amount: AMOUNT },
            };
            let bytes = codec::encode(&SignedTransaction::sign(transaction, &key));
            let hash = TransactionHash::from_bytes(*ContentHash::of(&bytes).as_bytes());
            Transfer { bytes: bytes.into(), hash }
        })
        .collect()
}
