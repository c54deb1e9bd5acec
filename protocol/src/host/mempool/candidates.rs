//! Pending transactions as a proposer tries them: the best that is at its turn first, without
//! sorting what is not looked at.

use std::collections::{BTreeMap, BinaryHeap, btree_map};
use std::iter::{Peekable, Rev};

use super::queue::Queue;
use super::rank::Rank;
use super::{Lane, Mempool, Slot};
use crate::amount::Credits;
use crate::transaction::VerifiedTransaction;

/// Iterator over one lane; each step costs the logarithm of what was taken and of the pool.
///
/// After each item the next nonce of its queue joins the rest, unless [`Candidates::pass_over`]
/// says that the item was not taken.
#[derive(Debug)]
pub struct Candidates<'a> {
    queues: &'a BTreeMap<Slot, Queue>,
    lane: Lane,
    base_fee: Credits,
    heads: Peekable<Rev<btree_map::Iter<'a, Rank, Slot>>>,
    /// Successors of what was taken.
    followers: BinaryHeap<(Rank, Slot, u64)>,
    /// The item handed out last, whose successor was not looked at yet.
    last: Option<(Slot, u64)>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(pool: &'a Mempool, lane: Lane) -> Self {
        let heads = match lane {
            Lane::Paying => &pool.ready,
            Lane::Stamped => &pool.ready_stamped,
        };
        Self {
            queues: &pool.queues,
            lane,
            base_fee: pool.base_fee,
            heads: heads.iter().rev().peekable(),
            followers: BinaryHeap::new(),
            last: None,
        }
    }

    /// The last item was not taken: what follows it in its queue has no turn.
    pub fn pass_over(&mut self) {
        self.last = None;
    }

    fn follow(&mut self) {
        let Some((slot, nonce)) = self.last.take() else { return };
        let next = nonce.saturating_add(1);
        let Some(entry) = self.queues.get(&slot).and_then(|queue| queue.get(next)) else { return };
        let is_affordable = entry.stamped || entry.base_fee_max >= self.base_fee;
        if is_affordable && entry.stamped == (self.lane == Lane::Stamped) {
            self.followers.push((entry.rank, slot, next));
        }
    }

    fn hand_out(&mut self, slot: Slot, nonce: u64) -> Option<&'a VerifiedTransaction> {
        let entry = self.queues.get(&slot)?.get(nonce)?;
        self.last = Some((slot, nonce));
        Some(&entry.transaction)
    }
}

impl<'a> Iterator for Candidates<'a> {
    type Item = &'a VerifiedTransaction;

    fn next(&mut self) -> Option<Self::Item> {
        self.follow();
        let follower = self.followers.peek().map(|(rank, _, _)| *rank);
        let head = self.heads.peek().map(|(rank, _)| **rank);
        if follower > head {
            let (_, slot, nonce) = self.followers.pop()?;
            return self.hand_out(slot, nonce);
        }
        let (_, slot) = self.heads.next()?;
        let nonce = self.queues.get(slot)?.expected();
        self.hand_out(*slot, nonce)
    }
}
