//! A node's stake while a rule works on it: shares for credits, credits for shares.

use crate::amount::{Credits, PPM};
use crate::ids::NodeId;
use crate::ledger::Rejection;
use crate::ledger::entries::Node;
use crate::ledger::entries::staking::{Candidate, Delegation, Pool};
use crate::ledger::staking::math::{mul_div, share};
use crate::ledger::state::State;

/// Shares of a pool: far above every supply, even where most of it was slashed again and again, and
/// far below what products and quotients need.
const SHARES_MAX: u128 = 1 << 120;

/// A node and its pool, taken out of the state; [`Stake::save`] puts both back.
#[derive(Clone)]
pub(super) struct Stake {
    pub(super) id: NodeId,
    pub(super) node: Node,
    pub(super) pool: Pool,
}

impl Stake {
    pub(super) fn load(state: &State<'_>, id: &NodeId) -> Result<Self, Rejection> {
        let node = state.node(id).ok_or(Rejection::Unknown("node"))?;
        let pool = state.pool(id).ok_or(Rejection::Unknown("node"))?;
        Ok(Self { id: *id, node, pool })
    }

    /// What shares are worth, rounded down.
    pub(super) fn value(&self, shares: u128) -> Credits {
        let micro = share(shares, self.node.stake.micro(), self.pool.shares);
        Credits::from_micro(micro.unwrap_or(0))
    }

    /// Sets the total, and keeps the least of the epoch.
    pub(super) fn set_stake(&mut self, epoch: u64, stake: Credits) {
        let mut lows = self.pool.lows.rolled(epoch, self.node.stake);
        lows.now = lows.now.min(stake);
        self.pool.lows = lows;
        self.node.stake = stake;
    }

    /// Takes credits in; the shares for them, rounded down.
    pub(super) fn deposit(&mut self, epoch: u64, amount: Credits) -> Result<u128, Rejection> {
        let now = self.node.stake.micro();
        let shares = match (self.pool.shares, now) {
            (0, _) => u128::from(amount.micro()),
            (_, 0) => {
                return Err(Rejection::Mismatch("the node (its stake was slashed to nothing)"));
            }
            (all, _) => mul_div(all, amount.micro(), now.into()).ok_or(Rejection::Overflow)?.0,
        };
        let stake = self.node.stake.checked_add(amount).ok_or(Rejection::Overflow)?;
        self.pool.shares = self
            .pool
            .shares
            .checked_add(shares)
            .filter(|all| *all <= SHARES_MAX)
            .ok_or(Rejection::Full("shares of this node; it was slashed too often"))?;
        self.set_stake(epoch, stake);
        Ok(shares)
    }

    /// Gives credits out for shares, at most `free` of them; how many, rounded up. Whoever takes
    /// all that the shares are worth leaves the dust to the others.
    pub(super) fn withdraw(
        &mut self,
        epoch: u64,
        amount: Credits,
        free: u128,
    ) -> Result<u128, Rejection> {
        let have = self.value(free);
        let stake = self
            .node
            .stake
            .checked_sub(amount)
            .filter(|_| amount <= have)
            .ok_or(Rejection::InsufficientFunds { have, need: amount })?;
        let shares = if amount == have {
            free
        } else {
            let now = u128::from(self.node.stake.micro());
            let (down, rest) =
                mul_div(self.pool.shares, amount.micro(), now).ok_or(Rejection::Overflow)?;
            down.saturating_add(u128::from(rest > 0))
        };
        self.pool.shares = self.pool.shares.checked_sub(shares).ok_or(Rejection::Overflow)?;
        self.set_stake(epoch, stake);
        Ok(shares)
    }

    /// Whether the node may be elected, given its owner's delegation.
    fn is_electable(&self, owner: &Delegation, stake_min: u64) -> bool {
        self.node.capabilities.validates
            && self.pool.tombstone.is_none()
            && self.pool.jailed_until.is_none()
            && self.value(owner.shares).micro() >= stake_min
    }

    /// Puts node and pool back, after the delegations, and keeps the index of candidates right.
    /// What is left when the last share is gone is dust of roundings: the treasury's.
    pub(super) fn save(mut self, state: &mut State<'_>) -> Result<(), Rejection> {
        if self.pool.shares == 0 {
            let dust = self.node.stake.checked_add(self.pool.owed).ok_or(Rejection::Overflow)?;
            if dust > Credits::ZERO {
                let mut supply = state.supply();
                supply.treasury = supply.treasury.checked_add(dust).ok_or(Rejection::Overflow)?;
                state.put_supply(&supply);
            }
            self.pool.owed = Credits::ZERO;
            self.pool.residue = 0;
            let epoch = state.stake_epoch();
            self.set_stake(epoch, Credits::ZERO);
        }
        let owner = state.delegation(&self.node.account, &self.id);
        let power = self.node.stake.micro().checked_div(PPM).unwrap_or(0);
        let listed = (power > 0 && self.is_electable(&owner, state.parameters().stake_min_micro))
            .then_some(power);
        if listed != self.pool.listed {
            if let Some(old) = self.pool.listed {
                state.unlist_candidate(&self.id, old);
            }
            if let Some(power) = listed {
                let (key, account) = (self.node.keys.consensus, self.node.account);
                state.list_candidate(&self.id, &Candidate { key, account, power });
            }
            self.pool.listed = listed;
        }
        if state.node(&self.id).is_some_and(|node| node != self.node) {
            state.put_node(&self.node);
        }
        if state.pool(&self.id).is_none_or(|pool| pool != self.pool) {
            state.put_pool(&self.id, &self.pool);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::AccountId;
    use crate::keys::SecretKey;
    use crate::transaction::{Capabilities, NodeKeys};

    fn empty() -> Stake {
        let key = SecretKey::from_seed(&[1; 32]).public();
        let node = Node {
            account: AccountId::default(),
            keys: NodeKeys { node: key, consensus: key, vrf: key, duty: key },
            capabilities: Capabilities::default(),
            allowance: Credits::ZERO,
            stake: Credits::ZERO,
            since: crate::amount::Height::ZERO,
        };
        Stake { id: NodeId::default(), node, pool: Pool::default() }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Deposit(usize, u64),
        Withdraw(usize, u64),
        Slash(u64),
    }

    fn acts() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..3_usize, 1..1_u64 << 50).prop_map(|(who, n)| Act::Deposit(who, n)),
            (0..3_usize, 1..1_000_u64).prop_map(|(who, n)| Act::Deposit(who, n)),
            (0..3_usize, 1..=PPM).prop_map(|(who, ppm)| Act::Withdraw(who, ppm)),
            (0..PPM).prop_map(Act::Slash),
        ]
    }

    #[test]
    fn a_pool_that_is_full_of_shares_or_empty_of_credits_takes_nothing() {
        let mut stake = empty();
        let amount = Credits::from_micro(2);
        stake.pool.shares = SHARES_MAX - 1;
        stake.node.stake = Credits::from_micro(1);
        assert!(matches!(stake.deposit(0, amount), Err(Rejection::Full(_))));
        stake.node.stake = Credits::ZERO;
        assert!(matches!(stake.deposit(0, amount), Err(Rejection::Mismatch(_))));
        assert_eq!(stake.value(SHARES_MAX - 1), Credits::ZERO);
    }

    proptest! {
        #[test]
        fn a_share_is_worth_one_micro_at_most_and_nobody_gains(
            script in proptest::collection::vec(acts(), 1..80)
        ) {
            let mut stake = empty();
            let mut shares = [0_u128; 3];
            for act in script {
                let before: Vec<_> = shares.iter().map(|s| stake.value(*s)).collect();
                let mut moved = None;
                match act {
                    Act::Deposit(who, micro) => {
                        let amount = Credits::from_micro(micro);
                        if let Ok(more) = stake.deposit(0, amount) {
                            prop_assert!(more >= u128::from(micro));
                            shares[who] += more;
                            let worth = stake.value(shares[who]);
                            let most = before[who].checked_add(amount).expect("small");
                            prop_assert!(worth <= most.checked_add(Credits::from_micro(1)).expect("small"));
                            moved = Some(who);
                        }
                    }
                    Act::Withdraw(who, ppm) => {
                        let amount = before[who].ppm(ppm);
                        if amount == Credits::ZERO { continue }
                        shares[who] -= stake.withdraw(0, amount, shares[who]).expect("is there");
                        moved = Some(who);
                    }
                    Act::Slash(ppm) => {
                        let keep = stake.node.stake.ppm(PPM - ppm);
                        stake.set_stake(0, keep);
                        continue;
                    }
                }
                prop_assert_eq!(shares.iter().sum::<u128>(), stake.pool.shares);
                prop_assert!(stake.pool.shares >= u128::from(stake.node.stake.micro()));
                // Roundings favour those who do nothing; they never lose.
                for who in 0..3 {
                    prop_assert!(moved == Some(who) || stake.value(shares[who]) >= before[who]);
                }
            }
        }
    }
}
