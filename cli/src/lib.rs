//! What the `ayni` program is made of, for other programs: the client of the local interface,
//! home directories and their keys, amounts as people write them.
//!
//! **Architecture invariant.** Nothing here decides what a request means or touches the ledger:
//! the daemon does. Keys are read and written as files and never sent anywhere.

pub mod amount;
pub mod client;
pub mod config;
pub mod home;
pub mod keys;
