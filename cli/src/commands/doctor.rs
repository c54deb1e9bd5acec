//! `ayni doctor`: checks in the order in which things depend on each other, each with how to mend
//! it. Works without a running daemon.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use ayni_cli::{config, home, keys};
use protocol::api::{Status, WorkerState};
use protocol::home::{Home, check_socket_path};
use serde::Serialize;

use super::{node, status};
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::output::table;
use crate::text;

/// Below this a node soon cannot write blocks and checkpoints.
const DISK_BYTES_LOW: u64 = 2 << 30;
/// Below this it cannot work at all.
const DISK_BYTES_MIN: u64 = 128 << 20;
/// Chain time is a median of the past; ahead of our clock by this much, our clock is wrong.
const CLOCK_AHEAD_MS_MAX: u64 = 10_000;
/// 2025-01-01: a clock before that was never set.
const CLOCK_MS_MIN: u64 = 1_735_689_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    outcome: Outcome,
    detail: String,
}

#[derive(Default, Serialize)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    fn add(&mut self, name: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.checks.push(Check { name, outcome, detail: detail.into() });
    }

    /// Records a result: the text of either side is the detail. Returns whether it was good.
    fn check(&mut self, name: &'static str, result: Result<String, String>) -> bool {
        let good = result.is_ok();
        let outcome = if good { Outcome::Ok } else { Outcome::Failed };
        self.add(name, outcome, result.unwrap_or_else(|reason| reason));
        good
    }
}

/// Checks everything that can be checked; fails when something must be mended.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let mut report = Report::default();
    let place = context.home()?;
    let identity = home::load_identity(&place).map_err(|e| e.to_string());
    if report.check("home", identity.map(|_| place.root().display().to_string())) {
        check_files(&mut report, &place);
    }
    let daemon = node::find_daemon().map(|path| path.display().to_string());
    report.check("program", daemon.ok_or_else(|| {
        "aynid is neither beside ayni nor on the PATH; build it with `cargo build --release`".into()
    }));
    check_clock(&mut report);
    check_node(context, &mut report).await;

    context.output.show(&report, || {
        let rows = report.checks.iter().map(|check| {
            let mark = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "look",
                Outcome::Failed => "MEND",
            };
            vec![check.name.to_owned(), mark.to_owned(), check.detail.clone()]
        });
        table(&["CHECK", "", "DETAIL"], rows, "Nothing was checked.")
    })?;
    let failed = report.checks.iter().filter(|c| c.outcome == Outcome::Failed).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(FAILED, format!("{failed} of {} checks failed", report.checks.len())))
}

fn check_files(report: &mut Report, place: &Home) {
    let mode = fs::metadata(place.root()).map(|metadata| metadata.mode() & 0o777);
    report.check(
        "permissions",
        match mode {
            Ok(mode) if mode & 0o077 == 0 => Ok(format!("{mode:o}")),
            Ok(mode) => {
                let root = place.root().display();
                Err(format!("others may enter the home (mode {mode:o}): chmod 700 {root}"))
            }
            Err(error) => Err(error.to_string()),
        },
    );
    let matching = keys::load_secrets(place).map_err(|e| e.to_string()).and_then(|secrets| {
        let stated = home::load_identity(place).map_err(|e| e.to_string())?;
        if secrets.identity() == stated {
            Ok("5 keys, as node.json says".to_owned())
        } else {
            Err("the key files are not those of node.json; restore the right ones".to_owned())
        }
    });
    report.check("keys", matching);
    let config = config::load(&place.config()).map_err(|e| e.to_string());
    let networked = |joined: bool| joined || place.genesis().exists() || place.data().exists();
    match config {
        Ok(config) if networked(config.join().is_some()) => {
            report.add("config", Outcome::Ok, place.config().display().to_string());
        }
        Ok(_) => {
            let detail = "no network: set `join` under [network], or add genesis.json";
            report.add("config", Outcome::Failed, detail);
        }
        Err(reason) => report.add("config", Outcome::Failed, reason),
    }
    let socket = home::find_socket(place).map_err(|e| e.to_string()).and_then(|socket| {
        check_socket_path(&socket).map_err(|e| e.to_string())?;
        Ok(socket.display().to_string())
    });
    report.check("socket", socket);
    match rustix::fs::statvfs(place.root()) {
        Err(error) => report.add("disk", Outcome::Failed, error.to_string()),
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let outcome = if free < DISK_BYTES_MIN {
                Outcome::Failed
            } else if free < DISK_BYTES_LOW {
                Outcome::Warning
            } else {
                Outcome::Ok
            };
            report.add("disk", outcome, format!("{} free", text::bytes(free)));
        }
    }
}

fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

fn check_clock(report: &mut Report) {
    let set = now_ms() >= CLOCK_MS_MIN;
    let result = if set { Ok("set") } else { Err("the clock is not set: use a time service") };
    report.check("clock", result.map(str::to_owned).map_err(str::to_owned));
}

async fn check_node(context: &Context, report: &mut Report) {
    let client = match context.client() {
        Ok(client) => client,
        Err(_) => return report.add("node", Outcome::Warning, "not running: no node was made yet"),
    };
    match client.status().await {
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            report.add("node", Outcome::Warning, format!("{error}; {hint}"));
        }
        Ok(status) => check_status(report, &status),
    }
}

fn check_status(report: &mut Report, status: &Status) {
    let running = format!("running (pid {}), version {}", status.pid, status.version);
    report.add("node", Outcome::Ok, running);
    let (outcome, detail) = match status.worker.state {
        WorkerState::Failed => (Outcome::Failed, status::worker(&status.worker)),
        WorkerState::Disabled => (Outcome::Warning, "disabled: nothing is trained".to_owned()),
        _ if status.worker.torch == Some(false) => {
            (Outcome::Failed, "built without libtorch: build ml with --features torch".to_owned())
        }
        _ => (Outcome::Ok, status::worker(&status.worker)),
    };
    report.add("worker", outcome, detail);
    let ahead = status.chain_time_ms.get().saturating_sub(now_ms());
    if ahead > CLOCK_AHEAD_MS_MAX {
        let detail = format!("behind the chain by {}: set the clock", text::duration(ahead));
        report.add("chain time", Outcome::Failed, detail);
    }
    let alone = status.peers == 0 && status.validators > 1;
    if alone {
        report.add("peers", Outcome::Warning, "none: check addresses and the join string");
    } else {
        report.add("peers", Outcome::Ok, status.peers.to_string());
    }
    let height = format!("height {} of {}", status.height, status.best_known_height);
    report.add("sync", if status.syncing { Outcome::Warning } else { Outcome::Ok }, height);
    for warning in &status.warnings {
        report.add("warning", Outcome::Warning, warning.clone());
    }
}
