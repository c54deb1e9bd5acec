//! The beginning of a chain. Its canonical hash is the chain id.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::amount::{Credits, PPM, TimestampMs};
use crate::codec::{self, Canonical};
use crate::consensus::{ValidatorSet, ValidatorSetError};
use crate::ids::{Beacon, ChainId, derive};
use crate::keys::PublicKey;
use crate::ledger::entries::staking::Candidate;
use crate::ledger::entries::{Account, Clock, Node, Registry, Rules, Supply};
use crate::ledger::parameters::{LedgerParameters, ParameterError};
use crate::ledger::staking;
use crate::ledger::state::State;
use crate::limits;
use crate::model::check_name;
use crate::store::{MemoryState, StateChanges};
use crate::transaction::{Capabilities, NodeKeys};

/// Newest version of the rules in this program; it knows all before it.
pub const RULES_VERSION: u32 = 1;

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
    /// Version of the rules at the beginning.
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
    #[error("rules version {0}: this program knows 1 to {RULES_VERSION}")]
    RulesVersion(u32),
    /// A field is out of range.
    #[error("{0}")]
    Field(String),
    /// The rules' numbers are out of range.
    #[error("parameters: {0}")]
    Parameters(#[from] ParameterError),
    /// The validators do not form a set.
    #[error("validators: {0}")]
    Validators(#[from] ValidatorSetError),
}

impl Genesis {
    /// The chain's id.
    pub fn chain_id(&self) -> ChainId {
        ChainId::from_bytes(derive("ayni 2026 chain id v1", &[&codec::encode(self)]))
    }

    /// The validators of the first two heights.
    pub fn validators(&self) -> Result<ValidatorSet, GenesisError> {
        let power = |n: &GenesisNode| n.stake.micro().checked_div(PPM).unwrap_or(0);
        let mut nodes: Vec<&GenesisNode> = self
            .nodes
            .iter()
            .filter(|n| n.capabilities.validates && power(n) > 0)
            .filter(|n| n.stake.micro() >= self.parameters.stake_min_micro)
            .collect();
        // The order of the index of candidates.
        nodes.sort_by_key(|n| (Reverse(power(n)), n.keys.node.node_id()));
        let candidates: Vec<Candidate> = nodes
            .into_iter()
            .map(|n| Candidate {
                key: n.keys.consensus,
                account: n.account.account_id(),
                power: power(n),
            })
            .collect();
        Ok(staking::choose(&candidates, &self.parameters)?)
    }

    /// Checks everything and builds the state at height 0.
    pub fn build(&self) -> Result<(MemoryState, StateChanges), GenesisError> {
        self.check()?;
        let empty = MemoryState::default();
        let mut state = State::new(&empty);
        let field = |text: &str| GenesisError::Field(text.to_owned());
        let beacon = Beacon::from_bytes(derive(
            "ayni 2026 genesis beacon v1",
            &[self.chain_id().as_bytes()],
        ));
        state.put_parameters(&self.parameters);
        let epoch = self.time.get().checked_div(self.parameters.epoch_ms).unwrap_or(0);
        state.put_clock(&Clock {
            time: self.time,
            beacon,
            epoch,
            epoch_since: TimestampMs::new(epoch.saturating_mul(self.parameters.epoch_ms)),
            epoch_beacon: beacon,
            previous_epoch: (epoch, beacon),
            base_fee: Credits::from_micro(self.parameters.base_fee_min_micro_per_byte),
            ..Clock::default()
        });
        let mut registry = Registry::default();
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
                stake: Credits::ZERO,
                since: crate::amount::Height::ZERO,
            });
            let (id, owner) = (node.keys.node.node_id(), node.account.account_id());
            staking::open_pool(&mut state, &id);
            staking::bond_at_genesis(&mut state, &owner, &id, node.stake)
                .map_err(|refused| GenesisError::Field(format!("stake: {refused}")))?;
            registry.nodes = registry.nodes.saturating_add(1);
        }
        state.put_supply(&Supply { genesis: total, ..Supply::default() });
        state.put_registry(&registry);
        state.put_rules(&Rules { version: self.rules_version, next: None });
        state.put_first_validators(&self.validators()?);
        let changes = state.into_changes();
        let mut memory = MemoryState::default();
        memory.apply(&changes);
        Ok((memory, changes))
    }

    fn check(&self) -> Result<(), GenesisError> {
        if !(1..=RULES_VERSION).contains(&self.rules_version) {
            return Err(GenesisError::RulesVersion(self.rules_version));
        }
        check_name("network", &self.network).map_err(|e| GenesisError::Field(e.to_string()))?;
        let require = |ok: bool, text: &str| {
            if ok { Ok(()) } else { Err(GenesisError::Field(text.to_owned())) }
        };
        self.parameters.validate()?;
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
