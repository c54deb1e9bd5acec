//! One seed: nodes, network, faults and clients in virtual time.
//!
//! Events wait in a heap ordered by (time, number); everything random is drawn from streams of
//! the seed; nothing else is read. So the hash over all events is the same whenever the seed is.
//!
//! Two phases: faults until four fifths of the heights are decided (or time is up), then healing,
//! after which every honest node has to go on. Byzantine validators never heal.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use malachite_core_types::LinearTimeouts;
use malachite_metrics::Metrics;
use protocol::amount::Height;

use super::behaviour::Behaviour;
use super::chain::{Execution, Network};
use super::checkers::{Checker, Checkers, Violation};
use super::clients::Clients;
use super::disk::Disk;
use super::faults::{Counts, Faults, Mode};
use super::message::{MS, Message, Request, SECOND, Time};
use super::node::{Clock, Damage, Io, Node, Shared};
use super::queue::{Event, Queue};
use super::random::{ALWAYS, Random};
use super::seeds::Setup;
use super::signatures::Signatures;
use super::stakeholders::Stakeholders;

/// Time between two statuses of a node, as the daemon's default.
const STATUS_EVERY: Time = 5 * SECOND;
/// After healing, the slowest honest node decides its next height within this time.
const STALL_MAX: Time = 600 * SECOND;
/// Virtual time per height after which the faults end in any case.
const FAULTY_PER_HEIGHT: Time = 10 * SECOND;
/// Messages kept to be sent once more.
const REMEMBERED_MAX: usize = 128;
/// Accounts of clients.
const CLIENTS: usize = 6;

/// How one seed ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Over all events.
    pub(super) hash: [u8; 32],
    /// Heights decided by the slowest honest node.
    pub(super) heights: u64,
    pub(super) events: u64,
    /// Virtual time.
    pub(super) time: Time,
    pub(super) executed: u64,
    pub(super) counts: Counts,
    pub(super) violations: Vec<Violation>,
    pub(super) is_replayed: bool,
}

/// See the module.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) mode: Mode,
    target: Height,
    pub(super) shared: Shared,
    pub(super) nodes: Vec<Node>,
    faults: Faults,
    clients: Clients,
    queue: Queue,
    pub(super) now: Time,
    net: Random,
    chaos: Random,
    /// The side of each instance while the network is partitioned.
    sides: Option<Vec<bool>>,
    recent: VecDeque<(usize, usize, Message)>,
    requests: Vec<Request>,
    pub(super) hasher: blake3::Hasher,
    traces: bool,
    is_healed: bool,
    best: Height,
    pub(super) lowest: Height,
    deadline: Time,
    pub(super) events: u64,
}

impl World {
    /// A network at time 0, all nodes about to boot; disks lie in `directory`.
    pub(super) fn new(seed: u64, setup: &Setup, directory: &Path) -> Self {
        let Setup { mode, heights, sign_order, traces } = *setup;
        let mut chaos = Random::new(seed, "faults", 0);
        let faults = Faults::draw(mode, &mut chaos);
        let network = Rc::new(Network::new(&faults.stakes, CLIENTS, faults.economy.parameters()));
        let signatures = Signatures::new(network.chain);
        let validators: Vec<usize> =
            (0..faults.stakes.len()).chain(faults.twins.iter().copied()).collect();
        let mut shared = Shared {
            execution: Execution::new(Rc::clone(&network), signatures.clone()),
            network: Rc::clone(&network),
            signatures,
            metrics: Metrics::default(),
            checks: Checkers::new(validators.len()),
            counts: Counts::default(),
            timeouts: LinearTimeouts::default(),
            sign_order,
        };
        shared.counts.twins = faults.twins.len() as u64;
        let instances = validators.len();
        let nodes = validators
            .iter()
            .enumerate()
            .map(|(instance, validator)| {
                let number = instance as u64;
                let behaviour = faults.plans[*validator].clone().map(|plan| {
                    Behaviour::new(
                        plan,
                        Random::new(seed, "byzantine", number),
                        instance,
                        instances,
                    )
                });
                let clock = Clock {
                    offset_ms: chaos.below(faults.skew_ms + 1),
                    rate_ppm: 1_000_000 - faults.drift_ppm / 2 + chaos.below(faults.drift_ppm + 1),
                };
                shared.counts.skewed += u64::from(clock.offset_ms > 0 || faults.drift_ppm > 0);
                let disk = Disk::new(
                    directory.join(instance.to_string()),
                    network.chain,
                    Rc::clone(&network.first),
                    faults.is_guarded && behaviour.is_none(),
                    Random::new(seed, "disk", number),
                );
                Node::new(instance, *validator, instances, behaviour, clock, disk, &network)
            })
            .collect();
        let trusted = (0..faults.stakes.len()).filter(|v| faults.keeps_promises(*v)).collect();
        let stakeholders = Stakeholders::new(&network, faults.economy, trusted);
        let random = Random::new(seed, "clients", 0);
        let clients = Clients::new(network, random, faults.client_fault_ppm, stakeholders);
        Self {
            seed,
            mode,
            target: Height::new(heights),
            shared,
            nodes,
            clients,
            queue: Queue::default(),
            now: 0,
            net: Random::new(seed, "network", 0),
            chaos,
            sides: faults.split.clone(),
            faults,
            recent: VecDeque::new(),
            requests: Vec::new(),
            hasher: blake3::Hasher::new(),
            traces,
            is_healed: false,
            best: Height::ZERO,
            lowest: Height::ZERO,
            deadline: Time::MAX,
            events: 0,
        }
    }

    fn push(&mut self, after: Time, event: Event) {
        self.queue.push(self.now.saturating_add(after), event);
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Outcome {
        for node in 0..self.nodes.len() {
            let after = self.chaos.below(SECOND);
            self.push(after, Event::Boot { node });
            let after = self.chaos.below(STATUS_EVERY);
            self.push(after, Event::Status { node });
        }
        self.schedule_crash();
        self.schedule_partition();
        while let Some((time, event)) = self.queue.pop() {
            self.now = time;
            if self.is_over() {
                break;
            }
            self.note(&event);
            self.dispatch(event);
            self.advance();
        }
        self.finish()
    }

    fn note(&mut self, event: &Event) {
        self.events += 1;
        let (kind, node, digest) = event.describe();
        self.hasher.update(&self.now.to_le_bytes());
        self.hasher.update(&[kind, u8::try_from(node).unwrap_or(u8::MAX)]);
        self.hasher.update(&digest);
        if self.traces {
            println!("{:>10} ms  {}", self.now / MS, event.line());
        }
    }

    fn is_over(&mut self) -> bool {
        if self.mode != Mode::Search {
            let cap = self.target.get() * FAULTY_PER_HEIGHT;
            return !self.shared.checks.is_clean() || self.best >= self.target || self.now > cap;
        }
        if self.lowest >= self.target {
            return true;
        }
        if self.is_healed && self.now > self.deadline {
            let state: Vec<String> = self
                .nodes
                .iter()
                .map(|node| {
                    let role = if node.is_honest { "" } else { " byzantine" };
                    let up = if node.is_up { "" } else { " down" };
                    let silent = if node.abstains() { " abstaining" } else { "" };
                    format!("{} at {}{role}{up}{silent}", node.instance, node.height())
                })
                .collect();
            let text = format!("no progress for {} s: {}", STALL_MAX / SECOND, state.join(", "));
            self.shared.checks.violated(Checker::Liveness, text);
            return true;
        }
        false
    }

    /// Runs one node's part of an event, then does what it asked for.
    fn with_node(&mut self, node: usize, work: impl FnOnce(&mut Node, &mut Io<'_>)) {
        let mut requests = std::mem::take(&mut self.requests);
        let mut io = Io { now: self.now, shared: &mut self.shared, requests: &mut requests };
        let target = &mut self.nodes[node];
        let was_up = target.is_up;
        work(target, &mut io);
        let died = was_up && !target.is_up;
        for request in requests.drain(..) {
            self.carry_out(node, request);
        }
        self.requests = requests;
        if died {
            self.down(node);
        }
    }

    fn down(&mut self, node: usize) {
        self.shared.counts.crashes += 1;
        if self.traces {
            println!("{:>10} ms  {node} dies", self.now / MS);
        }
        let after = self.chaos.between(100 * MS, 20 * SECOND);
        self.push(after, Event::Boot { node });
    }

    fn carry_out(&mut self, node: usize, request: Request) {
        match request {
            Request::Broadcast(message) => {
                for to in 0..self.nodes.len() {
                    if to != node {
                        self.send(node, to, message.clone());
                    }
                }
            }
            Request::Send(to, message) => self.send(node, to, message),
            Request::Timer { after, id } => self.push(after, Event::Ring { node, id }),
            Request::Build { after, id } => self.push(after, Event::Build { node, id }),
            Request::SyncTimeout { after, id } => {
                self.push(after, Event::SyncTimeout { node, id });
            }
        }
    }

    /// Puts a message on its way, if the network lets it.
    fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(sides) = &self.sides
            && sides[from] != sides[to]
        {
            self.shared.counts.cut_off += 1;
            return;
        }
        let faulty = !self.is_healed;
        if faulty && self.net.chance(self.faults.loss_ppm) {
            self.shared.counts.lost += 1;
            return;
        }
        let mut delay = MS + self.net.below(self.faults.delay_max);
        if faulty && self.net.chance(self.faults.reorder_ppm) {
            self.shared.counts.reordered += 1;
            delay += self.net.below(3 * SECOND);
        }
        if faulty && self.faults.repeat_ppm > 0 {
            self.repeat(from, to, &message);
        }
        self.push(delay, Event::Deliver { from, to, message });
    }

    /// At times sends a message once more, soon or long after.
    fn repeat(&mut self, from: usize, to: usize, message: &Message) {
        if self.net.chance(self.faults.repeat_ppm) {
            self.shared.counts.repeated += 1;
            let after = self.net.below(10 * SECOND);
            self.push(after, Event::Deliver { from, to, message: message.clone() });
        }
        if self.net.chance(self.faults.repeat_ppm) {
            let place = self.net.index(self.recent.len());
            if let Some((from, _, old)) = self.recent.get(place).cloned() {
                self.shared.counts.repeated += 1;
                let to = self.net.index(self.nodes.len());
                let after = self.net.below(SECOND);
                self.push(after, Event::Deliver { from, to, message: old });
            }
        }
        if self.recent.len() >= REMEMBERED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((from, to, message.clone()));
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if self.nodes[to].is_up {
                    self.shared.counts.delivered += 1;
                    self.with_node(to, |node, io| node.deliver(io, from, message));
                }
            }
            Event::Ring { node, id } => self.with_node(node, |node, io| node.ring(io, id)),
            Event::Build { node, id } => {
                self.with_node(node, |node, io| node.finish_build(io, id));
            }
            Event::SyncTimeout { node, id } => {
                if self.nodes[node].is_up {
                    self.with_node(node, |node, io| node.sync_timeout(io, id));
                }
            }
            Event::Status { node } => {
                if self.nodes[node].is_up {
                    self.with_node(node, |node, io| node.tell_status(io));
                }
                self.push(STATUS_EVERY, Event::Status { node });
            }
            Event::Submit { node, transaction } => {
                if self.nodes[node].is_up {
                    self.with_node(node, |node, io| node.submit(io, transaction));
                }
            }
            Event::Boot { node } => self.boot(node),
            Event::Crash => self.crash(),
            Event::Partition => self.partition(),
            Event::Mend => {
                self.sides = None;
                self.schedule_partition();
            }
        }
    }

    fn boot(&mut self, node: usize) {
        if self.nodes[node].is_up {
            return;
        }
        let validator = self.nodes[node].validator;
        let is_fresh = self.nodes[node].height() == Height::ZERO;
        let is_forgetful = self.faults.forgetful[validator] && !is_fresh && !self.is_healed;
        let damage = match (self.mode, is_forgetful) {
            (Mode::NoGuard, true) => Damage::NoWal,
            (Mode::Search, true) => match self.chaos.below(6) {
                0 | 1 => Damage::Wal,
                2 | 3 => Damage::NoWal,
                4 => Damage::Backup(usize::try_from(self.chaos.between(1, 20)).unwrap_or(1)),
                _ => Damage::None,
            },
            _ => Damage::None,
        };
        match damage {
            Damage::None => {}
            Damage::Wal | Damage::NoWal => self.shared.counts.logs_lost += 1,
            Damage::Backup(_) => self.shared.counts.backups += 1,
        }
        self.with_node(node, |node, io| node.boot(io, damage));
        if !self.nodes[node].is_up {
            self.down(node);
        }
    }

    fn schedule_crash(&mut self) {
        if self.faults.crash_every > 0 {
            let after =
                self.chaos.between(self.faults.crash_every / 2, self.faults.crash_every * 2);
            self.push(after, Event::Crash);
        }
    }

    /// Lights the fuse of a node, or of all.
    fn crash(&mut self) {
        if self.is_healed {
            return;
        }
        let all = self.faults.has_power_cuts && self.chaos.chance(ALWAYS / 5);
        let chosen = self.chaos.index(self.nodes.len());
        for index in 0..self.nodes.len() {
            if all || index == chosen {
                let operations = u32::try_from(self.chaos.below(40)).unwrap_or(0);
                self.nodes[index].disk.light(operations);
            }
        }
        self.schedule_crash();
    }

    fn schedule_partition(&mut self) {
        let every = self.faults.partition_every;
        if every > 0 && !self.is_healed {
            let after = self.chaos.between(every / 2, every * 2);
            self.push(after, Event::Partition);
        }
    }

    fn partition(&mut self) {
        if self.is_healed {
            return;
        }
        self.shared.counts.partitions += 1;
        let sides = (0..self.nodes.len()).map(|_| self.chaos.chance(ALWAYS / 2)).collect();
        self.sides = Some(sides);
        let after = self.chaos.between(SECOND, 30 * SECOND);
        self.push(after, Event::Mend);
    }

    /// Notices new heights; ends the faults when it is time.
    fn advance(&mut self) {
        let honest = || self.nodes.iter().filter(|node| node.is_honest);
        let best = honest().map(Node::height).max().unwrap_or_default();
        let lowest = honest().map(Node::height).min().unwrap_or_default();
        if lowest > self.lowest && self.is_healed {
            self.deadline = self.now + STALL_MAX;
        }
        self.lowest = lowest;
        if best > self.best {
            self.best = best;
            self.act();
        }
        let is_time = best.get() * 5 >= self.target.get() * 4
            || self.now > self.target.get() * FAULTY_PER_HEIGHT;
        if !self.is_healed && is_time && self.mode == Mode::Search {
            self.is_healed = true;
            self.sides = None;
            self.deadline = self.now + STALL_MAX;
            for node in &mut self.nodes {
                node.disk.put_out();
            }
            if self.traces {
                println!("{:>10} ms  the faults end", self.now / MS);
            }
        }
    }

    /// Clients act at a new height.
    fn act(&mut self) {
        let Some(at) = self.nodes.iter().find(|node| node.is_honest && node.height() == self.best)
        else {
            return;
        };
        let at = Rc::clone(&at.at);
        let submissions = self.clients.act(&at, self.nodes.len(), &mut self.shared.counts);
        for (node, transaction) in submissions {
            let after = self.net.below(SECOND / 2);
            self.push(after, Event::Submit { node, transaction });
        }
    }
}
