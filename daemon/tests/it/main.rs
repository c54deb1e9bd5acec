//! Consensus and network of in-process nodes over loopback QUIC.

mod attack;
mod chain;
mod exchange;
mod ledger;
mod node;
