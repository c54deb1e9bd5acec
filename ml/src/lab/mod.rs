//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

#[cfg(feature = "torch")]
pub mod faults;
#[cfg(feature = "torch")]
pub mod loss;
pub mod sandbox;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Members that learn together in one process, by one way of telling each other what they
    /// learned: loss and bytes after every round.
    #[cfg(feature = "torch")]
    Loss(loss::Options),
    /// What a delta of a model weighs after a few steps of training.
    #[cfg(feature = "torch")]
    Payload(loss::payload::Options),
    /// Confines itself as a worker does and tries to get out.
    Sandbox(sandbox::Options),
}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match lab {
        #[cfg(feature = "torch")]
        Lab::Loss(options) => loss::run(options),
        #[cfg(feature = "torch")]
        Lab::Payload(options) => loss::payload::run(options),
        Lab::Sandbox(options) => sandbox::run(options),
    }
}
