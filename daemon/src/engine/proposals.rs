//! Bodies that were offered and not yet decided: the loop's memory.
//!
//! Pure. Bounded: one height and its successor, [`limits::ROUNDS_AHEAD_MAX`] rounds ahead, and
//! [`limits::BODIES_PER_ROUND_MAX`] bodies per (height, round), so an equivocating proposer costs
//! at most two blocks a round. The durable copy is the application's.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::amount::Height;
use protocol::block::BoundBlock;
use protocol::consensus::ProposalBody;
use protocol::ids::{BlockHash, ValidatorId};
use protocol::limits;

use super::context::Part;

/// Synced blocks kept for the current height: sync verifies one certificate at a time.
const SYNCED_MAX: usize = 2;
/// Bodies of the next height kept until it starts.
const EARLY_MAX: usize = 4;
/// Rounds of the current height whose bodies are kept in memory. If an older one is decided it is
/// read back from the application.
const ROUNDS_KEPT: usize = 64;

/// A body whose block was decoded and judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) body: ProposalBody,
    pub(super) block: Arc<BoundBlock>,
    pub(super) is_valid: bool,
}

/// A block that came by sync.
#[derive(Clone, Debug)]
struct Synced {
    bytes: Vec<u8>,
    block: Arc<BoundBlock>,
}

/// Bodies of the height in progress and early ones of the next.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    height: Height,
    round: u32,
    judged: BTreeMap<u32, Vec<Judged>>,
    synced: Vec<Synced>,
    early: Vec<Part>,
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

impl Proposals {
    /// Starts a height; returns the early bodies that now can be judged.
    pub(super) fn start(&mut self, height: Height) -> Vec<Part> {
        if height == self.height {
            return Vec::new();
        }
        self.height = height;
        self.round = 0;
        self.judged.clear();
        self.synced.clear();
        let early = std::mem::take(&mut self.early);
        early.into_iter().filter(|part| part.body.offer.height == height).collect()
    }

    /// A round of the current height began.
    pub(super) fn enter(&mut self, round: u32) {
        self.round = round;
        while self.judged.len() > ROUNDS_KEPT {
            self.judged.pop_first();
        }
    }

    pub(super) fn height(&self) -> Height {
        self.height
    }

    /// Where a body with a verified signature belongs.
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
            let same_round =
                self.early.iter().filter(|early| early.body.offer.round == offer.round);
            let is_known = self.early.iter().any(|early| early.body.offer == *offer);
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

    /// Keeps a body for the next height.
    pub(super) fn keep_early(&mut self, part: Part) {
        self.early.push(part);
    }

    /// Keeps a judged body of the current height.
    pub(super) fn keep(&mut self, judged: Judged) {
        self.judged.entry(judged.body.offer.round).or_default().push(judged);
    }

    /// The judged bodies of a round and of later ones.
    pub(super) fn since_round(&self, round: u32) -> impl Iterator<Item = &Judged> {
        self.judged.range(round..).flat_map(|(_, judged)| judged)
    }

    /// The judged bodies of a round.
    pub(super) fn of_round(&self, round: u32) -> &[Judged] {
        self.judged.get(&round).map_or(&[], Vec::as_slice)
    }

    /// The body that `proposer` offered for a round, if it is `block`.
    pub(super) fn find(
        &self,
        round: u32,
        proposer: &ValidatorId,
        block: &BlockHash,
    ) -> Option<&ProposalBody> {
        self.of_round(round)
            .iter()
            .map(|judged| &judged.body)
            .find(|body| body.proposer == *proposer && body.offer.block == *block)
    }

    /// The body that `proposer` offered for a round.
    pub(super) fn by_proposer(&self, round: u32, proposer: &ValidatorId) -> Option<&ProposalBody> {
        self.of_round(round).iter().map(|j| &j.body).find(|body| body.proposer == *proposer)
    }

    /// Keeps the bytes of a synced block.
    pub(super) fn keep_synced(&mut self, bytes: Vec<u8>, block: Arc<BoundBlock>) {
        if self.is_synced(&block.hash()) {
            return;
        }
        if self.synced.len() >= SYNCED_MAX {
            self.synced.remove(0);
        }
        self.synced.push(Synced { bytes, block });
    }

    /// Whether the block came by sync.
    pub(super) fn is_synced(&self, hash: &BlockHash) -> bool {
        self.synced.iter().any(|synced| synced.block.hash() == *hash)
    }

    /// A block of the current height and its bytes, however it came.
    pub(super) fn block(&self, hash: &BlockHash) -> Option<(&[u8], &Arc<BoundBlock>)> {
        let judged = self.judged.values().flatten();
        let synced = self.synced.iter().map(|synced| (synced.bytes.as_slice(), &synced.block));
        judged
            .map(|judged| (judged.body.block.as_slice(), &judged.block))
            .chain(synced)
            .find(|(_, block)| block.hash() == *hash)
    }
}

#[cfg(test)]
mod tests {
    use protocol::amount::TimestampMs;
    use protocol::block::{Block, Header};
    use protocol::consensus::BodyOffer;
    use protocol::ids::{Beacon, ChainId, ContentHash, StateRoot};
    use protocol::keys::Signature;

    use super::*;

    fn body(height: u64, round: u32, tag: u8) -> ProposalBody {
        ProposalBody {
            offer: BodyOffer {
                height: Height::new(height),
                round,
                block: BlockHash::from_bytes([tag; 32]),
            },
            proposer: ValidatorId::from_bytes([1; 32]),
            block: vec![tag],
            signature: Signature::from_bytes([0; 64]),
        }
    }

    fn block() -> Arc<BoundBlock> {
        let header = Header {
            chain: ChainId::default(),
            rules_version: 1,
            height: Height::new(1),
            proposer: ValidatorId::default(),
            time: TimestampMs::ZERO,
            parent: BlockHash::default(),
            parent_certificate: ContentHash::default(),
            transactions: Block::contents_root(&[], &[]),
            state: StateRoot::default(),
            next_validators: ContentHash::default(),
            beacon: Beacon::default(),
            beacon_proof: Vec::new(),
            snapshot: None,
        };
        let block = Block {
            header,
            transactions: Vec::new(),
            parent_certificate: None,
            evidence: Vec::new(),
        };
        Arc::new(BoundBlock::bind(block).expect("its header fits"))
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut proposals = Proposals::default();
        proposals.start(Height::new(5));
        assert_eq!(proposals.place(&body(4, 0, 1)), Place::Nowhere);
        assert_eq!(proposals.place(&body(7, 0, 1)), Place::Nowhere);
        assert_eq!(proposals.place(&body(5, 17, 1)), Place::Nowhere);
        for tag in 0..2 {
            assert_eq!(proposals.place(&body(5, 0, tag)), Place::Current);
            proposals.keep(Judged { body: body(5, 0, tag), block: block(), is_valid: true });
        }
        assert_eq!(proposals.place(&body(5, 0, 1)), Place::Nowhere, "known");
        assert_eq!(proposals.place(&body(5, 0, 2)), Place::Nowhere, "a third");
        assert_eq!(proposals.place(&body(5, 1, 2)), Place::Current);
    }

    #[test]
    fn early_bodies_wait_for_their_height() {
        let mut proposals = Proposals::default();
        proposals.start(Height::new(5));
        assert_eq!(proposals.place(&body(6, 0, 1)), Place::Early);
        proposals.keep_early(Part::new(body(6, 0, 1)));
        assert_eq!(proposals.place(&body(6, 0, 1)), Place::Nowhere);
        assert!(proposals.start(Height::new(5)).is_empty());
        assert_eq!(proposals.start(Height::new(6)), vec![Part::new(body(6, 0, 1))]);
        assert!(proposals.start(Height::new(7)).is_empty());
    }
}
