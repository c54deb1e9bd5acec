//! Starting the daemon: in the background, waiting for a state (it answers, or it has died), or
//! in the place of this program.

use std::env;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ayni_cli::client::{Client, ClientError};
use ayni_cli::{config, home};
use protocol::home::Home;
use serde_json::json;

use super::logs;
use crate::context::Context;
use crate::failure::{FAILED, Failure, TIMED_OUT};

/// How often to look whether the daemon answers or has died.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long to look: opening a large store takes a while.
const START_MAX: Duration = Duration::from_secs(60);
/// Lines of the log that are shown when it died.
const TAIL_LINES: usize = 20;

/// In the background.
pub(super) async fn start(context: &Context) -> Result<(), Failure> {
    let place = context.home()?;
    home::load_identity(&place)?;
    config::load(&place.config())?;
    if let Ok(status) = context.client()?.status().await {
        let json = json!({ "pid": status.pid, "already_running": true });
        return context.output.show(&json, || format!("Already running (pid {}).", status.pid));
    }
    let log = open_log(&place)?;
    let before = log.metadata()?.len();
    let mut child = daemon(&place)?
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Its own process group: Ctrl-C in this terminal is not meant for it.
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::new(FAILED, format!("cannot start aynid: {error}")))?;
    let pid = child.id();
    let limit = context.limit().unwrap_or(START_MAX);
    match tokio::time::timeout(limit, until_answering(context, &mut child)).await {
        Ok(Ok(())) => {
            let json = json!({ "pid": pid, "already_running": false, "log": place.log() });
            let shown = place.log();
            context
                .output
                .show(&json, || format!("Started (pid {pid}). Its log is {}.", shown.display()))
        }
        Ok(Err(death)) => {
            let tail = logs::tail(&place.log(), before, TAIL_LINES)?;
            Err(Failure::new(FAILED, format!("{death}; the end of its log:\n{}", tail.trim_end()))
                .with_hint("mend what the log says and start again, or ask `ayni doctor`"))
        }
        Err(_) => {
            let message = format!("aynid (pid {pid}) runs but has not answered in time");
            Err(Failure::new(TIMED_OUT, message)
                .with_hint("it goes on starting: look with `ayni node logs` and `ayni status`"))
        }
    }
}

/// Returns when the daemon answers; fails with how it ended.
async fn until_answering(context: &Context, child: &mut Child) -> Result<(), String> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(format!("aynid has ended ({status})")),
            Err(error) => return Err(format!("aynid cannot be watched: {error}")),
        }
        // Anew each time: the daemon may choose another socket than its predecessor.
        let Ok(client) = context.client() else { continue };
        if answers(&client).await {
            return Ok(());
        }
    }
}

async fn answers(client: &Client) -> bool {
    match client.status().await {
        Ok(_) | Err(ClientError::Api(_)) => true,
        Err(_) => false,
    }
}

/// In the foreground, in the place of this program.
pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let place = context.home()?;
    home::load_identity(&place)?;
    let error = daemon(&place)?.exec();
    Err(Failure::new(FAILED, format!("cannot run aynid: {error}")))
}

fn daemon(place: &Home) -> Result<Command, Failure> {
    let program = find_daemon().ok_or_else(|| {
        Failure::new(FAILED, "the program aynid is neither beside ayni nor on the PATH")
            .with_hint("build it with `cargo build --release -p ayni-daemon`")
    })?;
    let mut command = Command::new(program);
    command.arg("--home").arg(place.root());
    Ok(command)
}

/// `aynid` beside this program, else on the PATH.
pub(crate) fn find_daemon() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|me| me.parent().map(Path::to_path_buf));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(env::split_paths(&path));
    folders.map(|folder| folder.join("aynid")).find(|program| program.is_file())
}

fn open_log(place: &Home) -> Result<File, Failure> {
    let path = place.log();
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    opened.map_err(|error| {
        Failure::new(FAILED, format!("cannot write the log {}: {error}", path.display()))
    })
}
