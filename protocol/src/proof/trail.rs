//! The bridges that a node keeps when it deletes the blocks under them: from the beginning of the
//! chain, or from the block it was told to trust, to the first block that it still has.
//!
//! **Invariant.** Each bridge was verified, or made from blocks that were, before it was kept; so
//! a trail may be longer than the ledger beside it, and is true of the chain all the same. With it
//! a node that has pruned can still prove its snapshots to somebody who knows the genesis alone.
//!
//! Deliberately absent: a trail of every header. It holds a bridge only where more than a third of
//! the power was replaced, so it cannot begin a proof at just any height.

use serde::{Deserialize, Serialize};

use super::build::{bridge_at, extend};
use super::{Anchor, BRIDGES_MAX, Bridge, BuildError, ChainReader, ProofError};
use crate::amount::Height;
use crate::block::Header;
use crate::codec::Canonical;
use crate::consensus::ValidatorSet;
use crate::ids::ChainId;

/// Where a trail begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrailStart {
    /// With the validators that the genesis names.
    Genesis,
    /// With a header that was trusted.
    Header(Box<Header>),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Where it begins.
    pub start: TrailStart,
    /// Headers in ascending height.
    pub bridges: Vec<Bridge>,
}

impl Canonical for Trail {
    const BYTES_MAX: usize = Header::BYTES_MAX + 16 + BRIDGES_MAX * Bridge::BYTES_MAX;
}

impl Trail {
    /// One without bridges.
    pub const fn new(start: TrailStart) -> Self {
        Self { start, bridges: Vec::new() }
    }

    /// The height at which it begins.
    pub fn start(&self) -> Height {
        match &self.start {
            TrailStart::Genesis => Height::ZERO,
            TrailStart::Header(header) => header.height,
        }
    }

    /// The last height that it reaches.
    pub fn end(&self) -> Height {
        self.bridges.last().map_or_else(|| self.start(), |bridge| bridge.header.height)
    }

    /// The header at `height`, if the trail passes there.
    pub fn header(&self, height: Height) -> Option<&Header> {
        match &self.start {
            TrailStart::Header(header) if header.height == height => Some(header),
            _ => self.bridges.iter().map(|b| &b.header).find(|header| header.height == height),
        }
    }

    /// The bridges above `after` and up to `target`; `None` where it does not pass `after`.
    pub fn between(&self, after: Height, target: Height) -> Option<&[Bridge]> {
        if after != self.start() {
            self.header(after)?;
        }
        let first = self.bridges.partition_point(|bridge| bridge.header.height <= after);
        let end = self.bridges.partition_point(|bridge| bridge.header.height <= target);
        self.bridges.get(first..end.max(first))
    }

    /// Leads the trail on to the block at `target`, by as few bridges as the last one allows.
    /// Whether anything changed. On an error the trail is as it was.
    pub fn extend<R: ChainReader>(
        &mut self,
        reader: &R,
        target: Height,
    ) -> Result<bool, BuildError<R::Error>> {
        if self.end() >= target {
            return Ok(false);
        }
        // Most often the set that signed the last bridge still vouches for the new block.
        if let Some(last) = self.bridges.last_mut()
            && let Some(longer) = bridge_at(reader, target, &last.validators)?
        {
            *last = longer;
            return Ok(true);
        }
        let room = BRIDGES_MAX.saturating_sub(self.bridges.len());
        self.bridges.extend(extend(reader, self.end(), target, room)?);
        Ok(true)
    }

    /// Verifies all of it; what is to be believed at its end.
    pub fn verify(&self, chain: &ChainId, genesis: &ValidatorSet) -> Result<Anchor, ProofError> {
        if self.bridges.len() > BRIDGES_MAX {
            return Err(ProofError::TooManyBridges(self.bridges.len()));
        }
        let start = match &self.start {
            TrailStart::Genesis => Anchor::genesis(genesis),
            TrailStart::Header(header) => Anchor::of(header),
        };
        self.bridges.iter().try_fold(start, |at, bridge| at.cross(chain, bridge))
    }
}
