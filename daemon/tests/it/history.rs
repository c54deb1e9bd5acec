//! What people ask a node about its chain: blocks, transactions, accounts. The index behind it is
//! made anew from the blocks when it is gone.

use std::fs;
use std::time::Duration;

use cli::client::Client;
use protocol::amount::{Credits, Height};
use protocol::api::{
    BlockRef, BlocksQuery, ErrorCode, HistoryDirection, HistoryPage, HistoryQuery, SendRequest,
    TransactionReceipt, ValidatorsQuery,
};
use protocol::ids::{AccountId, BlockHash, TransactionHash};
use tokio::time::{Instant, sleep};

use crate::process::{Daemon, config, genesis, secrets};

const FRIEND: AccountId = AccountId::from_bytes([7; 32]);
/// No search may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

async fn send(client: &Client, micro: u64) -> TransactionReceipt {
    let amount_micro = Credits::from_micro(micro);
    client.send(&SendRequest { to: FRIEND, amount_micro }).await.expect("enough credits")
}

/// A page, once the node has searched its blocks up to `height`.
async fn page(client: &Client, query: HistoryQuery, height: Height) -> HistoryPage {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = client.history(query).await.expect("it keeps a history");
        if page.searched >= height {
            return page;
        }
        assert!(Instant::now() < deadline, "the history stays behind: {page:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn people_find_blocks_transactions_and_what_an_account_did() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(1);
    let genesis = genesis("history", &keys);
    let root = folder.path().join("node");
    let mut node = Daemon::new(&root, &keys[0], config(), Some(genesis));
    node.start().await;
    let me = node.identity.account;
    let receipts =
        [send(&node.client, 1).await, send(&node.client, 2).await, send(&node.client, 3).await];

    let last = receipts[2];
    let found = node.client.find_transaction(last.transaction).await.expect("it is final");
    let at = found.inclusion.expect("it is final");
    assert_eq!((at.height, found.kind.as_str()), (last.height, "transfer"));
    let fee = found.fee_micro.expect("the block is new");
    assert!(fee > Credits::ZERO && fee <= found.transaction.fee_max);
    let by_hash = node.client.block(BlockRef::Hash(at.block)).await;
    let by_height = node.client.block(last.height).await.expect("a final block");
    assert_eq!(by_hash.expect("the same block"), by_height);
    assert_eq!(by_height.signers[0].account, Some(me));
    assert_eq!(by_height.transactions[0].fee_micro, Some(fee));
    let unknown = node.client.find_transaction(TransactionHash::default()).await;
    assert_eq!(unknown.expect_err("nobody sent it").code(), Some(ErrorCode::NotFound));
    let unknown = node.client.block(BlockRef::Hash(BlockHash::default())).await;
    assert_eq!(unknown.expect_err("nobody made it").code(), Some(ErrorCode::NotFound));

    let newest = HistoryQuery { account: None, before: None, limit: Some(2) };
    let first = page(&node.client, newest, last.height).await;
    let hashes: Vec<_> = first.entries.iter().map(|entry| entry.transaction).collect();
    assert_eq!(hashes, [receipts[2].transaction, receipts[1].transaction]);
    assert_eq!(first.entries[0].direction, HistoryDirection::Out);
    assert_eq!((first.entries[0].account, first.entries[0].fee_micro), (Some(FRIEND), Some(fee)));
    let rest = HistoryQuery { before: first.older, ..newest };
    let rest = page(&node.client, rest, last.height).await;
    assert_eq!((rest.entries.len(), rest.older), (1, None));
    let theirs = HistoryQuery { account: Some(FRIEND), before: None, limit: None };
    let received = page(&node.client, theirs, last.height).await;
    let amounts = received.entries.iter().map(|e| e.amount_micro.map_or(0, Credits::micro));
    assert_eq!(amounts.collect::<Vec<_>>(), [3, 2, 1]);
    assert!(received.entries.iter().all(|e| e.direction == HistoryDirection::In));
    assert!(received.entries.iter().all(|e| e.fee_micro == Some(Credits::ZERO)), "others pay");

    node.stop().await;
    let index = node.home.data().join("history");
    fs::remove_dir_all(&index).expect("it was there");
    node.start().await;
    assert_eq!(page(&node.client, theirs, last.height).await.entries.len(), 3);
    let again =
        node.client.find_transaction(receipts[0].transaction).await.expect("searched again");
    assert_eq!(again.inclusion.map(|at| at.height), Some(receipts[0].height));
    node.stop().await;
}

#[tokio::test]
async fn the_rules_and_the_validators_are_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = secrets(1);
    let genesis = genesis("shown", &keys);
    let root = folder.path().join("node");
    let mut node = Daemon::new(&root, &keys[0], config(), Some(genesis));
    node.start().await;
    let status = node.until("a block", |status| status.height >= Height::new(1)).await;
    let rules = node.client.parameters().await.expect("running");
    assert!(rules.base_fee_per_byte_micro > Credits::ZERO && rules.height >= status.height);
    assert!(rules.parameters.iter().all(|p| (p.min..=p.max).contains(&p.value)));
    let set = node.client.validators(ValidatorsQuery::default()).await.expect("running");
    assert_eq!((set.validators.len(), set.validators[0].share_ppm), (1, 1_000_000));
    assert_eq!(set.validators[0].node, Some(node.identity.node));
    let far = ValidatorsQuery { height: Some(status.height.plus(1_000_000)) };
    let refused = node.client.validators(far).await.expect_err("the future");
    assert_eq!(refused.code(), Some(ErrorCode::NotFound));
    let blocks = node.client.blocks(BlocksQuery::default()).await.expect("running").blocks;
    assert!(blocks.iter().all(|block| block.base_fee_per_byte_micro.is_some()));
    node.stop().await;
}
