//! Bodies that were offered and not yet decided: a mirror of the daemon's memory of proposals,
//! with its bounds, because this crate must not depend on `daemon`.

use std::collections::BTreeMap;
use std::rc::Rc;

use protocol::amount::Height;
use protocol::consensus::ProposalBody;
use protocol::ids::{BlockHash, ValidatorId};
use protocol::limits;

/// Synced blocks kept for the current height.
const SYNCED_MAX: usize = 2;
/// Bodies of the next height kept until it starts.
const EARLY_MAX: usize = 4;
/// Rounds of the current height whose bodies are kept in memory.
const ROUNDS_KEPT: usize = 64;

/// A body whose block was decoded and judged.
#[derive(Clone)]
pub(super) struct Judged {
    pub(super) body: Rc<ProposalBody>,
    pub(super) is_valid: bool,
}

/// Where a body belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To be judged now.
    Current,
    /// To be kept for the next height.
    Early,
    /// Nowhere: old, too far ahead, known, or one too many.
    Nowhere,
}

/// Bodies of the height in progress and early ones of the next.
#[derive(Default)]
pub(super) struct Proposals {
    height: Height,
    round: u32,
    judged: BTreeMap<u32, Vec<Judged>>,
    synced: Vec<(BlockHash, Rc<Vec<u8>>)>,
    early: Vec<Rc<ProposalBody>>,
}

impl Proposals {
    /// Starts a height; returns the early bodies that now can be judged.
    pub(super) fn start(&mut self, height: Height) -> Vec<Rc<ProposalBody>> {
        if height == self.height {
            return Vec::new();
        }
        self.height = height;
        self.round = 0;
        self.judged.clear();
        self.synced.clear();
        let early = std::mem::take(&mut self.early);
        early.into_iter().filter(|body| body.offer.height == height).collect()
    }

    pub(super) fn enter(&mut self, round: u32) {
        self.round = round;
        while self.judged.len() > ROUNDS_KEPT {
            self.judged.pop_first();
        }
    }

    pub(super) const fn height(&self) -> Height {
        self.height
    }

    pub(super) fn place(&self, body: &ProposalBody) -> Place {
        let offer = &body.offer;
        if offer.height == self.height {
            let known = self.judged.get(&offer.round).map_or(&[][..], Vec::as_slice);
            let is_known = known.iter().any(|entry| entry.body.offer.block == offer.block);
            let is_near = offer.round <= self.round.saturating_add(limits::ROUNDS_AHEAD_MAX);
            if is_near && !is_known && known.len() < limits::BODIES_PER_ROUND_MAX {
                return Place::Current;
            }
        } else if offer.height == self.height.plus(1) {
            let same_round = self.early.iter().filter(|early| early.offer.round == offer.round);
            let is_known = self.early.iter().any(|early| early.offer == *offer);
            if offer.round <= limits::ROUNDS_AHEAD_MAX
                && !is_known
                && self.early.len() < EARLY_MAX
                && same_round.count() < limits::BODIES_PER_ROUND_MAX
            {
                return Place::Early;
            }
        }
        Place::Nowhere
    }

    pub(super) fn keep_early(&mut self, body: Rc<ProposalBody>) {
        self.early.push(body);
    }

    pub(super) fn keep(&mut self, judged: Judged) {
        self.judged.entry(judged.body.offer.round).or_default().push(judged);
    }

    /// The judged bodies of a round and of later ones.
    pub(super) fn since_round(&self, round: u32) -> impl Iterator<Item = &Judged> {
        self.judged.range(round..).flat_map(|(_, judged)| judged)
    }

    fn of_round(&self, round: u32) -> &[Judged] {
        self.judged.get(&round).map_or(&[], Vec::as_slice)
    }

    /// The body that `proposer` offered for a round, if it is `block`.
    pub(super) fn find(
        &self,
        round: u32,
        proposer: &ValidatorId,
        block: &BlockHash,
    ) -> Option<&Rc<ProposalBody>> {
        self.of_round(round)
            .iter()
            .map(|judged| &judged.body)
            .find(|body| body.proposer == *proposer && body.offer.block == *block)
    }

    /// The body that `proposer` offered for a round.
    pub(super) fn by_proposer(
        &self,
        round: u32,
        proposer: &ValidatorId,
    ) -> Option<&Rc<ProposalBody>> {
        self.of_round(round).iter().map(|j| &j.body).find(|body| body.proposer == *proposer)
    }

    pub(super) fn keep_synced(&mut self, hash: BlockHash, bytes: Rc<Vec<u8>>) {
        if self.is_synced(&hash) {
            return;
        }
        if self.synced.len() >= SYNCED_MAX {
            self.synced.remove(0);
        }
        self.synced.push((hash, bytes));
    }

    pub(super) fn is_synced(&self, hash: &BlockHash) -> bool {
        self.synced.iter().any(|(known, _)| known == hash)
    }

    /// Whether the block was offered by a proposer and judged.
    pub(super) fn is_judged(&self, hash: &BlockHash) -> bool {
        self.since_round(0).any(|judged| judged.body.offer.block == *hash)
    }

    /// The bytes of a block of the current height, however it came.
    pub(super) fn bytes(&self, hash: &BlockHash) -> Option<Vec<u8>> {
        let judged = self.since_round(0).find(|judged| judged.body.offer.block == *hash);
        judged.map(|judged| judged.body.block.clone()).or_else(|| {
            let synced = self.synced.iter().find(|(known, _)| known == hash);
            synced.map(|(_, bytes)| bytes.as_ref().clone())
        })
    }
}
