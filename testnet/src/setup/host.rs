//! What this machine offers: platform, free space, a libtorch of the user's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::recipe::Recipe;
use crate::progress::megabytes;

/// Whose libtorch is used.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one under `.libtorch/`.
    Ours,
    /// The folder that the user's `LIBTORCH` names.
    Users(PathBuf),
}

/// `.cargo/config.toml` sets `LIBTORCH` to `ours` for every `cargo run`, so only another path is
/// the user's choice.
pub fn choose(ours: &Path, variable: Option<PathBuf>) -> Choice {
    match variable {
        Some(named) if !named.as_os_str().is_empty() && !is_same(&named, ours) => {
            Choice::Users(named)
        }
        _ => Choice::Ours,
    }
}

fn is_same(named: &Path, ours: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.components().collect());
    whole(named) == whole(ours)
}

/// Refuses a platform for which no wheel is pinned.
pub fn check_platform() -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")),
        "libtorch is fetched only for x86-64 Linux with glibc, and this machine is {} on {}. \
         Unpack libtorch {} for it yourself and set LIBTORCH to its folder",
        std::env::consts::OS,
        std::env::consts::ARCH,
        version_number(Recipe::cpu().version),
    );
    Ok(())
}

/// Checks a libtorch that the user brought.
pub fn check_own_libtorch(folder: &Path) -> Result<()> {
    let wanted = version_number(Recipe::cpu().version);
    let advice = format!(
        "Point LIBTORCH at a folder that holds libtorch {wanted}, or unset it to have one fetched"
    );
    ensure!(
        folder.is_absolute(),
        "LIBTORCH is {:?}, a relative path, which means another folder in every build script. \
         {advice}",
        folder.display()
    );
    let library =
        format!("lib/{}torch_cpu{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    ensure!(
        folder.join(&library).is_file(),
        "LIBTORCH is {}, but there is no {library} in it. {advice}",
        folder.display()
    );
    if std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some() {
        return Ok(());
    }
    let file = folder.join("build-version");
    let Ok(version) = std::fs::read_to_string(&file) else {
        bail!(
            "LIBTORCH is {}, but its version cannot be told: {} is missing. {advice}; or set \
             LIBTORCH_BYPASS_VERSION_CHECK=1 if you are sure",
            folder.display(),
            file.display()
        );
    };
    ensure!(
        version_number(version.trim()) == wanted,
        "LIBTORCH is {}, which is version {}, but the code is written for {wanted}. {advice}",
        folder.display(),
        version.trim()
    );
    Ok(())
}

/// `2.13.0` of `2.13.0+cpu`.
fn version_number(version: &str) -> &str {
    version.split('+').next().unwrap_or(version)
}

/// Refuses to begin what would fill the disk.
pub fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(folder)
        .with_context(|| format!("the free space at {} cannot be read", folder.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    ensure!(
        free >= needed,
        "not enough space: fetching and unpacking libtorch takes up to {} at {}, and {} are free. \
         Free some space and run the command again",
        megabytes(needed),
        folder.display(),
        megabytes(free)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_that_cargo_sets_is_ours() {
        let ours = Path::new("/checkout/.libtorch/torch");
        for (variable, expect) in [
            (None, Choice::Ours),
            (Some(""), Choice::Ours),
            (Some("/checkout/.libtorch/torch"), Choice::Ours),
            (Some("/checkout/./.libtorch/torch/"), Choice::Ours),
            (Some("/opt/libtorch"), Choice::Users("/opt/libtorch".into())),
        ] {
            assert_eq!(choose(ours, variable.map(PathBuf::from)), expect, "{variable:?}");
        }
    }

    #[test]
    fn a_users_libtorch_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let message = || check_own_libtorch(folder.path()).expect_err("not whole").to_string();
        assert!(message().contains("there is no lib/libtorch_cpu"), "{}", message());

        std::fs::create_dir(folder.path().join("lib")).unwrap();
        let suffix = std::env::consts::DLL_SUFFIX;
        std::fs::write(folder.path().join(format!("lib/libtorch_cpu{suffix}")), "x").unwrap();
        assert!(message().contains("cannot be told"), "{}", message());

        std::fs::write(folder.path().join("build-version"), "2.12.1+cu130\n").unwrap();
        assert!(message().contains("version 2.12.1+cu130"), "{}", message());

        std::fs::write(folder.path().join("build-version"), "2.13.0+rocm\n").unwrap();
        check_own_libtorch(folder.path()).expect("the right version");

        let relative = check_own_libtorch(Path::new("libtorch")).expect_err("relative");
        assert!(relative.to_string().contains("relative"), "{relative}");
    }

    #[test]
    fn a_full_disk_is_said_before() {
        check_space(Path::new("/"), 1).expect("a byte");
        let message = check_space(Path::new("/"), u64::MAX).expect_err("too much").to_string();
        assert!(message.contains("Free some space"), "{message}");
    }
}
