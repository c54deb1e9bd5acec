//! Blobs from outside: pinned encodings, sets against a model, whole fetches.

mod golden;
mod ranges;
mod schedule;
mod simulation;
