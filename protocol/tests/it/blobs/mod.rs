//! Blobs from outside: pinned encodings, sets against a model, whole fetches.

mod fuzz;
mod golden;
mod ranges;
mod schedule;
mod simulation;
