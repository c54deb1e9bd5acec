//! What Byzantine validators do. They run the honest code with a valid key and no signer guard;
//! this decides what they build, what they send, and to whom.

use std::rc::Rc;

use malachite_core_types::{SignedProposal, SignedVote};
use protocol::block::{Block, DecidedBlock};
use protocol::codec;
use protocol::consensus::{self, BodyOffer, ProposalBody};
use protocol::home::NodeSecrets;
use protocol::host::Host;
use protocol::ids::{BlockHash, ContentHash, StateRoot};
use protocol::keys::Namespace;

use super::chain::{self, Snapshot};
use super::context::{Proposal, Signature, SimContext, Vote};
use super::faults::Counts;
use super::message::{Message, Request};
use super::node::Io;
use super::random::{ALWAYS, Random};

/// Rates of misbehaviour in parts per million.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    double_votes_ppm: u32,
    /// Both votes go to everybody, not one to each half.
    pub(super) is_loud: bool,
    double_proposals_ppm: u32,
    withheld_bodies_ppm: u32,
    withheld_proposals_ppm: u32,
    withheld_votes_ppm: u32,
    invalid_blocks_ppm: u32,
    censors: bool,
    junk_votes_ppm: u32,
    lies_ppm: u32,
}

fn rate(random: &mut Random) -> u32 {
    match random.below(10) {
        0..=5 => 0,
        6..=7 => u32::try_from(random.below(300_000)).unwrap_or(0),
        8 => 700_000,
        _ => ALWAYS,
    }
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            double_votes_ppm: rate(random),
            is_loud: random.chance(ALWAYS / 2),
            double_proposals_ppm: rate(random),
            withheld_bodies_ppm: rate(random),
            withheld_proposals_ppm: rate(random),
            withheld_votes_ppm: rate(random),
            invalid_blocks_ppm: rate(random),
            censors: random.chance(300_000),
            junk_votes_ppm: rate(random) / 4,
            lies_ppm: rate(random),
        }
    }
}

/// See the module.
pub(super) struct Behaviour {
    plan: Plan,
    random: Random,
    instance: usize,
    instances: usize,
    /// Another block for the round in which the first was built.
    second: Option<(BlockHash, Block)>,
    /// Who is told of the second.
    half: Vec<bool>,
    /// Double votes sent to everybody.
    pub(super) loud_double_votes: u64,
}

impl Behaviour {
    pub(super) fn new(plan: Plan, random: Random, instance: usize, instances: usize) -> Self {
        Self {
            plan,
            random,
            instance,
            instances,
            second: None,
            half: vec![false; instances],
            loud_double_votes: 0,
        }
    }

    /// A censoring proposer does not look at what waits.
    pub(super) fn before_building(&self, host: &mut Host, at: &Snapshot) {
        if self.plan.censors {
            chain::censor(host, at);
        }
    }

    /// The block that is proposed in place of an honest one.
    pub(super) fn after_building(&mut self, block: Block, counts: &mut Counts) -> Block {
        self.second = None;
        counts.censored += u64::from(self.plan.censors);
        let block = if self.random.chance(self.plan.invalid_blocks_ppm) {
            counts.invalid_blocks += 1;
            self.spoil(block)
        } else {
            block
        };
        if self.random.chance(self.plan.double_proposals_ppm) {
            counts.double_proposals += 1;
            let mut other = block.clone();
            other.header.time = other.header.time.plus(1);
            self.second = Some((block.header.hash(), other));
            self.draw_half();
        }
        block
    }

    fn draw_half(&mut self) {
        for slot in &mut self.half {
            *slot = self.random.chance(ALWAYS / 2);
        }
    }

    /// One thing about the block is wrong.
    fn spoil(&mut self, mut block: Block) -> Block {
        let junk = self.random.bytes();
        let header = &mut block.header;
        match self.random.below(8) {
            0 => header.state = StateRoot::from_bytes(junk),
            1 => header.next_validators = ContentHash::from_bytes(junk),
            2 => header.parent = BlockHash::from_bytes(junk),
            3 => header.rules_version += 1,
            4 => header.transactions = ContentHash::from_bytes(junk),
            5 => header.beacon = protocol::ids::Beacon::from_bytes(junk),
            6 => {
                if let Some(certificate) = &mut block.parent_certificate {
                    certificate.signatures.truncate(1);
                    header.parent_certificate = certificate.hash();
                } else {
                    header.height = header.height.plus(1);
                }
            }
            _ => {
                // The same transaction twice: a double spend inside one block.
                if let Some(first) = block.transactions.first().cloned() {
                    block.transactions.push(first);
                    header.transactions =
                        Block::contents_root(&block.transactions, &block.evidence);
                } else {
                    header.proposer = protocol::ids::ValidatorId::from_bytes(junk);
                }
            }
        }
        block
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.instance;
        (0..self.instances).filter(move |other| *other != me)
    }

    /// Sends a message as it pleases.
    pub(super) fn publish(&mut self, io: &mut Io<'_>, secrets: &NodeSecrets, message: Message) {
        let withheld_ppm = match &message {
            Message::Body(_) => self.plan.withheld_bodies_ppm,
            Message::Proposal(_) => self.plan.withheld_proposals_ppm,
            Message::Vote(_) => self.plan.withheld_votes_ppm,
            _ => 0,
        };
        if self.random.chance(withheld_ppm) {
            io.shared.counts.withheld += 1;
            // Nobody hears of it, or one node does.
            if self.random.chance(ALWAYS / 2) {
                let lucky = self.random.index(self.instances);
                io.requests.push(Request::Send(lucky, message));
            }
            return;
        }
        match message {
            Message::Vote(vote) => self.publish_vote(io, secrets, vote),
            Message::Body(body) => match self.second_body(io, secrets, &body) {
                Some(other) => self.divide(io, Message::Body(body), Message::Body(other)),
                None => io.requests.push(Request::Broadcast(Message::Body(body))),
            },
            Message::Proposal(proposal) => match self.second_proposal(io, secrets, &proposal) {
                Some(other) => {
                    self.divide(io, Message::Proposal(proposal), Message::Proposal(other));
                }
                None => io.requests.push(Request::Broadcast(Message::Proposal(proposal))),
            },
            other => io.requests.push(Request::Broadcast(other)),
        }
    }

    fn divide(&self, io: &mut Io<'_>, one: Message, other: Message) {
        for peer in self.others() {
            let message = if self.half[peer] { other.clone() } else { one.clone() };
            io.requests.push(Request::Send(peer, message));
        }
    }

    fn publish_vote(
        &mut self,
        io: &mut Io<'_>,
        secrets: &NodeSecrets,
        vote: Rc<SignedVote<SimContext>>,
    ) {
        if self.random.chance(self.plan.junk_votes_ppm) {
            io.shared.counts.junk_votes += 1;
            let mut junk = *vote.message.inner();
            junk.block = Some(BlockHash::from_bytes(self.random.bytes()));
            junk.round += u32::try_from(self.random.below(14)).unwrap_or(0) + 1;
            junk.height = junk.height.plus(self.random.below(3));
            io.requests
                .push(Request::Broadcast(Message::Vote(sign_vote(io, secrets, junk).into())));
        }
        if !self.random.chance(self.plan.double_votes_ppm) {
            io.requests.push(Request::Broadcast(Message::Vote(vote)));
            return;
        }
        io.shared.counts.double_votes += 1;
        let mut other = *vote.message.inner();
        other.block = match (other.block, &self.second) {
            (Some(_), Some((_, second))) => Some(second.header.hash()),
            (Some(_), None) => None,
            (None, _) => Some(BlockHash::from_bytes(self.random.bytes())),
        };
        let other = Rc::new(sign_vote(io, secrets, other));
        if self.plan.is_loud {
            self.loud_double_votes += 1;
            io.requests.push(Request::Broadcast(Message::Vote(vote)));
            io.requests.push(Request::Broadcast(Message::Vote(other)));
        } else {
            if self.second.is_none() {
                self.draw_half();
            }
            self.divide(io, Message::Vote(vote), Message::Vote(other));
        }
    }

    fn second_of(&self, first: &BlockHash) -> Option<&Block> {
        self.second.as_ref().filter(|(of, _)| of == first).map(|(_, block)| block)
    }

    fn second_body(
        &self,
        io: &Io<'_>,
        secrets: &NodeSecrets,
        first: &ProposalBody,
    ) -> Option<Rc<ProposalBody>> {
        let block = self.second_of(&first.offer.block)?;
        let offer = BodyOffer { block: block.header.hash(), ..first.offer };
        let signature =
            io.shared.signatures.sign(&secrets.consensus, Namespace::ProposalPart, &offer);
        let proposer = first.proposer;
        Some(Rc::new(ProposalBody { offer, proposer, block: codec::encode(block), signature }))
    }

    fn second_proposal(
        &self,
        io: &Io<'_>,
        secrets: &NodeSecrets,
        first: &SignedProposal<SimContext>,
    ) -> Option<Rc<SignedProposal<SimContext>>> {
        let inner = first.message.inner();
        let block = self.second_of(&inner.block)?.header.hash();
        let other = consensus::Proposal { block, ..*inner };
        let signature = io.shared.signatures.sign(&secrets.consensus, Namespace::Proposal, &other);
        Some(Rc::new(SignedProposal::<SimContext>::new(Proposal::new(other), Signature(signature))))
    }

    /// Answers a node that fetches blocks, or lies to it.
    pub(super) fn before_serving(&mut self, blocks: &mut [DecidedBlock], counts: &mut Counts) {
        if blocks.is_empty() || !self.random.chance(self.plan.lies_ppm) {
            return;
        }
        counts.lies += 1;
        let chosen = self.random.index(blocks.len());
        let other = self.random.index(blocks.len());
        let stranger = blocks[other].block.clone();
        let block = &mut blocks[chosen];
        match self.random.below(4) {
            0 => block.certificate.signatures.truncate(1),
            1 => block.certificate.block = BlockHash::from_bytes(self.random.bytes()),
            2 => block.block = stranger,
            _ => {
                let place = self.random.index(block.block.len());
                block.block[place] ^= 1 << self.random.below(8);
            }
        }
    }
}

fn sign_vote(io: &Io<'_>, secrets: &NodeSecrets, vote: consensus::Vote) -> SignedVote<SimContext> {
    let signature = io.shared.signatures.sign(&secrets.consensus, Namespace::Vote, &vote);
    SignedVote::<SimContext>::new(Vote::new(vote), Signature(signature))
}
