//! Ayni's decisions: ids, limits, encodings, documents and every rule of the ledger.
//!
//! **Architecture invariant.** Nothing here reads a clock, draws randomness, opens a file or a
//! socket, or uses a float: time and randomness are arguments, so the simulator, a replay and a
//! live node reach the same bytes.

pub mod amount;
pub mod block;
pub mod codec;
pub mod commitment;
pub mod consensus;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod model;
pub mod review;
pub mod store;
pub mod training;
pub mod transaction;
pub mod worker;
