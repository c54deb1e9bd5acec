//! The load: sends transfers to all nodes and writes down when each was sent and when each node
//! told of each block.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cli::client::Client;
use protocol::amount::Height;
use protocol::api::{NodeEvent, SubmitTransactions};
use protocol::ids::TransactionHash;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::measure::{Consumption, read};
use crate::network::Validators;
use crate::network::accounts::{Accounts, Transfer};

/// Load before the measurement begins.
pub(super) const WARM_UP: Duration = Duration::from_secs(3);
/// Time between two requests to one node in the steady run.
const TICK: Duration = Duration::from_millis(20);
/// Transfers in one request of the saturated run.
const REQUEST_MAX: usize = 128;
/// How often a full window is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// After the last request, some transfer must become final within this, until all are: a network
/// that takes less than it was sent needs long, and one that has stopped must be found out.
const DRAIN_STUCK: Duration = Duration::from_secs(60);

/// How transfers are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// None at all.
    Nothing,
    /// At a steady rate, whatever comes back.
    Rate { per_s: u64 },
    /// As fast as they become final, with so many on the way.
    Window { transfers: usize },
}

impl Shape {
    /// For progress.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "empty blocks, one after another",
            Self::Rate { .. } => "a steady rate",
            Self::Window { .. } => "saturation",
        }
    }
}

/// When a transfer was sent, and to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) node: usize,
    pub(super) at: Instant,
}

/// A block as one node told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) at: Instant,
    pub(super) transactions: u32,
}

/// What the load generator saw.
pub(super) struct Observed {
    /// Every transfer.
    pub(super) sent: BTreeMap<TransactionHash, Sent>,
    /// By node.
    pub(super) told: Vec<BTreeMap<Height, Told>>,
    /// The measured part.
    pub(super) from: Instant,
    /// Its end.
    pub(super) to: Instant,
    /// What the processes used at its beginning.
    pub(super) before: Consumption,
    /// What they had used at its end.
    pub(super) after: Consumption,
}

#[derive(Default)]
struct Shared {
    sent: RefCell<BTreeMap<TransactionHash, Sent>>,
    told: RefCell<Vec<BTreeMap<Height, Told>>>,
    /// Transfers in blocks, as the first node tells.
    done: Cell<usize>,
    on_the_way: Cell<usize>,
    failed: RefCell<Option<String>>,
}

/// Sends for a warm-up and `length`, and waits until everything is final.
pub(super) async fn run(
    network: &Validators,
    accounts: Accounts,
    shape: Shape,
    length: Duration,
) -> Result<Observed> {
    let shared = Rc::new(Shared::default());
    shared.told.borrow_mut().resize(network.nodes.len(), BTreeMap::new());
    let accounts = Rc::new(RefCell::new(accounts));
    let local = LocalSet::new();
    let work = async {
        for (index, node) in network.nodes.iter().enumerate() {
            let events = node.client.events().await?;
            tokio::task::spawn_local(listen(index, events, Rc::clone(&shared)));
        }
        let start = Instant::now();
        let stop = start + WARM_UP + length;
        let senders: Vec<_> = network
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| Sender {
                index,
                nodes: network.nodes.len(),
                client: node.client.clone(),
                accounts: Rc::clone(&accounts),
                shared: Rc::clone(&shared),
            })
            .map(|sender| tokio::task::spawn_local(sender.run(shape, start, stop)))
            .collect();
        sleep_until(start + WARM_UP).await;
        let (from, before) = (Instant::now(), read(network)?);
        sleep_until(stop).await;
        let (to, after) = (Instant::now(), read(network)?);
        for sender in senders {
            sender.await.context("a sender failed")?;
        }
        drain(&shared).await?;
        Ok::<_, anyhow::Error>((from, before, to, after))
    };
    let (from, before, to, after) = local.run_until(work).await?;
    drop(local);
    let sent = shared.sent.take();
    let told = shared.told.take();
    Ok(Observed { sent, told, from, to, before, after })
}

async fn drain(shared: &Shared) -> Result<()> {
    let sent = shared.sent.borrow().len();
    let (mut done, mut moved) = (shared.done.get(), Instant::now());
    while done < sent {
        if let Some(why) = shared.failed.take() {
            bail!("{why}");
        }
        ensure!(moved.elapsed() < DRAIN_STUCK, "{done} of {sent} transfers became final");
        sleep(LOOK).await;
        if shared.done.get() > done {
            (done, moved) = (shared.done.get(), Instant::now());
        }
    }
    match shared.failed.take() {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

async fn listen(index: usize, mut events: cli::client::EventStream<NodeEvent>, shared: Rc<Shared>) {
    while let Some(event) = events.next().await {
        match event {
            Ok(NodeEvent::Block { height, transactions, .. }) => {
                let told = Told { at: Instant::now(), transactions };
                shared.told.borrow_mut()[index].insert(height, told);
                if index == 0 {
                    let count = usize::try_from(transactions).unwrap_or(usize::MAX);
                    shared.done.set(shared.done.get() + count);
                    let left = shared.on_the_way.get().saturating_sub(count);
                    shared.on_the_way.set(left);
                }
            }
            Ok(NodeEvent::Missed { events }) => {
                fail(&shared, format!("node-{index} left out {events} events"));
            }
            Ok(_) => {}
            Err(error) => {
                fail(&shared, format!("node-{index} tells no more: {error}"));
                return;
            }
        }
    }
}

fn fail(shared: &Shared, why: String) {
    shared.failed.borrow_mut().get_or_insert(why);
}

struct Sender {
    index: usize,
    nodes: usize,
    client: Client,
    accounts: Rc<RefCell<Accounts>>,
    shared: Rc<Shared>,
}

impl Sender {
    async fn run(self, shape: Shape, start: Instant, stop: Instant) {
        let outcome = match shape {
            Shape::Nothing => Ok(()),
            Shape::Rate { per_s } => self.steady(per_s, start, stop).await,
            Shape::Window { transfers } => self.saturate(transfers, stop).await,
        };
        if let Err(error) = outcome {
            fail(&self.shared, format!("{error:#}"));
        }
    }

    /// This node's share of a rate, in requests at fixed times, however slow the answers are.
    async fn steady(&self, per_s: u64, start: Instant, stop: Instant) -> Result<()> {
        // Shifted, so that the nodes are not asked at the same moment.
        let mut at = start + TICK * u32::try_from(self.index)? / u32::try_from(self.nodes)?;
        let mut owed = 0_u128;
        let unit = 1_000_000 * self.nodes as u128;
        while at < stop && self.shared.failed.borrow().is_none() {
            sleep_until(at).await;
            at += TICK;
            owed += u128::from(per_s) * TICK.as_micros();
            let count = owed / unit;
            owed %= unit;
            let transfers = self.accounts.borrow_mut().take(self.index, usize::try_from(count)?);
            if transfers.is_empty() {
                continue;
            }
            let sent = Instant::now();
            self.note(&transfers, sent);
            let (client, shared, index) =
                (self.client.clone(), Rc::clone(&self.shared), self.index);
            tokio::task::spawn_local(async move {
                if let Err(error) = request(&client, transfers).await {
                    fail(&shared, format!("node-{index}: {error:#}"));
                }
            });
        }
        Ok(())
    }

    async fn saturate(&self, window: usize, stop: Instant) -> Result<()> {
        while Instant::now() < stop && self.shared.failed.borrow().is_none() {
            let room = window.saturating_sub(self.shared.on_the_way.get());
            if room < REQUEST_MAX.min(window) {
                sleep(LOOK).await;
                continue;
            }
            let transfers = self.accounts.borrow_mut().take(self.index, REQUEST_MAX.min(window));
            ensure!(
                !transfers.is_empty(),
                "all signed transfers are sent: this machine is faster than the benchmark foresaw"
            );
            self.note(&transfers, Instant::now());
            request(&self.client, transfers).await?;
        }
        Ok(())
    }

    fn note(&self, transfers: &[Transfer], at: Instant) {
        let mut sent = self.shared.sent.borrow_mut();
        sent.extend(transfers.iter().map(|t| (t.hash, Sent { node: self.index, at })));
        self.shared.on_the_way.set(self.shared.on_the_way.get() + transfers.len());
    }
}

async fn request(client: &Client, transfers: Vec<Transfer>) -> Result<()> {
    let transactions = transfers.into_iter().map(|t| t.bytes).collect();
    let answer = client.submit(&SubmitTransactions { transactions }).await?;
    match answer.results.iter().find(|result| !result.is_accepted()) {
        None => Ok(()),
        Some(refused) => {
            let message = refused.message.as_deref().unwrap_or("no reason given");
            bail!("a transfer was refused ({}): {message}", refused.code)
        }
    }
}
