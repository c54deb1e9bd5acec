//! One validator: the engine's core, the host, the disk, and between them what the daemon has.
//!
//! [`engine`](self) drives Malachite's core and handles its effects as the engine's consensus
//! actor does; `application` answers as the daemon's loop between engine and ledger does;
//! `proposals` is its memory of bodies; `sync` fetches decided blocks.

mod application;
mod engine;
mod proposals;
mod sync;

use std::collections::VecDeque;
use std::rc::Rc;

use malachite_core_consensus::{Input, State};
use malachite_core_types::{LinearTimeouts, Timeout};
use malachite_metrics::Metrics;
use protocol::amount::Height;
use protocol::block::Evidence;
use protocol::consensus::CommitCertificate;
use protocol::home::NodeSecrets;
use protocol::host::Host;
use protocol::transaction::SignedTransaction;

use super::behaviour::Behaviour;
use super::chain::{self, Execution, Network, Snapshot};
use super::checkers::{Checker, Checkers};
use super::context::{Address, SimContext, ValidatorSet};
use super::disk::{Crashed, Disk};
use super::faults::{Counts, SignOrder};
use super::message::{Message, Request, Time};
use super::signatures::Signatures;
use proposals::Proposals;
use sync::Sync;

/// Restarts of the engine after a failure of its own at one height, as in the daemon.
const RESTARTS_MAX: u32 = 5;

/// What all nodes of a network share.
pub(super) struct Shared {
    pub(super) network: Rc<Network>,
    pub(super) execution: Execution,
    pub(super) signatures: Signatures,
    pub(super) metrics: Metrics,
    pub(super) checks: Checkers,
    pub(super) counts: Counts,
    pub(super) timeouts: LinearTimeouts,
    pub(super) sign_order: SignOrder,
}

/// What a node may touch while it handles one event.
pub(super) struct Io<'a> {
    pub(super) now: Time,
    pub(super) shared: &'a mut Shared,
    pub(super) requests: &'a mut Vec<Request>,
}

/// Why a node stopped in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It died.
    Crashed,
    /// The signer guard refused; the engine cannot go on at this height.
    Refused(Height),
    /// The engine failed by itself.
    Failed,
}

impl From<Crashed> for Stop {
    fn from(_: Crashed) -> Self {
        Self::Crashed
    }
}

/// A node's own clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Added to every time that it writes, in milliseconds.
    pub(super) offset_ms: u64,
    /// Length of its seconds in parts per million.
    pub(super) rate_ppm: u64,
}

/// What waits in the node's own queue: answers of the application to the engine.
enum Local {
    Input(Box<Input<SimContext>>),
    Decided(CommitCertificate),
    Finalized(Height, Vec<Evidence>),
}

struct Building {
    height: Height,
    round: u32,
    id: u64,
    is_soon: bool,
}

/// What went wrong with the disk while the node was down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// Nothing.
    None,
    /// The engine's log cannot be read.
    Wal,
    /// The engine's log is gone.
    NoWal,
    /// An old copy of the data directory was put back.
    Backup(usize),
}

/// See the module.
pub(super) struct Node {
    pub(super) instance: usize,
    pub(super) validator: usize,
    /// Bound by the checkers.
    pub(super) is_honest: bool,
    pub(super) is_up: bool,
    pub(super) at: Rc<Snapshot>,
    pub(super) disk: Disk,
    secrets: NodeSecrets,
    address: Address,
    behaviour: Option<Behaviour>,
    clock: Clock,
    host: Host,
    core: Option<Box<State<SimContext>>>,
    set: ValidatorSet,
    proposals: Proposals,
    local: VecDeque<Local>,
    timers: Vec<(Timeout, u64)>,
    next_id: u64,
    building: Option<Building>,
    is_catching_up: bool,
    votes: bool,
    until: Option<Height>,
    is_recovering: bool,
    sync: Sync,
    failures: (Height, u32),
}

impl Node {
    /// A node that is down, with an empty disk.
    pub(super) fn new(
        instance: usize,
        validator: usize,
        instances: usize,
        behaviour: Option<Behaviour>,
        clock: Clock,
        disk: Disk,
        network: &Network,
    ) -> Self {
        let secrets = network.secrets[validator].clone();
        let host = network.first.host(network, None);
        Self {
            instance,
            validator,
            is_honest: behaviour.is_none(),
            is_up: false,
            at: Rc::clone(&network.first),
            disk,
            address: Address(secrets.consensus.public().validator_id()),
            secrets,
            behaviour,
            clock,
            set: ValidatorSet::new(chain::validators(&host)),
            host,
            core: None,
            proposals: Proposals::default(),
            local: VecDeque::new(),
            timers: Vec::new(),
            next_id: 0,
            building: None,
            is_catching_up: false,
            votes: true,
            until: None,
            is_recovering: false,
            sync: Sync::new(instances),
            failures: (Height::ZERO, 0),
        }
    }

    /// Height of the last decided block.
    pub(super) fn height(&self) -> Height {
        self.at.height
    }

    /// Whether the node takes part without a vote.
    pub(super) const fn abstains(&self) -> bool {
        self.until.is_some()
    }

    /// Double votes that this node showed to everybody.
    pub(super) fn loud_double_votes(&self) -> u64 {
        self.behaviour.as_ref().map_or(0, |behaviour| behaviour.loud_double_votes)
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Starts the process: opens the stores, replays, starts the engine.
    pub(super) fn boot(&mut self, io: &mut Io<'_>, damage: Damage) {
        match damage {
            Damage::None => {}
            Damage::Wal => self.disk.set_wal_aside(),
            Damage::NoWal => self.disk.lose_wal(),
            Damage::Backup(blocks) => self.disk.restore_backup(blocks, &io.shared.network.first),
        }
        self.disk.open();
        self.is_up = true;
        let tip = self.disk.tip();
        if self.is_honest {
            let is_whole = !matches!(damage, Damage::Backup(_));
            io.shared.checks.recovered(self.instance, tip, is_whole);
        }
        self.replay(io, tip);
        self.sync = Sync::new(self.sync.peers());
        let started = self.start_engine(io);
        self.settle(io, started);
    }

    /// Drops the process. The disk stays, less what was not synced.
    pub(super) fn kill(&mut self) {
        self.is_up = false;
        self.core = None;
        self.local.clear();
        self.timers.clear();
        self.building = None;
        self.disk.crash();
    }

    /// Ends one event: restarts the engine or drops the process, as the daemon would.
    fn settle(&mut self, io: &mut Io<'_>, mut result: Result<(), Stop>) {
        loop {
            match result {
                Ok(()) => return,
                Err(Stop::Crashed) => return self.kill(),
                Err(Stop::Refused(height)) => {
                    self.disk.abstain(height);
                }
                Err(Stop::Failed) => {
                    let height = self.height();
                    self.failures = if self.failures.0 == height {
                        (height, self.failures.1 + 1)
                    } else {
                        (height, 1)
                    };
                    if self.failures.1 > RESTARTS_MAX {
                        return self.kill();
                    }
                }
            }
            result = self.start_engine(io);
        }
    }

    /// Reports a failure that no input should be able to cause.
    fn failed(&self, io: &mut Io<'_>, text: &str) -> Stop {
        if self.is_honest {
            let text = format!("instance {} at {}: {text}", self.instance, self.height());
            io.shared.checks.violated(Checker::NoFailure, text);
        }
        Stop::Failed
    }

    /// A message arrives.
    pub(super) fn deliver(&mut self, io: &mut Io<'_>, from: usize, message: Message) {
        let result = self.received(io, from, message).and_then(|()| self.drain(io));
        self.settle(io, result);
    }

    fn received(&mut self, io: &mut Io<'_>, from: usize, message: Message) -> Result<(), Stop> {
        match message {
            Message::Vote(vote) => self.process(io, Input::Vote(vote.as_ref().clone())),
            Message::Proposal(proposal) => {
                self.process(io, Input::Proposal(proposal.as_ref().clone()))
            }
            Message::Polka(certificate) => {
                self.process(io, Input::PolkaCertificate(certificate.as_ref().clone()))
            }
            Message::Round(certificate) => {
                self.process(io, Input::RoundCertificate(certificate.as_ref().clone()))
            }
            Message::Body(body) => self.received_body(io, body),
            Message::Transaction(transaction) => {
                self.take_transaction(io, &transaction);
                Ok(())
            }
            Message::Status(tip) => {
                self.peer_at(io, from, tip);
                Ok(())
            }
            Message::Request(height) => self.serve(io, from, height),
            Message::Response(blocks) => {
                self.fetched(io, from, &blocks);
                Ok(())
            }
        }
    }

    /// A client's transaction arrives at this node, which passes it on.
    pub(super) fn submit(&mut self, io: &mut Io<'_>, transaction: Rc<SignedTransaction>) {
        if self.take_transaction(io, &transaction) {
            io.requests.push(Request::Broadcast(Message::Transaction(transaction)));
        }
    }

    /// Tells the others where this node stands.
    pub(super) fn tell_status(&self, io: &mut Io<'_>) {
        io.requests.push(Request::Broadcast(Message::Status(self.height())));
    }

    /// A timer of the engine rings.
    pub(super) fn ring(&mut self, io: &mut Io<'_>, id: u64) {
        let Some(place) = self.timers.iter().position(|(_, known)| *known == id) else { return };
        let (timeout, _) = self.timers.swap_remove(place);
        let result = self.process(io, Input::TimeoutElapsed(timeout)).and_then(|()| self.drain(io));
        self.settle(io, result);
    }

    /// Building is over.
    pub(super) fn finish_build(&mut self, io: &mut Io<'_>, id: u64) {
        if self.building.as_ref().is_none_or(|building| building.id != id) {
            return;
        }
        let Some(building) = self.building.take() else { return };
        let result = self.built(io, &building).and_then(|()| self.drain(io));
        self.settle(io, result);
    }

    /// A request for blocks was not answered in time.
    pub(super) fn sync_timeout(&mut self, io: &mut Io<'_>, id: u64) {
        if self.sync.forget(id) {
            self.request_blocks(io);
        }
    }
}
