//! Stopping the daemon: asked through its interface, over when the process has ended.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use crate::context::Context;
use crate::failure::{Failure, TIMED_OUT};

/// How often to look whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long to look: it finishes its block and syncs its stores.
const STOP_MAX: Duration = Duration::from_secs(60);

pub(super) async fn stop(context: &Context) -> Result<(), Failure> {
    let stopping = context.client()?.stop().await?;
    let pid = stopping.pid;
    let ended = async {
        let mut look = tokio::time::interval(LOOK_EVERY);
        while !has_ended(pid) {
            look.tick().await;
        }
    };
    let limit = context.limit().unwrap_or(STOP_MAX);
    if tokio::time::timeout(limit, ended).await.is_err() {
        let message = format!("aynid (pid {pid}) was told to stop and has not ended yet");
        return Err(Failure::new(TIMED_OUT, message)
            .with_hint("look with `ayni node logs`; kill it only if it hangs"));
    }
    context.output.show(&stopping, || format!("Stopped (pid {pid})."))
}

/// Whether the process is gone, or only waits for its parent to notice.
fn has_ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
            state.starts_with('Z') || state.starts_with('X')
        }
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && Path::new("/proc/self").exists() =>
        {
            true
        }
        // No /proc: ask with the signal that does nothing.
        Err(_) => {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err())
        }
    }
}
