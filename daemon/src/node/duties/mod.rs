//! Doing what the node owes: a loop over [`protocol::duties::owed`].
//!
//! After every block the duties are read from the state again. Those that need no computing are
//! answered with a transaction at once; the others run one at a time on the worker, write down
//! their result ([`super::notes`]) and are then answered the same way. So a restarted node goes
//! on where it was, and never commits to two different things. Training is interrupted for what
//! others wait for, and goes on afterwards.

mod attest;
mod compress;
pub(crate) mod inputs;
mod replay;
mod review;
mod show;
mod status;
mod train;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Height;
use protocol::codec;
use protocol::commitment;
use protocol::duties::{Duty, owed};
use protocol::ids::{ContributionId, TransactionHash};
use protocol::transaction::Payload;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use show::shown;
pub use status::Training;
use work::Work;

use super::Node;
use super::notes::Notes;

/// Blocks after which a transaction for a duty that is still owed is made again.
const REPEAT_BLOCKS: u64 = 12;
/// How often these blocks are doubled: transactions made again beside ones that are still pending
/// push the nonces apart, until peers take the node for a flooder.
const REPEAT_DOUBLED_MAX: u32 = 5;
/// Pause after a duty failed; doubles with each failure up to 32 times this.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the node's end waits for training to put away what it has.
const PUT_AWAY_MAX: Duration = Duration::from_secs(5);

/// What a piece of work ended with.
enum Done {
    /// A note was written.
    Noted,
    /// Deltas were accepted that cannot be fetched.
    Unavailable(Vec<ContributionId>),
    /// It was stopped, and goes on later.
    Interrupted,
}

/// Work that is being done.
struct Running {
    work: Work,
    task: JoinHandle<Outcome>,
    stop: CancellationToken,
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
    /// Transactions sent for duties.
    sent: BTreeMap<Key, Sent>,
    running: Option<Running>,
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
                    Some(running) => (&mut running.task).await,
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
        if let Some(Running { work, task, stop }) = self.running.take() {
            stop.cancel();
            let abort = task.abort_handle();
            if !work.is_interruptible() || tokio::time::timeout(PUT_AWAY_MAX, task).await.is_err() {
                abort.abort();
            }
        }
    }

    /// Withholds the deltas of open rounds, and of those before them, again after a restart.
    fn withhold(&self) {
        let me = self.node.id();
        for round in self.node.ledger.read(|view| protocol::duties::open_rounds(view)) {
            for index in [round.index.saturating_sub(1), round.index] {
                if let Some(manifest) = self.notes.delta(&round.model, index) {
                    let id = protocol::ledger::entries::contribution_id(&round.model, index, &me);
                    self.node.withheld.insert(manifest.payload, round.model, index, id);
                }
            }
        }
    }

    async fn finished(&mut self, result: Result<Outcome, tokio::task::JoinError>) {
        let Some(Running { work, .. }) = self.running.take() else { return };
        let failure = match result {
            Ok(Ok(Done::Noted | Done::Interrupted)) => None,
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
                Answer::Nothing => {}
                Answer::Lost => {
                    tracing::warn!(?duty, "the notes for a duty are gone; it cannot be done");
                }
            }
        }
        let now = Instant::now();
        let ready = |work: &Work| self.failures.get(work).is_none_or(|(_, at)| *at <= now);
        let next = wanted.iter().copied().find(ready);
        if let Some(Running { work, task, stop }) = &self.running {
            if !wanted.contains(work) {
                tracing::info!(?work, "no longer owed; cancelled");
                task.abort();
            } else if work.is_interruptible()
                && next.is_some_and(|next| next < *work && !next.is_interruptible())
                && !stop.is_cancelled()
            {
                tracing::info!(?work, ?next, "others wait for something; it goes on later");
                stop.cancel();
            }
        }
        if self.running.is_none()
            && let Some(work) = next
        {
            self.start(work);
        }
    }

    fn answer(&self, duty: Duty) -> Answer {
        let node = &self.node;
        let send = |payload| Answer::Send(Box::new(payload));
        match duty {
            Duty::Join { model, round } => send(Payload::JoinRound { model, round }),
            Duty::Show { model, round, contribution } => {
                let slice = node.ledger.read(|view| show::slice(view, &contribution));
                match slice {
                    Some(_) if self.notes.shown(&model, round).is_none() => {
                        Answer::Compute(Work::Show(model, round))
                    }
                    _ => Answer::Nothing,
                }
            }
            Duty::Train { model, round, late } => {
                let done = self.notes.trained(&model, round).is_some()
                    || self.notes.delta(&model, round).is_some();
                // Nobody begins what is late already.
                if done || (late && self.notes.plan(&model, round).is_none()) {
                    Answer::Nothing
                } else {
                    Answer::Compute(Work::Train(model, round))
                }
            }
            Duty::Commit { model, round, .. } => match self.notes.delta(&model, round) {
                None if self.notes.trained(&model, round).is_none() => Answer::Nothing,
                None => Answer::Compute(Work::Compress(model, round)),
                Some(manifest) => {
                    let content = codec::hash(&manifest);
                    let salt = compress::salt(node, &manifest);
                    let commitment =
                        commitment::submission(&node.chain, &node.id(), &content, &salt);
                    send(Payload::SubmitCommit { model, round, commitment })
                }
            },
            Duty::Submit { model, round } => match self.notes.delta(&model, round) {
                None => Answer::Lost,
                Some(manifest) => {
                    let salt = compress::salt(node, &manifest);
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
                    known.and_then(|c| self.notes.review(&c.model, c.merged_in, &contribution));
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
        let mut times = 0;
        if let Some(sent) = self.sent.get(&key) {
            let pause = REPEAT_BLOCKS.saturating_mul(1 << sent.times.min(REPEAT_DOUBLED_MAX));
            let recent = height.get() < sent.at.get().saturating_add(pause);
            let hash = sent.hash;
            if recent
                && (self.node.ledger.included(&hash).is_some()
                    || self.node.ledger.run(move |ledger| ledger.is_pending(&hash)).await)
            {
                return;
            }
            times = sent.times.saturating_add(1);
        }
        let name = payload.name();
        match self.node.transactions.send(&self.node.secrets.duty, payload).await {
            Ok(hash) => {
                tracing::info!(%hash, duty = name, "sent a duty");
                self.node.training.count(key);
                self.sent.insert(key, Sent { hash, at: height, times });
            }
            Err(error) => tracing::warn!(duty = name, %error, "cannot send a duty"),
        }
    }

    fn start(&mut self, work: Work) {
        tracing::info!(?work, "starting a duty");
        self.node.training.begin(&self.node, work.status());
        let (node, notes) = (Arc::clone(&self.node), self.notes.clone());
        let stop = CancellationToken::new();
        let told = stop.clone();
        let task = self.node.tracker.spawn(async move { work.run(&node, &notes, told).await });
        self.running = Some(Running { work, task, stop });
    }
}

/// A transaction sent for a duty.
struct Sent {
    hash: TransactionHash,
    /// When it was made.
    at: Height,
    /// How many were made before it.
    times: u32,
}

/// What to do about a duty.
enum Answer {
    /// Send this.
    Send(Box<Payload>),
    /// Compute first.
    Compute(Work),
    /// Something else comes first.
    Nothing,
    /// It cannot be done any more.
    Lost,
}
