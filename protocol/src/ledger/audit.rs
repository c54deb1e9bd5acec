//! Adds up every credit on the ledger: the check behind "credits are conserved".

use serde::{Deserialize, Serialize};

use crate::amount::{Credits, Height};
use crate::ledger::entries::staking::{Liability, Pool, Whereabouts};
use crate::ledger::entries::{Account, Model, Proposal, Round};
use crate::ledger::governance;
use crate::ledger::rounds::open_rounds_of;
use crate::ledger::staking::store::prefix as stored;
use crate::ledger::state::{State, prefix, scan};
use crate::limits;
use crate::store::StateReader;

/// Where the credits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Height of the state.
    pub height: Height,
    /// Credits of the genesis.
    pub genesis: Credits,
    /// Made since.
    pub minted: Credits,
    /// Destroyed since.
    pub burned: Credits,
    /// Found: balances, allowances, stakes, unclaimed rewards, unbondings, bonds, escrows,
    /// deposits, treasury.
    pub found: u128,
    /// Whether found = genesis + minted - burned.
    pub conserved: bool,
    /// Double votes proven.
    pub double_signs: u64,
}

/// Audits a whole state.
pub fn audit(reader: &dyn StateReader) -> Audit {
    let state = State::new(reader);
    let supply = state.supply();
    let mut found = 0_u128;
    let mut add = |amount: Credits| found = found.saturating_add(u128::from(amount.micro()));
    add(supply.treasury);
    add(supply.validators);
    for account in scan::<Account>(reader, prefix::ACCOUNT, usize::MAX) {
        add(account.balance);
    }
    for node in state.nodes() {
        add(node.allowance);
        add(node.stake);
    }
    for pool in scan::<Pool>(reader, stored::POOL, limits::NODES_MAX) {
        add(pool.owed);
        add(pool.owed_commission);
    }
    for liability in scan::<Liability>(reader, stored::LIABILITY, usize::MAX) {
        if let Whereabouts::Unbonding { amount } = liability.now {
            add(amount);
        }
    }
    for model in scan::<Model>(reader, prefix::MODEL, limits::MODELS_MAX) {
        let Some(run) = &model.run else { continue };
        add(run.escrow);
        for round in open_rounds_of(&state, &model.spec.id()) {
            add_round(&round, &mut add);
        }
    }
    for proposal in scan::<Proposal>(reader, governance::PROPOSAL, usize::MAX) {
        add(proposal.deposit);
    }
    let expected = u128::from(supply.genesis.micro())
        .saturating_add(u128::from(supply.minted.micro()))
        .saturating_sub(u128::from(supply.burned.micro()));
    Audit {
        height: state.clock().height,
        genesis: supply.genesis,
        minted: supply.minted,
        burned: supply.burned,
        found,
        conserved: found == expected,
        double_signs: state.registry().double_signs,
    }
}

fn add_round(round: &Round, add: &mut impl FnMut(Credits)) {
    add(round.escrow);
    for member in round.members.iter().chain(&round.late) {
        add(member.bond);
    }
}
