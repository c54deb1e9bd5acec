//! Ayni daemon.
pub mod api;
pub mod network;
pub mod worker;
