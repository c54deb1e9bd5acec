//! Keeping the trail of the chain up with what is deleted, and proving with it.
//!
//! **Invariant.** Blocks are deleted only where the trail passes the first that is kept, so that
//! a proof can go on from its end. Only a way too long for any proof lets a trail begin anew.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use protocol::amount::Height;
use protocol::block::Header;
use protocol::codec::CodecError;
use protocol::consensus::{CommitCertificate, ValidatorSet};
use protocol::proof::trail::{Trail, TrailStart};
use protocol::proof::{self, BRIDGES_MAX, Bridge, BuildError, ChainReader};
use storage::block_log::BlockLogError;
use storage::{HistoryError, LedgerStore, ValidatorSets};

use super::{Ledger, decode_block};
use crate::network::NoProof;

/// Snapshots that are kept: the latest, and the one before it, which others may still be fetching.
/// The trail reaches the older one.
pub const SNAPSHOTS_KEPT: usize = 2;

/// See the module.
pub(super) struct Keeper {
    dir: PathBuf,
    genesis: ValidatorSet,
    trail: Mutex<Option<Trail>>,
}

/// Blocks and sets of a store whose lock is held.
struct Held<'a> {
    store: &'a LedgerStore,
    sets: &'a ValidatorSets,
    genesis: &'a ValidatorSet,
}

/// Why the past cannot be read.
#[derive(Debug, thiserror::Error)]
enum PastError {
    #[error(transparent)]
    Blocks(#[from] BlockLogError),
    #[error(transparent)]
    Sets(#[from] HistoryError),
    #[error("a stored block does not decode")]
    Decode(#[from] CodecError),
}

impl ChainReader for Held<'_> {
    type Error = PastError;

    fn decided(&self, height: Height) -> Result<Option<(Header, CommitCertificate)>, PastError> {
        Ok(self.store.blocks().header(height)?)
    }

    fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, PastError> {
        if height <= Height::new(2) {
            return Ok(Some(self.genesis.clone()));
        }
        let before = self.store.blocks().header(height.minus(1))?;
        let hash = before.map(|(header, _)| header.next_validators);
        Ok(hash.map(|hash| self.sets.get(&hash)).transpose()?.flatten())
    }
}

impl Keeper {
    pub(super) fn open(dir: &Path, genesis: ValidatorSet) -> anyhow::Result<Self> {
        let trail = Mutex::new(storage::trail::load(dir)?);
        Ok(Self { dir: dir.to_path_buf(), genesis, trail })
    }

    /// The validators that the genesis names.
    pub(super) const fn genesis(&self) -> &ValidatorSet {
        &self.genesis
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trail>> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads the trail to the block behind which the store would delete; whether it may.
    pub(super) fn lead_on(&self, store: &LedgerStore, sets: &ValidatorSets) -> bool {
        match self.try_lead_on(store, sets) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the trail of the chain was not led on, so no block is deleted"
                );
                false
            }
        }
    }

    fn try_lead_on(&self, store: &LedgerStore, sets: &ValidatorSets) -> anyhow::Result<()> {
        let Some(base) = store.prune_base(SNAPSHOTS_KEPT)? else { return Ok(()) };
        let reader = Held { store, sets, genesis: &self.genesis };
        let mut kept = self.lock();
        let mut trail = kept.clone().unwrap_or_else(|| Trail::new(TrailStart::Genesis));
        let led = match trail.extend(&reader, base) {
            Ok(false) => return Ok(()),
            Ok(true) => Ok(()),
            Err(BuildError::Read(error)) => return Err(error.into()),
            Err(error) => Err(error),
        };
        if let Err(error) = led {
            // Too long a way, or a part of it is gone: others prove from the genesis, or nobody.
            let (start, _) = reader.decided(base)?.context("the block at a snapshot is missing")?;
            tracing::warn!(
                height = base.get(), %error,
                "the chain can be proven from here on only: its trail begins anew"
            );
            trail = Trail::new(TrailStart::Header(Box::new(start)));
        }
        storage::trail::save(&self.dir, &trail)?;
        *kept = Some(trail);
        Ok(())
    }
}

/// The first page's header and the bridges of a proof.
pub(super) type Way = (Option<Header>, Vec<Bridge>);

impl Ledger {
    /// The header at `after` (none for the genesis) and the bridges from there to `target`.
    pub fn way(&self, after: Height, target: Height) -> Result<Way, NoProof> {
        let (start, mut bridges, end) = self.begin(after, target)?;
        if end < target {
            let room = BRIDGES_MAX.saturating_sub(bridges.len());
            let rest = proof::extend(self, end, target, room).map_err(|error| match error {
                BuildError::NoBlock(height) => NoProof::NoBlock(height),
                BuildError::NoValidators(height) => NoProof::NoValidators(height),
                BuildError::TooLong => NoProof::TooLong,
                BuildError::Read(_) | BuildError::TrustTooNew { .. } => NoProof::NoBlock(target),
            })?;
            bridges.extend(rest);
        }
        Ok((start, bridges))
    }

    /// What the trail has of a way, and where it ends.
    fn begin(
        &self,
        after: Height,
        target: Height,
    ) -> Result<(Option<Header>, Vec<Bridge>, Height), NoProof> {
        let own = |height| {
            let decided = self.decided(height)?;
            Some(decode_block(&decided).ok()?.header)
        };
        if let Some(trail) = self.trail.lock().as_ref()
            && let Some(known) = trail.between(after, target)
        {
            let end = known.last().map_or(after, |bridge| bridge.header.height);
            return Ok((trail.header(after).cloned(), known.to_vec(), end));
        }
        if after == Height::ZERO {
            // The first validators may vouch for the target itself; else the first blocks are
            // needed, and the way says if they are gone.
            return Ok((None, Vec::new(), after));
        }
        let header = own(after).ok_or(NoProof::NoBlock(after))?;
        Ok((Some(header), Vec::new(), after))
    }
}
