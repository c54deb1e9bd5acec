//! Server-sent events: node events, job progress, generated text.
//!
//! Each stream ends when the daemon shuts down, so that no client can keep it alive; axum drops
//! it when the client goes away.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt as _};
use protocol::api::{ApiError, GenerateEvent, JobStatus, NodeEvent};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::GenerateOutput;
use super::utf8::Utf8Joiner;

/// A comment is sent this often, so that both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Node events until the node stops.
pub(super) fn node_events(
    receiver: mpsc::Receiver<NodeEvent>,
    shutdown: CancellationToken,
) -> Response {
    let events = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (event, receiver))
    });
    respond(events.map(|event| (event.name(), event)), shutdown)
}

/// Each status of a job; the last one is finished.
pub(super) fn job_events(
    mut receiver: watch::Receiver<JobStatus>,
    shutdown: CancellationToken,
) -> Response {
    receiver.mark_changed();
    let statuses = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        receiver.changed().await.ok()?;
        let status = receiver.borrow_and_update().clone();
        let rest = (!status.state.is_finished()).then_some(receiver);
        Some((status, rest))
    });
    respond(statuses.map(|status| ("job", status)), shutdown)
}

/// Generated text, then `done` or `error`.
pub(super) fn generate_events(
    receiver: mpsc::Receiver<Result<GenerateOutput, ApiError>>,
    shutdown: CancellationToken,
) -> Response {
    let start = Some((receiver, Utf8Joiner::default()));
    let pieces = stream::unfold(start, |state| async move {
        let (mut receiver, mut joiner) = state?;
        let last = match receiver.recv().await {
            Some(Ok(GenerateOutput::Text(bytes))) => {
                let events = text_event(joiner.push(&bytes));
                return Some((events, Some((receiver, joiner))));
            }
            Some(Ok(GenerateOutput::Done(done))) => GenerateEvent::Done(done),
            Some(Err(error)) => GenerateEvent::Error(error),
            None => GenerateEvent::Error(
                ApiError::unavailable("the worker stopped before the text was complete")
                    .with_hint("try again; `ayni status` shows how the worker is"),
            ),
        };
        let mut events = text_event(joiner.finish());
        events.push(last);
        Some((events, None))
    });
    respond(pieces.flat_map(stream::iter).map(|event| (event.name(), event)), shutdown)
}

fn text_event(text: String) -> Vec<GenerateEvent> {
    if text.is_empty() { Vec::new() } else { vec![GenerateEvent::Text { text }] }
}

fn respond<T: Serialize + Send + 'static>(
    events: impl Stream<Item = (&'static str, T)> + Send + 'static,
    shutdown: CancellationToken,
) -> Response {
    let events = events.filter_map(|(name, event)| async move {
        let built = Event::default().event(name).json_data(event);
        match built {
            Ok(event) => Some(Ok::<_, Infallible>(event)),
            Err(error) => {
                tracing::error!(%error, name, "an event could not be written as JSON");
                None
            }
        }
    });
    let events = events.take_until(shutdown.cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
