//! Consensus and network of in-process nodes over loopback QUIC, and `aynid` as a process.

mod attack;
mod bad_input;
mod chain;
mod data;
mod exchange;
mod history;
mod join;
mod kills;
mod ledger;
mod liars;
mod node;
mod pending;
mod pipeline;
mod process;
mod stake;
