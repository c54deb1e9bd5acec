//! Making a bare checkout buildable: libtorch under `.libtorch/`, then the release build.
//!
//! A user's own `LIBTORCH` is checked and used as it is. Otherwise the CPU part of the PyTorch
//! wheels is fetched with pip by name and hash ([`recipe`], [`download`]) and trimmed
//! ([`unpack`]). Everything happens beside the final place and is renamed at the end, so an
//! interrupted run leaves only whole wheels, with which the next run goes on.

pub mod download;
pub mod host;
pub mod install;
pub mod recipe;
pub mod unpack;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use host::Choice;
use install::{Outcome, install};
use recipe::Recipe;

/// Makes sure that libtorch is there and says where.
pub fn libtorch(workspace: &Workspace) -> Result<()> {
    let home = workspace.libtorch();
    let torch = home.join("torch");
    match host::choose(&torch, std::env::var_os("LIBTORCH").map(Into::into)) {
        Choice::Users(folder) => {
            host::check_own_libtorch(&folder)?;
            println!("libtorch: your own, at {} (LIBTORCH)", folder.display());
        }
        Choice::Ours => {
            let recipe = Recipe::cpu();
            if !install::is_ready(&recipe, &home) {
                host::check_platform()?;
                println!("libtorch {}: fetching the pinned wheels with pip", recipe.version);
            }
            match install(&recipe, &home, &download::Pip::default())? {
                Outcome::AlreadyThere => println!("libtorch: {} is there", recipe.version),
                Outcome::Installed => println!("libtorch: {} is ready", recipe.version),
            }
        }
    }
    Ok(())
}

/// libtorch, then every program in release.
pub fn prepare(workspace: &Workspace) -> Result<()> {
    libtorch(workspace)?;
    println!("building the programs (the first time this takes several minutes)");
    let status = workspace
        .cargo()
        .args(["build", "--release", "--workspace", "--bins"])
        .status()
        .context("cargo could not be started; install it with rustup")?;
    if !status.success() {
        bail!(
            "the build failed ({status}); the compiler's messages are above. If a C++ compiler is \
             missing, install one (Debian: `sudo apt install g++`) and run the command again"
        );
    }
    Ok(())
}
