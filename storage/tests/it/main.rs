//! Storage under corruption, truncation, crashes, races and hostile files, by theme.

mod blobs;
mod corruption;
mod crashes;
mod guard;
mod ledger;
mod proposals;
mod races;
mod state;
mod support;
mod truncation;
