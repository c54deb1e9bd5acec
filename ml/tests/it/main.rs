//! Tests of the public surface: encodings, merging, and the worker as a real process.

mod delta;
mod delta_fuzz;
mod merge;
mod privacy;
mod process;
mod sandbox;
mod support;
#[cfg(feature = "torch")]
mod train;
mod worker;
