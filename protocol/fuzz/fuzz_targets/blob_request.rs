//! See `blobs::blob_request`.
#![no_main]

#[path = "../src/blobs.rs"]
mod blobs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| blobs::blob_request(bytes));
