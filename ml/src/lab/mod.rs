//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

#[cfg(feature = "torch")]
pub mod attack;
#[cfg(feature = "torch")]
pub mod faults;
#[cfg(feature = "torch")]
pub mod loss;
pub mod merge;
pub mod sandbox;
#[cfg(feature = "torch")]
pub(crate) mod transformers;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Import, fine-tuning and export beside transformers, on models with random weights.
    #[cfg(feature = "torch")]
    Transformers(transformers::Transformers),
    /// Members that learn together in one process, by one way of telling each other what they
    /// learned: loss and bytes after every round.
    #[cfg(feature = "torch")]
    Loss(loss::Options),
    /// What a delta of a model weighs after a few steps of training.
    #[cfg(feature = "torch")]
    Payload(loss::payload::Options),
    /// One robust rule against one attack on MNIST, as published.
    #[cfg(feature = "torch")]
    Attack(attack::Options),
    /// What merging costs beside one pass over memory.
    Merge(merge::Options),
    /// Confines itself as a worker does and tries to get out.
    Sandbox(sandbox::Options),
}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match lab {
        #[cfg(feature = "torch")]
        Lab::Transformers(arguments) => transformers::run(arguments),
        #[cfg(feature = "torch")]
        Lab::Loss(options) => loss::run(options),
        #[cfg(feature = "torch")]
        Lab::Payload(options) => loss::payload::run(options),
        #[cfg(feature = "torch")]
        Lab::Attack(options) => attack::run(options),
        Lab::Merge(options) => merge::run(options),
        Lab::Sandbox(options) => sandbox::run(options),
    }
}
