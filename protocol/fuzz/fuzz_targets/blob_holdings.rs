//! See `blobs::blob_holdings`.
#![no_main]

#[path = "../src/blobs.rs"]
mod blobs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| blobs::blob_holdings(bytes));
