//! Tests of the public surface: encodings, merging, and the worker as a real process.

mod data;
mod delta;
mod merge;
mod process;
mod sandbox;
mod support;
#[cfg(feature = "torch")]
mod train;
mod worker;
