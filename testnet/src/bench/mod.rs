//! Benchmarks of real processes.

pub mod blobs;
pub mod faults;
pub mod ledger;
pub mod loss;
pub(crate) mod process;
pub mod training;
