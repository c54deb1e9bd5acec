//! Where stake lies in the state, and what others may ask about it.

use crate::amount::Credits;
use crate::ids::{AccountId, NodeId};
use crate::ledger::entries::Node;
use crate::ledger::entries::staking::{
    Attendance, Candidate, Delegation, Liability, Pool, Queue, Whereabouts,
};
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::slashing;
use crate::ledger::state::{State, key};
use crate::limits;

/// Key prefixes of stake.
pub mod prefix {
    /// Pools by node.
    pub const POOL: &[u8] = b"sp/";
    /// Delegations by account and node.
    pub const DELEGATION: &[u8] = b"sd/";
    /// Liabilities by number.
    pub const LIABILITY: &[u8] = b"sl/";
    /// Candidates, the most powerful first: complement of the power, node.
    pub const CANDIDATE: &[u8] = b"sv/";
    /// The liabilities' queue.
    pub const QUEUE: &[u8] = b"stake/queue";
    /// Epochs that ended.
    pub const EPOCHS: &[u8] = b"stake/epochs";
    /// Who signed.
    pub const ATTENDANCE: &[u8] = b"stake/attendance";
}

fn candidate_key(power: u64, node: &NodeId) -> Vec<u8> {
    let order = u64::MAX.saturating_sub(power).to_be_bytes();
    key(prefix::CANDIDATE, &[&order, node.as_bytes()])
}

impl State<'_> {
    /// The pool of a node.
    pub fn pool(&self, node: &NodeId) -> Option<Pool> {
        self.read(&key(prefix::POOL, &[node.as_bytes()]))
    }

    pub(super) fn put_pool(&mut self, node: &NodeId, pool: &Pool) {
        self.write(key(prefix::POOL, &[node.as_bytes()]), pool);
    }

    /// What an account has at stake on a node; nothing if there is no entry.
    pub fn delegation(&self, account: &AccountId, node: &NodeId) -> Delegation {
        self.read(&key(prefix::DELEGATION, &[account.as_bytes(), node.as_bytes()]))
            .unwrap_or_else(|| Delegation::new(*account, *node))
    }

    pub(super) fn put_delegation(&mut self, delegation: &Delegation) {
        let parts = [delegation.account.as_bytes().as_slice(), delegation.node.as_bytes()];
        let at = key(prefix::DELEGATION, &parts);
        if delegation.is_empty() { self.remove(at) } else { self.write(at, delegation) }
    }

    /// All that an account has at stake, in the order of the nodes.
    pub fn delegations(&self, account: &AccountId) -> Vec<Delegation> {
        let of = key(prefix::DELEGATION, &[account.as_bytes()]);
        self.entries(&of, limits::DELEGATIONS_PER_ACCOUNT_MAX)
    }

    /// Credits that an account has at stake now, on all nodes: the weight of its ballot. What is
    /// unbonding does not count.
    pub fn bonded(&self, account: &AccountId) -> Credits {
        self.delegations(account).iter().fold(Credits::ZERO, |sum, delegation| {
            sum.checked_add(self.delegated(delegation)).unwrap_or(sum)
        })
    }

    /// What a delegation is worth.
    pub fn delegated(&self, delegation: &Delegation) -> Credits {
        Stake::load(self, &delegation.node)
            .map_or(Credits::ZERO, |stake| stake.value(delegation.shares))
    }

    /// Stake of a node that has been there for one full epoch: what counts when duties are drawn.
    /// The least stake since the beginning of the last epoch; none after an equivocation.
    pub fn eligible_stake(&self, node: &Node) -> Credits {
        let Some(pool) = self.pool(&node.keys.node.node_id()) else { return Credits::ZERO };
        if pool.tombstone.is_some() {
            return Credits::ZERO;
        }
        let lows = pool.lows.rolled(self.stake_epoch(), node.stake);
        lows.now.min(lows.before)
    }

    /// A liability that has not ended.
    pub fn liability(&self, number: u64) -> Option<Liability> {
        self.read(&key(prefix::LIABILITY, &[&number.to_be_bytes()]))
    }

    /// What an open unbonding would pay now, after the slashes that reach it.
    pub fn unbonding_value(&self, number: u64) -> Credits {
        match self.liability(number) {
            Some(Liability { now: Whereabouts::Unbonding { amount }, node, height, .. }) => self
                .pool(&node)
                .map_or(amount, |pool| slashing::remains(&pool, number, height, amount)),
            _ => Credits::ZERO,
        }
    }

    pub(super) fn push_liability(&mut self, liability: &Liability) -> u64 {
        let mut queue = self.queue();
        let number = queue.next;
        queue.next = number.saturating_add(1);
        self.write(prefix::QUEUE.to_vec(), &queue);
        self.write(key(prefix::LIABILITY, &[&number.to_be_bytes()]), liability);
        number
    }

    /// Removes the oldest liability.
    pub(super) fn pop_liability(&mut self) {
        let mut queue = self.queue();
        self.remove(key(prefix::LIABILITY, &[&queue.first.to_be_bytes()]));
        queue.first = queue.first.saturating_add(1);
        self.write(prefix::QUEUE.to_vec(), &queue);
    }

    /// The liabilities' queue.
    pub fn queue(&self) -> Queue {
        self.read(prefix::QUEUE).unwrap_or_default()
    }

    /// Number of the running epoch, counted by their ends from 1. The clock's number jumps over
    /// epochs without a block, and starts anew when a vote changes their length.
    pub fn stake_epoch(&self) -> u64 {
        self.read(prefix::EPOCHS).unwrap_or(1)
    }

    pub(super) fn turn_stake_epoch(&mut self) {
        let next = self.stake_epoch().saturating_add(1);
        self.write(prefix::EPOCHS.to_vec(), &next);
    }

    /// Who signed in this epoch.
    pub fn attendance(&self) -> Attendance {
        self.read(prefix::ATTENDANCE).unwrap_or_default()
    }

    pub(super) fn put_attendance(&mut self, attendance: &Attendance) {
        self.write(prefix::ATTENDANCE.to_vec(), attendance);
    }

    /// The first candidates, the most powerful first.
    pub(super) fn candidates(&self, limit: usize) -> Vec<Candidate> {
        self.entries(prefix::CANDIDATE, limit)
    }

    pub(super) fn list_candidate(&mut self, node: &NodeId, candidate: &Candidate) {
        self.write(candidate_key(candidate.power, node), candidate);
    }

    pub(super) fn unlist_candidate(&mut self, node: &NodeId, power: u64) {
        self.remove(candidate_key(power, node));
    }
}
