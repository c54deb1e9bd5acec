//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

#[cfg(feature = "torch")]
pub mod faults;
#[cfg(feature = "torch")]
pub mod loss;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Members that learn together in one process, by one way of telling each other what they
    /// learned: loss and bytes after every round.
    #[cfg(feature = "torch")]
    Loss(loss::Options),
}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match *lab {
        #[cfg(feature = "torch")]
        Lab::Loss(ref options) => loss::run(options),
    }
}
