//! Clients: transactions that obey the rules, and such that do not.
//!
//! Each new height draws a few actions. To add a kind of transaction (stake changes, ballots),
//! add an arm to [`Clients::payload`]: whatever it returns is signed with the next nonce of one of
//! the accounts and sent to some node.

use std::rc::Rc;

use protocol::amount::Credits;
use protocol::keys::SecretKey;
use protocol::transaction::{Payload, SignedTransaction, Transaction};

use super::chain::{Network, Snapshot};
use super::faults::Counts;
use super::random::Random;

/// Highest fee that clients pay: far above what the base fee reaches in a few hundred small blocks.
const FEE_MAX: Credits = Credits::from_micro(10_000_000);
/// Transactions remembered, to be sent again.
const REMEMBERED_MAX: usize = 32;

/// A transaction and the node that it is sent to.
pub(super) type Submission = (usize, Rc<SignedTransaction>);

/// See the module.
pub(super) struct Clients {
    network: Rc<Network>,
    random: Random,
    fault_ppm: u32,
    /// Per client: nonces used that the ledger does not show yet.
    pending: Vec<(u64, u64)>,
    sent: Vec<Rc<SignedTransaction>>,
}

impl Clients {
    pub(super) fn new(network: Rc<Network>, random: Random, fault_ppm: u32) -> Self {
        let pending = vec![(0, 0); network.clients.len()];
        Self { network, random, fault_ppm, pending, sent: Vec::new() }
    }

    /// What clients do at a new height.
    pub(super) fn act(
        &mut self,
        at: &Snapshot,
        instances: usize,
        counts: &mut Counts,
    ) -> Vec<Submission> {
        let actions = match self.random.below(10) {
            0..=3 => 0,
            4..=6 => 1,
            7..=8 => 2,
            _ => 4,
        };
        let mut submissions = Vec::new();
        for _ in 0..actions {
            if self.random.chance(self.fault_ppm) {
                self.misbehave(at, instances, counts, &mut submissions);
            } else {
                counts.transactions += 1;
                let client = self.random.index(self.network.clients.len());
                let nonce = self.next_nonce(client, at);
                let payload = self.payload();
                let signed = self.sign(client, nonce, payload);
                submissions.push((self.random.index(instances), self.remember(signed)));
            }
        }
        submissions
    }

    /// A payload that the rules allow.
    fn payload(&mut self) -> Payload {
        let count = self.network.clients.len();
        let to = self.network.clients[self.random.index(count)].public().account_id();
        Payload::Transfer { to, amount: Credits::from_micro(self.random.between(1, 1_000)) }
    }

    fn misbehave(
        &mut self,
        at: &Snapshot,
        instances: usize,
        counts: &mut Counts,
        submissions: &mut Vec<Submission>,
    ) {
        let client = self.random.index(self.network.clients.len());
        let target = self.random.index(instances);
        match self.random.below(5) {
            0 => {
                counts.double_spends += 1;
                let nonce = self.next_nonce(client, at);
                for _ in 0..2 {
                    let payload = self.payload();
                    let signed = self.sign(client, nonce, payload);
                    submissions.push((self.random.index(instances), Rc::new(signed)));
                }
            }
            1 => {
                counts.bad_nonces += 1;
                let nonce = self.random.below(self.pending[client].1 + 80);
                let payload = self.payload();
                submissions.push((target, Rc::new(self.sign(client, nonce, payload))));
            }
            2 => {
                counts.replayed_transactions += 1;
                let place = self.random.index(self.sent.len());
                if let Some(old) = self.sent.get(place) {
                    submissions.push((target, Rc::clone(old)));
                }
            }
            3 => {
                counts.forged_transactions += 1;
                let nonce = self.pending[client].1;
                let payload = self.payload();
                let mut signed = self.sign(client, nonce, payload);
                signed.transaction.tip = Credits::from_micro(1);
                submissions.push((target, Rc::new(signed)));
            }
            _ => {
                counts.overdrafts += 1;
                let nonce = self.next_nonce(client, at);
                let to = self.network.clients[0].public().account_id();
                let amount = Credits::from_micro(u64::MAX / 4);
                let signed = self.sign(client, nonce, Payload::Transfer { to, amount });
                // Its nonce stays free: the rules refuse it.
                self.pending[client].1 = nonce;
                submissions.push((target, Rc::new(signed)));
            }
        }
    }

    /// The next nonce as the client knows it. Nonces that seem lost are used again after a while.
    fn next_nonce(&mut self, client: usize, at: &Snapshot) -> u64 {
        let applied = at.nonce(&self.network.clients[client]);
        let (seen, next) = &mut self.pending[client];
        if *seen != applied {
            *seen = applied;
            *next = (*next).max(applied);
        } else if *next > applied + 4 {
            *next = applied;
        }
        let nonce = *next;
        *next += 1;
        nonce
    }

    fn sign(&self, client: usize, nonce: u64, payload: Payload) -> SignedTransaction {
        let key: &SecretKey = &self.network.clients[client];
        let transaction = Transaction {
            chain: self.network.chain,
            account: key.public().account_id(),
            key: key.public(),
            nonce,
            tip: Credits::ZERO,
            fee_max: FEE_MAX,
            stamp: None,
            fee_payer: None,
            payload,
        };
        SignedTransaction::sign(transaction, key)
    }

    fn remember(&mut self, signed: SignedTransaction) -> Rc<SignedTransaction> {
        let signed = Rc::new(signed);
        if self.sent.len() < REMEMBERED_MAX {
            self.sent.push(Rc::clone(&signed));
        } else {
            let place = self.random.index(REMEMBERED_MAX);
            self.sent[place] = Rc::clone(&signed);
        }
        signed
    }
}
