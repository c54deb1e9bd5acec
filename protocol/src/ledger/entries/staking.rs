//! Entries of stake: pools, delegations, what still answers for a node, who signed.

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height, TimestampMs};
use crate::codec::Canonical;
use crate::ids::{AccountId, NodeId, ValidatorId};
use crate::keys::PublicKey;
use crate::limits;

/// A commission and the one that follows it: a change takes effect with the next epoch, so that
/// delegators see it before it costs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commission {
    /// Until the epoch of the last change ends.
    pub now_ppm: u32,
    /// After it.
    pub next_ppm: u32,
    /// Epoch of the last change.
    pub changed_in: u64,
}

impl Commission {
    /// The commission on the rewards of an epoch.
    pub const fn of_epoch(&self, epoch: u64) -> u32 {
        if epoch > self.changed_in { self.next_ppm } else { self.now_ppm }
    }
}

/// The least stake of a node in this epoch and in the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lows {
    /// The epoch of `now`.
    pub epoch: u64,
    /// Least stake in it.
    pub now: Credits,
    /// Least stake in the epoch before it.
    pub before: Credits,
}

impl Lows {
    /// These as they are in `epoch`, when the stake has been `stake` since the last change.
    pub fn rolled(self, epoch: u64, stake: Credits) -> Self {
        if epoch <= self.epoch {
            return self;
        }
        let before = if self.epoch.checked_add(1) == Some(epoch) { self.now } else { stake };
        Self { epoch, now: stake, before: before.min(stake) }
    }
}

/// A slash, for the stake that left the node before it and still answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slash {
    /// Number of the next liability then: it reaches earlier ones alone.
    pub liabilities: u64,
    /// Height of the misdeed.
    pub infraction: Height,
    /// Part burned.
    pub ppm: u32,
}

/// Stake of a node beside its total ([`super::Node::stake`]).
///
/// **Invariant.** `shares >= stake`: a share is worth one micro-credit at most. It starts at one,
/// slashing lowers it, and every rounding is against whoever acts; so no deposit is ever worth
/// less than one share, and nobody can make the first share dear to swallow the next deposit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Shares of all delegations.
    pub shares: u128,
    /// The owner's commission.
    pub commission: Commission,
    /// Rewards of one share since the beginning, in micro-credits times 2^64.
    pub reward_per_share: u128,
    /// What the last division left over, in micro-credits times 2^64.
    pub residue: u128,
    /// Credits held for the delegations' claims.
    pub owed: Credits,
    /// Credits held for the owner's commission.
    pub owed_commission: Credits,
    /// Without power until then and until the owner ends it.
    pub jailed_until: Option<TimestampMs>,
    /// Proven equivocation: out for ever. With the earliest known misdeed.
    pub tombstone: Option<Slash>,
    /// Slashes for absence that may still reach a liability.
    pub absences: Vec<Slash>,
    /// Least stakes, for [`crate::ledger::state::State::eligible_stake`].
    pub lows: Lows,
    /// Power in the index of candidates, if it is there.
    pub listed: Option<u64>,
}

impl Canonical for Pool {
    const BYTES_MAX: usize = 256 + 32 * limits::ABSENCES_OPEN_MAX;
}

/// What an account has at stake on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The account.
    pub account: AccountId,
    /// The node.
    pub node: NodeId,
    /// Shares of the node's pool.
    pub shares: u128,
    /// The pool's rewards of one share when they were last paid out.
    pub reward_per_share: u128,
    /// What the last payment rounded off, in micro-credits times 2^64: claiming often costs
    /// nothing.
    pub fraction: u64,
    /// Numbers of its open unbondings.
    pub unbonding: Vec<u64>,
    /// Numbers of the redelegations that brought shares here and still answer for another node.
    pub moved_in: Vec<u64>,
}

impl Canonical for Delegation {
    const BYTES_MAX: usize = 144 + 18 * limits::LIABILITIES_PER_DELEGATION_MAX;
}

impl Delegation {
    /// Nothing at stake.
    pub const fn new(account: AccountId, node: NodeId) -> Self {
        Self {
            account,
            node,
            shares: 0,
            reward_per_share: 0,
            fraction: 0,
            unbonding: Vec::new(),
            moved_in: Vec::new(),
        }
    }

    /// Whether nothing needs the entry any more.
    pub const fn is_empty(&self) -> bool {
        self.shares == 0 && self.unbonding.is_empty() && self.moved_in.is_empty()
    }
}

/// Where stake that left a node is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whereabouts {
    /// On its way to the account's balance.
    Unbonding {
        /// Credits, before slashes that reach them.
        amount: Credits,
    },
    /// At stake on another node.
    Moved {
        /// The other node.
        to: NodeId,
        /// Shares of its pool.
        shares: u128,
    },
}

/// Stake that left a node and still answers for what the node did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liability {
    /// Whose.
    pub account: AccountId,
    /// The node that it left.
    pub node: NodeId,
    /// Height of the block in which it left.
    pub height: Height,
    /// Chain time of that block.
    pub time: TimestampMs,
    /// Least chain time of its end, by the parameters of then.
    pub due: TimestampMs,
    /// Least height of its end, by the parameters of then.
    pub due_height: Height,
    /// Where it is.
    pub now: Whereabouts,
}

impl Canonical for Liability {
    const BYTES_MAX: usize = 192;
}

/// The liabilities' queue: they end in the order in which they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Number of the oldest open one.
    pub first: u64,
    /// Number of the next.
    pub next: u64,
}

impl Canonical for Queue {
    const BYTES_MAX: usize = 18;
}

/// A node that may be elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Consensus key.
    pub key: PublicKey,
    /// Owner.
    pub account: AccountId,
    /// Stake in whole credits.
    pub power: u64,
}

impl Canonical for Candidate {
    const BYTES_MAX: usize = 96;
}

/// What a validator signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub validator: ValidatorId,
    /// First height of its window.
    pub since: Height,
    /// Blocks of the window with its signature.
    pub signed: u64,
    /// Blocks of the window without.
    pub missed: u64,
    /// Power times blocks signed in this epoch.
    pub work: u128,
}

/// Who signed: one entry for all validators, because all of it changes with every block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attendance {
    /// In ascending order of validator.
    pub rows: Vec<Row>,
    /// Power times blocks of this epoch, of all who were in charge.
    pub work: u128,
}

impl Canonical for Attendance {
    const BYTES_MAX: usize = limits::STATE_VALUE_BYTES_MAX;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::keys::SecretKey;

    fn check<T: Canonical>(largest: &T) {
        let length = codec::encode(largest).len();
        assert!(length <= T::BYTES_MAX, "{length} bytes of {}", std::any::type_name::<T>());
    }

    #[test]
    fn the_largest_entries_fit_their_limits() {
        let (most, credits) = (u64::MAX, Credits::from_micro(u64::MAX));
        let (height, time) = (Height::new(most), TimestampMs::new(most));
        let slash = Slash { liabilities: most, infraction: height, ppm: u32::MAX };
        check(&Pool {
            shares: u128::MAX,
            commission: Commission { now_ppm: u32::MAX, next_ppm: u32::MAX, changed_in: most },
            reward_per_share: u128::MAX,
            residue: u128::MAX,
            owed: credits,
            owed_commission: credits,
            jailed_until: Some(time),
            tombstone: Some(slash),
            absences: vec![slash; limits::ABSENCES_OPEN_MAX],
            lows: Lows { epoch: most, now: credits, before: credits },
            listed: Some(most),
        });
        check(&Delegation {
            account: AccountId::default(),
            node: NodeId::default(),
            shares: u128::MAX,
            reward_per_share: u128::MAX,
            fraction: most,
            unbonding: vec![most; limits::LIABILITIES_PER_DELEGATION_MAX],
            moved_in: vec![most; limits::LIABILITIES_PER_DELEGATION_MAX],
        });
        check(&Liability {
            account: AccountId::default(),
            node: NodeId::default(),
            height,
            time,
            due: time,
            due_height: height,
            now: Whereabouts::Moved { to: NodeId::default(), shares: u128::MAX },
        });
        check(&Queue { first: most, next: most });
        let key = SecretKey::from_seed(&[1; 32]).public();
        check(&Candidate { key, account: AccountId::default(), power: most });
        let row = Row {
            validator: ValidatorId::default(),
            since: height,
            signed: most,
            missed: most,
            work: u128::MAX,
        };
        let rows = vec![row; limits::ATTENDANCE_ROWS_MAX];
        check(&Attendance { rows, work: u128::MAX });
    }

    #[test]
    fn lows_are_those_of_this_epoch_and_the_one_before() {
        let lows = |epoch, now, before| Lows {
            epoch,
            now: Credits::from_micro(now),
            before: Credits::from_micro(before),
        };
        let check = |from: Lows, epoch, stake, expect| {
            assert_eq!(from.rolled(epoch, Credits::from_micro(stake)), expect);
        };
        check(lows(5, 3, 9), 5, 10, lows(5, 3, 9));
        check(lows(5, 3, 9), 6, 10, lows(6, 10, 3));
        check(lows(5, 3, 9), 7, 10, lows(7, 10, 10));
    }
}
