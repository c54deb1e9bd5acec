//! `ayni-worker bench`: our speed beside the same work in other programs.

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {}

/// Measures.
pub fn run(bench: &Bench) -> Result<Figures, CommandError> {
    match *bench {}
}
