//! The Ayni node: connects peers, consensus, the ledger, the worker and the local interface.
//!
//! **Architecture invariant.** Nothing here links libtorch or decides a rule: tensors are the
//! worker's, rules are `protocol`'s, durability is `storage`'s.

pub mod api;
pub mod blobs;
pub mod engine;
pub mod ledger_tool;
pub mod network;
pub mod node;
pub mod worker;
