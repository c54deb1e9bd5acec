//! Quantities of the ledger: credits, heights, times. Checked integers only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Parts of a million in one whole; every ratio of the rules is in ppm.
pub const PPM: u64 = 1_000_000;

/// Micro-credits: one credit is 1,000,000.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Credits(u64);

impl Credits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From micro-credits.
    pub const fn from_micro(micro: u64) -> Self {
        Self(micro)
    }

    /// In micro-credits.
    pub const fn micro(self) -> u64 {
        self.0
    }

    /// Sum, or `None` on overflow.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Difference, or `None` when `other` is larger.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The smaller of two amounts.
    pub fn min(self, other: Self) -> Self {
        Ord::min(self, other)
    }

    /// `self * numerator / denominator`, rounded down; zero when the denominator is zero.
    /// Exact in u128; saturates at the largest amount.
    pub fn scaled(self, numerator: u64, denominator: u64) -> Self {
        let product = u128::from(self.0).saturating_mul(u128::from(numerator));
        let quotient = product.checked_div(u128::from(denominator)).unwrap_or(0);
        Self(u64::try_from(quotient).unwrap_or(u64::MAX))
    }

    /// `self * ppm / 1,000,000`, rounded down.
    pub fn ppm(self, ppm: u64) -> Self {
        self.scaled(ppm, PPM)
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / PPM, self.0 % PPM)
    }
}

macro_rules! counter {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first value.
            pub const ZERO: Self = Self(0);

            /// Wraps a number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// `self + n`, stopping at the largest value.
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// `self - n`, stopping at zero.
            pub const fn minus(self, n: u64) -> Self {
                Self(self.0.saturating_sub(n))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Height of a block. The genesis state is height 0; the first block is height 1.
    Height
);
counter!(
    /// Milliseconds since the Unix epoch, as a header or the chain states it.
    TimestampMs
);
counter!(
    /// Voting power of a validator.
    VotingPower
);
