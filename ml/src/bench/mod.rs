//! `ayni-worker bench`: our speed beside the same work in other programs.

#[cfg(feature = "torch")]
mod generate;
#[cfg(feature = "torch")]
pub mod python;
#[cfg(feature = "torch")]
pub mod side;
#[cfg(feature = "torch")]
pub mod train;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Training beside the same model in PyTorch: tokens per second and losses, at 1 and 2
    /// threads, in f32 and bf16. Takes about 8 minutes with 9 pairs.
    #[cfg(feature = "torch")]
    Train(train::Options),
    /// One side of a pair of `train`.
    #[cfg(feature = "torch")]
    #[command(hide = true)]
    TrainSide(side::Options),
    /// Generation beside transformers, on the same weights.
    #[cfg(feature = "torch")]
    Generate(generate::Generate),
}

/// Measures.
pub fn run(bench: &Bench) -> Result<Figures, CommandError> {
    #[cfg(feature = "torch")]
    return match bench {
        Bench::Train(options) => train::run(options),
        Bench::TrainSide(options) => side::run(options),
        Bench::Generate(arguments) => generate::run(arguments),
    };
    #[cfg(not(feature = "torch"))]
    match *bench {}
}
