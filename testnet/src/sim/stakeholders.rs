//! What accounts do with stake and ballots: clients delegate, owners of validators leave, come back
//! from jail, set commissions, and both propose and vote.
//!
//! Each action is drawn from what the state allows now; by the time it is in a block it may be
//! refused, which is no fault. What an action must never do is raise the power of those who are
//! broken to a third: see [`Economy`].

use protocol::amount::{Credits, PPM};
use protocol::ids::{AccountId, ContentHash, NodeId};
use protocol::ledger::entries::ProposalStatus;
use protocol::ledger::state::State;
use protocol::transaction::{Change, Choice, GovernanceAction, Payload, StakingAction};

use super::chain::{Network, Snapshot};
use super::faults::{Counts, Economy};
use super::random::Random;

/// Most credits that one action moves.
const AMOUNT_MAX: u64 = 300;
/// Proposals open at a time, so that ballots meet on them.
const OPEN_MAX: usize = 2;

/// Numbers that a vote may set without moving the power between validators, with their ranges.
const NUMBERS: [(&str, u64, u64); 8] = [
    ("base_fee_min_micro_per_byte", 10, 40),
    ("commission_max_ppm", 50_000, 500_000),
    ("jail_ms", 1_000, 10_000),
    ("absence_slash_ppm", 0, 50_000),
    ("timelock_ms", 0, 5_000),
    ("voting_ms", 15_000, 40_000),
    ("unbonding_ms", 30_000, 60_000),
    ("epoch_ms", 5_000, 40_000),
];
/// Numbers that do.
const NUMBERS_OF_POWER: [(&str, u64, u64); 3] = [
    ("validators_active_max", 2, 10),
    ("power_cap_ppm", 200_000, 600_000),
    ("absence_window_blocks", 10, 30),
];

/// See the module.
pub(super) struct Stakeholders {
    nodes: Vec<NodeId>,
    economy: Economy,
    /// Validators that keep their promises.
    trusted: Vec<usize>,
}

const fn staking(action: StakingAction) -> Option<Payload> {
    Some(Payload::Staking(action))
}

impl Stakeholders {
    pub(super) fn new(network: &Network, economy: Economy, trusted: Vec<usize>) -> Self {
        let nodes = network.secrets.iter().map(|s| s.node.public().node_id()).collect();
        Self { nodes, economy, trusted }
    }

    /// What `account`, the owner of validator `owned` if it has one, does now, if anything.
    pub(super) fn payload(
        &self,
        account: &AccountId,
        owned: Option<usize>,
        at: &Snapshot,
        random: &mut Random,
        counts: &mut Counts,
    ) -> Option<Payload> {
        if self.economy == Economy::Still {
            return None;
        }
        let state = at.state();
        if let Some(node) = owned.map(|validator| self.nodes[validator])
            && self.is_free(&state, &node)
        {
            counts.unjails += 1;
            return staking(StakingAction::Unjail { node });
        }
        if random.chance(450_000) {
            return self.politics(account, &state, random, counts);
        }
        let action = match owned {
            Some(validator) => self.own(account, validator, &state, random),
            None => self.delegate(account, &state, random),
        };
        counts.stakings += u64::from(action.is_some());
        action.map(Payload::Staking)
    }

    /// Whether a jailed node's time is over.
    fn is_free(&self, state: &State<'_>, node: &NodeId) -> bool {
        let until = state.pool(node).and_then(|pool| pool.jailed_until);
        until.is_some_and(|until| until <= state.clock().time)
    }

    /// Where stake may go.
    fn target(&self, random: &mut Random) -> Option<NodeId> {
        let validator = match self.economy {
            Economy::Open => random.index(self.nodes.len()),
            _ => *self.trusted.get(random.index(self.trusted.len()))?,
        };
        self.nodes.get(validator).copied()
    }

    fn own(
        &self,
        account: &AccountId,
        validator: usize,
        state: &State<'_>,
        random: &mut Random,
    ) -> Option<StakingAction> {
        let node = self.nodes[validator];
        let may_move = self.economy == Economy::Open;
        Some(match random.below(6) {
            0 => StakingAction::ClaimRewards { node },
            1 => {
                let most = state.parameters().commission_max_ppm;
                let commission_ppm = u32::try_from(random.below(most + 1)).unwrap_or(0);
                StakingAction::SetCommission { node, commission_ppm }
            }
            2 | 3 if may_move => {
                let have = state.delegated(&state.delegation(account, &node));
                // At times all of it: the validator leaves, until it bonds again.
                let amount = if random.chance(300_000) { have } else { part(have, random) };
                StakingAction::Unbond { node, amount: positive(amount)? }
            }
            _ if may_move || self.trusted.contains(&validator) => {
                let have = state.account(account).balance;
                StakingAction::Bond { node, amount: positive(part(have, random))? }
            }
            _ => return None,
        })
    }

    fn delegate(
        &self,
        account: &AccountId,
        state: &State<'_>,
        random: &mut Random,
    ) -> Option<StakingAction> {
        let delegations = state.delegations(account);
        let place = random.index(delegations.len());
        let Some(from) = delegations.get(place).filter(|_| random.chance(600_000)) else {
            let amount = positive(part(state.account(account).balance, random))?;
            return Some(StakingAction::Bond { node: self.target(random)?, amount });
        };
        let (node, have) = (from.node, state.delegated(from));
        let amount = if random.chance(300_000) { have } else { part(have, random) };
        Some(match random.below(4) {
            0 => StakingAction::ClaimRewards { node },
            1 | 2 => StakingAction::Unbond { node, amount: positive(amount)? },
            _ => {
                let to = self.target(random).filter(|to| *to != node)?;
                StakingAction::Redelegate { from: node, to, amount: positive(amount)? }
            }
        })
    }

    /// A proposal, or a ballot on one.
    fn politics(
        &self,
        account: &AccountId,
        state: &State<'_>,
        random: &mut Random,
        counts: &mut Counts,
    ) -> Option<Payload> {
        let agenda = state.agenda();
        let open: Vec<_> = agenda
            .active
            .iter()
            .filter_map(|id| state.proposal(*id))
            .filter(|proposal| proposal.status == ProposalStatus::Voting)
            .collect();
        if open.is_empty() || (open.len() < OPEN_MAX && random.chance(50_000)) {
            counts.proposals += 1;
            let (title, change) = self.change(account, random);
            let title = title.to_owned();
            return Some(Payload::Governance(GovernanceAction::Propose { title, change }));
        }
        let proposal = open[random.index(open.len())].id;
        // A second ballot replaces the first: rarely.
        if state.ballot(proposal, account).is_some() && !random.chance(100_000) {
            return None;
        }
        counts.ballots += 1;
        let choice = match random.below(20) {
            0..=14 => Choice::Yes,
            15..=17 => Choice::No,
            18 => Choice::Abstain,
            _ => Choice::Veto,
        };
        let conviction = u8::from(random.chance(50_000));
        Some(Payload::Governance(GovernanceAction::Ballot { proposal, choice, conviction }))
    }

    fn change(&self, account: &AccountId, random: &mut Random) -> (&'static str, Change) {
        match random.below(10) {
            0 => ("A text", Change::Text { content: ContentHash::from_bytes(random.bytes()) }),
            1 => {
                let amount = Credits::from_micro(random.between(1, PPM));
                ("A payment", Change::TreasurySpend { to: *account, amount })
            }
            2..=4 if self.economy == Economy::Open => number(&NUMBERS_OF_POWER, random),
            _ => number(&NUMBERS, random),
        }
    }
}

fn number(numbers: &[(&str, u64, u64)], random: &mut Random) -> (&'static str, Change) {
    let (name, low, high) = numbers[random.index(numbers.len())];
    let value = random.between(low, high);
    ("A number", Change::Parameters(vec![(name.to_owned(), value)]))
}

/// Some of an amount.
fn part(have: Credits, random: &mut Random) -> Credits {
    have.min(Credits::from_micro(random.between(1, AMOUNT_MAX * PPM)))
}

fn positive(amount: Credits) -> Option<Credits> {
    (amount > Credits::ZERO).then_some(amount)
}
