//! Local networks, the demo, faults and verification: what doubts the rest of Ayni.
//!
//! This crate starts the programs (`aynid`, `ayni-worker`) as processes and watches them from
//! outside. It fetches libtorch before anything that links it is built.
//!
//! Deliberately absent: any dependency on `ml`. This program must build and run on a machine
//! that has no libtorch yet.
#![expect(clippy::print_stdout, reason = "these are parts of a program that talks to people")]

pub mod arguments;
pub mod attack;
pub mod baseline;
pub mod bench;
pub mod blobs;
mod cells;
pub mod corpus;
pub mod crash;
pub mod crash_store;
pub mod demo;
pub mod evil_worker;
pub mod frames;
mod network;
pub mod progress;
pub mod rot;
pub mod setup;
pub mod sim;
pub mod verify;
pub mod worker_client;
pub mod workspace;
