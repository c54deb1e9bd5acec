//! What needs libtorch: the model, training, evaluation, generation.
//!
//! One thread does all of it. libtorch never sees a file: weights are copied from a checked
//! [`Checkpoint`](crate::checkpoint::Checkpoint), and lengths are checked before every copy.
//! Fallible `f_` calls throughout; those of libtorch's that panic anyway are caught around the job.

pub mod cache;
pub mod evaluate;
pub mod fingerprint;
pub mod generate;
pub mod layers;
pub mod model;
mod models;
pub mod optimizer;
pub mod train;

use std::sync::Once;

/// Sets the number of threads for arithmetic. libtorch keeps it per thread, so this comes first
/// on the thread that computes; the number of threads between operations can be set only once.
pub fn prepare_thread(threads: u16) {
    static INTEROP: Once = Once::new();
    INTEROP.call_once(|| tch::set_num_interop_threads(1));
    tch::set_num_threads(i32::from(threads));
}
