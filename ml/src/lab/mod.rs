//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

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
}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match lab {
        #[cfg(feature = "torch")]
        Lab::Transformers(arguments) => transformers::run(arguments),
        #[cfg(not(feature = "torch"))]
        _ => unreachable!("nothing to try without libtorch"),
    }
}
