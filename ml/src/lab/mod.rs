//! `ayni-worker lab`: experiments without a network. Each call runs one cell of a grid, so that
//! whoever walks the grid can go on where it stopped.

use clap::Subcommand;

use crate::figures::{CommandError, Figures};

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Lab {}

/// Tries it.
pub fn run(lab: &Lab) -> Result<Figures, CommandError> {
    match *lab {}
}
