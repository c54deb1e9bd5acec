//! What nobody can fill up: the agenda, a block's executions, the history.

use ayni_protocol::amount::Credits;
use ayni_protocol::keys::SecretKey;
use ayni_protocol::ledger::entries::ProposalStatus;
use ayni_protocol::ledger::governance::{total_stake, voting_stake};
use ayni_protocol::ledger::{Rejection, try_transaction};
use ayni_protocol::limits;
use ayni_protocol::transaction::{Choice, Payload, SignedTransaction};

use super::{account, deposit, finish, propose, proposing, quick_genesis, status, text, voting};
use crate::chain::{TestChain, credits, replay, root};

/// Somebody without a node.
fn outsider(index: u8) -> SecretKey {
    SecretKey::from_seed(&[index; 32])
}

fn signed(chain: &TestChain, key: &SecretKey, payload: Payload) -> SignedTransaction {
    let mut transaction = chain.sign(0, payload).transaction;
    transaction.account = key.public().account_id();
    transaction.key = key.public();
    let (state, mempool) = (chain.view(), &chain.host.mempool);
    transaction.nonce = mempool.next_nonce(&state, &transaction.account, &transaction.key);
    SignedTransaction::sign(transaction, key)
}

fn try_as(chain: &TestChain, key: &SecretKey, payload: Payload) -> Result<(), Rejection> {
    let verified = signed(chain, key, payload).verify(chain.host.chain()).expect("signed");
    try_transaction(&chain.view(), chain.host.chain(), None, &verified).map(|_| ())
}

fn fund(chain: &mut TestChain, key: &SecretKey) {
    let to = key.public().account_id();
    chain.send(0, Payload::Transfer { to, amount: credits(45) });
}

#[test]
fn the_agenda_is_bounded_in_all_and_by_author() {
    let mut chain = TestChain::of(quick_genesis(4));
    let authors: Vec<SecretKey> = (200..217).map(outsider).collect();
    authors.iter().for_each(|author| fund(&mut chain, author));
    chain.step();
    let full = Rejection::Full("proposals until some are over");
    let own = Rejection::Full("proposals of one author until some are over");
    let (last, crowd) = authors.split_last().expect("many");
    for _ in 0..limits::PROPOSALS_PER_AUTHOR_MAX {
        assert_eq!(try_as(&chain, last, proposing(text(1))), Ok(()), "control");
        for author in crowd {
            let transaction = signed(&chain, author, proposing(text(1)));
            chain.submit(transaction).expect("fits");
        }
    }
    chain.step();
    assert_eq!(chain.view().agenda().active.len(), limits::PROPOSALS_ACTIVE_MAX);
    assert_eq!(try_as(&chain, last, proposing(text(1))), Err(full));
    while !chain.view().agenda().active.is_empty() {
        chain.step();
    }
    // Nobody voted: every deposit is burned.
    assert!(chain.view().supply().burned >= credits(640));
    for _ in 0..limits::PROPOSALS_PER_AUTHOR_MAX {
        let transaction = signed(&chain, last, proposing(text(1)));
        chain.submit(transaction).expect("fits");
    }
    chain.step();
    assert_eq!(try_as(&chain, last, proposing(text(1))), Err(own));
    assert_eq!(try_as(&chain, &outsider(199), proposing(text(1))).map_err(|_| ()), Err(()));
}

#[test]
fn who_has_nothing_at_stake_has_no_ballot() {
    let mut chain = TestChain::of(quick_genesis(4));
    let rich = outsider(200);
    fund(&mut chain, &rich);
    let id = propose(&mut chain, 0, text(1));
    let stake = voting_stake(&chain.view(), &account(&chain, 0));
    assert_eq!(stake.scaled(4, 1), total_stake(&chain.view()));
    assert_eq!(voting_stake(&chain.view(), &rich.public().account_id()), Credits::ZERO);
    let refused = try_as(&chain, &rich, voting(id, Choice::Yes, 0));
    let none = Rejection::Mismatch("the stake of the account (it has none to vote with)");
    assert_eq!(refused, Err(none));
}

#[test]
fn a_block_executes_a_few_and_the_next_the_others() {
    let mut chain = TestChain::of(quick_genesis(4));
    for author in 0..3 {
        for tag in 0..2 {
            chain.send(author, proposing(text(tag)));
        }
    }
    chain.step();
    for id in 1..=6 {
        (0..4).for_each(|node| chain.send(node, voting(id, Choice::Yes, 0)));
    }
    let heights: Vec<u64> = (1..=6)
        .map(|id| match finish(&mut chain, id) {
            ProposalStatus::Executed { height } => height.get(),
            other => panic!("{id}: {other:?}"),
        })
        .collect();
    let first = heights[0];
    assert_eq!(heights, [first, first, first, first, first + 1, first + 1]);
}

#[test]
fn old_proposals_are_forgotten_and_the_newest_kept() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.voting_ms = 1_000;
    genesis.parameters.voting_blocks_min = 1;
    genesis.parameters.proposal_deposit_micro = 0;
    let mut chain = TestChain::of(genesis);
    let enough = limits::PROPOSALS_KEPT_MAX + 40;
    while chain.view().agenda().proposals < enough {
        if chain.view().agenda().active.is_empty() {
            for author in 0..4 {
                for tag in 0..4 {
                    chain.send(author, proposing(text(tag)));
                }
            }
        }
        chain.step();
    }
    while !chain.view().agenda().active.is_empty() {
        chain.step();
    }
    let newest = chain.view().agenda().proposals;
    assert_eq!(chain.view().agenda().forgotten, newest - limits::PROPOSALS_KEPT_MAX);
    let oldest = newest - limits::PROPOSALS_KEPT_MAX + 1;
    assert_eq!(chain.view().proposal(oldest - 1), None);
    assert_eq!(chain.view().proposals(None, usize::MAX).len() as u64, limits::PROPOSALS_KEPT_MAX);
    assert_eq!(status(&chain, oldest), ProposalStatus::NoQuorum);
    assert!(chain.view().agenda().emptying.is_empty());
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn a_title_and_a_deposit_are_asked_of_everybody() {
    let mut chain = TestChain::of(quick_genesis(4));
    let poor = outsider(200);
    let to = poor.public().account_id();
    chain.send(0, Payload::Transfer { to, amount: credits(9) });
    chain.step();
    let refused = try_as(&chain, &poor, proposing(text(1)));
    assert!(
        matches!(refused, Err(Rejection::InsufficientFunds { need, .. }) if need == deposit()),
        "{refused:?}"
    );
    let title = "two\nlines".to_owned();
    let action = ayni_protocol::transaction::GovernanceAction::Propose { title, change: text(1) };
    let refused = chain.try_now(0, Payload::Governance(action));
    assert!(matches!(refused, Err(Rejection::Document(_))), "{refused:?}");
}
