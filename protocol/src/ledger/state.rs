//! Typed access to the key-value state, and the only places that mint and burn.

use crate::amount::Credits;
use crate::codec::{self, Canonical};
use crate::consensus::ValidatorSet;
use crate::ids::{AccountId, ContentHash, ContributionId, ModelId, NodeId, ValidatorId};
use crate::keys::PublicKey;
use crate::ledger::Rejection;
use crate::ledger::entries::{
    Account, Clock, Contribution, Dataset, Model, Node, Registry, Round, Supply,
};
use crate::ledger::parameters::LedgerParameters;
use crate::store::{Overlay, StateChanges, StateReader};

/// Key prefixes. Each family has its own, so that scans stay inside a family.
pub mod prefix {
    /// Accounts.
    pub const ACCOUNT: &[u8] = b"a/";
    /// Nonces by account and key.
    pub const NONCE: &[u8] = b"nonce/";
    /// Nodes.
    pub const NODE: &[u8] = b"n/";
    /// Node by any of its keys.
    pub const NODE_KEY: &[u8] = b"nk/";
    /// Models.
    pub const MODEL: &[u8] = b"m/";
    /// Rounds by model and number.
    pub const ROUND: &[u8] = b"r/";
    /// Contributions.
    pub const CONTRIBUTION: &[u8] = b"x/";
    /// Datasets.
    pub const DATASET: &[u8] = b"d/";
    /// Where the chain stands.
    pub const CLOCK: &[u8] = b"clock";
    /// Stake of all nodes.
    pub const STAKED: &[u8] = b"staked";
    /// Totals of the credits.
    pub const SUPPLY: &[u8] = b"supply";
    /// What is registered.
    pub const REGISTRY: &[u8] = b"registry";
    /// The governed parameters.
    pub const PARAMETERS: &[u8] = b"parameters";
    /// Validators of the state's own height.
    pub const VALIDATORS_TIP: &[u8] = b"validators/tip";
    /// Validators of the height after the state's.
    pub const VALIDATORS: &[u8] = b"validators/next";
    /// Validators of the height after that one.
    pub const VALIDATORS_AFTER: &[u8] = b"validators/after";
}

/// The key of an entry: its family's prefix and the parts that name it.
pub(super) fn key(prefix: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The key of an account's entry, for proofs.
pub fn account_key(id: &AccountId) -> Vec<u8> {
    key(prefix::ACCOUNT, &[id.as_bytes()])
}

/// The account whose entry has this key.
pub fn account_of_key(key: &[u8]) -> Option<AccountId> {
    let id = key.strip_prefix(prefix::ACCOUNT)?;
    Some(AccountId::from_bytes(id.try_into().ok()?))
}

impl Canonical for u64 {
    const BYTES_MAX: usize = 9;
}

impl Canonical for NodeId {
    const BYTES_MAX: usize = 32;
}

/// The state during the application of a block.
pub struct State<'a>(Overlay<&'a dyn StateReader>);

impl<'a> State<'a> {
    /// On top of `base`.
    pub fn new(base: &'a dyn StateReader) -> Self {
        Self(Overlay::new(base))
    }

    /// A state on top of this one, to be [`State::absorb`]ed or dropped.
    pub fn child(&self) -> State<'_> {
        State::new(&self.0)
    }

    /// Takes over a child's changes.
    pub fn absorb(&mut self, changes: StateChanges) {
        self.0.absorb(changes);
    }

    /// The changes.
    pub fn into_changes(self) -> StateChanges {
        self.0.into_changes()
    }

    /// Reads an entry of a family that has its own accessors.
    pub(super) fn read<T: Canonical>(&self, key: &[u8]) -> Option<T> {
        read(&self.0, key)
    }

    /// Up to `limit` entries of a family in key order.
    pub(super) fn entries<T: Canonical>(&self, prefix: &[u8], limit: usize) -> Vec<T> {
        scan(&self.0, prefix, limit)
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.0.delete(key);
    }

    /// Writes an entry of a family that has its own accessors.
    pub(super) fn write<T: Canonical>(&mut self, key: Vec<u8>, value: &T) {
        self.0.put(key, codec::encode(value));
    }

    /// An account; unknown ones are empty.
    pub fn account(&self, id: &AccountId) -> Account {
        self.read(&key(prefix::ACCOUNT, &[id.as_bytes()])).unwrap_or_default()
    }

    /// Stores an account.
    pub fn put_account(&mut self, id: &AccountId, account: &Account) {
        self.write(key(prefix::ACCOUNT, &[id.as_bytes()]), account);
    }

    /// Number of transactions of (account, key) so far.
    pub fn nonce(&self, account: &AccountId, public: &PublicKey) -> u64 {
        self.read(&key(prefix::NONCE, &[account.as_bytes(), public.as_bytes()])).unwrap_or(0)
    }

    /// Counts a transaction of (account, key).
    pub fn bump_nonce(&mut self, account: &AccountId, public: &PublicKey) {
        let next = self.nonce(account, public).saturating_add(1);
        self.write(key(prefix::NONCE, &[account.as_bytes(), public.as_bytes()]), &next);
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<Node> {
        self.read(&key(prefix::NODE, &[id.as_bytes()]))
    }

    /// Stake of all nodes.
    pub fn staked(&self) -> Credits {
        Credits::from_micro(self.read(prefix::STAKED).unwrap_or(0))
    }

    /// Stores a known node, and what it changes of the stake of all.
    pub fn put_node(&mut self, node: &Node) {
        let before = self.node(&node.keys.node.node_id()).map_or(Credits::ZERO, |n| n.stake);
        if before != node.stake {
            // Exact: `before` is part of the sum, and stakes are part of the supply.
            let others = self.staked().micro().saturating_sub(before.micro());
            let sum = others.saturating_add(node.stake.micro());
            self.write(prefix::STAKED.to_vec(), &sum);
        }
        self.write(key(prefix::NODE, &[node.keys.node.as_bytes()]), node);
    }

    /// Stores a new node with the indexes by its keys.
    pub fn put_new_node(&mut self, node: &Node) {
        let id = node.keys.node.node_id();
        let keys = &node.keys;
        for public in [keys.node, keys.consensus, keys.vrf, keys.duty] {
            self.write(key(prefix::NODE_KEY, &[public.as_bytes()]), &id);
        }
        self.put_node(node);
    }

    /// The node that uses `public` as any of its keys.
    pub fn node_by_key(&self, public: &[u8; 32]) -> Option<Node> {
        let id: NodeId = self.read(&key(prefix::NODE_KEY, &[public]))?;
        self.node(&id)
    }

    /// The node of a validator.
    pub fn node_of_validator(&self, validator: &ValidatorId) -> Option<Node> {
        self.node_by_key(validator.as_bytes())
            .filter(|n| n.keys.consensus.as_bytes() == validator.as_bytes())
    }

    /// All nodes in the order of their ids.
    pub fn nodes(&self) -> Vec<Node> {
        scan(&self.0, prefix::NODE, crate::limits::NODES_MAX)
    }

    /// A model.
    pub fn model(&self, id: &ModelId) -> Option<Model> {
        self.read(&key(prefix::MODEL, &[id.as_bytes()]))
    }

    /// Sum of the weights of all models: shares of one emission.
    pub fn weights(&self) -> u64 {
        let models: Vec<Model> = self.entries(prefix::MODEL, crate::limits::MODELS_MAX);
        models.iter().fold(0, |sum, model| sum.saturating_add(u64::from(model.weight_ppm)))
    }

    /// Stores a model.
    pub fn put_model(&mut self, id: &ModelId, model: &Model) {
        self.write(key(prefix::MODEL, &[id.as_bytes()]), model);
    }

    /// A round.
    pub fn round(&self, model: &ModelId, index: u32) -> Option<Round> {
        self.read(&key(prefix::ROUND, &[model.as_bytes(), &index.to_be_bytes()]))
    }

    /// Stores a round.
    pub fn put_round(&mut self, round: &Round) {
        let at = key(prefix::ROUND, &[round.model.as_bytes(), &round.index.to_be_bytes()]);
        self.write(at, round);
    }

    /// A contribution.
    pub fn contribution(&self, id: &ContributionId) -> Option<Contribution> {
        self.read(&key(prefix::CONTRIBUTION, &[id.as_bytes()]))
    }

    /// Stores a contribution.
    pub fn put_contribution(&mut self, id: &ContributionId, contribution: &Contribution) {
        self.write(key(prefix::CONTRIBUTION, &[id.as_bytes()]), contribution);
    }

    /// A dataset.
    pub fn dataset(&self, manifest: &ContentHash) -> Option<Dataset> {
        self.read(&key(prefix::DATASET, &[manifest.as_bytes()]))
    }

    /// Stores a dataset.
    pub fn put_dataset(&mut self, dataset: &Dataset) {
        self.write(key(prefix::DATASET, &[dataset.manifest.as_bytes()]), dataset);
    }

    /// Where the chain stands.
    pub fn clock(&self) -> Clock {
        self.read(prefix::CLOCK).expect("the genesis wrote the clock")
    }

    /// Stores where the chain stands.
    pub fn put_clock(&mut self, clock: &Clock) {
        self.write(prefix::CLOCK.to_vec(), clock);
    }

    /// Totals of the credits.
    pub fn supply(&self) -> Supply {
        self.read(prefix::SUPPLY).expect("the genesis wrote the supply")
    }

    /// Stores totals of the credits.
    pub fn put_supply(&mut self, supply: &Supply) {
        self.write(prefix::SUPPLY.to_vec(), supply);
    }

    /// What is registered.
    pub fn registry(&self) -> Registry {
        self.read(prefix::REGISTRY).expect("the genesis wrote the registry")
    }

    /// Stores what is registered.
    pub fn put_registry(&mut self, registry: &Registry) {
        self.write(prefix::REGISTRY.to_vec(), registry);
    }

    /// The governed parameters.
    pub fn parameters(&self) -> LedgerParameters {
        self.read(prefix::PARAMETERS).expect("the genesis wrote the parameters")
    }

    /// Stores the governed parameters.
    pub fn put_parameters(&mut self, parameters: &LedgerParameters) {
        self.write(prefix::PARAMETERS.to_vec(), parameters);
    }

    /// Validators of the state's own height: they certified its block.
    pub fn validators_of_tip(&self) -> ValidatorSet {
        self.read(prefix::VALIDATORS_TIP).expect("the genesis wrote the validators")
    }

    /// Validators of the height after the state's.
    pub fn validators(&self) -> ValidatorSet {
        self.read(prefix::VALIDATORS).expect("the genesis wrote the validators")
    }

    /// Validators of the height after the next; the next header commits to them.
    pub fn validators_after(&self) -> ValidatorSet {
        self.read(prefix::VALIDATORS_AFTER).expect("the genesis wrote the validators")
    }

    /// Moves the sets on by a height: `latest` follows from the state as it is now.
    pub fn turn_validators(&mut self, latest: &ValidatorSet) {
        let (tip, next, after) =
            (self.validators_of_tip(), self.validators(), self.validators_after());
        let turned = [
            (prefix::VALIDATORS_TIP, tip, &next),
            (prefix::VALIDATORS, next.clone(), &after),
            (prefix::VALIDATORS_AFTER, after.clone(), latest),
        ];
        for (at, old, new) in turned {
            if old != *new {
                self.write(at.to_vec(), new);
            }
        }
    }

    /// Stores the set of the genesis, which is that of the first two heights.
    pub fn put_first_validators(&mut self, validators: &ValidatorSet) {
        for at in [prefix::VALIDATORS_TIP, prefix::VALIDATORS, prefix::VALIDATORS_AFTER] {
            self.write(at.to_vec(), validators);
        }
    }

    /// Whether anything under `prefix` was written since this state was opened.
    pub fn has_changes_under(&self, prefix: &[u8]) -> bool {
        let mut changed = self.0.changes().range(prefix.to_vec()..);
        changed.next().is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// Adds to a balance.
    pub fn credit(&mut self, id: &AccountId, amount: Credits) -> Result<(), Rejection> {
        let mut account = self.account(id);
        account.balance = account.balance.checked_add(amount).ok_or(Rejection::Overflow)?;
        self.put_account(id, &account);
        Ok(())
    }

    /// Takes from a balance.
    pub fn debit(&mut self, id: &AccountId, amount: Credits) -> Result<(), Rejection> {
        let mut account = self.account(id);
        let balance = account.balance;
        account.balance = balance
            .checked_sub(amount)
            .ok_or(Rejection::InsufficientFunds { have: balance, need: amount })?;
        self.put_account(id, &account);
        Ok(())
    }

    /// Takes from a node's allowance.
    pub fn debit_allowance(&mut self, id: &NodeId, amount: Credits) -> Result<(), Rejection> {
        let mut node = self.node(id).ok_or(Rejection::Unknown("node"))?;
        let have = node.allowance;
        node.allowance =
            have.checked_sub(amount).ok_or(Rejection::InsufficientFunds { have, need: amount })?;
        self.put_node(&node);
        Ok(())
    }

    /// Adds to a node's allowance.
    pub fn credit_allowance(&mut self, id: &NodeId, amount: Credits) -> Result<(), Rejection> {
        let mut node = self.node(id).ok_or(Rejection::Unknown("node"))?;
        node.allowance = node.allowance.checked_add(amount).ok_or(Rejection::Overflow)?;
        self.put_node(&node);
        Ok(())
    }

    /// Destroys credits that the caller has taken from somewhere.
    pub fn burn(&mut self, amount: Credits) -> Result<(), Rejection> {
        let mut supply = self.supply();
        supply.burned = supply.burned.checked_add(amount).ok_or(Rejection::Overflow)?;
        self.put_supply(&supply);
        Ok(())
    }

    /// Makes credits that the caller gives to somebody.
    pub fn mint(&mut self, amount: Credits) -> Result<(), Rejection> {
        let mut supply = self.supply();
        supply.minted = supply.minted.checked_add(amount).ok_or(Rejection::Overflow)?;
        supply.minted_this_epoch =
            supply.minted_this_epoch.checked_add(amount).ok_or(Rejection::Overflow)?;
        self.put_supply(&supply);
        Ok(())
    }
}

/// Reads one entry from any reader; an undecodable entry means a corrupt store.
pub fn read<T: Canonical>(reader: &dyn StateReader, key: &[u8]) -> Option<T> {
    let bytes = reader.get(key)?;
    Some(codec::decode_own(&bytes).expect("state entries are written by the rules themselves"))
}

/// Reads up to `limit` entries of a family in key order.
pub fn scan<T: Canonical>(reader: &dyn StateReader, prefix: &[u8], limit: usize) -> Vec<T> {
    reader
        .scan(prefix, limit)
        .iter()
        .map(|(_, bytes)| {
            codec::decode_own(bytes).expect("state entries are written by the rules themselves")
        })
        .collect()
}

/// Read-only typed views for those who ask the state from outside the rules.
pub struct View<'a>(State<'a>);

impl<'a> View<'a> {
    /// A view of `reader`.
    pub fn new(reader: &'a dyn StateReader) -> Self {
        Self(State::new(reader))
    }

    /// All accounts with their ids.
    pub fn accounts(&self, limit: usize) -> Vec<(AccountId, Account)> {
        let len = prefix::ACCOUNT.len();
        self.0
            .0
            .scan(prefix::ACCOUNT, limit)
            .into_iter()
            .filter_map(|(key, bytes)| {
                let id = <[u8; 32]>::try_from(key.get(len..)?).ok()?;
                Some((AccountId::from_bytes(id), codec::decode(&bytes).ok()?))
            })
            .collect()
    }

    /// All models.
    pub fn models(&self) -> Vec<Model> {
        scan(&self.0.0, prefix::MODEL, crate::limits::MODELS_MAX)
    }

    /// All datasets.
    pub fn datasets(&self) -> Vec<Dataset> {
        scan(&self.0.0, prefix::DATASET, crate::limits::DATASETS_MAX)
    }

    /// Rounds of a model in order.
    pub fn rounds(&self, model: &ModelId, limit: usize) -> Vec<Round> {
        scan(&self.0.0, &key(prefix::ROUND, &[model.as_bytes()]), limit)
    }
}

impl<'a> std::ops::Deref for View<'a> {
    type Target = State<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
