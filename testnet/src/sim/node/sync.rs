//! Fetching decided blocks from peers. The engine's sync actor is not under the simulator; this
//! does what it is there for: ask somebody who is ahead, give the core one block after another,
//! ask somebody else when the answer is wrong or late.

use std::collections::BTreeMap;

use bytes::Bytes;
use malachite_core_consensus::{Effect, Input, Resumable as _, Resume};
use malachite_core_types::{
    ExtendedCommitCertificate, ExtendedCommitSignature, Round, Value as _, ValueOrigin,
    ValueResponse,
};
use malachite_peer::PeerId;
use protocol::amount::Height as BlockHeight;
use protocol::block::DecidedBlock;
use protocol::consensus::CommitCertificate;

use super::super::context::{Address, Height, Signature, SimContext};
use super::super::message::{Message, Request};
use super::application::SYNC_WAIT;
use super::{Io, Local, Node, Stop};

/// Blocks of one answer.
const BATCH_MAX: u64 = 5;

/// What is known of others, and what was asked of them.
pub(super) struct Sync {
    tips: Vec<BlockHeight>,
    /// Timer, whom, from which height.
    asked: Option<(u64, usize)>,
    fetched: BTreeMap<BlockHeight, DecidedBlock>,
    /// Whom to ask next.
    turn: usize,
}

impl Sync {
    pub(super) fn new(instances: usize) -> Self {
        Self {
            tips: vec![BlockHeight::ZERO; instances],
            asked: None,
            fetched: BTreeMap::new(),
            turn: 0,
        }
    }

    pub(super) fn peers(&self) -> usize {
        self.tips.len()
    }

    /// Gives up on a request; whether it was still open.
    pub(super) fn forget(&mut self, id: u64) -> bool {
        let is_open = self.asked.is_some_and(|(known, _)| known == id);
        if is_open {
            self.asked = None;
        }
        is_open
    }
}

fn to_extended(certificate: &CommitCertificate) -> ExtendedCommitCertificate<SimContext> {
    ExtendedCommitCertificate {
        height: Height(certificate.height),
        round: Round::new(certificate.round),
        value_id: certificate.block,
        commit_signatures: certificate
            .signatures
            .iter()
            .map(|entry| {
                let address = Address(entry.validator);
                ExtendedCommitSignature::new(address, Signature(entry.signature), None)
            })
            .collect(),
    }
}

/// The core only passes a peer's id on; one is as good as another here.
fn some_peer() -> PeerId {
    // An identity multihash of no bytes.
    PeerId::from_bytes(&[0, 0]).expect("a well-formed multihash")
}

impl Node {
    /// A peer says where it stands.
    pub(super) fn peer_at(&mut self, io: &mut Io<'_>, from: usize, tip: BlockHeight) {
        if let Some(known) = self.sync.tips.get_mut(from) {
            *known = tip;
        }
        self.request_blocks(io);
    }

    /// Asks a peer that is ahead, if nobody was asked.
    pub(super) fn request_blocks(&mut self, io: &mut Io<'_>) {
        let height = self.host.height();
        if self.sync.asked.is_some() || self.sync.fetched.contains_key(&height) {
            return;
        }
        let count = self.sync.tips.len();
        let ahead = (0..count)
            .map(|step| (self.sync.turn + step) % count)
            .find(|peer| *peer != self.instance && self.sync.tips[*peer] >= height);
        let Some(peer) = ahead else { return };
        self.sync.turn = (peer + 1) % count;
        let id = self.next_id();
        self.sync.asked = Some((id, peer));
        io.requests.push(Request::Send(peer, Message::Request(height)));
        io.requests.push(Request::SyncTimeout { after: SYNC_WAIT, id });
    }

    /// Answers a peer that is behind.
    pub(super) fn serve(
        &mut self,
        io: &mut Io<'_>,
        to: usize,
        from: BlockHeight,
    ) -> Result<(), Stop> {
        let mut blocks: Vec<DecidedBlock> =
            (0..BATCH_MAX).map_while(|n| self.disk.decided(from.plus(n))).collect();
        if let Some(behaviour) = &mut self.behaviour {
            behaviour.before_serving(&mut blocks, &mut io.shared.counts);
        }
        if !blocks.is_empty() {
            self.disk.burn()?;
            io.requests.push(Request::Send(to, Message::Response(blocks.into())));
        }
        Ok(())
    }

    /// An answer arrives.
    pub(super) fn fetched(&mut self, io: &mut Io<'_>, from: usize, blocks: &[DecidedBlock]) {
        if self.sync.asked.is_none_or(|(_, peer)| peer != from) {
            return;
        }
        self.sync.asked = None;
        let height = self.host.height();
        let range = height..height.plus(BATCH_MAX);
        for block in blocks.iter().take(BATCH_MAX as usize) {
            if range.contains(&block.certificate.height) {
                self.sync.fetched.insert(block.certificate.height, block.clone());
            }
        }
        io.shared.counts.synced += 1;
        self.feed_sync();
    }

    /// Gives the core the block of the height in progress, if it is here.
    pub(super) fn feed_sync(&mut self) {
        let height = self.host.height();
        self.sync.fetched = self.sync.fetched.split_off(&height);
        let Some(decided) = self.sync.fetched.get(&height) else { return };
        let response = ValueResponse::new(
            some_peer(),
            Bytes::from(decided.block.clone()),
            to_extended(&decided.certificate),
        );
        self.local.push_back(Local::Input(Box::new(Input::SyncValueResponse(response))));
    }

    /// The core's verdict on a fetched certificate.
    pub(super) fn synced(
        &mut self,
        io: &mut Io<'_>,
        effect: Effect<SimContext>,
    ) -> Result<Resume<SimContext>, Stop> {
        match effect {
            Effect::CertVerifiedSyncValue(value, proposer, r) => {
                let certificate = &value.certificate;
                let (height, round) = (certificate.height.0, certificate.round);
                let found = self.synced_value(io, height, round, proposer, &value.value_bytes)?;
                match found.filter(|found| found.value.id() == certificate.value_id) {
                    Some(proposed) => {
                        let input = Input::ProposedValue(proposed, ValueOrigin::Sync);
                        self.local.push_back(Local::Input(Box::new(input)));
                    }
                    None => self.refetch(io),
                }
                Ok(r.resume_with(()))
            }
            Effect::CertRejectedSyncValue(_, _, _, r) => {
                self.refetch(io);
                Ok(r.resume_with(()))
            }
            other => unreachable!("not about sync: {other:?}"),
        }
    }

    fn refetch(&mut self, io: &mut Io<'_>) {
        io.shared.counts.bad_answers_refused += 1;
        self.sync.fetched.clear();
        self.request_blocks(io);
    }
}
