//! The crates that Ayni is built from, as sources of text.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Options;
use super::gather::{Gathered, Gatherer, Rules, Source};
use crate::workspace::Workspace;

/// Most text taken from one crate, so that a few large ones do not crowd out the rest.
const CRATE_BYTES_MAX: usize = 128 << 10;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// Third-party crates in name order, the newest version of each.
pub fn sources(workspace: &Workspace) -> Result<Vec<Source>> {
    let mut cargo = workspace.cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    if let Some(target) = host_target() {
        // Without it, crates of every other platform would be downloaded.
        cargo.args(["--filter-platform", target]);
    }
    let output = cargo.output().context("cargo could not be started")?;
    if !output.status.success() {
        bail!(
            "`cargo metadata`, which finds the text to train on, failed: {}. Mend that, or name a \
             folder of text with --data",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("`cargo metadata` gave unknown output")?;
    Ok(choose(metadata.packages))
}

/// The platform this program was compiled for, where text is the same for all its users.
fn host_target() -> Option<&'static str> {
    let linux = cfg!(all(target_os = "linux", target_env = "gnu"));
    match std::env::consts::ARCH {
        "x86_64" if linux => Some("x86_64-unknown-linux-gnu"),
        "aarch64" if linux => Some("aarch64-unknown-linux-gnu"),
        _ => None,
    }
}

fn choose(packages: Vec<Package>) -> Vec<Source> {
    let mut newest: BTreeMap<String, (Vec<u64>, PathBuf)> = BTreeMap::new();
    for package in packages {
        let of_registry = package.source.is_some_and(|source| source.starts_with("registry+"));
        if !of_registry || is_bindings(&package.name) {
            continue;
        }
        let Some(folder) = package.manifest_path.parent() else { continue };
        let version = version_key(&package.version);
        match newest.get(&package.name) {
            Some((other, _)) if *other >= version => {}
            _ => drop(newest.insert(package.name, (version, folder.to_owned()))),
        }
    }
    newest.into_iter().map(|(name, (_, root))| Source { name, root }).collect()
}

/// Crates that are tables of foreign declarations.
fn is_bindings(name: &str) -> bool {
    name.ends_with("-sys") || name.ends_with("_sys") || name.starts_with("windows")
}

fn version_key(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap_or(version);
    core.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Text of as many crates, in seeded order, as the options want.
pub(super) fn gather(sources: Vec<Source>, options: &Options) -> Result<Gathered> {
    let mut gatherer = Gatherer::new(Rules::Crate);
    let mut bytes = 0;
    for index in options.order(sources.len()) {
        if bytes >= options.wanted_bytes() {
            break;
        }
        bytes += gatherer.add(&sources[index], CRATE_BYTES_MAX)?;
    }
    Ok(gatherer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_of_each_third_party_crate_is_chosen() {
        let package = |name: &str, version: &str, source: Option<&str>| Package {
            name: name.into(),
            version: version.into(),
            source: source.map(Into::into),
            manifest_path: format!("/registry/{name}-{version}/Cargo.toml").into(),
        };
        let registry = Some("registry+https://example.invalid/index");
        let chosen = choose(vec![
            package("syn", "1.0.109", registry),
            package("syn", "2.0.9", registry),
            package("syn", "2.0.10", registry),
            package("libz-sys", "1.0.0", registry),
            package("windows-targets", "0.52.0", registry),
            package("ayni-protocol", "0.1.0", None),
            package("anyhow", "1.0.0", registry),
        ]);
        let roots: Vec<_> = chosen.iter().map(|source| source.root.to_str().unwrap()).collect();
        assert_eq!(roots, ["/registry/anyhow-1.0.0", "/registry/syn-2.0.10"]);
    }
}
