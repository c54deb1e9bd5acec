//! Validators as people see them: who has power and why, who has none and why not.

use std::cmp::Reverse;

use protocol::amount::{Credits, Height, PPM, VotingPower};
use protocol::api::{ValidatorState, ValidatorSummary, Validators};
use protocol::consensus::ValidatorSet;
use protocol::ledger::entries::Node as LedgerNode;
use protocol::ledger::entries::staking::{Attendance, Pool, Row};
use protocol::ledger::state::View;

/// Nodes without power that are shown besides; anybody can register one.
const WAITING_MAX: usize = 256;

/// The set of a height, and the nodes that would like to be in it.
pub(super) fn show(view: &View<'_>, height: Height, set: &ValidatorSet) -> Validators {
    let total = set.total_power();
    let attendance = view.attendance();
    let mut validators: Vec<ValidatorSummary> = set
        .as_slice()
        .iter()
        .map(|validator| {
            let id = validator.key.validator_id();
            let share = Credits::from_micro(PPM).scaled(validator.power.get(), total).micro();
            ValidatorSummary {
                validator: id,
                power: validator.power,
                share_ppm: u32::try_from(share).unwrap_or(u32::MAX),
                ..summary(view, &attendance, view.node_of_validator(&id).as_ref(), true)
            }
        })
        .collect();
    validators.sort_by_key(|v| Reverse(v.power));
    let mut waiting: Vec<LedgerNode> = view.nodes();
    waiting.retain(|node| {
        node.capabilities.validates && set.get(&node.keys.consensus.validator_id()).is_none()
    });
    waiting.sort_by_key(|node| Reverse(node.stake));
    waiting.truncate(WAITING_MAX);
    validators.extend(waiting.iter().map(|node| summary(view, &attendance, Some(node), false)));
    Validators {
        height,
        hash: set.hash(),
        total_power: VotingPower::new(total),
        window_blocks: view.parameters().absence_window_blocks,
        validators,
    }
}

fn summary(
    view: &View<'_>,
    attendance: &Attendance,
    node: Option<&LedgerNode>,
    has_power: bool,
) -> ValidatorSummary {
    let pool = node.and_then(|node| view.pool(&node.keys.node.node_id())).unwrap_or_default();
    let validator = node.map(|node| node.keys.consensus.validator_id()).unwrap_or_default();
    let row = row(attendance, &validator);
    ValidatorSummary {
        validator,
        node: node.map(|node| node.keys.node.node_id()),
        account: node.map(|node| node.account),
        power: VotingPower::ZERO,
        share_ppm: 0,
        stake_micro: node.map_or(Credits::ZERO, |node| node.stake),
        commission_ppm: pool.commission.of_epoch(view.stake_epoch()),
        signed_blocks: row.map_or(0, |row| row.signed),
        missed_blocks: row.map_or(0, |row| row.missed),
        state: state(&pool, has_power),
        jailed_until_ms: pool.jailed_until,
    }
}

fn row<'a>(attendance: &'a Attendance, id: &protocol::ids::ValidatorId) -> Option<&'a Row> {
    attendance.rows.iter().find(|row| row.validator == *id)
}

/// Why a node has power or has none.
pub(super) const fn state(pool: &Pool, has_power: bool) -> ValidatorState {
    if pool.tombstone.is_some() {
        ValidatorState::Tombstoned
    } else if pool.jailed_until.is_some() {
        ValidatorState::Jailed
    } else if has_power {
        ValidatorState::Active
    } else {
        ValidatorState::Waiting
    }
}
