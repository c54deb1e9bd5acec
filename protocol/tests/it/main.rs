//! The rules from outside: whole chains, attacks on rounds, pinned encodings.

mod chain;
mod conservation;
mod golden;
mod hostile;
mod rounds;
mod staking;
