//! How much memory there is, and how much training will need.
//!
//! The estimate counts what is large: weights, gradients, moments, what the layers keep for the
//! way back. It is made before anything is allocated, so that a job that cannot fit is refused in
//! words instead of killed by the system.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use protocol::model::{Architecture, ModelSpec, Precision, RoundParameters};
use rustix::process::{Resource, getrlimit};

use crate::error::JobError;

/// What the program and its libraries take before any job.
const PROGRAM_BYTES: u64 = 200 << 20;
/// Bytes of a value.
const VALUE: u64 = 4;
/// Weights, gradients, both moments, and the checkpoint from which the weights were copied.
const COPIES: u64 = 5;
/// Longest file that is read here: a few numbers.
const TEXT_BYTES: usize = 4096;

/// Where the limits stand. The files are opened once, so that they can be read again when a
/// sandbox no longer lets any be opened.
pub struct Memory {
    meminfo: Option<File>,
    /// Limit and present use of each control group above this process.
    groups: Vec<(File, File)>,
}

impl Memory {
    /// Opens what this system has.
    pub fn open() -> Self {
        Self { meminfo: File::open("/proc/meminfo").ok(), groups: control_groups() }
    }

    /// Bytes that may still be allocated, and what sets this limit.
    pub fn available(&self) -> (u64, &'static str) {
        let mut least = (u64::MAX, "no limit");
        let mut limit = |bytes: Option<u64>, name| {
            if let Some(bytes) = bytes.filter(|bytes| *bytes < least.0) {
                least = (bytes, name);
            }
        };
        limit(self.meminfo.as_ref().and_then(available_of), "free memory (MemAvailable)");
        for (most, now) in &self.groups {
            let number = |file| read(file).and_then(|text| text.trim().parse::<u64>().ok());
            let left = number(most).zip(number(now)).map(|(most, now)| most.saturating_sub(now));
            limit(left, "the control group's memory limit");
        }
        limit(getrlimit(Resource::Data).current, "the limit on data (RLIMIT_DATA)");
        limit(getrlimit(Resource::As).current, "the limit on address space (RLIMIT_AS)");
        least
    }
}

/// Control groups version 2 from this process's own up to the root.
fn control_groups() -> Vec<(File, File)> {
    let Ok(text) = std::fs::read_to_string("/proc/self/cgroup") else {
        return Vec::new();
    };
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut folder = root.join(own);
    let mut groups = Vec::new();
    while folder.starts_with(&root) {
        let open = |name: &str| File::open(folder.join(name)).ok();
        groups.extend(open("memory.max").zip(open("memory.current")));
        if !folder.pop() {
            break;
        }
    }
    groups
}

fn read(file: &File) -> Option<String> {
    let mut bytes = [0u8; TEXT_BYTES];
    let length = file.read_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes[..length].to_vec()).ok()
}

fn available_of(meminfo: &File) -> Option<u64> {
    let text = read(meminfo)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What a training run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Weights, gradients, moments.
    pub parameters: u64,
    /// Frozen weights under an adapter.
    pub base: u64,
    /// What the layers keep for the way back.
    pub activations: u64,
    /// The program itself.
    pub program: u64,
}

impl Estimate {
    /// For a run, with or without activation checkpointing.
    pub fn new(spec: &ModelSpec, parameters: &RoundParameters, checkpointing: bool) -> Self {
        let rows = match parameters.micro_batch {
            0 => parameters.batch,
            micro => micro.min(parameters.batch),
        };
        let activations = activations(&spec.architecture, parameters.precision, checkpointing);
        let frozen = if spec.adapter.is_some() { spec.architecture.parameters() } else { 0 };
        Self {
            parameters: spec.parameters().saturating_mul(VALUE * COPIES),
            base: frozen.saturating_mul(2 * VALUE),
            activations: activations.saturating_mul(u64::from(rows)),
            program: PROGRAM_BYTES,
        }
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        [self.base, self.activations, self.program]
            .into_iter()
            .fold(self.parameters, u64::saturating_add)
    }
}

/// Decides how to train: as it is, with activation checkpointing if only that fits, or not at
/// all. Gives whether to checkpoint, and the estimate.
pub fn plan(
    spec: &ModelSpec,
    parameters: &RoundParameters,
    available: (u64, &'static str),
) -> Result<(bool, Estimate), JobError> {
    let (limit, name) = available;
    let plain = Estimate::new(spec, parameters, false);
    if plain.bytes() <= limit {
        return Ok((false, plain));
    }
    let least = Estimate::new(spec, parameters, true);
    if least.bytes() <= limit {
        return Ok((true, least));
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(JobError::Memory(format!(
        "training needs about {} MiB (weights, gradients and optimizer {}, activations {}, frozen \
         weights {}, program {}), but only {} MiB are left by {name}: out of memory. Choose a \
         smaller micro_batch or model, or give the worker more memory",
        mib(least.bytes()),
        mib(least.parameters),
        mib(least.activations),
        mib(least.base),
        mib(least.program),
        mib(limit),
    )))
}

/// Bytes that the layers keep for one row of a batch. Counted per token of a block: the inputs of
/// its norms, products, activation and attention; in bfloat16 about half of it. With
/// checkpointing only the inputs of the blocks, and one block in full.
fn activations(architecture: &Architecture, precision: Precision, checkpointing: bool) -> u64 {
    let n = |value: u32| u64::from(value);
    let product = |factors: &[u64]| factors.iter().fold(1u64, |p, f| p.saturating_mul(*f));
    // Values kept per token of a block, blocks, width, tokens, values kept per token at the end.
    let (block, layers, width, tokens, end) = match *architecture {
        Architecture::BytesGpt { layers, width, context, .. } => {
            (20 * n(width), n(layers), n(width), n(context), 3 * 256 + 3 * n(width))
        }
        Architecture::Gpt { layers, width, context, vocabulary, .. } => {
            (20 * n(width), n(layers), n(width), n(context), 3 * n(vocabulary) + 3 * n(width))
        }
        Architecture::TextClassifier { layers, width, context, .. } => {
            // The mask keeps the attention's weights: at most width values per pair of tokens.
            (20 * n(width) + 2 * n(context), n(layers), n(width), n(context), 3 * n(width))
        }
        Architecture::Llama { layers, width, hidden, context, vocabulary, .. } => {
            let block = 18 * n(width) + 5 * n(hidden);
            (block, n(layers), n(width), n(context), 3 * n(vocabulary) + 3 * n(width))
        }
        Architecture::Mlp { inputs, hidden, layers, classes } => {
            (2 * n(hidden), n(layers), n(hidden), 1, n(inputs) + 3 * n(classes))
        }
        Architecture::Cnn { height, width, channels, features, classes, .. } => {
            // Both convolutions with their ReLUs, the gradients of the larger, the maximum.
            let pixels = product(&[n(height), n(width)]);
            let image = product(&[pixels, n(channels) * 3 + n(features) * 8]);
            (image, 1, 4 * n(features), 1, 12 * n(features) + 3 * n(classes))
        }
    };
    let block = match precision {
        Precision::F32 => product(&[block, VALUE]),
        // The streams between the blocks stay f32.
        Precision::Bf16 => product(&[block, VALUE]) / 2 + 2 * VALUE * width,
    };
    let kept = if checkpointing {
        block.saturating_add(product(&[layers, width, VALUE]))
    } else {
        product(&[block, layers])
    };
    product(&[tokens, kept.saturating_add(product(&[end, VALUE]))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::tests::spec;

    #[test]
    fn plans_by_what_there_is() {
        let spec = spec(12, 768, 12, 1024);
        let parameters = RoundParameters { batch: 16, ..RoundParameters::default() };
        let plain = Estimate::new(&spec, &parameters, false);
        let least = Estimate::new(&spec, &parameters, true);
        assert!(least.activations * 4 < plain.activations);
        assert_eq!(plan(&spec, &parameters, (u64::MAX, "x")).expect("fits"), (false, plain));
        let between = (least.bytes(), "x");
        assert_eq!(plan(&spec, &parameters, between).expect("fits"), (true, least));
        let refused = plan(&spec, &parameters, (least.bytes() - 1, "the test"));
        let words = refused.expect_err("too large").to_string();
        assert!(words.contains("MiB are left by the test"), "{words}");
        let micro = RoundParameters { micro_batch: 4, ..parameters };
        assert_eq!(Estimate::new(&spec, &micro, false).activations * 4, plain.activations);
    }

    #[test]
    fn this_machine_has_a_limit() {
        let (bytes, name) = Memory::open().available();
        assert!(bytes > 1 << 20 && bytes < 1 << 50, "{bytes} by {name}");
    }
}
