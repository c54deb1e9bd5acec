//! What the state forgets and people ask for: base fees and validators of the past.

use std::collections::BTreeMap;

use protocol::amount::{Credits, Height};
use protocol::consensus::ValidatorSet;
use storage::ValidatorSets;

/// Heights whose base fee is remembered until the history has taken it over.
const BASE_FEES_MAX: usize = 16_384;

/// What a byte of a transaction cost at the last heights: the history keeps it for people.
pub(super) type BaseFees = BTreeMap<Height, Credits>;

/// What a replay tells of the past.
pub(super) struct Past<'a> {
    /// Base fees by height.
    pub(super) base_fees: BaseFees,
    /// Where validator sets are kept.
    pub(super) sets: &'a ValidatorSets,
}

pub(super) fn remember_base_fee(fees: &mut BaseFees, height: Height, fee: Credits) {
    fees.insert(height, fee);
    if fees.len() > BASE_FEES_MAX {
        fees.pop_first();
    }
}

/// Keeps a validator set for proofs; the node works without.
pub(super) fn remember_set(sets: &ValidatorSets, set: &ValidatorSet) {
    if let Err(error) = sets.remember(set) {
        tracing::error!(%error, "a validator set is not kept: proofs may be missing it one day");
    }
}
