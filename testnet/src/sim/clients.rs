//! Clients: transactions that obey the rules, and such that do not.
//!
//! Each new height draws a few actions: transfers of clients, and what accounts do with stake and
//! ballots ([`Stakeholders`]). Whatever is drawn is signed with the next nonce of its account and
//! sent to some node.

use std::rc::Rc;

use protocol::amount::Credits;
use protocol::keys::SecretKey;
use protocol::transaction::{Payload, SignedTransaction, Transaction};

use super::chain::{Network, Snapshot};
use super::faults::Counts;
use super::random::{ALWAYS, Random};
use super::stakeholders::Stakeholders;

/// Highest fee that clients pay: far above what the base fee reaches in a few hundred small blocks.
const FEE_MAX: Credits = Credits::from_micro(10_000_000);
/// Share of the honest actions that are about stake and ballots.
const STAKE_PPM: u32 = 600_000;
/// Transactions remembered, to be sent again.
const REMEMBERED_MAX: usize = 32;

/// A transaction and the node that it is sent to.
pub(super) type Submission = (usize, Rc<SignedTransaction>);

/// See the module.
pub(super) struct Clients {
    network: Rc<Network>,
    random: Random,
    fault_ppm: u32,
    /// Keys of the accounts: of the clients, then of the validators' owners.
    keys: Vec<SecretKey>,
    /// Per account: nonces used that the ledger does not show yet.
    pending: Vec<(u64, u64)>,
    sent: Vec<Rc<SignedTransaction>>,
    stakeholders: Stakeholders,
}

impl Clients {
    pub(super) fn new(
        network: Rc<Network>,
        random: Random,
        fault_ppm: u32,
        stakeholders: Stakeholders,
    ) -> Self {
        let owners = network.secrets.iter().map(|secrets| &secrets.account);
        let keys: Vec<SecretKey> = network.clients.iter().chain(owners).cloned().collect();
        let pending = vec![(0, 0); keys.len()];
        Self { network, random, fault_ppm, keys, pending, sent: Vec::new(), stakeholders }
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
                let (account, payload) = self.honest(at, counts);
                let nonce = self.next_nonce(account, at);
                let signed = self.sign(account, nonce, payload);
                submissions.push((self.random.index(instances), self.remember(signed)));
            }
        }
        submissions
    }

    /// An account, and a payload of it that the rules allow now.
    fn honest(&mut self, at: &Snapshot, counts: &mut Counts) -> (usize, Payload) {
        let clients = self.network.clients.len();
        if self.random.chance(STAKE_PPM) {
            // Owners have most of the stake: without them no vote has a quorum.
            let from = if self.random.chance(ALWAYS / 2) { clients } else { 0 };
            let account = from + self.random.index(self.keys.len() - from);
            let owned = account.checked_sub(clients);
            let id = self.keys[account].public().account_id();
            let random = &mut self.random;
            if let Some(payload) = self.stakeholders.payload(&id, owned, at, random, counts) {
                return (account, payload);
            }
        }
        (self.random.index(clients), self.payload())
    }

    /// A transfer that the rules allow.
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
        let applied = at.nonce(&self.keys[client]);
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
        let key = &self.keys[client];
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
