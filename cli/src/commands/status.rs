//! `ayni status` and `ayni peers`.

use protocol::api::{Role, Status, WorkerState, WorkerStatus};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{clean, pairs, table};
use crate::text;

/// How the node is doing.
pub(crate) async fn status(context: &Context) -> Result<(), Failure> {
    let status = context.client()?.status().await?;
    context.output.show(&status, || describe(&status))
}

fn describe(status: &Status) -> String {
    let height = if status.syncing {
        format!("{} of {} (syncing)", status.height, status.best_known_height)
    } else {
        status.height.to_string()
    };
    let role = match status.role {
        Role::Validator => format!("validator, one of {}", status.validators),
        Role::Full => format!("full node beside {} validators", status.validators),
    };
    let member = if status.is_member { "" } else { " (not registered on the ledger yet)" };
    let join = status.join_string.as_ref();
    let refused: u64 = status.refused_messages.values().sum();
    let rows = [
        ("chain", status.chain.to_string()),
        ("height", height),
        ("role", role),
        ("node", format!("{}{member}", status.node)),
        ("account", status.account.to_string()),
        ("peers", status.peers.to_string()),
        ("worker", worker(&status.worker)),
        ("offers", offers(status)),
        ("mempool", format!("{} transactions", status.mempool_transactions)),
        ("blobs", {
            let (sent, received) = (status.blob_bytes_sent, status.blob_bytes_received);
            format!("{} sent, {} received", text::bytes(sent), text::bytes(received))
        }),
        ("refused", format!("{refused} messages, {} double signs", status.double_sign_refusals)),
        ("running", format!("{} (pid {})", text::duration(status.uptime_ms), status.pid)),
        ("version", status.version.clone()),
        ("listens", status.listen.join(" ")),
        ("join string", join.map_or_else(|| "not known yet".to_owned(), ToString::to_string)),
    ];
    let mut lines = pairs(&rows);
    for warning in &status.warnings {
        lines.push_str(&format!("warning: {}\n", clean(warning)));
    }
    lines
}

fn offers(status: &Status) -> String {
    let offered = status.capabilities;
    let all = [
        (offered.reviews, "reviews"),
        (offered.merges, "merges"),
        (offered.hosts, "hosting"),
        (offered.validates, "validation"),
    ];
    let names: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// The worker in one line.
pub(crate) fn worker(worker: &WorkerStatus) -> String {
    let state = match worker.state {
        WorkerState::Starting => "starting".to_owned(),
        WorkerState::Idle => "idle".to_owned(),
        WorkerState::Busy => format!("busy: {}", worker.job.as_deref().unwrap_or("a job")),
        WorkerState::Failed => {
            format!("failed: {}", worker.last_error.as_deref().unwrap_or("no reason given"))
        }
        WorkerState::Disabled => "disabled".to_owned(),
    };
    let device = worker.device.as_ref().map(|device| format!(", {device}")).unwrap_or_default();
    let torch = if worker.torch == Some(false) { ", without libtorch" } else { "" };
    let restarts = match worker.restarts {
        0 => String::new(),
        n => format!(", {n} restarts"),
    };
    format!("{state}{device}{torch}{restarts}")
}

/// Connected peers.
pub(crate) async fn peers(context: &Context) -> Result<(), Failure> {
    let peers = context.client()?.peers().await?;
    context.output.show(&peers, || {
        let rows = peers.peers.iter().map(|peer| {
            vec![
                peer.peer_id.clone(),
                text::name(&peer.direction),
                peer.address.clone(),
                peer.height.map(|height| height.to_string()).unwrap_or_default(),
                peer.ping_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
                peer.refused_messages.to_string(),
                peer.agent.clone().unwrap_or_default(),
            ]
        });
        let head = ["PEER", "DIRECTION", "ADDRESS", "HEIGHT", "PING", "REFUSED", "AGENT"];
        table(&head, rows, "No peers are connected.")
    })
}
