//! `cargo deny`: bans, licences and sources. From the user's machine, or compiled once into
//! `target/tools`.
//!
//! Advisories are left to whoever is online: they need a database that this check does not fetch.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::succeeds;
use crate::workspace::Workspace;

/// The version installed where there is none.
const VERSION: &str = "0.20.2";
/// What is asked of it.
const ARGUMENTS: [&str; 6] =
    ["--offline", "check", "bans", "licenses", "sources", "--hide-inclusion-graph"];

/// What a person types to run it alone.
pub(super) fn line() -> String {
    format!("cargo deny {}", ARGUMENTS.join(" "))
}

/// Finds or installs it, and runs it.
pub(super) fn run(workspace: &Workspace) -> Result<()> {
    let program = find_or_install(workspace)?;
    // Offline, cargo-deny needs every crate of the graph, other platforms' included.
    let fetched = workspace.cargo().args(["fetch", "--locked"]).status();
    if !fetched.context("cargo could not be started")?.success() {
        bail!("the dependencies could not be fetched: check the connection and run this again");
    }
    let status = Command::new(&program)
        .args(ARGUMENTS)
        .current_dir(workspace.root())
        .status()
        .with_context(|| format!("{} could not be started", program.display()))?;
    if !status.success() {
        bail!("a dependency breaks the rules of deny.toml; its output is above ({status})");
    }
    Ok(())
}

fn find_or_install(workspace: &Workspace) -> Result<PathBuf> {
    let on_path = PathBuf::from("cargo-deny");
    if succeeds(Command::new(&on_path).arg("--version")) {
        return Ok(on_path);
    }
    let tools = workspace.target().join("tools");
    let cached = tools.join("bin/cargo-deny");
    if succeeds(Command::new(&cached).arg("--version")) {
        return Ok(cached);
    }
    println!("cargo-deny is not installed: compiling {VERSION} into {} once", tools.display());
    let status = workspace
        .cargo()
        .args(["install", "cargo-deny", "--version", VERSION, "--locked", "--root"])
        .arg(&tools)
        .status()
        .context("cargo could not be started")?;
    if !status.success() {
        bail!(
            "cargo-deny {VERSION} could not be installed ({status}): check the connection, or \
             install it yourself with `cargo install cargo-deny --locked`, then run this again"
        );
    }
    Ok(cached)
}
