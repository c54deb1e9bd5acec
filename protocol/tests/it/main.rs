//! The rules from outside: whole chains, attacks on rounds, pinned encodings.

mod blobs;
mod chain;
mod conservation;
mod fuzz;
mod golden;
mod governance;
mod hostile;
mod overlap;
mod rounds;
mod staking;
