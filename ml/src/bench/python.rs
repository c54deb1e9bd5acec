//! A Python with PyTorch to compare with, in an environment of its own under the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::figures::CommandError;

/// The version that libtorch has too. Only PyPI's wheel is asked for, with what it depends on.
const PACKAGES: [&str; 2] = ["torch==2.13.0", "numpy"];

/// Where things built for measuring go: the target folder of the build.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// The interpreter to use: the one given, or that of an environment which is made when it is
/// first needed. `extra` packages are installed too.
pub fn interpreter(given: Option<&Path>, extra: &[&str]) -> Result<PathBuf, CommandError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let folder = target().join("tools").join("python");
    let python = folder.join("bin").join("python");
    // Written last: an interrupted installation is done again.
    let ready = folder.join(format!("ready-{}", PACKAGES.len() + extra.len()));
    if ready.exists() {
        return Ok(python);
    }
    eprintln!("making a Python environment with PyTorch in {} (some GB)", folder.display());
    command(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    command(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--only-binary=:all:"])
            .args(PACKAGES)
            .args(extra),
    )?;
    std::fs::write(&ready, []).map_err(CommandError::io(format!("writing {}", ready.display())))?;
    Ok(python)
}

fn command(command: &mut Command) -> Result<(), CommandError> {
    let what = format!("running {command:?}");
    let status = command.status().map_err(CommandError::io(what.clone()))?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::Failed(format!(
        "{what}: {status}. Python 3 with venv and PyPI are needed; or name an interpreter that has \
         PyTorch 2.13 with --python"
    )))
}
