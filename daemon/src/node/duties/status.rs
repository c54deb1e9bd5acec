//! What people can ask of the duties, and change: which models are joined, how a duty goes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::api::{DutyStatus, JobProgress, NodeEvent, TrainStatus};
use protocol::duties::Duty;
use protocol::ids::ModelId;
use protocol::worker::{PrivacyOutcome, Progress};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Key;
use crate::node::Node;

/// What the interface can ask of the duties, and change.
pub struct Training {
    state: Mutex<State>,
    /// Where the joined models are remembered.
    note: PathBuf,
}

/// The joined models as remembered across a restart.
#[derive(Serialize, Deserialize)]
struct Joined {
    models: BTreeSet<ModelId>,
    left: bool,
}

#[derive(Default)]
struct State {
    joined: BTreeSet<ModelId>,
    left: bool,
    status: Option<DutyStatus>,
    /// When the first progress of the duty was reported, and how much was done then.
    since: Option<(Instant, u64)>,
    privacy: Option<PrivacyOutcome>,
    loss_first_nanonats: Option<u64>,
    loss_last_nanonats: Option<u64>,
    rounds_trained: u64,
    deltas_submitted: u64,
    reviews_done: u64,
    heads_attested: u64,
}

impl Training {
    /// With what is remembered in `note`. Blocks.
    pub fn open(note: PathBuf) -> Self {
        let joined = std::fs::read(&note).ok().and_then(|text| {
            let parsed: Result<Joined, _> = serde_json::from_slice(&text);
            parsed.inspect_err(|error| tracing::warn!(%error, "the joined models are lost")).ok()
        });
        let mut state = State::default();
        if let Some(joined) = joined {
            (state.joined, state.left) = (joined.models, joined.left);
        }
        Self { state: Mutex::new(state), note }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins this and later rounds of a model, also after a restart. A node that was told to join
    /// none joins only those that it is told to. Blocks.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn join(&self, model: ModelId) -> std::io::Result<()> {
        let mut state = self.lock();
        state.joined.insert(model);
        self.remember(&state)
    }

    /// Joins no further rounds, also after a restart. Blocks.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn leave(&self) -> std::io::Result<()> {
        let mut state = self.lock();
        state.joined.clear();
        state.left = true;
        self.remember(&state)
    }

    fn remember(&self, state: &State) -> std::io::Result<()> {
        let joined = Joined { models: state.joined.clone(), left: state.left };
        crate::node::notes::write(&self.note, &serde_json::to_vec(&joined)?)
    }

    /// Models whose rounds are joined, and whether the node has been told to join none.
    pub fn joined(&self) -> (BTreeSet<ModelId>, bool) {
        let state = self.lock();
        (state.joined.clone(), state.left)
    }

    /// For people.
    pub fn status(&self, auto_join: bool) -> TrainStatus {
        let state = self.lock();
        TrainStatus {
            joined: state.joined.iter().copied().collect(),
            auto_join: auto_join && !state.left,
            duties: state.status.clone().into_iter().collect(),
            loss_first_nanonats: state.loss_first_nanonats,
            loss_last_nanonats: state.loss_last_nanonats,
            rounds_trained: state.rounds_trained,
            deltas_submitted: state.deltas_submitted,
            deltas_accepted: 0,
            reviews_done: state.reviews_done,
            heads_attested: state.heads_attested,
            privacy: state.privacy,
        }
    }
}

impl Training {
    pub(super) fn begin(&self, node: &Node, status: DutyStatus) {
        let mut state = self.lock();
        (state.status, state.since) = (Some(status.clone()), None);
        drop(state);
        node.events.tell(&NodeEvent::Duty { duty: status });
    }

    pub(super) fn progress(&self, node: &Node, progress: &Progress) {
        let mut state = self.lock();
        let Progress { done, total, .. } = *progress;
        // A run that was cut off begins in its midst: what it did before took no time now.
        let (began, at) = *state.since.get_or_insert_with(|| (Instant::now(), done));
        let Some(status) = &mut state.status else { return };
        status.progress = JobProgress { done, total, ..JobProgress::default() };
        status.loss_nanonats = progress.loss_nanonats.or(status.loss_nanonats);
        status.per_second = progress.per_second.or(status.per_second);
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        status.eta_ms =
            elapsed.saturating_mul(total.saturating_sub(done)).checked_div(done.saturating_sub(at));
        node.events.tell(&NodeEvent::Duty { duty: status.clone() });
    }

    pub(super) fn end(&self, node: &Node, error: Option<&str>) {
        let mut state = self.lock();
        let Some(status) = &mut state.status else { return };
        status.finished = true;
        status.error = error.map(str::to_owned);
        node.events.tell(&NodeEvent::Duty { duty: status.clone() });
    }

    pub(super) fn trained(&self, first_nanonats: u64, last_nanonats: u64) {
        let mut state = self.lock();
        state.loss_first_nanonats = Some(first_nanonats);
        state.loss_last_nanonats = Some(last_nanonats);
        state.rounds_trained += 1;
    }

    pub(super) fn protected(&self, privacy: PrivacyOutcome) {
        self.lock().privacy = Some(privacy);
    }

    pub(super) fn count(&self, key: Key) {
        let mut state = self.lock();
        match key {
            Key::Duty(Duty::Submit { .. }) => state.deltas_submitted += 1,
            Key::Duty(Duty::Reveal { .. }) => state.reviews_done += 1,
            Key::Duty(Duty::Attest { .. }) => state.heads_attested += 1,
            _ => {}
        }
    }
}
