//! Doing what the node owes: a loop over [`protocol::duties::owed`].
//!
//! After every block the duties are read from the state again. Those that need no computing are
//! answered with a transaction at once; the others run one at a time on the worker, write down
//! their result ([`super::notes`]) and are then answered the same way. So a restarted node goes
//! on where it was, and never commits to two different things.

mod attest;
pub(crate) mod inputs;
mod review;
mod train;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::amount::Height;
use protocol::api::{DutyKind, DutyStatus, JobProgress, NodeEvent, TrainStatus};
use protocol::codec;
use protocol::commitment;
use protocol::duties::{Duty, owed};
use protocol::ids::{ContributionId, ModelId, TransactionHash};
use protocol::transaction::Payload;
use protocol::worker::Progress;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Node;
use super::notes::Notes;

/// Blocks after which a transaction for a duty that is still owed is made again.
const REPEAT_BLOCKS: u64 = 12;
/// Pause after a duty failed; doubles with each failure up to 32 times this.
const PAUSE: Duration = Duration::from_secs(2);

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

    /// Joins this and later rounds of a model, also after a restart. Blocks.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn join(&self, model: ModelId) -> std::io::Result<()> {
        let mut state = self.lock();
        state.joined.insert(model);
        state.left = false;
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
        super::notes::write(&self.note, &serde_json::to_vec(&joined)?)
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
        }
    }
}

impl Training {
    fn begin(&self, node: &Node, status: DutyStatus) {
        let mut state = self.lock();
        (state.status, state.since) = (Some(status.clone()), None);
        drop(state);
        node.events.tell(&NodeEvent::Duty { duty: status });
    }

    fn progress(&self, node: &Node, progress: &Progress) {
        let mut state = self.lock();
        let since = state.since;
        let Some(status) = &mut state.status else { return };
        let Progress { done, total, .. } = *progress;
        status.progress = JobProgress { done, total, ..JobProgress::default() };
        status.loss_nanonats = progress.loss_nanonats.or(status.loss_nanonats);
        status.per_second = progress.per_second.or(status.per_second);
        status.eta_ms = since.and_then(|(began, at)| {
            let steps = done.checked_sub(at).filter(|steps| *steps > 0)?;
            let elapsed = u64::try_from(began.elapsed().as_millis()).ok()?;
            elapsed.checked_mul(total.saturating_sub(done))?.checked_div(steps)
        });
        // A run that was cut off begins in its midst: what it did before took no time now.
        if since.is_none() {
            state.since = Some((Instant::now(), done));
        }
        let Some(status) = &state.status else { return };
        node.events.tell(&NodeEvent::Duty { duty: status.clone() });
    }

    fn end(&self, node: &Node, error: Option<&str>) {
        let mut state = self.lock();
        let Some(status) = &mut state.status else { return };
        status.finished = true;
        status.error = error.map(str::to_owned);
        node.events.tell(&NodeEvent::Duty { duty: status.clone() });
    }

    fn trained(&self, first_nanonats: u64, last_nanonats: u64) {
        let mut state = self.lock();
        state.loss_first_nanonats = Some(first_nanonats);
        state.loss_last_nanonats = Some(last_nanonats);
        state.rounds_trained += 1;
    }

    fn count(&self, key: Key) {
        let mut state = self.lock();
        match key {
            Key::Duty(Duty::Submit { .. }) => state.deltas_submitted += 1,
            Key::Duty(Duty::Reveal { .. }) => state.reviews_done += 1,
            Key::Duty(Duty::Attest { .. }) => state.heads_attested += 1,
            _ => {}
        }
    }
}

/// The part of a duty that the worker computes; reviews of a round are done together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Train(ModelId, u32),
    Review(ModelId, u32),
    Attest(ModelId, u32),
}

impl Work {
    fn status(self) -> DutyStatus {
        let (kind, model, round) = match self {
            Self::Train(model, round) => (DutyKind::Train, model, round),
            Self::Review(model, round) => (DutyKind::Review, model, round),
            Self::Attest(model, round) => (DutyKind::Merge, model, round),
        };
        DutyStatus {
            kind,
            model,
            round,
            progress: JobProgress::default(),
            loss_nanonats: None,
            per_second: None,
            eta_ms: None,
            finished: false,
            error: None,
        }
    }
}

/// What a piece of work ended with.
enum Done {
    /// A note was written.
    Noted,
    /// Deltas were accepted that cannot be fetched.
    Unavailable(Vec<ContributionId>),
}

type Outcome = anyhow::Result<Done>;

/// A duty's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Duty(Duty),
    Unavailable(ContributionId),
}

/// See the module.
pub struct Duties {
    node: Arc<Node>,
    notes: Notes,
    /// Transactions sent for duties, with the height at which they were made.
    sent: BTreeMap<Key, (TransactionHash, Height)>,
    running: Option<(Work, JoinHandle<Outcome>)>,
    failures: BTreeMap<Work, (u32, Instant)>,
}

impl Duties {
    /// For one node.
    pub fn new(node: Arc<Node>) -> Self {
        let notes = Notes::new(node.home.data().join("duties"));
        Self { node, notes, sent: BTreeMap::new(), running: None, failures: BTreeMap::new() }
    }

    /// Runs until shutdown.
    pub async fn run(mut self) {
        self.withhold();
        let mut applied = self.node.ledger.follow();
        let mut wake = tokio::time::interval(Duration::from_secs(1));
        wake.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.step().await;
            let finished = async {
                match &mut self.running {
                    Some((_, task)) => task.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.node.token.cancelled() => break,
                changed = applied.changed() => if changed.is_err() { break },
                _ = wake.tick() => {}
                result = finished => self.finished(result).await,
            }
        }
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    /// Withholds the deltas of open rounds again after a restart.
    fn withhold(&self) {
        for round in self.node.ledger.read(|view| protocol::duties::open_rounds(view)) {
            if let Some(manifest) = self.notes.delta(&round.model, round.index) {
                self.node.withheld.insert(manifest.payload, round.model, round.index);
            }
        }
    }

    async fn finished(&mut self, result: Result<Outcome, tokio::task::JoinError>) {
        let Some((work, _)) = self.running.take() else { return };
        let failure = match result {
            Ok(Ok(Done::Noted)) => None,
            Ok(Ok(Done::Unavailable(missing))) => {
                for contribution in missing {
                    let payload = Payload::AttestUnavailable { contribution };
                    self.send(Key::Unavailable(contribution), payload).await;
                }
                Some("an accepted delta cannot be fetched".to_owned())
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            // It was no longer owed.
            Err(error) if error.is_cancelled() => None,
            Err(error) => Some(error.to_string()),
        };
        self.node.training.end(&self.node, failure.as_deref());
        match failure {
            None => {
                self.failures.remove(&work);
            }
            Some(error) => {
                let count = self.failures.get(&work).map_or(0, |(n, _)| *n);
                let pause = PAUSE.saturating_mul(1 << count.min(5));
                tracing::warn!(?work, error, "a duty failed; trying again in {pause:?}");
                self.failures.insert(work, (count + 1, Instant::now() + pause));
            }
        }
    }

    /// One look at the state.
    async fn step(&mut self) {
        let id = self.node.id();
        let (joined, left) = self.node.training.joined();
        let auto = self.node.config.training().auto_join && !left;
        let duties = self.node.ledger.read(|view| owed(view, &id, |m| auto || joined.contains(m)));
        self.sent.retain(|key, _| match key {
            Key::Duty(duty) => duties.contains(duty),
            Key::Unavailable(_) => true,
        });
        let mut wanted = BTreeSet::new();
        for duty in duties {
            match self.answer(duty) {
                Answer::Send(payload) => self.send(Key::Duty(duty), *payload).await,
                Answer::Compute(work) => {
                    wanted.insert(work);
                }
                Answer::Lost => {
                    tracing::warn!(?duty, "the notes for a duty are gone; it cannot be done");
                }
            }
        }
        if let Some((work, task)) = &self.running
            && !wanted.contains(work)
        {
            tracing::info!(?work, "no longer owed; cancelled");
            task.abort();
        }
        let now = Instant::now();
        let ready = |work: &Work| self.failures.get(work).is_none_or(|(_, at)| *at <= now);
        if self.running.is_none()
            && let Some(work) = wanted.iter().copied().find(ready)
        {
            self.start(work);
        }
    }

    fn answer(&self, duty: Duty) -> Answer {
        let node = &self.node;
        let send = |payload| Answer::Send(Box::new(payload));
        match duty {
            Duty::Join { model, round } => send(Payload::JoinRound { model, round }),
            Duty::Train { model, round } => match self.notes.delta(&model, round) {
                None => Answer::Compute(Work::Train(model, round)),
                Some(manifest) => {
                    let content = codec::hash(&manifest);
                    let salt = train::salt(node, &manifest);
                    let commitment =
                        commitment::submission(&node.chain, &node.id(), &content, &salt);
                    send(Payload::SubmitCommit { model, round, commitment })
                }
            },
            Duty::Submit { model, round } => match self.notes.delta(&model, round) {
                None => Answer::Lost,
                Some(manifest) => {
                    let salt = train::salt(node, &manifest);
                    send(Payload::Submit { manifest: Box::new(manifest), salt })
                }
            },
            Duty::Review { model, round, contribution } => {
                match self.notes.review(&model, round, &contribution) {
                    None => Answer::Compute(Work::Review(model, round)),
                    Some(review) => {
                        let salt = review::salt(node, &contribution);
                        let commitment = commitment::review(
                            &node.chain,
                            &node.id(),
                            &contribution,
                            &review,
                            &salt,
                        );
                        send(Payload::ReviewCommit { contribution, commitment })
                    }
                }
            }
            Duty::Reveal { contribution } => {
                let known = node.ledger.read(|view| view.contribution(&contribution));
                let review =
                    known.and_then(|c| self.notes.review(&c.model, c.round, &contribution));
                match review {
                    None => Answer::Lost,
                    Some(review) => {
                        let salt = review::salt(node, &contribution);
                        send(Payload::ReviewReveal { contribution, review, salt })
                    }
                }
            }
            Duty::Attest { model, round } => {
                let merged = node.ledger.read(|view| attest::merged_hash(view, &model, round));
                match self.notes.head(&model, round).filter(|n| Some(n.merged) == merged) {
                    None => Answer::Compute(Work::Attest(model, round)),
                    Some(note) => send(Payload::AttestHead {
                        model,
                        round,
                        head: note.head,
                        possession: note.possession,
                        gain: note.gain,
                    }),
                }
            }
        }
    }

    /// Sends a duty's transaction, unless it is on its way.
    async fn send(&mut self, key: Key, payload: Payload) {
        let height = self.node.ledger.applied().height;
        if let Some((hash, since)) = self.sent.get(&key) {
            let recent = height.get() < since.get().saturating_add(REPEAT_BLOCKS);
            let hash = *hash;
            if recent
                && (self.node.ledger.included(&hash).is_some()
                    || self.node.ledger.run(move |ledger| ledger.is_pending(&hash)).await)
            {
                return;
            }
        }
        let name = payload.name();
        match self.node.transactions.send(&self.node.secrets.duty, payload).await {
            Ok(hash) => {
                tracing::info!(%hash, duty = name, "sent a duty");
                self.node.training.count(key);
                self.sent.insert(key, (hash, height));
            }
            Err(error) => tracing::warn!(duty = name, %error, "cannot send a duty"),
        }
    }

    fn start(&mut self, work: Work) {
        tracing::info!(?work, "starting a duty");
        self.node.training.begin(&self.node, work.status());
        let (node, notes) = (Arc::clone(&self.node), self.notes.clone());
        let task = self.node.tracker.spawn(async move {
            match work {
                Work::Train(model, round) => train::train(&node, &notes, model, round).await,
                Work::Review(model, round) => review::review(&node, &notes, model, round).await,
                Work::Attest(model, round) => attest::attest(&node, &notes, model, round).await,
            }
        });
        self.running = Some((work, task));
    }
}

/// What to do about a duty.
enum Answer {
    /// Send this.
    Send(Box<Payload>),
    /// Compute first.
    Compute(Work),
    /// It cannot be done any more.
    Lost,
}
