//! Ayni's decisions: ids, limits, encodings, documents and every rule of the ledger.
//!
//! **Architecture invariant.** Nothing here reads a clock, draws randomness, opens a file or a
//! socket, or uses a float: time and randomness are arguments, so the simulator, a replay and a
//! live node reach the same bytes.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::float_arithmetic
)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic))]

pub mod amount;
pub mod api;
pub mod blobs;
pub mod block;
pub mod codec;
pub mod commitment;
pub mod config;
pub mod consensus;
pub mod duties;
pub mod gossip;
pub mod home;
pub mod host;
pub mod ids;
pub mod join;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod merkle;
pub mod model;
pub mod proof;
mod remembered;
pub mod replay;
pub mod review;
pub mod store;
pub mod training;
pub mod transaction;
pub mod worker;
