//! Tests of the public surface: encodings, merging, and the worker as a real process.

mod delta;
mod merge;
mod support;
mod worker;
