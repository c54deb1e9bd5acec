//! Applying a block: clocks, evidence, transactions, rounds.

use thiserror::Error;

use crate::amount::{Credits, Height, TimestampMs};
use crate::block::{Evidence, Header};
use crate::consensus::CommitCertificate;
use crate::ids::{AccountId, ChainId, TransactionHash};
use crate::ledger::fees::{BlockBudget, Signer};
use crate::ledger::rejection::Rejection;
use crate::ledger::state::State;
use crate::ledger::{
    accounts, beacon, contributions, data, fees, governance, reviews, rounds, staking,
};
use crate::limits;
use crate::store::{StateChanges, StateReader};
use crate::transaction::{Payload, Transaction, VerifiedTransaction};

/// Why a block was refused.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum BlockError {
    /// A transaction breaks a rule.
    #[error("transaction {hash}: {reason}")]
    Transaction {
        /// Which one.
        hash: TransactionHash,
        /// Why.
        reason: Rejection,
    },
    /// Evidence that proves nothing, or is known.
    #[error("evidence is worthless: {0}")]
    Evidence(&'static str),
    /// More transactions than a block holds.
    #[error("more transactions than fit a block, or than its lane for work stamps")]
    TooLarge,
    /// The proposer is no registered node.
    #[error("the proposer is not a registered node")]
    Proposer,
    /// The beacon is not the one that follows.
    #[error("the beacon does not follow from its parent")]
    Beacon,
    /// The height is not the next one.
    #[error("height {got} where {expected} is next")]
    Height {
        /// In the header.
        got: Height,
        /// Next.
        expected: Height,
    },
    /// The network has decided for rules that this program does not have.
    #[error(
        "this program knows rules up to {known}; the network voted for {version} from height \
         {from}: install a newer program"
    )]
    Outdated {
        /// Newest version in this program.
        known: u32,
        /// Version in force.
        version: u32,
        /// Since this height.
        from: Height,
    },
    /// The rules' version is not the one in force.
    #[error("rules version {got} where {expected} is in force")]
    RulesVersion {
        /// In the header.
        got: u32,
        /// In force.
        expected: u32,
    },
    /// A rule could not finish; state is inconsistent with the rules.
    #[error("end of block: {0}")]
    End(Rejection),
}

/// What applying a block gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedBlock {
    /// Writes to the state.
    pub changes: StateChanges,
}

/// Applies a block whose transactions have verified signatures.
pub fn apply_block<'a>(
    base: &dyn StateReader,
    header: &Header,
    transactions: impl IntoIterator<Item = &'a VerifiedTransaction>,
    evidence: &[Evidence],
    parent_certificate: Option<&CommitCertificate>,
) -> Result<AppliedBlock, BlockError> {
    let mut block = OpenBlock::begin(base, header, parent_certificate)?;
    for item in evidence {
        block.add_evidence(item)?;
    }
    for transaction in transactions {
        block.add(transaction).map_err(|refused| match refused {
            NotAdded::Full => BlockError::TooLarge,
            NotAdded::Rejected(reason) => {
                BlockError::Transaction { hash: transaction.hash(), reason }
            }
        })?;
    }
    block.finish()
}

/// Why a transaction is not part of an open block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// It does not fit beside the others.
    Full,
    /// A rule refuses it.
    Rejected(Rejection),
}

/// A block while it is applied or built: begun, filled, finished.
pub struct OpenBlock<'a> {
    state: State<'a>,
    chain: ChainId,
    proposer: Option<AccountId>,
    budget: BlockBudget,
}

impl<'a> OpenBlock<'a> {
    /// Checks what the state says about the header, and moves the clocks.
    pub fn begin(
        base: &'a dyn StateReader,
        header: &Header,
        parent_certificate: Option<&CommitCertificate>,
    ) -> Result<Self, BlockError> {
        let mut state = State::new(base);
        turn_clock(&mut state, header)?;
        staking::begin_block(&mut state, parent_certificate).map_err(BlockError::End)?;
        let proposer = state.node_of_validator(&header.proposer).map(|n| n.account);
        let budget = BlockBudget::new(&state.parameters());
        Ok(Self { state, chain: header.chain, proposer, budget })
    }

    /// The state so far.
    pub const fn state(&self) -> &State<'a> {
        &self.state
    }

    /// Applies evidence; nothing of it takes effect when it is refused.
    pub fn add_evidence(&mut self, evidence: &Evidence) -> Result<(), BlockError> {
        let mut child = self.state.child();
        staking::apply_evidence(&mut child, &self.chain, evidence)?;
        let changes = child.into_changes();
        self.state.absorb(changes);
        Ok(())
    }

    /// Applies a transaction; nothing of it takes effect when it is refused.
    pub fn add(&mut self, transaction: &VerifiedTransaction) -> Result<(), NotAdded> {
        let mut budget = self.budget.clone();
        if !budget.admit(transaction) {
            return Err(NotAdded::Full);
        }
        let changes = try_transaction(&self.state, &self.chain, self.proposer, transaction)
            .map_err(NotAdded::Rejected)?;
        self.state.absorb(changes);
        self.budget = budget;
        Ok(())
    }

    /// Runs what happens at the end of every block.
    pub fn finish(self) -> Result<AppliedBlock, BlockError> {
        let Self { mut state, budget, .. } = self;
        let end = |state: &mut State<'_>| {
            governance::end_block(state)?;
            rounds::advance_all(state)?;
            staking::end_block(state)
        };
        end(&mut state).map_err(BlockError::End)?;
        let mut clock = state.clock();
        let interval = state.parameters().snapshot_interval_blocks;
        if clock.height.get().checked_rem(interval) == Some(0) {
            clock.snapshot = clock.height;
        }
        clock.base_fee = fees::next_base_fee(&state.parameters(), clock.base_fee, budget.paying());
        state.put_clock(&clock);
        let latest = staking::elect(&state).unwrap_or_else(|| state.validators_after());
        state.turn_validators(&latest);
        Ok(AppliedBlock { changes: state.into_changes() })
    }
}

/// Moves height, time, beacon and epoch on.
fn turn_clock(state: &mut State<'_>, header: &Header) -> Result<(), BlockError> {
    let mut clock = state.clock();
    let expected = clock.height.plus(1);
    if header.height != expected {
        return Err(BlockError::Height { got: header.height, expected });
    }
    governance::check_header(state, header)?;
    let proposer = state.node_of_validator(&header.proposer).ok_or(BlockError::Proposer)?;
    let proven = beacon::verify(
        &proposer.keys.vrf,
        &header.chain,
        header.height,
        &clock.beacon,
        &header.beacon_proof,
    );
    if proven.is_none_or(|beacon| beacon != header.beacon) {
        return Err(BlockError::Beacon);
    }
    clock.height = header.height;
    clock.beacon = header.beacon;
    clock.recent_times.push(header.time);
    let surplus = clock.recent_times.len().saturating_sub(limits::CHAIN_TIME_WINDOW);
    clock.recent_times.drain(..surplus);
    clock.time = clock.time.max(median(&clock.recent_times));
    let length_ms = state.parameters().epoch_ms;
    let elapsed_ms = clock.time.get().saturating_sub(clock.epoch_since.get());
    let passed = elapsed_ms.checked_div(length_ms).unwrap_or(0);
    let is_new = passed > 0;
    if is_new {
        clock.previous_epoch = (clock.epoch, clock.epoch_beacon);
        clock.epoch = clock.epoch.saturating_add(passed);
        clock.epoch_since = clock.epoch_since.plus(passed.saturating_mul(length_ms));
        clock.epoch_beacon = clock.beacon;
    }
    state.put_clock(&clock);
    if is_new {
        staking::end_epoch(state).map_err(BlockError::End)?;
        let mut supply = state.supply();
        supply.minted_this_epoch = Credits::ZERO;
        state.put_supply(&supply);
    }
    Ok(())
}

fn median(times: &[TimestampMs]) -> TimestampMs {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    // The lower median, so that an even count at the start cannot run ahead.
    let middle = sorted.len().saturating_sub(1).checked_div(2).unwrap_or(0);
    sorted.get(middle).copied().unwrap_or_default()
}

/// Applies one transaction on top of `state`, giving its changes.
pub fn try_transaction(
    state: &State<'_>,
    chain: &ChainId,
    proposer: Option<AccountId>,
    verified: &VerifiedTransaction,
) -> Result<StateChanges, Rejection> {
    let transaction = verified.transaction();
    if transaction.chain != *chain {
        return Err(Rejection::ForeignChain);
    }
    let mut child = state.child();
    let expected = child.nonce(&transaction.account, &transaction.key);
    if transaction.nonce != expected {
        return Err(Rejection::Nonce { got: transaction.nonce, expected });
    }
    let signer = authorize(&child, transaction)?;
    fees::charge(&mut child, verified, signer, proposer)?;
    child.bump_nonce(&transaction.account, &transaction.key);
    dispatch(&mut child, chain, transaction, &signer)?;
    Ok(child.into_changes())
}

fn authorize(state: &State<'_>, transaction: &Transaction) -> Result<Signer, Rejection> {
    if transaction.payload.is_duty() {
        let node = state
            .node_by_key(transaction.key.as_bytes())
            .filter(|n| n.keys.duty == transaction.key && n.account == transaction.account)
            .ok_or(Rejection::NotAuthorized)?;
        Ok(Signer::Duty(node.keys.node.node_id()))
    } else if fees::controls(state, &transaction.account, &transaction.key) {
        Ok(Signer::Account)
    } else {
        Err(Rejection::NotAuthorized)
    }
}

fn dispatch(
    state: &mut State<'_>,
    chain: &ChainId,
    transaction: &Transaction,
    signer: &Signer,
) -> Result<(), Rejection> {
    let account = &transaction.account;
    match (&transaction.payload, signer) {
        (Payload::Transfer { to, amount }, Signer::Account) => {
            accounts::transfer(state, account, to, *amount)
        }
        (Payload::RegisterNode(registration), Signer::Account) => {
            accounts::register_node(state, chain, account, registration)
        }
        (Payload::RotateKey { new_key, possession }, Signer::Account) => {
            accounts::rotate_key(state, chain, account, new_key, possession)
        }
        (Payload::FundNode { node, amount }, Signer::Account) => {
            accounts::fund_node(state, account, node, *amount)
        }
        (
            Payload::PublishDataset { manifest, name, shards, bytes, kind, node },
            Signer::Account,
        ) => data::publish(state, account, (manifest, name), (*shards, *bytes, *kind), node),
        (Payload::RegisterModel { spec }, Signer::Account) => {
            data::register_model(state, account, spec)
        }
        (Payload::OpenRounds { model, rounds: count, parameters, escrow }, Signer::Account) => {
            rounds::open(state, account, model, *count, parameters, *escrow)
        }
        (Payload::Staking(action), Signer::Account) => staking::act(state, account, action),
        (Payload::Governance(action), Signer::Account) => governance::act(state, account, action),
        (Payload::JoinRound { model, round }, Signer::Duty(node)) => {
            rounds::join(state, node, model, *round, transaction.stamp.is_some())
        }
        (Payload::SubmitCommit { model, round, commitment }, Signer::Duty(node)) => {
            let is_stamped = transaction.stamp.is_some();
            contributions::commit(state, node, model, *round, *commitment, is_stamped)
        }
        (Payload::Submit { manifest, salt }, Signer::Duty(node)) => {
            contributions::submit(state, chain, node, manifest, salt)
        }
        (Payload::ReviewCommit { contribution, commitment }, Signer::Duty(node)) => {
            reviews::commit(state, node, contribution, *commitment)
        }
        (Payload::ReviewReveal { contribution, review, salt }, Signer::Duty(node)) => {
            reviews::reveal(state, chain, node, contribution, review, salt)
        }
        (Payload::AttestHead { model, round, head, possession, gain }, Signer::Duty(node)) => {
            rounds::attest(state, node, model, *round, head, *possession, *gain)
        }
        (Payload::AttestUnavailable { contribution }, Signer::Duty(node)) => {
            rounds::attest_unavailable(state, node, contribution)
        }
        _ => Err(Rejection::NotAuthorized),
    }
}
