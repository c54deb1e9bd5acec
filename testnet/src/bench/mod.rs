//! Benchmarks of real processes.

pub mod ledger;
