//! `ayni-worker bench`: our speed beside the same work in other programs.

#[cfg(feature = "torch")]
mod generate;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Generation beside transformers, on the same weights.
    #[cfg(feature = "torch")]
    Generate(generate::Generate),
}

/// Measures.
pub fn run(bench: &Bench) -> Result<Figures, CommandError> {
    match bench {
        #[cfg(feature = "torch")]
        Bench::Generate(arguments) => generate::run(arguments),
        #[cfg(not(feature = "torch"))]
        _ => unreachable!("nothing to measure without libtorch"),
    }
}
