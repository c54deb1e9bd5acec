//! Stake, votes and proofs, as people use them: through the interface of a running node.

use std::time::Duration;

use cli::client::{Client, ClientError};
use protocol::amount::{Credits, Height};
use protocol::api::{
    BallotRequest, ErrorCode, ProofQuery, ProposalQuery, ProposalsQuery, ProposeRequest,
    StakeRequest, StakesQuery, TrustedBy, ValidatorsQuery,
};
use protocol::codec;
use protocol::ids::{BlockHash, NodeId};
use protocol::ledger::entries::{Account, ProposalStatus};
use protocol::ledger::state::account_of_key;
use protocol::proof::{self, Proof};
use protocol::transaction::{Change, Choice};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::process::{Daemon, config, genesis, secrets};

/// No vote may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn credits(whole: u64) -> Credits {
    Credits::from_micro(whole * 1_000_000)
}

/// The only validator of a network whose votes are short.
fn alone(folder: &TempDir, network: &str) -> Daemon {
    let keys = secrets(1);
    let mut genesis = genesis(network, &keys);
    let short = [
        ("voting_ms", 1_000),
        ("emergency_voting_ms", 1_000),
        ("voting_blocks_min", 1),
        ("timelock_ms", 0),
    ];
    genesis.parameters = genesis.parameters.with(short).expect("in range");
    Daemon::new(&folder.path().join("node"), &keys[0], config(), Some(genesis))
}

/// The reason and the rule of a refusal.
fn refusal<T>(result: Result<T, ClientError>) -> (ErrorCode, Option<String>) {
    match result {
        Err(ClientError::Api(error)) => (error.code, error.rejection),
        Err(other) => panic!("the node's own reason, not {other}"),
        Ok(_) => panic!("must be refused"),
    }
}

#[tokio::test]
async fn stake_moves_power_and_comes_back_later() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = alone(&folder, "stake");
    node.start().await;
    let client = &node.client;
    let before = client.stakes(StakesQuery::default()).await.expect("running");
    assert_eq!(before.staked_micro, credits(1_000));
    let stake = |amount| StakeRequest::Stake { node: None, amount_micro: amount };
    let receipt = client.stake(&stake(credits(50))).await.expect("enough credits");
    let unstake = StakeRequest::Unstake { node: None, amount_micro: credits(20) };
    client.stake(&unstake).await.expect("enough stake");
    let after = client.stakes(StakesQuery::default()).await.expect("running");
    assert_eq!(after.staked_micro, credits(1_030));
    assert_eq!((after.unbonding_micro, after.unbonding.len()), (credits(20), 1));
    assert!(after.unbonding[0].due_height > receipt.height);
    // The set follows from the state two blocks before.
    let third = receipt.height.plus(3);
    node.until("the new set", |status| status.height >= third).await;
    let set = client.validators(ValidatorsQuery::default()).await.expect("running");
    assert_eq!(set.total_power.get(), 1_030);
    assert!(set.validators[0].signed_blocks > 0);

    let zero = client.stake(&stake(Credits::ZERO)).await;
    assert_eq!(refusal(zero).1.as_deref(), Some("zero_amount"));
    let poor = client.stake(&stake(credits(1_000_000))).await;
    assert_eq!(refusal(poor).0, ErrorCode::InsufficientFunds);
    let node_id = Some(NodeId::from_bytes([9; 32]));
    let nobody = StakeRequest::Stake { node: node_id, amount_micro: credits(1) };
    assert_eq!(refusal(client.stake(&nobody).await), (ErrorCode::NotFound, Some("unknown".into())));
    let free = StakeRequest::Unjail { node: None };
    assert_eq!(refusal(client.stake(&free).await).1.as_deref(), Some("wrong_phase"));
    let commission = StakeRequest::Commission { node: None, commission_ppm: 75_000 };
    client.stake(&commission).await.expect("its own node");
    let set = client.stakes(StakesQuery::default()).await.expect("running");
    assert_eq!(set.delegations[0].commission_next_ppm, 75_000);
    node.stop().await;
}

async fn status(client: &Client, id: u64, wanted: impl Fn(ProposalStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = client.proposal(id, ProposalQuery::default()).await.expect("it was made");
        if wanted(found.proposal.status) {
            return;
        }
        assert!(Instant::now() < deadline, "the vote does not end so: {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_vote_changes_the_rules() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = alone(&folder, "votes");
    node.start().await;
    let client = &node.client;
    let change = Change::Parameters(vec![("quorum_ppm".to_owned(), 400_000)]);
    let request = ProposeRequest { title: "A higher quorum".to_owned(), change };
    let made = client.propose(&request).await.expect("it has the deposit");
    assert_eq!(made.proposal, 1);
    let yes = BallotRequest { proposal: 1, choice: Choice::Yes, conviction: 0 };
    client.ballot(&yes).await.expect("it has stake");
    let open = client.proposal(1, ProposalQuery::default()).await.expect("it was made");
    assert_eq!(
        (open.proposal.tally.yes_ppm, open.proposal.tally.turnout_ppm),
        (1_000_000, 1_000_000)
    );
    assert_eq!((open.ballots.len(), open.more), (1, false));
    assert_eq!(open.ballots[0].account, node.identity.account);
    status(client, 1, |status| matches!(status, ProposalStatus::Executed { .. })).await;
    let rules = client.parameters().await.expect("running");
    let quorum = rules.parameters.iter().find(|of| of.name == "quorum_ppm").expect("it is listed");
    assert_eq!(quorum.value, 400_000);

    let open = client.proposals(ProposalsQuery::default()).await.expect("running");
    assert!(open.proposals.is_empty(), "it is over");
    let all = ProposalsQuery { all: true, ..ProposalsQuery::default() };
    assert_eq!(client.proposals(all).await.expect("running").proposals.len(), 1);
    let late = client.ballot(&yes).await;
    assert_eq!(refusal(late).1.as_deref(), Some("wrong_phase"));
    let change = Change::Parameters(vec![("quorum_ppm".to_owned(), 1)]);
    let absurd = ProposeRequest { title: "No quorum".to_owned(), change };
    assert_eq!(refusal(client.propose(&absurd).await).1.as_deref(), Some("bad_parameters"));
    let unknown = client.proposal(2, ProposalQuery::default()).await;
    assert_eq!(refusal(unknown).0, ErrorCode::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn a_balance_is_proven_from_the_first_block_across_changes_of_the_set() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = alone(&folder, "proof");
    node.start().await;
    let client = &node.client;
    for _ in 0..2 {
        let more = StakeRequest::Stake { node: None, amount_micro: credits(100) };
        let receipt = client.stake(&more).await.expect("enough credits");
        let third = receipt.height.plus(3);
        node.until("the new set", |status| status.height >= third).await;
    }
    // What the state has forgotten, the node remembers after a restart too.
    node.stop().await;
    node.start().await;
    let client = &node.client;
    let made = client.proof(ProofQuery::default()).await.expect("blocks come");
    assert_eq!((made.trusted_by, made.trusted.height), (TrustedBy::FirstBlock, Height::new(1)));
    let bytes = hex::decode(&made.proof).expect("hexadecimal");
    let verify = |hash: &BlockHash, bytes: &[u8]| {
        proof::verify_bytes(made.trusted.height, hash, &made.chain, bytes)
    };
    let proven = verify(&made.trusted.hash, &bytes).expect("it holds");
    assert_eq!(proven.height, made.height);
    assert_eq!(account_of_key(&proven.key), Some(node.identity.account));
    let entry: Account = codec::decode(&proven.value.expect("it is there")).expect("an account");
    assert_eq!(entry.balance, made.balance_micro);
    // The set that the first block commits is not today's any more: the node has kept it.
    let document: Proof = codec::decode(&bytes).expect("just verified");
    assert_eq!(document.bridges[0].validators.total_power(), 1_000);
    let today = client.validators(ValidatorsQuery::default()).await.expect("running");
    assert_eq!(today.total_power.get(), 1_200);
    let mut forged = bytes.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    verify(&made.trusted.hash, &forged).expect_err("one bit is another");
    verify(&BlockHash::default(), &bytes).expect_err("another block is trusted");

    let foreign = ProofQuery {
        trusted_height: Some(Height::new(1)),
        trusted_hash: Some(BlockHash::default()),
        ..ProofQuery::default()
    };
    assert_eq!(refusal(client.proof(foreign).await).0, ErrorCode::Conflict);
    let future = Some(Height::new(1_000_000));
    let future = ProofQuery { trusted_height: future, ..ProofQuery::default() };
    assert_eq!(refusal(client.proof(future).await).0, ErrorCode::NotFound);
    node.stop().await;
}
