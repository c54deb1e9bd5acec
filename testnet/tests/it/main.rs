//! Tests of the program as a whole and of the repository.
#![expect(clippy::unwrap_used, reason = "a broken assumption of a test should end it")]

mod corpus;
mod evil_relay;
mod lockfile;
mod meter;
mod program;
mod sim;
