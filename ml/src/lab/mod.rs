//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

pub mod sandbox;

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Confines itself as a worker does and tries to get out.
    Sandbox(sandbox::Options),
}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match lab {
        Lab::Sandbox(options) => sandbox::run(options),
    }
}
