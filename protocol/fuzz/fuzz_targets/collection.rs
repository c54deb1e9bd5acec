//! See `blobs::collection`.
#![no_main]

#[path = "../src/blobs.rs"]
mod blobs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| blobs::collection(bytes));
