//! Ayni's arithmetic: checkpoints, initial weights, deltas, merging; with the feature `torch`
//! also training, evaluation and generation.
//!
//! **Architecture invariant.** What the network must agree on bit by bit (initial weights, the
//! delta codec, merging) lives outside [`torch`] and uses only `+ - * /` and `sqrt` on IEEE
//! floats in a fixed order, so every machine computes the same bytes. What libtorch computes is
//! only ever compared within a tolerance. Every byte read from a file was written by a stranger:
//! nothing is allocated on its word.
//!
//! Deliberately absent: networking, clocks in results, pickles and TorchScript.

pub mod allocator;
pub mod arithmetic;
pub mod bench;
pub mod checkpoint;
pub mod compare;
pub mod data;
pub mod delta;
pub mod error;
pub mod feedback;
pub mod figures;
pub mod files;
pub mod frames;
pub mod huggingface;
pub mod initialize;
pub mod jobs;
pub mod lab;
pub mod memory;
pub mod merge;
pub mod privacy;
pub mod python;
pub mod sample;
pub mod sandbox;
pub mod tensors;
pub mod tokenizer;
#[cfg(feature = "torch")]
pub mod torch;
