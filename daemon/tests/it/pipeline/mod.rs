//! Training rounds through real nodes with workers that only hash: overlap, interruption, kills,
//! deltas that come late, and liars about their training.

mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::api::{
    CreateModelRequest, JobResult, ModelOrigin, ModelRef, OpenRoundsRequest, PublishRequest, Round,
    RoundPhase, RoundsQuery,
};
use protocol::ids::ModelId;
use protocol::model::{Architecture, RoundParameters};
use protocol::review::Verdict;
use protocol::transaction::Capabilities;
use tokio::time::{Instant, sleep};

use crate::process::{Daemon, config, genesis, secrets};
use worker::Manner;

/// A course may take this long on a busy machine.
const COURSE_MAX: Duration = Duration::from_secs(180);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

struct Network {
    nodes: Vec<Daemon>,
    diaries: Vec<PathBuf>,
    model: ModelId,
}

/// Four nodes with workers of these manners and speeds, a published text and a model.
async fn network(folder: &Path, workers: [(Manner, u64); 4]) -> Network {
    let keys = secrets(4);
    let mut genesis = genesis("pipeline", &keys);
    for node in &mut genesis.nodes {
        node.capabilities =
            Capabilities { reviews: true, merges: true, hosts: true, validates: true };
    }
    let (mut nodes, mut diaries, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (manner, step_ms)) in workers.into_iter().enumerate() {
        let diary = folder.join(format!("diary-{index}"));
        let mut config = config();
        config.worker.enabled = true;
        config.worker.command = worker::command(manner, step_ms, &diary);
        config.training.auto_join = true;
        config.network.persistent_peers.clone_from(&addresses);
        let root = folder.join(format!("node-{index}"));
        let mut node = Daemon::new(&root, &keys[index], config, Some(genesis.clone()));
        node.start().await;
        if addresses.is_empty() {
            addresses = node.until("an address", |s| !s.listen.is_empty()).await.listen;
        }
        nodes.push(node);
        diaries.push(diary);
    }
    nodes[0].until("three peers", |status| status.peers == 3).await;
    let texts = folder.join("texts");
    fs::create_dir(&texts).expect("a free place");
    for number in 0..8 {
        let text = format!("text {number} to train on. ").repeat(40);
        fs::write(texts.join(format!("{number}.txt")), text).expect("written");
    }
    let client = &nodes[0].client;
    let path = texts.to_str().expect("a plain path").to_owned();
    let request =
        PublishRequest { name: "texts".to_owned(), licence: "MIT".to_owned(), path, ingest: None };
    let job = client.publish(&request).await.expect("started");
    client.wait_job(job, |_| ()).await.expect("published");
    let suite = "what is held out. ".repeat(100).into_bytes();
    let evaluation_suite = client.store_blob(suite.into()).await.expect("stored").hash;
    let request = CreateModelRequest {
        name: "stand-in".to_owned(),
        origin: ModelOrigin::Seed {
            architecture: Architecture::BytesGpt { layers: 1, width: 16, heads: 1, context: 16 },
            tokenizer: None,
            seed: 1,
        },
        evaluation_suite,
        licence: "MIT".to_owned(),
    };
    let job = client.create_model(&request).await.expect("started");
    let JobResult::CreateModel { model, .. } = client.wait_job(job, |_| ()).await.expect("made")
    else {
        panic!("another result");
    };
    Network { nodes, diaries, model }
}

fn parameters(overlap: bool) -> RoundParameters {
    RoundParameters {
        replay_ppm: 1_000_000,
        overlap,
        shards_per_member: 1,
        members_min: 4,
        members_max: 4,
        review_windows: 16,
        join_ms: 10_000,
        train_ms: 60_000,
        submit_ms: 10_000,
        review_ms: 24_000,
        reveal_ms: 10_000,
        attest_ms: 30_000,
        ..RoundParameters::default()
    }
}

impl Network {
    async fn open(&self, rounds: u32, parameters: RoundParameters) {
        let request = OpenRoundsRequest {
            model: ModelRef::Id(self.model),
            rounds,
            parameters: Some(parameters),
            escrow_micro: Default::default(),
        };
        self.nodes[0].client.open_rounds(&request).await.expect("opened");
    }

    async fn rounds(&self) -> Vec<Round> {
        let query = RoundsQuery { model: ModelRef::Id(self.model), from: Some(1), limit: Some(16) };
        self.nodes[0].client.rounds(&query).await.expect("it answers").rounds
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[Round]) -> bool) -> Vec<Round> {
        let deadline = Instant::now() + COURSE_MAX;
        loop {
            let rounds = self.rounds().await;
            if wanted(&rounds) {
                return rounds;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {rounds:#?}");
            sleep(LOOK).await;
        }
    }

    fn diary(&self, node: usize) -> Vec<String> {
        let text = fs::read_to_string(&self.diaries[node]).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until_noted(&self, node: usize, line: &str) {
        let deadline = Instant::now() + COURSE_MAX;
        while !self.diary(node).iter().any(|noted| noted == line) {
            assert!(Instant::now() < deadline, "node {node} never notes {line:?}");
            sleep(LOOK).await;
        }
    }

    fn verdict(&self, round: &Round, node: usize) -> Option<Verdict> {
        let author = self.nodes[node].identity.keys.node.node_id();
        round.deltas.iter().find(|d| d.author == author).and_then(|d| d.verdict)
    }
}

fn over(rounds: &[Round], index: usize) -> bool {
    rounds.get(index - 1).is_some_and(|round| round.phase.is_finished())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_overlap_and_are_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let workers = [(Manner::Honest, 50), (Manner::Honest, 50), (Manner::Honest, 50)];
    let network =
        network(folder.path(), [workers[0], workers[1], workers[2], (Manner::Differs, 50)]).await;
    network.open(3, parameters(true)).await;
    // The second opens, and its members join and train, while the first is not over.
    network
        .until("two open rounds", |rounds| {
            !over(rounds, 1) && rounds.get(1).is_some_and(|r| r.phase == RoundPhase::Train)
        })
        .await;
    let rounds = network.until("the end", |rounds| over(rounds, 3)).await;
    for round in &rounds {
        assert_eq!(round.phase, RoundPhase::Certified, "{round:#?}");
        assert_eq!(round.deltas.len(), 4);
        assert!(round.deltas.iter().all(|d| d.verdict == Some(Verdict::Accept)), "{round:#?}");
    }
    assert_eq!(Some(rounds[2].parent), rounds[0].head, "it trained from the head of its opening");
    let diary = network.diary(0);
    assert!(diary.iter().any(|line| line.starts_with("replay 2 ")), "{diary:?}");
    assert!(diary.contains(&"compress 1 with false".to_owned()), "{diary:?}");
    assert!(diary.contains(&"compress 2 with true".to_owned()), "the verdict was known: {diary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_about_its_states_is_at_fault_and_who_shows_none_is_unavailable() {
    let folder = tempfile::tempdir().expect("a folder");
    let workers =
        [(Manner::Honest, 10), (Manner::Honest, 10), (Manner::Lies, 10), (Manner::Forgets, 10)];
    let network = network(folder.path(), workers).await;
    network.open(1, parameters(false)).await;
    let rounds = network.until("the end", |rounds| over(rounds, 1)).await;
    let verdicts: Vec<_> = (0..4).map(|node| network.verdict(&rounds[0], node)).collect();
    let expect = [Verdict::Accept, Verdict::Accept, Verdict::Fault, Verdict::Unavailable].map(Some);
    assert_eq!(verdicts, expect, "{rounds:#?}");
    assert_eq!(rounds[0].phase, RoundPhase::Certified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut network = network(folder.path(), [(Manner::Honest, 150); 4]).await;
    network.open(1, parameters(false)).await;
    network.until_noted(3, "step 10").await;
    network.nodes[3].kill().await;
    network.nodes[3].start().await;
    let rounds = network.until("the end", |rounds| over(rounds, 1)).await;
    assert_eq!(rounds[0].phase, RoundPhase::Certified);
    assert_eq!(rounds[0].deltas.len(), 4, "nothing was lost");
    assert_eq!(network.verdict(&rounds[0], 3), Some(Verdict::Accept));
    let diary = network.diary(3);
    let begun: Vec<&String> = diary.iter().filter(|line| line.starts_with("train from")).collect();
    assert_eq!(begun.len(), 2, "{diary:?}");
    let from: u32 = begun[1].split(' ').nth(2).and_then(|n| n.parse().ok()).expect("a number");
    assert!(from >= 10, "{diary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_comes_late_once_and_takes_fewer_steps_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let honest = (Manner::Honest, 10);
    let network = network(folder.path(), [honest, honest, honest, (Manner::Honest, 500)]).await;
    let parameters =
        RoundParameters { train_ms: 8_000, submit_ms: 20_000, members_min: 3, ..parameters(true) };
    network.open(2, parameters).await;
    let rounds = network.until("the end", |rounds| over(rounds, 2)).await;
    assert_eq!([rounds[0].phase, rounds[1].phase], [RoundPhase::Certified; 2]);
    assert_eq!(rounds[0].deltas.len(), 3, "one was not ready");
    let slow = network.nodes[3].identity.keys.node.node_id();
    let late = rounds[1].deltas.iter().find(|d| d.author == slow && d.round == 1);
    assert_eq!(late.and_then(|d| d.verdict), Some(Verdict::Accept), "{rounds:#?}");
    let diary = network.diary(3);
    // Reviews of the first round came first; the run went on after them.
    let begun: Vec<&String> = diary.iter().filter(|line| line.ends_with("of 30")).collect();
    assert!(begun.len() >= 2 && !begun[1].contains("from 0 "), "{diary:?}");
    let fewer = diary.iter().any(|line| line.starts_with("train from") && !line.ends_with("of 30"));
    assert!(fewer, "{diary:?}");
    let merged =
        network.diary(0).iter().any(|line| line.starts_with("merge") && line.contains(" 500000]"));
    assert!(merged, "{:?}", network.diary(0));
}
