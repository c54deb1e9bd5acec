//! Every signature that a validator made in consensus, and whether two of them contradict.
//!
//! Votes and proposals are read from the signer guards, which write down what is signed before it
//! is signed; offered blocks from the proposal logs of all nodes; precommits, with their
//! signatures, from the certificates that all nodes hold. A guard forgets what is decided only
//! when its file is rewritten, hundreds of blocks later, and it is read at every kill.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use protocol::amount::Height;
use protocol::consensus::CommitCertificate;
use protocol::home::Home;
use protocol::ids::{BlockHash, ChainId, ValidatorId};
use storage::ProposalLog;
use storage::{SignerGuard, Step};

/// The round under which nodes keep bodies that were synced, not offered.
const SYNCED_ROUND: u32 = u32::MAX;

type Signed = (ValidatorId, Height, u32, Step);

/// What was signed, by all validators.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    votes: BTreeMap<Signed, Option<BlockHash>>,
    offers: BTreeMap<(ValidatorId, Height, u32), BlockHash>,
    /// Precommits in certificates that no guard has a record of.
    pub(super) unrecorded: BTreeSet<(ValidatorId, Height, u32)>,
    /// Contradictions, in words.
    pub(super) conflicts: BTreeSet<String>,
}

/// The guard of a home.
pub(super) fn guard_of(home: &Home) -> std::path::PathBuf {
    home.root().join("guard").join("signatures.log")
}

impl Signatures {
    /// How many votes and proposals are known.
    pub(super) fn count(&self) -> u64 {
        (self.votes.len() + self.offers.len()) as u64
    }

    /// Reads a node's guard and proposal log.
    pub(super) fn read(
        &mut self,
        home: &Home,
        validator: ValidatorId,
        chain: &ChainId,
    ) -> Result<()> {
        let guard = SignerGuard::survey(&guard_of(home), chain)
            .context("the signer guard cannot be read")?;
        for entry in guard {
            self.vote((validator, entry.height, entry.round, entry.step), entry.value);
        }
        let offers =
            ProposalLog::survey(&home.data(), chain).context("the proposal log cannot be read")?;
        for (proposer, offer) in offers {
            if offer.round == SYNCED_ROUND {
                continue;
            }
            let key = (proposer, offer.height, offer.round);
            let first = *self.offers.entry(key).or_insert(offer.block);
            if first != offer.block {
                self.conflicts.insert(format!(
                    "{proposer} offered {first} and {} at height {}, round {}",
                    offer.block, offer.height, offer.round
                ));
            }
        }
        Ok(())
    }

    /// Reads the precommits of a certificate. The guards must have been read before.
    pub(super) fn certificate(&mut self, certificate: &CommitCertificate) {
        for entry in &certificate.signatures {
            let key = (entry.validator, certificate.height, certificate.round, Step::Precommit);
            if !self.votes.contains_key(&key) {
                let (height, round) = (certificate.height, certificate.round);
                self.unrecorded.insert((entry.validator, height, round));
            }
            self.vote(key, Some(certificate.block));
        }
    }

    fn vote(&mut self, key: Signed, value: Option<BlockHash>) {
        let first = *self.votes.entry(key).or_insert(value);
        if first != value {
            let (validator, height, round, step) = key;
            let name = |value: Option<BlockHash>| {
                value.map_or_else(|| "nil".to_owned(), |hash| hash.to_string())
            };
            self.conflicts.insert(format!(
                "{validator} signed {step:?} for {} and {} at height {height}, round {round}",
                name(first),
                name(value)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::consensus::CommitSignature;
    use protocol::keys::Signature;

    use super::*;

    fn certificate(block: u8) -> CommitCertificate {
        let validator = ValidatorId::from_bytes([1; 32]);
        let signature = Signature::from_bytes([0; 64]);
        CommitCertificate {
            height: Height::new(4),
            round: 0,
            block: BlockHash::from_bytes([block; 32]),
            signatures: vec![CommitSignature { validator, signature }],
        }
    }

    #[test]
    fn a_second_value_is_a_conflict_and_an_unknown_vote_is_unrecorded() {
        let mut known = Signatures::default();
        let validator = ValidatorId::from_bytes([1; 32]);
        let block = Some(BlockHash::from_bytes([7; 32]));
        known.vote((validator, Height::new(4), 0, Step::Precommit), block);
        known.certificate(&certificate(7));
        assert!(known.conflicts.is_empty() && known.unrecorded.is_empty());
        // Nil in another round contradicts nothing.
        known.vote((validator, Height::new(4), 1, Step::Precommit), None);
        assert!(known.conflicts.is_empty());
        known.certificate(&certificate(8));
        assert_eq!(known.conflicts.len(), 1);

        let mut unknown = Signatures::default();
        unknown.certificate(&certificate(7));
        assert_eq!((unknown.unrecorded.len(), unknown.conflicts.len()), (1, 0));
    }
}
