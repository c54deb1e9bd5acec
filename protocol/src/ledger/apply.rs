//! Applying a block: clocks, evidence, transactions, rounds.

use thiserror::Error;

use crate::amount::{Credits, Height, PPM, TimestampMs};
use crate::block::{Evidence, Header};
use crate::codec;
use crate::consensus::CommitCertificate;
use crate::ids::{AccountId, Beacon, ChainId, TransactionHash, derive};
use crate::keys::{Namespace, PublicKey};
use crate::ledger::state::State;
use crate::ledger::{accounts, contributions, data, reviews, rounds};
use crate::limits;
use crate::store::{StateChanges, StateReader};
use crate::transaction::{Payload, Transaction, VerifiedTransaction};

/// Why a transaction was refused. Nothing of it takes effect, no fee is taken.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Rejection {
    /// Signed for another chain.
    #[error("the transaction is for another chain")]
    ForeignChain,
    /// The nonce is not the next one.
    #[error("nonce {got} where {expected} is next{}", replay_hint(*got, *expected))]
    Nonce {
        /// In the transaction.
        got: u64,
        /// Next of (account, key).
        expected: u64,
    },
    /// The key may not sign this for the account.
    #[error("the key may not sign this for the account")]
    NotAuthorized,
    /// Too few credits.
    #[error("needs {need} credits, has {have}")]
    InsufficientFunds {
        /// Available.
        have: Credits,
        /// Needed.
        need: Credits,
    },
    /// An amount of zero where that makes no sense.
    #[error("the amount is zero")]
    ZeroAmount,
    /// Something named does not exist.
    #[error("unknown {0}")]
    Unknown(&'static str),
    /// Something exists already.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// A table of the ledger is full.
    #[error("the ledger holds no more {0}")]
    Full(&'static str),
    /// Not the time for it.
    #[error("not possible in this phase: {0}")]
    WrongPhase(&'static str),
    /// A document breaks its limits.
    #[error("{0}")]
    Document(#[from] crate::model::DocumentError),
    /// A proof or commitment does not fit.
    #[error("{0} does not fit")]
    Mismatch(&'static str),
    /// Amounts too large to add.
    #[error("amounts overflow")]
    Overflow,
}

const fn replay_hint(got: u64, expected: u64) -> &'static str {
    if got < expected { " (already used: a replay?)" } else { "" }
}

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

/// The beacon of `height` after `parent`. A hash chain while there is no VRF: predictable, hence
/// good only against those who cannot choose when to act (design 4).
pub fn next_beacon(chain: &ChainId, height: Height, parent: &Beacon) -> Beacon {
    Beacon::from_bytes(derive(
        "ayni 2026 beacon hash chain v1",
        &[chain.as_bytes(), &height.get().to_le_bytes(), parent.as_bytes()],
    ))
}

/// Applies a block whose transactions have verified signatures.
pub fn apply_block(
    base: &dyn StateReader,
    header: &Header,
    transactions: &[VerifiedTransaction],
    evidence: &[Evidence],
    parent_certificate: Option<&CommitCertificate>,
) -> Result<AppliedBlock, BlockError> {
    let mut state = State::new(base);
    begin(&mut state, header, parent_certificate)?;
    for item in evidence {
        apply_evidence(&mut state, &header.chain, item)?;
    }
    let proposer = proposer_account(&state, header);
    for transaction in transactions {
        let refused = |reason| BlockError::Transaction { hash: transaction.hash(), reason };
        let changes =
            try_transaction(&state, &header.chain, proposer, transaction).map_err(refused)?;
        state.absorb(changes);
    }
    rounds::advance_all(&mut state).map_err(BlockError::End)?;
    Ok(AppliedBlock { changes: state.into_changes() })
}

/// Starts a block: the state in which its transactions are tried.
pub fn begin(
    state: &mut State<'_>,
    header: &Header,
    parent_certificate: Option<&CommitCertificate>,
) -> Result<(), BlockError> {
    let mut chain = state.chain();
    let expected = chain.height.plus(1);
    if header.height != expected {
        return Err(BlockError::Height { got: header.height, expected });
    }
    if header.beacon != next_beacon(&header.chain, header.height, &chain.beacon) {
        return Err(BlockError::Beacon);
    }
    chain.height = header.height;
    chain.beacon = header.beacon;
    chain.recent_times.push(header.time);
    let surplus = chain.recent_times.len().saturating_sub(limits::CHAIN_TIME_WINDOW);
    chain.recent_times.drain(..surplus);
    chain.time = chain.time.max(median(&chain.recent_times));
    let epoch_ms = state.parameters().epoch_ms;
    let epoch = chain.time.get().checked_div(epoch_ms).unwrap_or(0);
    if epoch > chain.epoch {
        chain.epoch = epoch;
        chain.minted_this_epoch = Credits::ZERO;
    }
    for signature in parent_certificate.map(|c| c.signatures.as_slice()).unwrap_or_default() {
        let key = signature.validator;
        if let Some((_, count)) =
            chain.signed.iter_mut().find(|(k, _)| k.as_bytes() == key.as_bytes())
        {
            *count = count.saturating_add(1);
        }
    }
    state.put_chain(&chain);
    Ok(())
}

fn median(times: &[TimestampMs]) -> TimestampMs {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    // The lower median, so that an even count at the start cannot run ahead.
    let middle = sorted.len().saturating_sub(1).checked_div(2).unwrap_or(0);
    sorted.get(middle).copied().unwrap_or_default()
}

/// The account that gets the tips of a block.
pub fn proposer_account(state: &State<'_>, header: &Header) -> Option<AccountId> {
    state.node_of_validator(&header.proposer).map(|n| n.account)
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
    charge_fee(&mut child, transaction, &signer, verified.size(), proposer)?;
    child.bump_nonce(&transaction.account, &transaction.key);
    dispatch(&mut child, chain, transaction, &signer)?;
    Ok(child.into_changes())
}

/// With which right a transaction was signed.
enum Signer {
    /// The account key.
    Account,
    /// A duty key of this node.
    Duty(crate::ids::NodeId),
}

/// Whether `key` controls `account`.
fn controls(state: &State<'_>, account: &AccountId, key: &PublicKey) -> bool {
    match state.account(account).key {
        Some(current) => current == *key,
        None => key.account_id() == *account,
    }
}

fn authorize(state: &State<'_>, transaction: &Transaction) -> Result<Signer, Rejection> {
    if transaction.payload.is_duty() {
        let node = state
            .node_by_key(transaction.key.as_bytes())
            .filter(|n| n.keys.duty == transaction.key && n.account == transaction.account)
            .ok_or(Rejection::NotAuthorized)?;
        Ok(Signer::Duty(node.keys.node.node_id()))
    } else if controls(state, &transaction.account, &transaction.key) {
        Ok(Signer::Account)
    } else {
        Err(Rejection::NotAuthorized)
    }
}

fn charge_fee(
    state: &mut State<'_>,
    transaction: &Transaction,
    signer: &Signer,
    size: usize,
    proposer: Option<AccountId>,
) -> Result<(), Rejection> {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    let base = state.parameters().base_fee_per_byte.scaled(size, 1);
    let total = base.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
    match (&transaction.fee_payer, signer) {
        (Some(payer), _) => {
            if !controls(state, &payer.account, &payer.key) {
                return Err(Rejection::NotAuthorized);
            }
            state.debit(&payer.account, total)?;
        }
        (None, Signer::Account) => state.debit(&transaction.account, total)?,
        (None, Signer::Duty(node)) => state.debit_allowance(node, total)?,
    }
    match proposer {
        Some(account) if transaction.tip > Credits::ZERO => {
            let mut entry = state.account(&account);
            entry.balance =
                entry.balance.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
            entry.earned.tips =
                entry.earned.tips.checked_add(transaction.tip).ok_or(Rejection::Overflow)?;
            state.put_account(&account, &entry);
            state.burn(base)
        }
        _ => state.burn(total),
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
        (Payload::PublishDataset { manifest, name, shards, bytes, node }, Signer::Account) => {
            data::publish(state, account, manifest, name, *shards, *bytes, node)
        }
        (Payload::RegisterModel { spec }, Signer::Account) => {
            data::register_model(state, account, spec)
        }
        (Payload::OpenRounds { model, rounds: count, parameters, escrow }, Signer::Account) => {
            rounds::open(state, account, model, *count, parameters, *escrow)
        }
        (Payload::JoinRound { model, round }, Signer::Duty(node)) => {
            rounds::join(state, node, model, *round)
        }
        (Payload::SubmitCommit { model, round, commitment }, Signer::Duty(node)) => {
            contributions::commit(state, node, model, *round, *commitment)
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

/// Whether evidence would be accepted on top of `base`.
pub fn check_evidence(
    base: &dyn StateReader,
    chain: &ChainId,
    evidence: &Evidence,
) -> Result<(), BlockError> {
    apply_evidence(&mut State::new(base), chain, evidence)
}

/// Checks evidence and burns part of the culprit's stake. The voting power stays: the
/// validator set is fixed in this version.
pub fn apply_evidence(
    state: &mut State<'_>,
    chain: &ChainId,
    evidence: &Evidence,
) -> Result<(), BlockError> {
    let Evidence::DoubleVote { first: (a, a_signature), second: (b, b_signature) } = evidence;
    let same_slot =
        (a.validator, a.height, a.round, a.kind) == (b.validator, b.height, b.round, b.kind);
    if !same_slot || a.block == b.block {
        return Err(BlockError::Evidence("the votes do not contradict each other"));
    }
    if a.block > b.block {
        return Err(BlockError::Evidence("the votes are not in ascending order"));
    }
    let validators = state.validators();
    let validator =
        validators.get(&a.validator).ok_or(BlockError::Evidence("the voter is not a validator"))?;
    for (vote, signature) in [(a, a_signature), (b, b_signature)] {
        validator
            .key
            .verify(Namespace::Vote, chain, &codec::encode(vote), signature)
            .map_err(|_| BlockError::Evidence("a signature does not verify"))?;
    }
    let slot = derive(
        "ayni 2026 double vote slot v1",
        &[
            a.validator.as_bytes(),
            &a.height.get().to_le_bytes(),
            &a.round.to_le_bytes(),
            &[u8::from(a.kind == crate::consensus::VoteKind::Precommit)],
        ],
    );
    if !state.remember_evidence(&slot) {
        return Err(BlockError::Evidence("already known"));
    }
    if let Some(mut node) = state.node_of_validator(&a.validator) {
        let slash = node.stake.ppm(u64::from(state.parameters().double_vote_slash_ppm).min(PPM));
        node.stake = node.stake.checked_sub(slash).unwrap_or(Credits::ZERO);
        state.put_node(&node);
        state.burn(slash).map_err(BlockError::End)?;
    }
    let mut entry = state.chain();
    entry.double_signs = entry.double_signs.saturating_add(1);
    state.put_chain(&entry);
    Ok(())
}
