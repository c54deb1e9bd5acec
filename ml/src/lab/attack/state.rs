//! A run on disk: what a killed cell goes on from.
//!
//! A line of JSON that names the cell and where it stands, then the tensors as little-endian f32.
//! Written whole and renamed; a file of another cell is refused.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::Options;
use crate::figures::CommandError;

/// Longest file accepted: weights, aggregate and 25 momenta of the network are 130 MB.
const BYTES_MAX: u64 = 1 << 30;

/// Where a run stands.
pub(super) struct State {
    /// Iterations done.
    pub(super) iteration: u32,
    /// Iteration and accuracy in percent of each evaluation.
    pub(super) evaluations: Vec<(u32, f64)>,
    /// Weights, last aggregate, momenta.
    pub(super) values: Vec<f32>,
}

fn cell(options: &Options) -> Value {
    json!({
        "format": "ayni lab attack 1",
        "rule": options.rule.name(),
        "attack": options.attack.name(),
        "seed": options.seed,
        "bucket": options.bucket,
        "threads": options.threads,
    })
}

/// Writes the state.
pub(super) fn write(path: &Path, options: &Options, state: &State) -> Result<(), CommandError> {
    let what = || format!("writing {}", path.display());
    let header = json!({
        "cell": cell(options),
        "iteration": state.iteration,
        "evaluations": state.evaluations,
    });
    let mut bytes = header.to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend(state.values.iter().flat_map(|value| value.to_le_bytes()));
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary).map_err(CommandError::io(what()))?;
    file.write_all(&bytes).map_err(CommandError::io(what()))?;
    std::fs::rename(&temporary, path).map_err(CommandError::io(what()))
}

/// Reads a state with so many values; `None` if there is none.
pub(super) fn read(
    path: &Path,
    options: &Options,
    values: usize,
) -> Result<Option<State>, CommandError> {
    let what = || format!("reading {}", path.display());
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CommandError::io(what())(error)),
    };
    let refuse = |why: &str| {
        let name = path.display();
        Err(CommandError::Failed(format!("{name}: {why}; remove it to start this cell anew")))
    };
    if length > BYTES_MAX {
        return refuse("not the state of a run");
    }
    let bytes = std::fs::read(path).map_err(CommandError::io(what()))?;
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return refuse("not the state of a run");
    };
    let header: Value = serde_json::from_slice(&bytes[..end]).unwrap_or_default();
    if header["cell"] != cell(options) {
        return refuse("the state of another cell");
    }
    let iteration = header["iteration"].as_u64().and_then(|value| u32::try_from(value).ok());
    let evaluations = serde_json::from_value(header["evaluations"].clone()).ok();
    let (groups, _) = bytes[end + 1..].as_chunks::<4>();
    match (iteration, evaluations) {
        (Some(iteration), Some(evaluations)) if bytes.len() - end - 1 == 4 * values => {
            let values = groups.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Ok(Some(State { iteration, evaluations, values }))
        }
        _ => refuse("a damaged state"),
    }
}
