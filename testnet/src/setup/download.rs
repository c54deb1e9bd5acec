//! Fetching a wheel with the pip that comes with the user's Python, whose settings (index,
//! proxy, certificates) thereby apply.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::install::Source;
use super::recipe::Wheel;
use crate::progress::{Meter, megabytes};

/// Python version whose wheel is pinned; nothing of it is run.
const WHEEL_PYTHON: &str = "3.11";
/// Time between two looks at the growing file.
const REFRESH: Duration = Duration::from_millis(200);
/// Lines of pip's output quoted in an error.
const QUOTED_LINES: usize = 6;

/// pip as a source of wheels.
#[derive(Clone, Debug)]
pub struct Pip {
    python: OsString,
}

impl Default for Pip {
    fn default() -> Self {
        Self { python: "python3".into() }
    }
}

impl Source for Pip {
    fn fetch(&self, wheel: &Wheel, incoming: &Path) -> Result<()> {
        self.check()?;
        let requirements = incoming.join("requirements.txt");
        let line = format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256);
        fs::write(&requirements, line)?;
        // pip's own temporary files stay where the free space was checked.
        let temporary = incoming.join("temporary");
        fs::create_dir(&temporary)?;
        let log = incoming.join("pip.log");
        let mut pip = Command::new(&self.python);
        pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .arg(format!("--python-version={WHEEL_PYTHON}"))
            .args(["--require-hashes", "--no-cache-dir", "--disable-pip-version-check"])
            .args(["--no-input", "--progress-bar=off", "--dest"])
            .arg(incoming)
            .arg("--requirement")
            .arg(&requirements)
            .env("TMPDIR", &temporary)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let mut meter = Meter::new(format!("fetching {}", wheel.requirement), wheel.bytes);
        let status = wait(pip, || meter.set(bytes_under(incoming)))?;
        if status.success() {
            meter.finish(&megabytes(wheel.bytes));
            return Ok(());
        }
        meter.finish("failed");
        let log = fs::read_to_string(&log).unwrap_or_default();
        bail!("{}", explain(wheel, status, &log))
    }
}

impl Pip {
    /// Both programs are there, or a message that says how to get them.
    fn check(&self) -> Result<()> {
        let python = self.python.to_string_lossy();
        let output = Command::new(&self.python)
            .args(["-m", "pip", "--version"])
            .stdin(Stdio::null())
            .output()
            .with_context(|| {
                format!(
                    "{python} cannot be started, and libtorch is fetched with its pip. Install \
                     it (Debian: `sudo apt install python3 python3-pip`), or set LIBTORCH to a \
                     libtorch of your own"
                )
            })?;
        ensure!(
            output.status.success(),
            "{python} has no pip, with which libtorch is fetched. Install it (`{python} -m \
             ensurepip --user`, or on Debian `sudo apt install python3-pip`), or set LIBTORCH to \
             a libtorch of your own"
        );
        Ok(())
    }
}

/// Runs the program to its end and calls `look` while it works.
fn wait(mut program: Command, mut look: impl FnMut()) -> Result<ExitStatus> {
    let mut child = program.spawn().context("pip could not be started")?;
    let (ended, end) = sync_channel(1);
    let waiter = std::thread::spawn(move || ended.send(child.wait()));
    let status = loop {
        match end.recv_timeout(REFRESH) {
            Ok(status) => break status.context("waiting for pip")?,
            Err(RecvTimeoutError::Timeout) => look(),
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that waits for pip is gone"),
        }
    };
    drop(waiter.join());
    Ok(status)
}

/// Bytes of all files under a folder that another process is filling.
fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn explain(wheel: &Wheel, status: ExitStatus, log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n    ");
    let cause = if log.contains("No space left") {
        "the disk is full. Free some space"
    } else if log.contains("DO NOT MATCH THE HASHES") {
        "what was served is not what was pinned: a damaged transfer, a proxy or another file. \
         Nothing of it was kept. Check your package index"
    } else if log.contains("No matching distribution") || log.contains("no such option") {
        "the package index cannot be reached, or does not offer it to this pip. Check the \
         connection; if it works, update pip (`python3 -m pip install --user --upgrade pip`)"
    } else {
        "the download failed. Check the connection"
    };
    format!(
        "{}: pip gave up ({status}): {cause}, then run the command again; wheels that are whole \
         are kept. pip said:\n    {tail}",
        wheel.requirement
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheel() -> Wheel {
        let sha256 = "0".repeat(64);
        Wheel { requirement: "nothing==0.0.0".into(), sha256, bytes: 1, keep: Vec::new() }
    }

    fn failure(python: &str) -> String {
        let incoming = tempfile::tempdir().unwrap();
        let pip = Pip { python: python.into() };
        format!("{:#}", pip.fetch(&wheel(), incoming.path()).expect_err(python))
    }

    #[test]
    fn no_python_and_no_pip_are_told_apart() {
        assert!(failure("/nowhere/python3").contains("sudo apt install python3 "));
        // A python without pip exits with 1, as this does.
        assert!(failure("false").contains("ensurepip"));
    }

    #[test]
    fn pips_reasons_become_advice() {
        let status = Command::new("false").status().unwrap();
        for (log, expect) in [
            ("OSError: [Errno 28] No space left on device", "Free some space"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM ...", "not what was pinned"),
            ("ERROR: No matching distribution found for torch", "update pip"),
            ("ConnectionError: name resolution", "Check the connection"),
        ] {
            let message = explain(&wheel(), status, log);
            assert!(message.contains(expect) && message.contains(log), "{message}");
        }
    }

    #[test]
    fn the_growing_file_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/part"), [0; 300]).unwrap();
        fs::write(folder.path().join("whole"), [0; 20]).unwrap();
        assert_eq!(bytes_under(folder.path()), 320);
    }
}
