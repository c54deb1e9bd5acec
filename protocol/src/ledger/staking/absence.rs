//! Who signed the parent: what validators are paid for, and what they are jailed for.
//!
//! A certificate needs more than two thirds of the power, and the next proposer chooses which
//! signatures it carries. A proposer can leave a validator out, though it signed; it does so in its
//! own blocks alone, so those who hold a third of the power make a victim miss a third of its
//! window at most, and `absence_missed_ppm` is never below that: they cost it that part of its pay,
//! and cannot jail it. Somebody slow, whose precommits come after the quorum, is in the
//! certificates of proposers that waited; who is slower than the quorum in most blocks is absent.

use std::collections::{BTreeMap, BTreeSet};

use crate::amount::{Credits, Height};
use crate::consensus::{CommitCertificate, ValidatorSet};
use crate::ids::ValidatorId;
use crate::ledger::Rejection;
use crate::ledger::entries::staking::{Attendance, Row};
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::staking::pool::Stake;
use crate::ledger::staking::slashing;
use crate::ledger::state::State;
use crate::limits;

/// Counts who signed the parent, and punishes those whose window ends with too many absences.
pub(super) fn count(
    state: &mut State<'_>,
    certificate: &CommitCertificate,
) -> Result<(), Rejection> {
    let in_charge = state.validators_of_tip();
    let parameters = state.parameters();
    let mut attendance = state.attendance();
    let absent = attend(&mut attendance, &in_charge, certificate, &parameters);
    state.put_attendance(&attendance);
    for (validator, since) in absent {
        punish(state, &parameters, &validator, since)?;
    }
    Ok(())
}

/// Counts one certificate in; those whose window ended with too many absences, and its beginning.
/// A validator's window begins when it comes into charge: it is judged by its own blocks alone.
fn attend(
    attendance: &mut Attendance,
    in_charge: &ValidatorSet,
    certificate: &CommitCertificate,
    parameters: &LedgerParameters,
) -> Vec<(ValidatorId, Height)> {
    let signers: BTreeSet<ValidatorId> =
        certificate.signatures.iter().map(|s| s.validator).collect();
    let known = std::mem::take(&mut attendance.rows);
    let mut rows: BTreeMap<_, _> = known.into_iter().map(|row| (row.validator, row)).collect();
    let mut absent = Vec::new();
    let height = certificate.height;
    for validator in in_charge.as_slice() {
        let id = validator.key.validator_id();
        let new = Row { validator: id, since: height, signed: 0, missed: 0, work: 0 };
        let row = rows.entry(id).or_insert(new);
        let power = u128::from(validator.power.get());
        attendance.work = attendance.work.saturating_add(power);
        if signers.contains(&id) {
            row.signed = row.signed.saturating_add(1);
            row.work = row.work.saturating_add(power);
        } else {
            row.missed = row.missed.saturating_add(1);
        }
        let seen = row.signed.saturating_add(row.missed);
        if seen >= parameters.absence_window_blocks {
            let most = Credits::from_micro(seen).ppm(parameters.absence_missed_ppm).micro();
            if row.missed > most {
                absent.push((id, row.since));
            }
            *row = Row { since: height.plus(1), signed: 0, missed: 0, ..*row };
        }
    }
    make_room(&mut rows, in_charge);
    attendance.rows = rows.into_values().collect();
    absent
}

/// Too many came and went in one epoch: those who left with the least work are forgotten unpaid.
fn make_room(rows: &mut BTreeMap<ValidatorId, Row>, in_charge: &ValidatorSet) {
    let surplus = rows.len().saturating_sub(limits::ATTENDANCE_ROWS_MAX);
    if surplus == 0 {
        return;
    }
    let mut gone: Vec<(u128, ValidatorId)> = rows
        .values()
        .filter(|row| in_charge.get(&row.validator).is_none())
        .map(|row| (row.work, row.validator))
        .collect();
    gone.sort_unstable();
    for (_, validator) in gone.into_iter().take(surplus) {
        rows.remove(&validator);
    }
}

/// Burns a part of the stake and takes the power away. A jailed node that stays in charge, because
/// nobody else is left, is not punished again.
fn punish(
    state: &mut State<'_>,
    parameters: &LedgerParameters,
    validator: &ValidatorId,
    since: Height,
) -> Result<(), Rejection> {
    let Some(node) = state.node_of_validator(validator) else { return Ok(()) };
    let mut stake = Stake::load(state, &node.keys.node.node_id())?;
    if stake.pool.jailed_until.is_some() || stake.pool.tombstone.is_some() {
        return Ok(());
    }
    slashing::burn_bonded(state, &mut stake, parameters.absence_slash_ppm)?;
    slashing::forget(state, &mut stake.pool);
    // There is room: a node without any stays in jail.
    stake.pool.absences.push(slashing::record(state, since, parameters.absence_slash_ppm));
    stake.pool.jailed_until = Some(state.clock().time.plus(parameters.jail_ms));
    stake.save(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::VotingPower;
    use crate::consensus::{CommitSignature, Validator};
    use crate::ids::BlockHash;
    use crate::keys::{SecretKey, Signature};

    fn validator(seed: u16) -> Validator {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&seed.to_le_bytes());
        Validator { key: SecretKey::from_seed(&bytes).public(), power: VotingPower::new(10) }
    }

    fn certificate(height: u64, signers: &[&Validator]) -> CommitCertificate {
        let signature = Signature::from_bytes([0; 64]);
        let sign = |v: &&Validator| CommitSignature { validator: v.key.validator_id(), signature };
        CommitCertificate {
            height: Height::new(height),
            round: 0,
            block: BlockHash::default(),
            signatures: signers.iter().map(sign).collect(),
        }
    }

    #[test]
    fn a_window_ends_with_its_own_blocks_and_pays_for_what_was_signed() {
        let parameters =
            LedgerParameters { absence_window_blocks: 10, ..LedgerParameters::default() };
        let (early, late) = (validator(1), validator(2));
        let alone = ValidatorSet::new(vec![early.clone()]).expect("a set");
        let both = ValidatorSet::new(vec![early.clone(), late.clone()]).expect("a set");
        let mut attendance = Attendance::default();
        let mut judged = Vec::new();
        for height in 1..=24_u64 {
            // The late one comes in at 5, signs 4 of its 10 blocks, then 5.
            let set = if height < 5 { &alone } else { &both };
            let signs = (5..9).contains(&height) || (15..20).contains(&height);
            let signers: &[&Validator] = if signs { &[&early, &late] } else { &[&early] };
            for (id, since) in
                attend(&mut attendance, set, &certificate(height, signers), &parameters)
            {
                judged.push((height, id, since.get()));
            }
        }
        assert_eq!(judged, vec![(14, late.key.validator_id(), 5)]);
        assert_eq!(attendance.work, 10 * (24 + 20));
        let work = |v: &Validator| {
            let id = v.key.validator_id();
            attendance.rows.iter().find(|r| r.validator == id).expect("a row").work
        };
        assert_eq!((work(&early), work(&late)), (240, 90));
    }

    #[test]
    fn rows_are_bounded_and_those_in_charge_stay() {
        let parameters = LedgerParameters::default();
        let mut attendance = Attendance::default();
        let count = u16::try_from(limits::ATTENDANCE_ROWS_MAX).expect("small") + 20;
        for seed in 0..count {
            let v = validator(seed);
            let set = ValidatorSet::new(vec![v.clone()]).expect("a set");
            attend(&mut attendance, &set, &certificate(u64::from(seed) + 1, &[&v]), &parameters);
            assert!(attendance.rows.iter().any(|r| r.validator == v.key.validator_id()));
        }
        assert_eq!(attendance.rows.len(), limits::ATTENDANCE_ROWS_MAX);
        assert!(attendance.rows.is_sorted_by_key(|r| r.validator));
    }
}
