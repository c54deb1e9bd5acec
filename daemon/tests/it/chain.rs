//! Agreement, restart, catching up, and abstaining.

use ayni_daemon::engine::{EngineStatus, GuardStep};
use protocol::ids::BlockHash;

use crate::node::{Disk, Node, start_all, validators, within};

/// Common prefix of all ledgers, which must agree.
fn agreed(disks: &[Disk]) -> Vec<BlockHash> {
    let chains: Vec<Vec<BlockHash>> =
        disks.iter().map(|disk| disk.ledger.verified_hashes()).collect();
    let length = chains.iter().map(Vec::len).min().unwrap_or(0);
    for chain in &chains {
        assert_eq!(chain[..length], chains[0][..length], "two ledgers disagree");
    }
    chains[0][..length].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_agree_one_restarts_and_a_fifth_joins_late() {
    let directory = tempfile::tempdir().expect("a directory");
    let set = validators(4);
    let mut disks: Vec<Disk> = (0..4).map(|number| Disk::new(number, &set)).collect();
    let mut nodes = start_all(&disks, directory.path()).await;
    for disk in &disks {
        disk.reached(20).await;
    }
    assert!(agreed(&disks).len() >= 20);

    // Everybody learned everybody, though three were told only the first.
    for node in &nodes {
        within("full mesh", async {
            let mut events = node.network.subscribe().await;
            while node.network.peers().await.len() < 3 {
                events.recv().await.expect("the network runs");
            }
        })
        .await;
    }

    // One stops; the others go on; it comes back with the same log and catches up.
    let address = nodes[0].address().await;
    let signed_before = disks[3].guard.count();
    nodes.pop().expect("the fourth").stop().await;
    let stopped_at = disks[3].ledger.height();
    for disk in &disks[..3] {
        disk.reached(stopped_at + 10).await;
    }
    nodes.push(Node::start(&disks[3], directory.path(), vec![address.clone()]));
    let target = disks[0].ledger.height() + 5;
    disks[3].reached(target).await;
    within("new signatures", async {
        let mut tip = disks[3].ledger.watch_tip();
        while disks[3].guard.count() <= signed_before {
            tip.changed().await.expect("a ledger");
        }
    })
    .await;

    // A fifth without a vote joins late and follows to the tip.
    disks.push(Disk::new(4, &set));
    nodes.push(Node::start(&disks[4], directory.path(), vec![address]));
    disks[4].reached(disks[0].ledger.height() + 5).await;

    for disk in &disks {
        assert_eq!(disk.guard.contradictions(), [], "node {}", disk.number);
    }
    assert_eq!(disks[4].guard.count(), 0, "an observer signs nothing");
    assert!(agreed(&disks).len() as u64 >= target);
    for node in nodes {
        assert_eq!(node.engine.signatures_refused(), 0);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_signature_silences_the_node_for_that_height_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let set = validators(4);
    let disks: Vec<Disk> = (0..4).map(|number| Disk::new(number, &set)).collect();
    let nodes = start_all(&disks, directory.path()).await;
    disks[2].reached(2).await;
    // As if something else had been prevoted at a height that is still far.
    let step = (102, 0, GuardStep::Prevote);
    disks[2].guard.remember(step, Some(BlockHash::from_bytes([66; 32])));
    for disk in &disks {
        disk.reached(110).await;
    }
    assert_eq!(disks[2].guard.contradictions(), [step]);
    assert_eq!(nodes[2].engine.signatures_refused(), 1);
    nodes[2].is("a vote again", |status| *status == EngineStatus::Running).await;
    agreed(&disks);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_gone_does_not_vote_where_it_has_signed() {
    let directory = tempfile::tempdir().expect("a directory");
    let set = validators(4);
    let disks: Vec<Disk> = (0..4).map(|number| Disk::new(number, &set)).collect();
    // An earlier life prevoted at height 5. It may have been locked; its log would say so.
    let step = (5, 0, GuardStep::Prevote);
    disks[2].guard.remember(step, Some(BlockHash::from_bytes([66; 32])));
    let lost = Node::start(&disks[2], directory.path(), Vec::new());
    lost.is("abstaining", |status| {
        matches!(status, EngineStatus::Abstaining { until, damaged_log: None } if until.get() == 5)
    })
    .await;
    lost.stop().await;
    let nodes = start_all(&disks, directory.path()).await;
    for disk in &disks {
        disk.reached(12).await;
    }
    assert_eq!(disks[2].guard.contradictions(), [], "it did not even ask");
    nodes[2].is("a vote again", |status| *status == EngineStatus::Running).await;
    agreed(&disks);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_set_aside_and_the_node_abstains_until_its_height_is_final() {
    let directory = tempfile::tempdir().expect("a directory");
    let set = validators(4);
    let disks: Vec<Disk> = (0..4).map(|number| Disk::new(number, &set)).collect();
    // A log whose only entry fails its checksum.
    let log = directory.path().join("1.wal");
    let mut bytes = vec![0, 0, 0, 1];
    bytes.extend(1_u64.to_be_bytes());
    bytes.push(0);
    bytes.extend(4_u64.to_be_bytes());
    bytes.extend([0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]);
    std::fs::write(&log, &bytes).expect("written");

    let damaged = Node::start(&disks[1], directory.path(), Vec::new());
    damaged
        .is("abstaining", |status| {
            matches!(
                status,
                EngineStatus::Abstaining { until, damaged_log: Some(aside) }
                    if until.get() == 1 && std::fs::read(aside).is_ok_and(|kept| kept == bytes)
            )
        })
        .await;
    assert_eq!(disks[1].guard.count(), 0);
    let address = damaged.address().await;
    let others = [0, 2, 3]
        .map(|number: usize| Node::start(&disks[number], directory.path(), vec![address.clone()]));
    for disk in &disks {
        disk.reached(6).await;
    }
    damaged.is("a vote again", |status| *status == EngineStatus::Running).await;
    within("votes", async {
        let mut tip = disks[1].ledger.watch_tip();
        while disks[1].guard.count() == 0 {
            tip.changed().await.expect("a ledger");
        }
    })
    .await;
    agreed(&disks);
    damaged.stop().await;
    for node in others {
        node.stop().await;
    }
}
