//! Pending transactions: bounded in bytes and per account, nonce gaps held, ordered by tip per
//! byte, replaced by fee, expired by height.
//!
//! ```text
//! queues   (account, key) -> nonce -> transaction
//! ready    heads that are at their turn, by rank        (what a proposer tries first)
//! too_dear heads whose limit the base fee has passed    (what comes back when it falls)
//! tails    last nonces, by standing                     (what is evicted first)
//! arrivals number of arrival -> place                   (what expires first)
//! pledged  purse -> cost of everything pending          (nobody fills the pool on credit)
//! ```
//!
//! Two lanes: transactions that pay a fee, and newcomers' that pay with work (a stamp). Each has
//! its own bound, so neither displaces the other.
//!
//! **Invariants.** Nothing that can run is evicted for something that waits for a gap, and
//! nothing for something that pays the same. After a block only the queues that it touched and
//! what expired are looked at. Pure: the same calls give the same pool.
//!
//! Deliberately absent: checking signatures (the type says that it was done), and remembering
//! across restarts (`storage::mempool_log`).

mod admission;
mod candidates;
mod error;
mod queue;
mod rank;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

pub use candidates::Candidates;
pub use error::MempoolError;

use crate::amount::{Credits, Height};
use crate::ids::{AccountId, TransactionHash};
use crate::keys::PublicKey;
use crate::ledger::Rejection;
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::VerifiedTransaction;
use admission::{Charges, Purse};
use queue::{Entry, Queue};
use rank::{Rank, Standing, replacement_tip};

/// An account and the bytes of one of its keys.
type Slot = (AccountId, [u8; 32]);
/// A transaction's place.
type Place = (Slot, u64);

/// How a transaction pays for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// With credits.
    Paying,
    /// With work.
    Stamped,
}

impl Lane {
    /// The lane of a transaction.
    pub fn of(transaction: &VerifiedTransaction) -> Self {
        if transaction.transaction().stamp.is_some() { Self::Stamped } else { Self::Paying }
    }
}

/// How much one pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Weight of paying transactions.
    pub paying_bytes: usize,
    /// Weight of stamped transactions.
    pub stamped_bytes: usize,
    /// Weight of one account's transactions.
    pub account_bytes: usize,
    /// Nonces ahead of the ledger's, per (account, key).
    pub per_key: usize,
    /// Blocks after which a transaction is dropped.
    pub expiry_blocks: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            paying_bytes: limits::MEMPOOL_BYTES_MAX,
            stamped_bytes: limits::MEMPOOL_STAMPED_BYTES_MAX,
            account_bytes: limits::MEMPOOL_PER_ACCOUNT_BYTES_MAX,
            per_key: limits::MEMPOOL_PER_KEY_MAX,
            expiry_blocks: limits::MEMPOOL_EXPIRY_BLOCKS,
        }
    }
}

/// A transaction that a block has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose.
    pub account: AccountId,
    /// By which key.
    pub key: PublicKey,
    /// Its nonce.
    pub nonce: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Mempool {
    bounds: Bounds,
    height: Height,
    base_fee: Credits,
    next_arrival: u64,
    queues: BTreeMap<Slot, Queue>,
    by_hash: BTreeMap<TransactionHash, Place>,
    ready: BTreeMap<Rank, Slot>,
    ready_stamped: BTreeMap<Rank, Slot>,
    /// Paying heads by the highest base fee that each may be charged: those in `ready`, and those
    /// for which the base fee is too high now.
    affordable: BTreeSet<(Credits, Slot)>,
    too_dear: BTreeSet<(Credits, Slot)>,
    tails: BTreeMap<Standing, Slot>,
    arrivals: BTreeMap<u64, Place>,
    pledged: BTreeMap<Purse, u128>,
    accounts: BTreeMap<AccountId, usize>,
    paying_bytes: usize,
    stamped_bytes: usize,
}

/// A transaction that may enter, and what has to make room for it.
struct Admitted {
    place: Place,
    entry: Entry,
    victims: Vec<Place>,
}

impl Mempool {
    /// An empty pool; `state` is the state after the last block.
    pub fn new(bounds: Bounds, state: &State<'_>) -> Self {
        let clock = state.clock();
        Self { bounds, height: clock.height, base_fee: clock.base_fee, ..Self::default() }
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Number of pending transactions.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Weight of everything pending: encoded bytes, and a share for what keeping one costs.
    pub const fn bytes(&self) -> usize {
        self.paying_bytes.saturating_add(self.stamped_bytes)
    }

    /// Whether some transaction is at its turn, so that a block would not be empty.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ready_stamped.is_empty()
    }

    /// Pending transactions of a lane in the order in which a proposer tries them.
    pub fn candidates(&self, lane: Lane) -> Candidates<'_> {
        Candidates::new(self, lane)
    }

    /// Whether a transaction is pending.
    pub fn contains(&self, hash: &TransactionHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// A pending transaction.
    pub fn get(&self, hash: &TransactionHash) -> Option<&VerifiedTransaction> {
        let (slot, nonce) = self.by_hash.get(hash)?;
        self.queues.get(slot)?.get(*nonce).map(|entry| &entry.transaction)
    }

    /// The next free nonce of a key: after everything applied and pending without a gap.
    pub fn next_nonce(&self, state: &State<'_>, account: &AccountId, key: &PublicKey) -> u64 {
        let queue = self.queues.get(&(*account, *key.as_bytes()));
        queue.map_or_else(|| state.nonce(account, key), Queue::run_end)
    }

    /// Takes a transaction in, in place of cheaper ones where there is no room. `state` is the
    /// state after the last block.
    pub fn insert(
        &mut self,
        state: &State<'_>,
        transaction: VerifiedTransaction,
    ) -> Result<TransactionHash, MempoolError> {
        let hash = transaction.hash();
        let Admitted { place: (slot, nonce), entry, victims } = self.admit(state, transaction)?;
        for victim in &victims {
            self.take(victim);
        }
        self.take(&(slot, nonce));
        self.put(slot, nonce, entry, state);
        Ok(hash)
    }

    /// Everything that speaks against a transaction, cheapest first. Changes nothing.
    fn admit(
        &self,
        state: &State<'_>,
        transaction: VerifiedTransaction,
    ) -> Result<Admitted, MempoolError> {
        if self.by_hash.contains_key(&transaction.hash()) {
            return Err(MempoolError::Known);
        }
        let inner = transaction.transaction();
        let slot = (inner.account, *inner.key.as_bytes());
        let queue = self.queues.get(&slot);
        let (got, expected) =
            (inner.nonce, queue.map_or_else(|| state.nonce(&slot.0, &inner.key), Queue::expected));
        if got < expected {
            return Err(Rejection::Nonce { got, expected }.into());
        }
        let ahead = u64::try_from(self.bounds.per_key).unwrap_or(u64::MAX);
        if got >= expected.saturating_add(ahead) {
            return Err(MempoolError::TooFarAhead { got, expected });
        }
        let charges = admission::charges(state, self.base_fee, &transaction)?;
        let rank = Rank::new(&transaction, self.next_arrival);
        let lane = Lane::of(&transaction);
        let old = queue.and_then(|queue| queue.get(got));
        if let Some(old) = old {
            check_replacement(old, &transaction, lane, rank)?;
        }
        self.check_pledges(state, &charges, old)?;
        let weight = transaction.size().saturating_add(limits::MEMPOOL_ENTRY_BYTES);
        let entry = Entry {
            rank,
            since: self.height,
            charges,
            base_fee_max: admission::base_fee_max(&transaction),
            stamped: lane == Lane::Stamped,
            weight,
            transaction,
        };
        let runs = got <= queue.map_or(expected, Queue::run_end);
        let victims = self.make_room((slot, got), &entry, runs, old)?;
        Ok(Admitted { place: (slot, got), entry, victims })
    }

    fn check_pledges(
        &self,
        state: &State<'_>,
        charges: &Charges,
        old: Option<&Entry>,
    ) -> Result<(), MempoolError> {
        for purse in charges.purses() {
            let freed = old.map_or(0, |old| old.charges.from(purse));
            let pledged = self.pledged.get(&purse).copied().unwrap_or(0).saturating_sub(freed);
            let need = pledged.saturating_add(charges.from(purse));
            let have = purse.holds(state);
            if need > u128::from(have.micro()) {
                let need = u64::try_from(need).unwrap_or(u64::MAX);
                let need = Credits::from_micro(need);
                return Err(MempoolError::Unfunded { have, need });
            }
        }
        Ok(())
    }

    /// What has to go for `entry`; refuses when that would be something as good.
    fn make_room(
        &self,
        place: Place,
        entry: &Entry,
        runs: bool,
        old: Option<&Entry>,
    ) -> Result<Vec<Place>, MempoolError> {
        let freed = old.map_or(0, |old| old.weight);
        let account = self.accounts.get(&place.0.0).copied().unwrap_or(0);
        let of_account = account.saturating_sub(freed).saturating_add(entry.weight);
        if of_account > self.bounds.account_bytes {
            return Err(MempoolError::AccountFull);
        }
        let freed = old.filter(|old| old.stamped == entry.stamped).map_or(0, |old| old.weight);
        if entry.stamped {
            let total = self.stamped_bytes.saturating_sub(freed).saturating_add(entry.weight);
            let fits = total <= self.bounds.stamped_bytes;
            return if fits { Ok(Vec::new()) } else { Err(MempoolError::LaneFull) };
        }
        let total = self.paying_bytes.saturating_sub(freed).saturating_add(entry.weight);
        let need = total.saturating_sub(self.bounds.paying_bytes);
        let standing = Standing { runs, rank: entry.rank };
        self.victims(need, standing, &place).ok_or(MempoolError::Full)
    }

    /// The worst transactions that together weigh `need`: last nonces first, each worse than the
    /// newcomer and none that the newcomer or itself needs to run.
    fn victims(&self, need: usize, newcomer: Standing, place: &Place) -> Option<Vec<Place>> {
        let (mut chosen, mut freed) = (Vec::new(), 0_usize);
        let mut listed = self.tails.iter().peekable();
        // What becomes a last nonce once the one after it is chosen.
        let mut revealed: BinaryHeap<Reverse<(Standing, Slot, u64)>> = BinaryHeap::new();
        while freed < need {
            let next_listed = listed.peek().map(|(standing, _)| **standing);
            let next_revealed = revealed.peek().map(|Reverse((standing, ..))| *standing);
            let from_revealed = match (next_revealed, next_listed) {
                (Some(revealed), Some(listed)) => revealed < listed,
                (revealed, None) => revealed.is_some(),
                (None, Some(_)) => false,
            };
            let (standing, slot, nonce) = if from_revealed {
                revealed.pop()?.0
            } else {
                let (standing, slot) = listed.next()?;
                (*standing, *slot, self.queues.get(slot)?.tail()?.0)
            };
            if standing >= newcomer || (slot == place.0 && nonce <= place.1) {
                return None;
            }
            let queue = self.queues.get(&slot)?;
            let victim = queue.get(nonce)?;
            if !victim.stamped {
                freed = freed.saturating_add(victim.weight);
            }
            chosen.push((slot, nonce));
            if let Some((before, entry)) = queue.before(nonce) {
                revealed.push(Reverse((queue.standing(before, entry), slot, before)));
            }
        }
        Some(chosen)
    }

    /// Moves on after a block: `spent` are its transactions, `state` is the state after it.
    /// Looks at the queues of `spent`, at what expires and at what the new base fee makes too
    /// dear or affordable, at nothing else.
    pub fn applied(&mut self, spent: impl IntoIterator<Item = Spent>, state: &State<'_>) {
        let clock = state.clock();
        self.height = clock.height;
        self.move_base_fee(clock.base_fee);
        let mut touched = BTreeMap::new();
        for Spent { account, key, nonce } in spent {
            let next: &mut u64 = touched.entry((account, *key.as_bytes())).or_default();
            *next = nonce.saturating_add(1).max(*next);
        }
        for (slot, next) in touched {
            self.advance(&slot, next);
            self.drop_unfunded(&slot, state);
        }
        while let Some((_, place)) = self.arrivals.first_key_value() {
            let place = *place;
            let since = self.queues.get(&place.0).and_then(|queue| queue.get(place.1));
            let expires = since.map_or(Height::ZERO, |e| e.since.plus(self.bounds.expiry_blocks));
            if expires > self.height {
                break;
            }
            self.take(&place);
        }
    }

    /// Drops a transaction, for example one that was tried at its turn and refused.
    pub fn remove(&mut self, hash: &TransactionHash) {
        if let Some(place) = self.by_hash.get(hash).copied() {
            self.take(&place);
        }
    }

    /// Heads that the base fee has passed in either direction change sides.
    fn move_base_fee(&mut self, base_fee: Credits) {
        self.base_fee = base_fee;
        let mut passed = Vec::new();
        let too_dear = self.affordable.iter().take_while(|(most, _)| *most < base_fee);
        passed.extend(too_dear.map(|(_, slot)| *slot));
        let affordable = self.too_dear.iter().rev().take_while(|(most, _)| *most >= base_fee);
        passed.extend(affordable.map(|(_, slot)| *slot));
        for slot in passed {
            if let Some(queue) = self.unlist(&slot) {
                self.list(slot, queue);
            }
        }
    }

    fn advance(&mut self, slot: &Slot, next: u64) {
        let Some(mut queue) = self.unlist(slot) else { return };
        for gone in queue.advance(next) {
            self.forget(slot, &gone);
        }
        self.list(*slot, queue);
    }

    /// Takes the last nonces off a queue until its purses can pay for what is left.
    fn drop_unfunded(&mut self, slot: &Slot, state: &State<'_>) {
        let mut held: BTreeMap<Purse, u128> = BTreeMap::new();
        while let Some((nonce, tail)) = self.queues.get(slot).and_then(Queue::tail) {
            let is_over = tail.charges.purses().any(|purse| {
                let have =
                    *held.entry(purse).or_insert_with(|| u128::from(purse.holds(state).micro()));
                self.pledged.get(&purse).is_some_and(|pledged| *pledged > have)
            });
            if !is_over {
                break;
            }
            self.take(&(*slot, nonce));
        }
    }

    fn put(&mut self, slot: Slot, nonce: u64, entry: Entry, state: &State<'_>) {
        let mut queue = self.unlist(&slot).unwrap_or_else(|| {
            Queue::new(state.nonce(&slot.0, &entry.transaction.transaction().key))
        });
        self.next_arrival = self.next_arrival.saturating_add(1);
        self.by_hash.insert(entry.transaction.hash(), (slot, nonce));
        self.arrivals.insert(entry.rank.arrival(), (slot, nonce));
        for purse in entry.charges.purses() {
            let pledged = self.pledged.entry(purse).or_default();
            *pledged = pledged.saturating_add(entry.charges.from(purse));
        }
        let of_account = self.accounts.entry(slot.0).or_default();
        *of_account = of_account.saturating_add(entry.weight);
        let of_lane = if entry.stamped { &mut self.stamped_bytes } else { &mut self.paying_bytes };
        *of_lane = of_lane.saturating_add(entry.weight);
        queue.insert(nonce, entry);
        self.list(slot, queue);
    }

    fn take(&mut self, place: &Place) {
        let Some(mut queue) = self.unlist(&place.0) else { return };
        if let Some(gone) = queue.remove(place.1) {
            self.forget(&place.0, &gone);
        }
        self.list(place.0, queue);
    }

    /// Takes an entry that has left its queue out of everything else.
    fn forget(&mut self, slot: &Slot, gone: &Entry) {
        self.by_hash.remove(&gone.transaction.hash());
        self.arrivals.remove(&gone.rank.arrival());
        for purse in gone.charges.purses() {
            if let Some(pledged) = self.pledged.get_mut(&purse) {
                *pledged = pledged.saturating_sub(gone.charges.from(purse));
                if *pledged == 0 {
                    self.pledged.remove(&purse);
                }
            }
        }
        if let Some(of_account) = self.accounts.get_mut(&slot.0) {
            *of_account = of_account.saturating_sub(gone.weight);
            if *of_account == 0 {
                self.accounts.remove(&slot.0);
            }
        }
        let of_lane = if gone.stamped { &mut self.stamped_bytes } else { &mut self.paying_bytes };
        *of_lane = of_lane.saturating_sub(gone.weight);
    }

    /// Takes a queue out, with its places in the orders.
    fn unlist(&mut self, slot: &Slot) -> Option<Queue> {
        let queue = self.queues.remove(slot)?;
        if let Some(head) = queue.head() {
            self.ready.remove(&head.rank);
            self.ready_stamped.remove(&head.rank);
            self.affordable.remove(&(head.base_fee_max, *slot));
            self.too_dear.remove(&(head.base_fee_max, *slot));
        }
        if let Some((nonce, tail)) = queue.tail() {
            self.tails.remove(&queue.standing(nonce, tail));
        }
        Some(queue)
    }

    /// Puts a queue back, unless it is empty.
    fn list(&mut self, slot: Slot, queue: Queue) {
        if let Some(head) = queue.head() {
            if head.stamped {
                self.ready_stamped.insert(head.rank, slot);
            } else if head.base_fee_max >= self.base_fee {
                self.ready.insert(head.rank, slot);
                self.affordable.insert((head.base_fee_max, slot));
            } else {
                self.too_dear.insert((head.base_fee_max, slot));
            }
        }
        if let Some((nonce, tail)) = queue.tail().filter(|_| queue.pays()) {
            self.tails.insert(queue.standing(nonce, tail), slot);
        }
        if !queue.is_empty() {
            self.queues.insert(slot, queue);
        }
    }
}

/// Whether `new` pays enough to replace `old`.
fn check_replacement(
    old: &Entry,
    new: &VerifiedTransaction,
    lane: Lane,
    rank: Rank,
) -> Result<(), MempoolError> {
    let tip = replacement_tip(old.transaction.transaction().tip, new.size());
    let inner = new.transaction();
    let pays = inner.tip >= tip && rank.pays_more(old.rank);
    if lane == Lane::Stamped || !pays {
        return Err(MempoolError::Underpriced { nonce: inner.nonce, tip });
    }
    Ok(())
}
