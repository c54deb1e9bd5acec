//! The numbers of the rules, in one governed structure: every one has a unit in its name, a
//! default, a range, and a sentence.
//!
//! **Invariant.** Only [`LedgerParameters::validate`]d values reach the state: each in its range,
//! and all of them consistent with one another. A governed change goes through
//! [`LedgerParameters::with`], so that no ballot can set what a genesis could not.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, PPM};
use crate::codec::Canonical;
use crate::limits;

/// Why parameters were refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum ParameterError {
    /// No parameter has this name.
    #[error("there is no parameter {0:?}; `ayni chain params` lists them")]
    Unknown(String),
    /// A value out of its range.
    #[error("{name} must be from {min} to {max}, not {value}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// What was asked.
        value: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// One parameter, for people and for proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Name, ending in its unit.
    pub name: &'static str,
    /// Value.
    pub value: u64,
    /// Smallest allowed.
    pub min: u64,
    /// Largest allowed.
    pub max: u64,
    /// What it does.
    pub about: &'static str,
}

macro_rules! parameters {
    ($($name:ident = $default:expr, $min:expr, $max:expr, $about:literal;)*) => {
        /// The numbers of the rules, see the module. Amounts are in micro-credits.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LedgerParameters {
            $(#[doc = $about] pub $name: u64,)*
        }

        impl Default for LedgerParameters {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl LedgerParameters {
            /// Every parameter with its range, in a fixed order.
            pub fn list(&self) -> Vec<Parameter> {
                vec![$(Parameter {
                    name: stringify!($name),
                    value: self.$name,
                    min: $min,
                    max: $max,
                    about: $about.trim_ascii(),
                },)*]
            }

            fn slot(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

parameters! {
    base_fee_min_micro_per_byte = 10, 1, 1_000_000,
        "Lowest base fee, burned per byte of a transaction.";
    base_fee_step_ppm = 125_000, 0, 500_000,
        "Most by which the base fee moves from one block to the next.";
    block_bytes_target = 131_072, 1_024, 524_288,
        "Bytes of transactions in a block at which the base fee stays.";
    stamp_bits = 20, 1, 48,
        "Leading zero bits of the BLAKE3 work that stands in for a fee.";
    stamp_lane_ppm = 10_000, 0, 10_000,
        "Share of a block for transactions stamped with work.";
    snapshot_interval_blocks = 5_000, 20, 10_000_000,
        "Blocks between two snapshots of the state that headers commit to.";
    emission_per_round_micro = 100_000_000, 0, 1_000_000_000_000,
        "Most that one training round may mint for a model of full weight.";
    emission_per_epoch_micro = 5_000_000_000, 0, 1_000_000_000_000_000,
        "Most that an emission epoch may mint.";
    epoch_ms = 3_600_000, 1_000, 2_592_000_000,
        "Length of an emission epoch.";
    contributors_ppm = 600_000, 0, 1_000_000,
        "Share of the emission for merged deltas.";
    reviewers_ppm = 150_000, 0, 1_000_000,
        "Share for reviews.";
    validators_ppm = 100_000, 0, 1_000_000,
        "Share for signing blocks.";
    hosts_ppm = 100_000, 0, 1_000_000,
        "Share for serving blobs; not paid yet, so not minted.";
    treasury_ppm = 50_000, 0, 1_000_000,
        "Share for the treasury.";
    stake_min_micro = 1_000_000, 1_000_000, 1_000_000_000_000_000,
        "Least own stake of a validator.";
    validators_active_max = 100, 1, 100,
        "Validators with voting power, the largest stakes first.";
    power_cap_ppm = 300_000, 10_000, 1_000_000,
        "Largest share of the voting power of one account, or an equal share if that is more.";
    commission_max_ppm = 500_000, 0, 1_000_000,
        "Largest commission of a validator on its delegators' rewards.";
    unbonding_ms = 604_800_000, 1_000, 7_776_000_000,
        "How long credits stay at stake after they were unbonded.";
    unbonding_blocks_min = 100_000, 1, 10_000_000,
        "Blocks that must pass besides, so that an idle chain cannot end the delay.";
    evidence_blocks_max = 100_000, 10, 10_000_000,
        "Age at which evidence is no longer acted on.";
    double_vote_slash_ppm = 50_000, 0, 1_000_000,
        "Part of a stake burned for a proven equivocation.";
    absence_window_blocks = 1_000, 10, 1_000_000,
        "Blocks after which a validator's absences are counted.";
    absence_missed_ppm = 500_000, 334_000, 1_000_000,
        "Share of them that may be missed before the validator is jailed; proposers choose the \
         signatures, so never less than what a third of them could leave out.";
    absence_slash_ppm = 1_000, 0, 100_000,
        "Part of a stake burned for being away longer.";
    jail_ms = 600_000, 1_000, 2_592_000_000,
        "How long a jailed validator stays without power at least.";
    attest_absence_ppm = 100_000, 0, 1_000_000,
        "Part of a bond lost by an attestor who stays away from a round that fails.";
    datasets_need_admission = 0, 0, 1,
        "Whether a dataset trains models only after a vote admitted it (1) or at once (0).";
    proposal_deposit_micro = 10_000_000, 0, 1_000_000_000_000,
        "Locked by a proposal; burned when it is vetoed or misses the quorum.";
    voting_ms = 259_200_000, 1_000, 2_592_000_000,
        "How long ballots are taken.";
    voting_blocks_min = 10, 1, 1_000_000,
        "Blocks that must pass besides.";
    timelock_ms = 86_400_000, 0, 2_592_000_000,
        "Between the end of the vote and its execution.";
    emergency_voting_ms = 3_600_000, 1_000, 259_200_000,
        "How long ballots are taken on an emergency pause.";
    quorum_ppm = 334_000, 10_000, 1_000_000,
        "Share of the bonded stake that must take part.";
    threshold_ppm = 500_000, 500_000, 1_000_000,
        "Share of yes among yes, no and veto that must be exceeded.";
    veto_ppm = 334_000, 10_000, 1_000_000,
        "Share of veto at which a proposal fails and loses its deposit.";
    conviction_max = 3, 0, 6,
        "Largest conviction of a ballot; each adds the stake once more and locks it an unbonding longer.";
}

impl Canonical for LedgerParameters {
    const BYTES_MAX: usize = 1_024;
}

impl LedgerParameters {
    /// Checks every range and what must hold between values.
    pub fn validate(&self) -> Result<(), ParameterError> {
        for p in self.list() {
            if !(p.min..=p.max).contains(&p.value) {
                let Parameter { name, value, min, max, .. } = p;
                return Err(ParameterError::Range { name, value, min, max });
            }
        }
        let require =
            |ok: bool, text| if ok { Ok(()) } else { Err(ParameterError::Inconsistent(text)) };
        let shares = [
            self.contributors_ppm,
            self.reviewers_ppm,
            self.validators_ppm,
            self.hosts_ppm,
            self.treasury_ppm,
        ];
        let sum = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
        require(sum == PPM, "the five shares of the emission must add up to 1,000,000 ppm")?;
        let decided = self.voting_ms.max(self.emergency_voting_ms).saturating_add(self.timelock_ms);
        require(
            self.unbonding_ms >= decided,
            "unbonding_ms must be at least voting_ms plus timelock_ms, or the same credits could \
             vote twice",
        )?;
        require(
            self.unbonding_blocks_min >= self.evidence_blocks_max,
            "unbonding_blocks_min must be at least evidence_blocks_max, or stake could leave \
             before the evidence comes",
        )?;
        require(
            self.unbonding_blocks_min >= self.voting_blocks_min,
            "unbonding_blocks_min must be at least voting_blocks_min, or on an idle chain the same \
              credits could vote twice",
        )?;
        let budget = u64::try_from(limits::BLOCK_TRANSACTION_BYTES_MAX).unwrap_or(u64::MAX);
        require(
            self.block_bytes_target <= budget,
            "block_bytes_target must be at most what a block holds",
        )
    }

    /// These with some changed, checked as a whole.
    pub fn with<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<Self, ParameterError> {
        let mut changed = self.clone();
        for (name, value) in changes {
            let slot = changed.slot(name).ok_or_else(|| {
                ParameterError::Unknown(name.chars().take(limits::NAME_SHOWN_MAX).collect())
            })?;
            *slot = value;
        }
        changed.validate()?;
        Ok(changed)
    }

    /// Most that one training round may mint for a model of full weight.
    pub const fn emission_per_round(&self) -> Credits {
        Credits::from_micro(self.emission_per_round_micro)
    }

    /// Most that an emission epoch may mint.
    pub const fn emission_per_epoch(&self) -> Credits {
        Credits::from_micro(self.emission_per_epoch_micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_in_range() {
        LedgerParameters::default().validate().expect("the default is valid");
    }

    #[test]
    fn a_change_is_checked_as_a_whole() {
        let base = LedgerParameters::default();
        let check = |changes: &[(&str, u64)], expect: &str| {
            let refused = base.with(changes.iter().copied()).expect_err("refused");
            assert!(refused.to_string().contains(expect), "{refused}");
        };
        check(&[("emission_per_second", 1)], "no parameter \"emission_per_second\"");
        check(&[("quorum_ppm", 1)], "quorum_ppm must be from 10000 to 1000000, not 1");
        check(&[("treasury_ppm", 60_000)], "add up");
        check(&[("unbonding_ms", 2_000)], "vote twice");
        check(&[("voting_blocks_min", 1_000_000)], "vote twice");
        let moved = base.with([("treasury_ppm", 60_000), ("hosts_ppm", 90_000)]);
        assert_eq!(moved.expect("valid together").treasury_ppm, 60_000);
    }

    #[test]
    fn every_value_fits_the_encoding() {
        let mut largest = LedgerParameters::default();
        for p in LedgerParameters::default().list() {
            *largest.slot(p.name).expect("listed") = u64::MAX;
        }
        assert!(crate::codec::encode(&largest).len() <= LedgerParameters::BYTES_MAX);
    }
}
