//! Transactions that clients sign themselves: judged with codes, gossiped, applied, and not lost
//! by `kill -9`.

use bytes::Bytes;
use cli::client::ClientError;
use protocol::amount::Credits;
use protocol::api::{ErrorCode, SubmitTransactions, TransactionState};
use protocol::codec;
use protocol::ids::{AccountId, ChainId};
use protocol::keys::SecretKey;
use protocol::transaction::{Payload, SignedTransaction, Transaction};
use tempfile::TempDir;

use crate::process::{Daemon, config, genesis, secrets};

fn transfer(chain: ChainId, key: &SecretKey, nonce: u64, tip: u64, micro: u64) -> Bytes {
    let transaction = Transaction {
        chain,
        account: key.public().account_id(),
        key: key.public(),
        nonce,
        tip: Credits::from_micro(tip),
        fee_max: Credits::from_micro(1_000_000),
        stamp: None,
        fee_payer: None,
        payload: Payload::Transfer {
            to: AccountId::from_bytes([9; 32]),
            amount: Credits::from_micro(micro),
        },
    };
    codec::encode(&SignedTransaction::sign(transaction, key)).into()
}

async fn submit(node: &Daemon, transactions: Vec<Bytes>) -> Vec<String> {
    let answer = node.client.submit(&SubmitTransactions { transactions }).await;
    answer.expect("it answers").results.into_iter().map(|result| result.code).collect()
}

async fn received(node: &Daemon) -> u64 {
    let balance = node.client.balance(Some(AccountId::from_bytes([9; 32]))).await;
    balance.expect("it answers").balance_micro.micro()
}

#[tokio::test]
async fn every_refusal_has_a_code() {
    let folder = TempDir::new().expect("a temporary folder");
    let keys = secrets(4);
    let genesis = genesis("codes", &keys);
    let chain = genesis.chain_id();
    // One of four validators: nothing is ever decided, so what is pending stays.
    let mut node = Daemon::new(&folder.path().join("node"), &keys[0], config(), Some(genesis));
    node.start().await;
    let (mine, other) = (&keys[0].account, ChainId::from_bytes([1; 32]));
    let mut forged = transfer(chain, mine, 3, 0, 1).to_vec();
    *forged.last_mut().expect("bytes") = 0;
    let at = forged.len() - 10;
    forged[at] ^= 1;
    let poor = SecretKey::from_seed(&[200; 32]);
    let codes = submit(
        &node,
        vec![
            transfer(chain, mine, 0, 100, 1),
            transfer(chain, mine, 0, 100, 1),
            transfer(chain, mine, 0, 150, 1),
            transfer(chain, mine, 0, 1_000, 2),
            transfer(chain, mine, 2, 0, 1),
            transfer(chain, mine, 64, 0, 1),
            transfer(other, mine, 1, 0, 1),
            Bytes::from(forged),
            Bytes::from_static(b"no transaction"),
            Bytes::from(vec![0; 20_000]),
            transfer(chain, &poor, 0, 0, 1),
            transfer(chain, mine, 1, 0, u64::MAX / 2),
        ],
    )
    .await;
    assert_eq!(
        codes,
        [
            "accepted",
            "known",
            "underpriced",
            "accepted",
            "accepted",
            "nonce_too_far",
            "foreign_chain",
            "bad_signature",
            "malformed",
            "too_large",
            "insufficient_funds",
            "insufficient_funds",
        ]
    );
    let status = node.client.status().await.expect("it answers");
    assert_eq!(status.mempool_transactions, 2);
    let empty = node.client.submit(&SubmitTransactions { transactions: Vec::new() }).await;
    assert!(
        matches!(&empty, Err(ClientError::Api(e)) if e.code == ErrorCode::BadRequest),
        "{empty:?}"
    );
    node.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = TempDir::new().expect("a temporary folder");
    let keys = secrets(2);
    let genesis = genesis("survives", &keys);
    let chain = genesis.chain_id();
    let home = |index: usize| folder.path().join(format!("node-{index}"));
    let mut first = Daemon::new(&home(0), &keys[0], config(), Some(genesis.clone()));
    // Alone it has half of the power: nothing is decided.
    let listen = first.start().await.listen;
    let signed: Vec<_> = (0..20).map(|n| transfer(chain, &keys[0].account, n, 0, 1)).collect();
    let codes = submit(&first, signed.clone()).await;
    assert!(codes.iter().all(|code| code == "accepted"), "{codes:?}");
    first.kill().await;
    first.start().await;
    let status = first.client.status().await.expect("it answers");
    assert_eq!(status.mempool_transactions, 20, "restored");
    assert!(listen.iter().any(|address| address.contains("udp")));

    let mut joining = config();
    joining.network.persistent_peers = first.client.status().await.expect("it answers").listen;
    let mut second = Daemon::new(&home(1), &keys[1], joining, Some(genesis));
    second.start().await;
    second.until("all transfers", |s| s.mempool_transactions == 0 && s.height.get() > 2).await;
    first.until("an empty pool", |s| s.mempool_transactions == 0).await;
    assert_eq!((received(&first).await, received(&second).await), (20, 20));
    let hash = protocol::ids::ContentHash::of(&signed[0]);
    let state = second.client.transaction(hash.to_string().parse().expect("a hash")).await;
    assert!(matches!(state, Ok(TransactionState::Final { .. })), "{state:?}");

    // Sent to one node only, they reach the other, whoever proposes.
    let more: Vec<_> = (20..60).map(|n| transfer(chain, &keys[0].account, n, 0, 1)).collect();
    let codes = submit(&second, more).await;
    assert!(codes.iter().all(|code| code == "accepted"), "{codes:?}");
    first.until("the rest", |s| s.mempool_transactions == 0 && s.height.get() > 4).await;
    second.until("the rest", |s| s.mempool_transactions == 0).await;
    assert_eq!((received(&first).await, received(&second).await), (60, 60));
    second.stop().await;
    first.stop().await;
}
