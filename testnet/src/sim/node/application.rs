//! Between the engine and the host, as the daemon's loop does it: a body is stored before the
//! engine hears that it is valid, a block is durable before it is acknowledged, and one (height,
//! round) never gets a second own block.

use std::rc::Rc;
use std::time::Duration;

use malachite_core_consensus::{Input, MisbehaviorEvidence, ProposedValue};
use malachite_core_types::{CommitCertificate as EngineCertificate, Round, Validity, ValueOrigin};
use protocol::amount::{Height as BlockHeight, TimestampMs};
use protocol::block::{Block, DecidedBlock, Evidence};
use protocol::codec;
use protocol::consensus::{BodyOffer, CommitCertificate, CommitSignature, ProposalBody};
use protocol::ids::{BlockHash, ValidatorId};
use protocol::keys::{Namespace, Signature};
use protocol::transaction::SignedTransaction;

use super::super::chain;
use super::super::checkers::Checker;
use super::super::context::{Address, Height, SimContext, Value, defined};
use super::super::message::{MS, Message, Request, SECOND, Time};
use super::proposals::{Judged, Place};
use super::{Building, Io, Local, Node, Stop};

/// How long a proposer waits for transactions, as in the daemon.
const BLOCK_WAIT: Duration = Duration::from_secs(1);
/// How long building takes, in virtual time.
const BUILD_TIME: Time = 2 * MS;

/// The protocol's certificate: signatures in ascending order of validator id, nobody twice.
pub(super) fn to_protocol_certificate(
    certificate: &EngineCertificate<SimContext>,
) -> CommitCertificate {
    let mut signatures: Vec<CommitSignature> = certificate
        .commit_signatures
        .iter()
        .map(|entry| CommitSignature { validator: entry.address.0, signature: entry.signature.0 })
        .collect();
    signatures.sort_by_key(|entry| entry.validator);
    signatures.dedup_by_key(|entry| entry.validator);
    CommitCertificate {
        height: certificate.height.0,
        round: defined(certificate.round),
        block: certificate.value_id,
        signatures,
    }
}

/// Double votes and proposals as evidence.
pub(super) fn to_evidence(found: MisbehaviorEvidence<SimContext>) -> Vec<Evidence> {
    let votes = found.votes.into_iter().flat_map(|(_, pairs)| pairs).map(|(a, b)| {
        Evidence::double_vote(
            (*a.message.inner(), a.signature.0),
            (*b.message.inner(), b.signature.0),
        )
    });
    let proposals = found.proposals.iter().flat_map(|(_, pairs)| pairs).map(|(a, b)| {
        Evidence::double_proposal(
            (*a.message.inner(), a.signature.0),
            (*b.message.inner(), b.signature.0),
        )
    });
    votes.chain(proposals).collect()
}

fn proposed(judged: &Judged) -> ProposedValue<SimContext> {
    let offer = &judged.body.offer;
    ProposedValue {
        height: Height(offer.height),
        round: Round::new(offer.round),
        valid_round: Round::Nil,
        proposer: Address(judged.body.proposer),
        value: Value(offer.block),
        validity: Validity::from_bool(judged.is_valid),
    }
}

impl Node {
    /// Time that passes in the world while this node's clock counts `duration`.
    pub(super) fn own_time(&self, duration: Duration) -> Time {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / ALWAYS_PPM);
        micros.saturating_mul(self.clock.rate_ppm) / ALWAYS_PPM
    }

    fn own_clock(&self, now: Time, io: &Io<'_>) -> TimestampMs {
        let start = io.shared.network.genesis.time.get();
        TimestampMs::new(start + now / MS + self.clock.offset_ms)
    }

    /// Brings the state up to the block log, as the daemon's ledger does when it opens.
    pub(super) fn replay(&mut self, io: &mut Io<'_>, tip: BlockHeight) {
        self.at = self.disk.flushed();
        let mut certificate = self.disk.decided(self.at.height).map(|d| d.certificate);
        while self.at.height < tip {
            let decided =
                self.disk.decided(self.at.height.plus(1)).expect("the block log has no gap");
            certificate = Some(decided.certificate.clone());
            let opened = io
                .shared
                .execution
                .open(&decided.block, &decided.certificate.block)
                .expect("a stored block decodes");
            match io.shared.execution.decide(&self.at, decided, &opened) {
                Ok((_, after)) => self.at = after,
                Err(refused) => {
                    let height = opened.header().height;
                    let text = format!("block {height} does not replay: {refused}");
                    io.shared.checks.violated(Checker::Validity, text);
                    break;
                }
            }
            if self.is_honest {
                io.shared.checks.stands_on(self.instance, self.at.height, self.at.block);
            }
        }
        self.host = self.at.host(&io.shared.network, certificate);
    }

    /// Prepares a height: the bodies that were stored or came early.
    pub(super) fn start_application(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
    ) -> Result<(), Stop> {
        if self.proposals.height() == height {
            return Ok(());
        }
        let is_first = self.proposals.height() == BlockHeight::ZERO;
        // Nothing of this height was stored while the engine ran at others.
        let stored = if is_first { self.disk.bodies(height) } else { Vec::new() };
        let early = self.proposals.start(height);
        for body in stored.into_iter().map(Rc::new).chain(early) {
            if self.is_proposers(io, &body) && self.proposals.place(&body) == Place::Current {
                self.judge(io, body)?;
            }
        }
        Ok(())
    }

    fn is_proposers(&self, io: &Io<'_>, body: &ProposalBody) -> bool {
        let set = self.set.inner();
        let expected = chain::proposer(set, body.offer.height, body.offer.round);
        let Some(validator) = set.get(&expected) else { return false };
        let signatures = &io.shared.signatures;
        body.proposer == expected
            && signatures.holds(
                &validator.key,
                Namespace::ProposalPart,
                &body.offer,
                &body.signature,
            )
    }

    /// What was already judged for this round and later ones.
    pub(super) fn started_round(
        &mut self,
        height: BlockHeight,
        round: u32,
    ) -> Vec<ProposedValue<SimContext>> {
        if height != self.proposals.height() {
            return Vec::new();
        }
        self.proposals.enter(round);
        self.proposals.since_round(round).map(proposed).collect()
    }

    /// Starts building, unless the (height, round) already has its block.
    pub(super) fn get_value(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
        round: u32,
        timeout: Duration,
    ) -> Result<(), Stop> {
        if let Some(body) = self.proposals.by_proposer(round, &self.address.0).cloned() {
            let block = body.offer.block;
            self.publish(io, Message::Body(body))?;
            self.propose(height, round, block);
            return Ok(());
        }
        let wait = if self.is_catching_up { Duration::ZERO } else { BLOCK_WAIT.min(timeout / 2) };
        let is_soon = wait.is_zero() || chain::wants_block(&self.host, &self.at);
        let after = if is_soon { BUILD_TIME } else { self.own_time(wait) };
        let id = self.next_id();
        self.building = Some(Building { height, round, id, is_soon });
        io.requests.push(Request::Build { after, id });
        Ok(())
    }

    /// Takes a transaction into the mempool; whether it is new. A waiting builder wakes up.
    pub(super) fn take_transaction(
        &mut self,
        io: &mut Io<'_>,
        transaction: &SignedTransaction,
    ) -> bool {
        let Some(verified) = io.shared.signatures.transaction(transaction) else { return false };
        if !chain::submit(&mut self.host, &self.at, verified) {
            return false;
        }
        if self.building.as_ref().is_some_and(|building| !building.is_soon)
            && chain::wants_block(&self.host, &self.at)
        {
            let id = self.next_id();
            if let Some(building) = &mut self.building {
                building.id = id;
                building.is_soon = true;
            }
            io.requests.push(Request::Build { after: BUILD_TIME, id });
        }
        true
    }

    /// Offers what was built.
    pub(super) fn built(&mut self, io: &mut Io<'_>, building: &Building) -> Result<(), Stop> {
        if building.height != self.proposals.height() {
            return Ok(());
        }
        if let Some(behaviour) = &self.behaviour {
            behaviour.before_building(&mut self.host, &self.at);
        }
        let time = self.own_clock(io.now, io);
        let block = chain::build(&mut self.host, &self.at, time, &self.secrets)
            .map_err(|refused| self.failed(io, &format!("cannot build: {refused}")))?;
        let block = match &mut self.behaviour {
            Some(behaviour) => behaviour.after_building(block, &mut io.shared.counts),
            None => block,
        };
        let hash = block.header.hash();
        let body = self.offer(io, building.height, building.round, hash, codec::encode(&block))?;
        self.publish(io, Message::Body(body))?;
        self.propose(building.height, building.round, hash);
        Ok(())
    }

    /// Signs, stores and keeps an own body.
    fn offer(
        &mut self,
        io: &Io<'_>,
        height: BlockHeight,
        round: u32,
        block: BlockHash,
        bytes: Vec<u8>,
    ) -> Result<Rc<ProposalBody>, Stop> {
        let offer = BodyOffer { height, round, block };
        let key = &self.secrets.consensus;
        let signature = io.shared.signatures.sign(key, Namespace::ProposalPart, &offer);
        let proposer = self.address.0;
        let body = Rc::new(ProposalBody { offer, proposer, block: bytes, signature });
        self.disk.store_body(&body)?;
        self.proposals.keep(Judged { body: Rc::clone(&body), is_valid: true });
        Ok(body)
    }

    /// Sends to everybody, or to whom a Byzantine validator pleases.
    pub(super) fn publish(&mut self, io: &mut Io<'_>, message: Message) -> Result<(), Stop> {
        self.disk.burn()?;
        match &mut self.behaviour {
            None => io.requests.push(Request::Broadcast(message)),
            Some(behaviour) => behaviour.publish(io, &self.secrets, message),
        }
        Ok(())
    }

    /// A body from the network: place, verify, judge.
    pub(super) fn received_body(
        &mut self,
        io: &mut Io<'_>,
        body: Rc<ProposalBody>,
    ) -> Result<(), Stop> {
        let place = self.proposals.place(&body);
        if place == Place::Nowhere || !self.is_proposers(io, &body) {
            return Ok(());
        }
        match place {
            Place::Current => {
                if let Some(value) = self.judge(io, body)? {
                    let input = Input::ProposedValue(value, ValueOrigin::Consensus);
                    self.local.push_back(Local::Input(Box::new(input)));
                }
            }
            Place::Early => self.proposals.keep_early(body),
            Place::Nowhere => {}
        }
        Ok(())
    }

    /// Judges a body of the current height whose signature is verified.
    fn judge(
        &mut self,
        io: &mut Io<'_>,
        body: Rc<ProposalBody>,
    ) -> Result<Option<ProposedValue<SimContext>>, Stop> {
        let Some(opened) = io.shared.execution.open(&body.block, &body.offer.block) else {
            return Ok(None);
        };
        let header = opened.header();
        let is_fitting =
            header.height == body.offer.height && header.chain == io.shared.network.chain;
        let is_valid = is_fitting && io.shared.execution.check(&self.at, &opened).is_ok();
        if is_valid {
            self.disk.store_body(&body)?;
        } else {
            io.shared.counts.invalid_blocks_refused += 1;
        }
        let judged = Judged { body, is_valid };
        let value = proposed(&judged);
        self.proposals.keep(judged);
        Ok(Some(value))
    }

    /// Commits a decision, then acknowledges it.
    pub(super) fn decided(
        &mut self,
        io: &mut Io<'_>,
        certificate: CommitCertificate,
    ) -> Result<(), Stop> {
        let hash = certificate.block;
        self.is_catching_up = !self.proposals.is_judged(&hash) && self.proposals.is_synced(&hash);
        let bytes = self.proposals.bytes(&hash).or_else(|| {
            let stored = self.disk.bodies(certificate.height);
            stored.into_iter().find(|body| body.offer.block == hash).map(|body| body.block)
        });
        let Some(bytes) = bytes else {
            return Err(self.failed(io, "decided a block that was never seen"));
        };
        let Some(opened) = io.shared.execution.open(&bytes, &hash) else {
            return Err(self.failed(io, "decided a block that does not decode"));
        };
        let decided = DecidedBlock { block: bytes, certificate };
        let (decision, after) = match io.shared.execution.decide(&self.at, decided, &opened) {
            Ok(found) => found,
            Err(refused) => {
                if self.is_honest {
                    let text = format!("instance {} refused {hash}: {refused}", self.instance);
                    io.shared.checks.violated(Checker::Validity, text);
                }
                return Err(Stop::Failed);
            }
        };
        self.disk.append(&decision.decided, &after)?;
        if self.is_honest {
            let parent = opened.header().parent;
            io.shared.checks.moved(self.instance, &self.at, parent, &after);
            io.shared.checks.acknowledged(self.instance, after.height);
        }
        chain::committed(&mut self.host, &decision, &after);
        self.at = after;
        Ok(())
    }

    /// A height is over: evidence is kept, and the next height starts.
    pub(super) fn finalized(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
        evidence: Vec<Evidence>,
    ) -> Result<(), Stop> {
        self.building = None;
        for item in evidence {
            io.shared.counts.evidence_found += 1;
            chain::add_evidence(&mut self.host, &self.at, item);
        }
        if self.until.is_some_and(|until| height >= until) {
            return self.start_engine(io);
        }
        self.start_height(io, height.plus(1))
    }

    /// Offers a block again: as it was, or, when it is ours to propose in a later round, anew.
    pub(super) fn restream(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
        round: u32,
        proposer: ValidatorId,
        block: BlockHash,
    ) -> Result<(), Stop> {
        if height != self.proposals.height() {
            return Ok(());
        }
        if let Some(body) = self.proposals.find(round, &proposer, &block).cloned() {
            return self.publish(io, Message::Body(body));
        }
        let bytes = self.proposals.bytes(&block);
        if let (true, Some(bytes)) = (proposer == self.address.0, bytes) {
            let body = self.offer(io, height, round, block, bytes)?;
            self.publish(io, Message::Body(body))?;
        }
        Ok(())
    }

    /// A block whose certificate the engine has verified; `None` is the sender's fault.
    ///
    /// Its bytes are stored first: the engine's log will say that the value was seen, and after a
    /// crash the engine may decide it without asking for its bytes again.
    pub(super) fn synced_value(
        &mut self,
        io: &mut Io<'_>,
        height: BlockHeight,
        round: Round,
        proposer: Address,
        bytes: &[u8],
    ) -> Result<Option<ProposedValue<SimContext>>, Stop> {
        let Ok(block) = codec::decode::<Block>(bytes) else { return Ok(None) };
        let hash = block.header.hash();
        let Some(opened) = io.shared.execution.open(bytes, &hash) else { return Ok(None) };
        let header = opened.header();
        if header.height != height || header.chain != io.shared.network.chain {
            return Ok(None);
        }
        let is_valid = io.shared.execution.check(&self.at, &opened).is_ok();
        if is_valid {
            self.disk.store_body(&ProposalBody {
                offer: BodyOffer { height, round: defined(round), block: hash },
                proposer: proposer.0,
                block: bytes.to_vec(),
                // The proposer's is not known; nobody is offered this body.
                signature: Signature::from_bytes([0; 64]),
            })?;
        }
        self.proposals.keep_synced(hash, Rc::new(bytes.to_vec()));
        Ok(Some(ProposedValue {
            height: Height(height),
            round,
            valid_round: Round::Nil,
            proposer,
            value: Value(hash),
            validity: Validity::from_bool(is_valid),
        }))
    }
}

const ALWAYS_PPM: u64 = 1_000_000;

/// Longest wait for blocks from one peer.
pub(super) const SYNC_WAIT: Time = 5 * SECOND;
