//! Storage under corruption, truncation, crashes, races and hostile files, by theme.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod blobs;
mod blobs_folders;
mod blobs_import;
mod blobs_keeping;
mod blobs_partial;
mod blobs_parts;
mod blobs_small;
mod corruption;
mod crashes;
mod full_disk;
mod fuzz;
mod guard;
mod history;
mod joining;
mod ledger;
mod pending;
mod proposals;
mod races;
mod segments;
mod snapshots;
mod state;
mod support;
mod transfer;
mod truncation;
