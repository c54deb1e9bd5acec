//! Making the shortest proof from a node's blocks.

use thiserror::Error;

use super::{BRIDGES_MAX, Bridge, Proof, StateProof};
use crate::amount::Height;
use crate::block::{Block, Header};
use crate::codec::{self, CodecError};
use crate::consensus::{CommitCertificate, ValidatorSet, is_quorum};

/// What a node remembers of its chain. `None`: not (or no longer) held.
pub trait ChainReader {
    /// Why reading failed.
    type Error;

    /// Header and certificate of the decided block at `height`.
    fn decided(&self, height: Height) -> Result<Option<(Header, CommitCertificate)>, Self::Error>;

    /// The validators of `height`: those whose precommits decide it.
    fn validators(&self, height: Height) -> Result<Option<ValidatorSet>, Self::Error>;
}

/// Why no proof was made.
#[derive(Debug, Error)]
pub enum BuildError<E> {
    /// The reader failed.
    #[error("the chain cannot be read")]
    Read(#[source] E),
    /// A block is not held.
    #[error(
        "this node has no block at height {0}: it is not decided yet, or pruned; ask an archive \
         node, or trust a later block"
    )]
    NoBlock(Height),
    /// A validator set is not held.
    #[error("this node no longer knows the validators of height {0}: ask an archive node")]
    NoValidators(Height),
    /// The trusted block lies above the state to be proven.
    #[error("the trusted height {trusted} is above {last}, whose header commits the state")]
    TrustTooNew {
        /// The trusted height.
        trusted: Height,
        /// Height of the last header.
        last: Height,
    },
    /// Too many changes of the set.
    #[error("more than {BRIDGES_MAX} bridges are needed: trust a later block")]
    TooLong,
}

/// Proves what the state after `state_height` says about a key, to somebody who trusts the block
/// at `trusted`. `path` is the store's proof at that state. The header at `state_height + 1` must
/// be decided: it is the one that commits the state.
///
/// Each bridge reaches as far as the set before it still has a quorum of the signatures, found by
/// halving: some twenty blocks are read for each bridge of a long chain. Where power moves back
/// and forth the proof may be longer than it could be; it is never wrong.
pub fn build<R: ChainReader>(
    reader: &R,
    trusted: Height,
    state_height: Height,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    path: StateProof,
) -> Result<Proof, BuildError<R::Error>> {
    let target = state_height.plus(1);
    if trusted > target {
        return Err(BuildError::TrustTooNew { trusted, last: target });
    }
    let (first, _) = read(reader, trusted)?;
    let bridges = extend(reader, trusted, target, BRIDGES_MAX)?;
    Ok(Proof { trusted: first, bridges, key, value, path })
}

/// At most `bridges_max` bridges from what is believed at height `from` to the header at `target`.
pub fn extend<R: ChainReader>(
    reader: &R,
    from: Height,
    target: Height,
    bridges_max: usize,
) -> Result<Vec<Bridge>, BuildError<R::Error>> {
    let mut bridges: Vec<Bridge> = Vec::new();
    let mut at = from;
    while at < target {
        if bridges.len() == bridges_max {
            return Err(BuildError::TooLong);
        }
        let next = at.plus(1);
        let validators = reader
            .validators(next)
            .map_err(BuildError::Read)?
            .ok_or(BuildError::NoValidators(next))?;
        let bridge = furthest(reader, next, target, &validators)?;
        at = bridge.header.height;
        bridges.push(bridge);
    }
    Ok(bridges)
}

/// The highest header up to `target` that `validators`, the set of `next`, vouch for.
fn furthest<R: ChainReader>(
    reader: &R,
    next: Height,
    target: Height,
    validators: &ValidatorSet,
) -> Result<Bridge, BuildError<R::Error>> {
    if let Some(bridge) = bridge_at(reader, target, validators)? {
        return Ok(bridge);
    }
    // `low` is reached, `high` is not. The set of `next` decided the block at `next`.
    let (mut low, mut high) = (next.get(), target.get());
    let mut best = None;
    while high.saturating_sub(low) > 1 {
        let middle = low.saturating_add(high.saturating_sub(low) / 2);
        match bridge_at(reader, Height::new(middle), validators)? {
            Some(bridge) => (low, best) = (middle, Some(bridge)),
            None => high = middle,
        }
    }
    match best {
        Some(bridge) => Ok(bridge),
        None => bridge_at(reader, next, validators)?.ok_or(BuildError::NoValidators(next)),
    }
}

/// The header at `height`, if a quorum of `validators` signed it, with their signatures alone.
pub(super) fn bridge_at<R: ChainReader>(
    reader: &R,
    height: Height,
    validators: &ValidatorSet,
) -> Result<Option<Bridge>, BuildError<R::Error>> {
    let (header, mut certificate) = read(reader, height)?;
    certificate.signatures.retain(|entry| validators.get(&entry.validator).is_some());
    let signed = certificate
        .signatures
        .iter()
        .filter_map(|entry| validators.get(&entry.validator))
        .fold(0_u64, |sum, validator| sum.saturating_add(validator.power.get()));
    if !is_quorum(signed, validators.total_power()) {
        return Ok(None);
    }
    Ok(Some(Bridge { validators: validators.clone(), header, certificate }))
}

pub(super) fn read<R: ChainReader>(
    reader: &R,
    height: Height,
) -> Result<(Header, CommitCertificate), BuildError<R::Error>> {
    reader.decided(height).map_err(BuildError::Read)?.ok_or(BuildError::NoBlock(height))
}

impl crate::block::DecidedBlock {
    /// The header and the certificate, as a [`ChainReader`] gives them.
    pub fn header_and_certificate(&self) -> Result<(Header, CommitCertificate), CodecError> {
        let block: Block = codec::decode(&self.block)?;
        Ok((block.header, self.certificate.clone()))
    }
}
