//! Benchmarks of real processes.

pub mod blobs;
pub mod ledger;
pub(crate) mod process;
