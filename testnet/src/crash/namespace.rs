//! A mount namespace of this command's own, for small file systems that can be filled.
//!
//! The command runs itself again inside; whoever may not mount is told so, and nothing is shown.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Set in the environment of the part that runs inside the namespace.
const INSIDE: &str = "AYNI_TESTNET_FULL_DISK";

/// Whether this process is inside the namespace.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this command again where it may mount.
pub(crate) fn enter() -> Result<Infallible> {
    let this = std::env::current_exe().context("this program's own path cannot be read")?;
    let as_root: &[&str] = &["--mount", "--propagation", "private"];
    let as_user: &[&str] = &["--user", "--map-root-user", "--mount"];
    for flags in [as_root, as_user] {
        let mut trial = Command::new("unshare");
        trial.args(flags).args(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        trial.arg(std::env::temp_dir()).stdout(Stdio::null()).stderr(Stdio::null());
        if !trial.status().is_ok_and(|status| status.success()) {
            continue;
        }
        let mut inside = Command::new("unshare");
        inside.args(flags).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        // In place of this process, so that whoever ends it ends the nodes too.
        return Err(inside.exec()).context("unshare cannot be run");
    }
    bail!(
        "skipped, and so nothing is shown: this machine permits no mount namespace (`unshare \
         --mount`), so there is no small disk to fill. Run it as root, or where user namespaces \
         are permitted"
    )
}
