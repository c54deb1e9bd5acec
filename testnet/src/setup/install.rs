//! From wheels to a whole `.libtorch`: fetch what is missing, unpack, move into place.
//!
//! Invariant: `.libtorch/torch` exists only when everything is there; it is renamed last. Wheels
//! are kept only when their hash is right, and deleted only after the last rename.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock, syncfs};
use sha2::{Digest, Sha256};

use super::recipe::{LINKER_SCRIPT, Recipe, Wheel};
use super::{host, unpack};

/// Where wheels come from.
pub trait Source {
    /// Puts the wheel's file into `incoming`, an empty folder, as the only `.whl` file there.
    fn fetch(&self, wheel: &Wheel, incoming: &Path) -> Result<()>;
}

/// What [`install`] found or did.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was missing.
    AlreadyThere,
    /// It was put there.
    Installed,
}

/// Whether the folder holds all of the recipe.
pub fn is_ready(recipe: &Recipe, home: &Path) -> bool {
    let version = fs::read_to_string(home.join("torch/build-version"));
    version.is_ok_and(|version| version.trim() == recipe.version)
        && recipe.required.iter().all(|file| {
            fs::metadata(home.join(file)).is_ok_and(|file| file.is_file() && file.len() > 0)
        })
}

/// Makes `home` hold all of the recipe. One process at a time works on a folder.
pub fn install(recipe: &Recipe, home: &Path, source: &dyn Source) -> Result<Outcome> {
    if is_ready(recipe, home) {
        return Ok(Outcome::AlreadyThere);
    }
    fs::create_dir_all(home).with_context(|| format!("{} cannot be created", home.display()))?;
    let _lock = lock(home)?;
    if is_ready(recipe, home) {
        return Ok(Outcome::AlreadyThere);
    }
    let wheels = home.join("wheels");
    fs::create_dir_all(&wheels)?;
    let missing = missing_wheels(recipe, &wheels)?;
    host::check_space(home, space_needed(recipe, &missing))?;
    for wheel in missing {
        fetch(wheel, &wheels, source)?;
    }
    assemble(recipe, home, &wheels)?;
    fs::remove_dir_all(&wheels).context("the wheels, no longer needed, cannot be removed")?;
    Ok(Outcome::Installed)
}

fn lock(home: &Path) -> Result<File> {
    let file = File::create(home.join("lock")).context("the lock file cannot be created")?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        println!("another setup works on {}; waiting for it", home.display());
        flock(&file, FlockOperation::LockExclusive).context("waiting for the other setup")?;
    }
    Ok(file)
}

/// Wheels that are not there whole; torn ones are removed.
fn missing_wheels<'r>(recipe: &'r Recipe, wheels: &Path) -> Result<Vec<&'r Wheel>> {
    let mut missing = Vec::new();
    for wheel in &recipe.wheels {
        let file = wheels.join(wheel.file_name());
        if !file.exists() {
            missing.push(wheel);
        } else if let Err(fault) = check(wheel, &file) {
            println!("  {}: {fault}; it is fetched again", wheel.requirement);
            fs::remove_file(&file)?;
            missing.push(wheel);
        }
    }
    Ok(missing)
}

/// While pip works, a wheel is there twice; wheels and unpacked files are there together later.
fn space_needed(recipe: &Recipe, missing: &[&Wheel]) -> u64 {
    let fetched: u64 = missing.iter().map(|wheel| wheel.bytes).sum();
    let twice = missing.iter().map(|wheel| wheel.bytes).max().unwrap_or(0);
    fetched + twice.max(recipe.unpacked_bytes)
}

fn fetch(wheel: &Wheel, wheels: &Path, source: &dyn Source) -> Result<()> {
    let incoming = wheels.join("incoming");
    empty_folder(&incoming)?;
    if let Err(error) = source.fetch(wheel, &incoming) {
        fs::remove_dir_all(&incoming)?;
        return Err(error);
    }
    let arrived = fs::read_dir(&incoming)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("{}: no wheel arrived", wheel.requirement))?;
    if let Err(fault) = check(wheel, &arrived) {
        fs::remove_dir_all(&incoming)?;
        bail!(
            "{}: {fault}. Nothing was kept; run the command again, and if it happens twice, what \
             the package index or a proxy serves is not what was pinned",
            wheel.requirement
        );
    }
    fs::rename(&arrived, wheels.join(wheel.file_name()))?;
    fs::remove_dir_all(&incoming)?;
    Ok(())
}

/// Length first, which costs nothing, then the hash.
fn check(wheel: &Wheel, file: &Path) -> Result<()> {
    let length = fs::metadata(file)?.len();
    if length != wheel.bytes {
        bail!("the wheel has {length} bytes instead of {} (cut off?)", wheel.bytes);
    }
    let mut reader = File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("the wheel cannot be read"),
        };
        hasher.update(&buffer[..count]);
    }
    let actual = hex::encode(hasher.finalize());
    if actual != wheel.sha256 {
        bail!("the wheel's SHA-256 is {actual} instead of {}", wheel.sha256);
    }
    Ok(())
}

fn assemble(recipe: &Recipe, home: &Path, wheels: &Path) -> Result<()> {
    let staging = home.join("unpacking");
    empty_folder(&staging)?;
    for wheel in &recipe.wheels {
        unpack::unpack(wheel, &wheels.join(wheel.file_name()), &staging)?;
    }
    fs::create_dir_all(staging.join("torch/lib"))?;
    fs::write(staging.join("torch/lib/libtorch.so"), LINKER_SCRIPT)?;
    fs::write(staging.join("torch/build-version"), recipe.version)?;
    if let Some(absent) = recipe.required.iter().find(|file| !staging.join(file).is_file()) {
        bail!("the wheels hold no {absent}: the recipe does not fit them");
    }
    // The renames must not reach the disk before the data does.
    syncfs(File::open(&staging)?).context("the unpacked files cannot be written to disk")?;
    for folder in ["nvidia", "torch"] {
        let (from, to) = (staging.join(folder), home.join(folder));
        if !from.is_dir() {
            continue;
        }
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        fs::rename(&from, &to).with_context(|| format!("moving {} into place", to.display()))?;
    }
    fs::remove_dir_all(&staging)?;
    Ok(())
}

fn empty_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("what an earlier run left in {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
