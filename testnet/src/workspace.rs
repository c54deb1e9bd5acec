//! Where the checkout is, and how to start its programs and cargo.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::host;

/// Set by cargo for the program it runs. A nested cargo must not see them: build scripts that
/// watch such a variable would run again, and everything above them would be compiled again.
const CARGO_RUN_VARIABLES: [&str; 7] = [
    "CARGO",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
];

/// A checkout of Ayni.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout: the package's folder that `cargo run` names, else the working
    /// directory or one above it.
    pub fn find() -> Result<Self> {
        let named = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let working = std::env::current_dir().context("the working directory cannot be read")?;
        for start in named.iter().chain([&working]) {
            if let Some(root) = start.ancestors().find(|folder| is_root(folder)) {
                return Ok(Self { root: root.to_owned() });
            }
        }
        bail!(
            "{} is not inside a checkout of Ayni: change into the folder that holds its \
             Cargo.toml and run the command again",
            working.display()
        )
    }

    /// The folder of the root `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where libtorch is put.
    pub fn libtorch(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The target folder.
    pub fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |folder| self.root.join(folder))
    }

    /// A program built beside this one, such as `aynid`.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let this = std::env::current_exe().context("this program's own path cannot be read")?;
        let program = this.with_file_name(name);
        if !program.is_file() {
            bail!(
                "{} is missing: build it with `cargo build --release --workspace --bins`",
                program.display()
            );
        }
        Ok(program)
    }

    /// Cargo in the root, without what an outer `cargo run` put into the environment.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars_os() {
            if is_of_this_run(&name) {
                cargo.env_remove(name);
            }
        }
        // So is a LIBTORCH that `.cargo/config.toml` has set; the nested cargo sets it again.
        let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
        if host::choose(&self.libtorch().join("torch"), libtorch) == host::Choice::Ours {
            cargo.env_remove("LIBTORCH");
        }
        cargo.current_dir(&self.root);
        cargo
    }
}

fn is_root(folder: &Path) -> bool {
    folder.join("testnet/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file()
}

fn is_of_this_run(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| CARGO_RUN_VARIABLES.contains(&name) || name.starts_with("CARGO_PKG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_found_from_within() {
        let workspace = Workspace::find().expect("tests run inside the checkout");
        assert!(workspace.root().join("protocol").is_dir());
        assert!(workspace.libtorch().ends_with(".libtorch"));
    }

    #[test]
    fn a_users_own_cargo_settings_stay() {
        for (name, of_run) in [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_NET_OFFLINE", false),
        ] {
            assert_eq!(is_of_this_run(OsStr::new(name)), of_run, "{name}");
        }
    }
}
