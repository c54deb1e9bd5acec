//! The beginning of a chain. Its canonical hash is the chain id.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, PPM, TimestampMs, VotingPower};
use crate::codec::{self, Canonical};
use crate::consensus::{Validator, ValidatorSet, ValidatorSetError};
use crate::ids::{Beacon, ChainId, derive};
use crate::keys::PublicKey;
use crate::ledger::entries::{Account, Chain, Node};
use crate::ledger::state::State;
use crate::limits;
use crate::model::check_name;
use crate::store::{MemoryState, StateChanges};
use crate::transaction::{Capabilities, NodeKeys};

/// Version of the rules in this program.
pub const RULES_VERSION: u32 = 1;

/// Numbers of the rules that governance may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerParameters {
    /// Burned per byte of a transaction.
    pub base_fee_per_byte: Credits,
    /// Most that one training round may mint for a model of full weight.
    pub emission_per_round: Credits,
    /// Most that all rounds of an epoch may mint.
    pub emission_per_epoch: Credits,
    /// Length of an emission epoch.
    pub epoch_ms: u64,
    /// Share of a round's pot for merged deltas.
    pub contributors_ppm: u32,
    /// Share for reviews.
    pub reviewers_ppm: u32,
    /// Share for signing blocks.
    pub validators_ppm: u32,
    /// Share for serving blobs; not paid in this version, so not minted.
    pub hosts_ppm: u32,
    /// Share for the treasury.
    pub treasury_ppm: u32,
    /// Part of a stake burned for a proven double vote.
    pub double_vote_slash_ppm: u32,
    /// Part of a bond lost by an attestor who stays away from a round that fails.
    pub absence_ppm: u32,
}

impl Default for LedgerParameters {
    fn default() -> Self {
        Self {
            base_fee_per_byte: Credits::from_micro(10),
            emission_per_round: Credits::from_micro(100_000_000),
            emission_per_epoch: Credits::from_micro(5_000_000_000),
            epoch_ms: 3_600_000,
            contributors_ppm: 600_000,
            reviewers_ppm: 150_000,
            validators_ppm: 100_000,
            hosts_ppm: 100_000,
            treasury_ppm: 50_000,
            double_vote_slash_ppm: 50_000,
            absence_ppm: 100_000,
        }
    }
}

impl Canonical for LedgerParameters {
    const BYTES_MAX: usize = 256;
}

/// An account that exists from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// Its key; the account id follows from it.
    pub key: PublicKey,
    /// Its balance.
    pub balance: Credits,
}

/// A node that exists from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisNode {
    /// Key of the account that owns it; listed among the accounts.
    pub account: PublicKey,
    /// The node's keys.
    pub keys: NodeKeys,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Its stake; with `validates`, its voting power is the stake in whole credits.
    pub stake: Credits,
    /// Its allowance for duties.
    pub allowance: Credits,
}

/// The beginning of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Name for people, see [`check_name`].
    pub network: String,
    /// Chain time at height 0.
    pub time: TimestampMs,
    /// Version of the rules.
    pub rules_version: u32,
    /// The rules' numbers.
    pub parameters: LedgerParameters,
    /// Accounts.
    pub accounts: Vec<GenesisAccount>,
    /// Nodes.
    pub nodes: Vec<GenesisNode>,
}

impl Canonical for Genesis {
    const BYTES_MAX: usize = 256 * 1024;
}

/// Why a genesis was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum GenesisError {
    /// Made for rules that this program does not have.
    #[error("rules version {0} is not the {RULES_VERSION} of this program")]
    RulesVersion(u32),
    /// A field is out of range.
    #[error("{0}")]
    Field(String),
    /// The validators do not form a set.
    #[error("validators: {0}")]
    Validators(#[from] ValidatorSetError),
}

impl Genesis {
    /// The chain's id.
    pub fn chain_id(&self) -> ChainId {
        ChainId::from_bytes(derive("ayni 2026 chain id v1", &[&codec::encode(self)]))
    }

    /// The validators, fixed in this version.
    pub fn validators(&self) -> Result<ValidatorSet, GenesisError> {
        let validators = self
            .nodes
            .iter()
            .filter(|n| n.capabilities.validates)
            .map(|n| Validator {
                key: n.keys.consensus,
                power: VotingPower::new(n.stake.micro().checked_div(PPM).unwrap_or(0)),
            })
            .collect();
        Ok(ValidatorSet::new(validators)?)
    }

    /// Checks everything and builds the state at height 0.
    pub fn build(&self) -> Result<(MemoryState, StateChanges), GenesisError> {
        self.check()?;
        let empty = MemoryState::default();
        let mut state = State::new(&empty);
        let field = |text: &str| GenesisError::Field(text.to_owned());
        let mut chain = Chain {
            time: self.time,
            beacon: Beacon::from_bytes(derive(
                "ayni 2026 genesis beacon v1",
                &[self.chain_id().as_bytes()],
            )),
            ..Chain::default()
        };
        let mut total = Credits::ZERO;
        let mut add = |amount: Credits| {
            total = total.checked_add(amount).ok_or_else(|| field("credits overflow"))?;
            Ok::<_, GenesisError>(())
        };
        for account in &self.accounts {
            add(account.balance)?;
            state.put_account(
                &account.key.account_id(),
                &Account { key: Some(account.key), balance: account.balance, ..Account::default() },
            );
        }
        for node in &self.nodes {
            add(node.stake)?;
            add(node.allowance)?;
            state.put_new_node(&Node {
                account: node.account.account_id(),
                keys: node.keys.clone(),
                capabilities: node.capabilities,
                allowance: node.allowance,
                stake: node.stake,
                since: crate::amount::Height::ZERO,
            });
            chain.nodes = chain.nodes.saturating_add(1);
        }
        chain.genesis = total;
        let validators = self.validators()?;
        chain.signed = validators.as_slice().iter().map(|v| (v.key, 0)).collect();
        chain.signed.sort_by_key(|(key, _)| *key);
        state.put_chain(&chain);
        state.put_parameters(&self.parameters);
        state.put_validators(&validators);
        let changes = state.into_changes();
        let mut memory = MemoryState::default();
        memory.apply(&changes);
        Ok((memory, changes))
    }

    fn check(&self) -> Result<(), GenesisError> {
        if self.rules_version != RULES_VERSION {
            return Err(GenesisError::RulesVersion(self.rules_version));
        }
        check_name("network", &self.network).map_err(|e| GenesisError::Field(e.to_string()))?;
        let require = |ok: bool, text: &str| {
            if ok { Ok(()) } else { Err(GenesisError::Field(text.to_owned())) }
        };
        let p = &self.parameters;
        let shares =
            [p.contributors_ppm, p.reviewers_ppm, p.validators_ppm, p.hosts_ppm, p.treasury_ppm];
        let sum = shares.iter().fold(0_u64, |sum, s| sum.saturating_add(u64::from(*s)));
        require(sum == PPM, "the five shares of a round's pot must add up to 1,000,000 ppm")?;
        require(p.epoch_ms >= 1_000, "epoch_ms must be at least 1,000")?;
        require(
            u64::from(p.double_vote_slash_ppm) <= PPM && u64::from(p.absence_ppm) <= PPM,
            "penalties must be at most 1,000,000 ppm",
        )?;
        let mut seen = BTreeSet::new();
        for account in &self.accounts {
            require(seen.insert(account.key), "an account is listed twice")?;
        }
        require(self.nodes.len() <= limits::NODES_MAX, "too many nodes")?;
        let mut keys = BTreeSet::new();
        for node in &self.nodes {
            require(seen.contains(&node.account), "a node's account is not listed")?;
            for key in [node.keys.node, node.keys.consensus, node.keys.vrf, node.keys.duty] {
                require(keys.insert(key), "a node key is used twice")?;
            }
        }
        Ok(())
    }
}
