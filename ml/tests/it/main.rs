//! Tests of the public surface: encodings, merging, and the worker as a real process.

mod data;
mod delta;
mod delta_fuzz;
#[cfg(feature = "torch")]
mod lab;
mod merge;
#[cfg(feature = "torch")]
mod models;
#[cfg(feature = "torch")]
mod models_generate;
mod models_import;
mod privacy;
mod process;
mod sandbox;
mod support;
#[cfg(feature = "torch")]
mod train;
mod worker;
