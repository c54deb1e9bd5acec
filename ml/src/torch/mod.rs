//! What needs libtorch: the model, training, evaluation, generation.
//!
//! One thread does all of it. libtorch never sees a file: weights are copied from a checked
//! [`Checkpoint`](crate::checkpoint::Checkpoint), and lengths are checked before every copy.
//! Fallible `f_` calls throughout; those of libtorch's that panic anyway are caught around the job.

pub mod backward;
pub mod batch;
pub mod cache;
pub mod device;
pub mod evaluate;
pub mod fingerprint;
pub mod foreign;
pub mod generate;
pub mod layers;
pub mod model;
mod models;
pub mod muon;
pub mod optimizer;
pub mod replay;
pub mod resume;
pub mod schedule;
pub mod state;
pub mod train;

use std::sync::Once;

use protocol::model::{Determinism, ModelSpec};
use protocol::worker::ModelFiles;
use tch::Device;

use crate::data::{DocumentTokens, Tokenize};
use crate::error::JobError;
use crate::files::JobDirectory;
use crate::memory::Memory;
use crate::tokenizer::Tokenizer;

/// Sets the number of threads for arithmetic. libtorch keeps it per thread, so this comes first
/// on the thread that computes; the number of threads between operations can be set only once.
pub fn prepare_thread(threads: u16) {
    static INTEROP: Once = Once::new();
    INTEROP.call_once(|| tch::set_num_interop_threads(1));
    tch::set_num_threads(i32::from(threads));
}

/// What a job computes with.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Its files.
    pub directory: &'a JobDirectory,
    /// Threads for arithmetic.
    pub threads: u16,
    /// The device.
    pub device: Device,
    /// How much memory there is.
    pub memory: &'a Memory,
}

impl Machine<'_> {
    /// Device and threads, for people and for what depends on them.
    pub fn describe(&self) -> String {
        format!("{}, {} thread(s)", device::name(self.device), self.threads)
    }

    /// How far training here can be reproduced. More threads split sums elsewhere: close, but not
    /// bit for bit the same. Devices other than the processor promise nothing.
    pub fn determinism(&self) -> Determinism {
        match (self.device, self.threads) {
            (Device::Cpu, 1) => Determinism::Exact,
            (Device::Cpu, _) => Determinism::Close,
            _ => Determinism::Statistical,
        }
    }

    /// The tokenizer of a model that has one.
    pub fn tokenizer(
        &self,
        spec: &ModelSpec,
        files: &ModelFiles,
    ) -> Result<Option<Box<dyn Tokenize>>, JobError> {
        let tokenizer = Tokenizer::open(self.directory, spec, files.tokenizer.as_ref())?;
        match tokenizer {
            Tokenizer::Bytes => Ok(None),
            Tokenizer::Trained(tokenizer) => Ok(Some(Box::new(DocumentTokens::new(*tokenizer)?))),
        }
    }
}
