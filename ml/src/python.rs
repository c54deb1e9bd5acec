//! A Python with PyTorch and transformers, beside which this program is measured.
//!
//! Made once under `target/tools` from PyPI (about 4 GB, most of it CUDA's libraries, without
//! which that wheel does not start), or one that the caller names. Never part of a node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::figures::CommandError;

/// What the comparisons are made with.
const PACKAGES: [&str; 5] = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "tokenizers==0.23.3",
    "safetensors==0.8.0",
    "numpy==2.3.5",
];
/// In the environment: the packages it was made with.
const MARK: &str = "packages";

/// The interpreter: the one given, or that of our own environment, made if it is not there.
pub fn interpreter(given: Option<&Path>) -> Result<PathBuf, CommandError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let program = std::env::current_exe().map_err(CommandError::io("finding this program"))?;
    let target = program.ancestors().nth(2).ok_or_else(|| {
        CommandError::Failed("this program lies in no target folder: give --python PATH".into())
    })?;
    let folder = target.join("tools").join("python");
    let python = folder.join("bin").join("python");
    let mark = folder.join(MARK);
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    eprintln!("making a Python environment in {} (about 4 GB, once)", folder.display());
    let path = folder.to_string_lossy().into_owned();
    run(Command::new("python3").args(["-m", "venv", "--clear", &path]))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    // Last, so that an interrupted installation is made again.
    std::fs::write(&mark, wanted).map_err(CommandError::io(mark.display().to_string()))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), CommandError> {
    let what = format!("{command:?}");
    let status = command
        .stdout(Stdio::null())
        .status()
        .map_err(CommandError::io(format!("{what}: cannot be started")))?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::Failed(format!(
        "{what} failed ({status}): give an interpreter that has {} with --python PATH",
        PACKAGES.join(", ")
    )))
}

/// A script of ours, to be run with arguments; it prints JSON.
pub fn script(python: &Path, source: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-c", source])
        .args(arguments)
        // Deprecations and progress of the library are not our output.
        .env("PYTHONWARNINGS", "ignore")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env("TRANSFORMERS_VERBOSITY", "error")
        .env("TOKENIZERS_PARALLELISM", "false");
    command
}

/// Runs a script to its end and reads its answer.
pub fn answer(
    python: &Path,
    source: &str,
    arguments: &[&str],
) -> Result<serde_json::Value, CommandError> {
    let output = script(python, source, arguments)
        .output()
        .map_err(CommandError::io(python.display().to_string()))?;
    let failed = |why: String| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(5).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        CommandError::Failed(format!(
            "{} {arguments:?}: {why}: {}",
            python.display(),
            tail.join(" | ")
        ))
    };
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}
