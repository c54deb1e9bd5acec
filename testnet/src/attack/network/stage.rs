//! One scene after the other in a running network: a model, its rounds, and what its head sees.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use protocol::amount::Credits;
use protocol::api::{
    CreateModelRequest, IngestOptions, JobResult, ModelOrigin, ModelRef, OpenRoundsRequest,
    PublishRequest, Round, RoundPhase, RoundsQuery,
};
use protocol::codec;
use protocol::ids::{ContentHash, ModelId};
use protocol::model::{Architecture, ModelSpec, OuterState, RoundParameters};
use protocol::review::Verdict;
use protocol::worker::{
    DataFormat, EvaluateJob, FileName, ModelFiles, OuterFiles, Variant, WorkerOutcome,
    WorkerRequest,
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::sleep;

use super::digits::{Digits, Questions, Seen};
use super::peers::{NODES, Peers};
use super::scene::Scene;
use crate::blobs::api::{Api, Wanted};
use crate::network::process::LOOK;
use crate::worker_client::Worker;
use crate::workspace::Workspace;

/// Training images that are published: every member has its own in each round.
const PUBLISHED: usize = 12_000;
/// Test images of the suite, on which deltas are judged.
const SUITE: usize = 2_000;
/// Test images on which heads are measured, none of them in the suite.
const ASKED: usize = 2_000;
/// What a scene's rounds pay: only a network's first model draws on the emission.
const ESCROW: Credits = Credits::from_micro(4_000_000);
/// Every deadline of a round.
const DEADLINE_MS: u32 = 300_000;
/// A round must move on within this: longer than any deadline.
const ROUND_MAX: Duration = Duration::from_secs(600);
/// More than the checkpoint of so small a model.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 20;
/// Mean and deviation of MNIST's pixels, as everybody normalises them.
const MEAN_PPM: u32 = 130_700;
const DEVIATION_PPM: u32 = 308_100;

/// The smallest network that reads digits well.
const ARCHITECTURE: Architecture = Architecture::Cnn {
    height: 28,
    width: 28,
    channels: 1,
    features: 4,
    classes: 10,
    mean_ppm: MEAN_PPM,
    deviation_ppm: DEVIATION_PPM,
};

/// How the rounds of every scene are run.
pub(super) fn parameters() -> Result<RoundParameters> {
    let members = u32::try_from(NODES)?;
    Ok(RoundParameters {
        inner_steps: 60,
        batch: 32,
        learning_rate_ppm: 3_000,
        keep_per_chunk: 1_024,
        shards_per_member: 16,
        members_min: members,
        members_max: members,
        review_windows: 256,
        bond: Credits::from_micro(1_000_000),
        // Nobody waits for a deadline here; a busy machine must not make one pass.
        join_ms: DEADLINE_MS,
        train_ms: DEADLINE_MS,
        submit_ms: DEADLINE_MS,
        review_ms: DEADLINE_MS,
        reveal_ms: DEADLINE_MS,
        attest_ms: DEADLINE_MS,
        ..RoundParameters::default()
    })
}

/// Deltas of one side and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) submitted: usize,
    /// Accepted, in rounds that made a head.
    pub(super) merged: usize,
    /// Declined: the bond went back.
    pub(super) declined: usize,
    /// Found at fault: the bond was burned.
    pub(super) faults: usize,
}

/// What a scene gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Test images that the last head sees right, in percent.
    pub(super) accuracy_percent: f64,
    /// Test images of other classes that it takes for the target when they carry the trigger.
    pub(super) fooled_percent: f64,
    pub(super) rounds_certified: usize,
    pub(super) honest: Tally,
    pub(super) hostile: Tally,
    pub(super) seconds: f64,
}

/// What all scenes share.
pub(super) struct Stage<'a> {
    workspace: &'a Workspace,
    peers: &'a Peers,
    folder: PathBuf,
    suite: ContentHash,
    questions: Questions,
    train: Digits,
    published: bool,
}

impl<'a> Stage<'a> {
    /// Prepares the data; `folder` holds what is not a node's.
    pub(super) async fn new(
        workspace: &'a Workspace,
        peers: &'a Peers,
        mnist: &Path,
        folder: PathBuf,
    ) -> Result<Self> {
        let test = Digits::read(mnist, "t10k")?;
        let suite = Bytes::from(test.records(0..SUITE));
        let suite = peers.first()?.client.store_blob(suite).await?.hash;
        let questions = test.questions(SUITE..SUITE + ASKED);
        let train = Digits::read(mnist, "train")?;
        Ok(Self { workspace, peers, folder, suite, questions, train, published: false })
    }

    /// Plays a scene for some rounds.
    pub(super) async fn play(
        &mut self,
        scene: Scene,
        rounds: u32,
        parameters: &RoundParameters,
    ) -> Result<Figures> {
        let started = Instant::now();
        let first = self.peers.first()?;
        let request = CreateModelRequest {
            name: scene.name(),
            origin: ModelOrigin::Seed { architecture: ARCHITECTURE, tokenizer: None, seed: 1 },
            evaluation_suite: self.suite,
            licence: "MIT".to_owned(),
        };
        let job = first.client.create_model(&request).await?;
        let JobResult::CreateModel { model, .. } = first.client.wait_job(job, |_| {}).await? else {
            bail!("{} answered another question", first.name());
        };
        if !self.published {
            self.publish(model).await?;
            self.published = true;
        }
        let request = OpenRoundsRequest {
            model: ModelRef::Id(model),
            rounds,
            parameters: Some(parameters.clone()),
            escrow_micro: ESCROW,
        };
        first.client.open_rounds(&request).await?;
        let all = self.follow(model, rounds).await?;
        let seen = self.look(model, parameters).await?;
        Ok(self.figures(&all, seen, started))
    }

    /// Publishes the training images, read as the files that MNIST comes in.
    async fn publish(&self, model: ModelId) -> Result<()> {
        let folder = self.folder.join("idx");
        self.train.write(&folder, PUBLISHED)?;
        let first = self.peers.first()?;
        let request = PublishRequest {
            name: "mnist".to_owned(),
            licence: "CC-BY-SA-3.0".to_owned(),
            path: folder.to_str().context("the path is not UTF-8")?.to_owned(),
            ingest: Some(IngestOptions {
                architecture: None,
                format: DataFormat::Idx,
                text_column: None,
                label_column: None,
                model: Some(ModelRef::Id(model)),
                held_out_ppm: 0,
            }),
        };
        let job = first.client.publish(&request).await?;
        match first.client.wait_job(job, |_| {}).await? {
            JobResult::PublishDataset { shards, documents, .. } => {
                eprintln!("  {documents} digits published in {shards} shards");
                Ok(())
            }
            _ => bail!("{} answered another question", first.name()),
        }
    }

    /// Waits for the end of all rounds, saying what happens.
    async fn follow(&self, model: ModelId, rounds: u32) -> Result<Vec<Round>> {
        let first = self.peers.first()?;
        let query = RoundsQuery { model: ModelRef::Id(model), from: None, limit: None };
        let mut seen: BTreeMap<u32, RoundPhase> = BTreeMap::new();
        let mut moved = Instant::now();
        loop {
            let all = first.client.rounds(&query).await?.rounds;
            for round in &all {
                if seen.insert(round.round, round.phase) == Some(round.phase) {
                    continue;
                }
                moved = Instant::now();
                if round.phase.is_finished() {
                    eprintln!("    round {} of {rounds}: {}", round.round, self.told(round));
                }
            }
            let finished = all.iter().filter(|round| round.phase.is_finished()).count();
            if finished >= usize::try_from(rounds)? {
                return Ok(all);
            }
            ensure!(
                moved.elapsed() < ROUND_MAX,
                "no round has moved for {} s; see {}",
                ROUND_MAX.as_secs(),
                first.home.log().display()
            );
            sleep(LOOK).await;
        }
    }

    /// Verdicts of a round in short.
    fn told(&self, round: &Round) -> String {
        let word = |author| if self.peers.is_hostile(author) { "hostile" } else { "honest" };
        let verdicts = round.deltas.iter().filter_map(|delta| {
            let verdict = format!("{:?}", delta.verdict?).to_lowercase();
            let score = delta.score_ppm.unwrap_or(0);
            Some(format!("{} {verdict} {score:+}", word(&delta.author)))
        });
        let verdicts: Vec<String> = verdicts.collect();
        let end = if round.phase == RoundPhase::Certified { "a head" } else { "no head" };
        format!("{end}; {} (ppm)", verdicts.join(", "))
    }

    /// What the newest head sees.
    async fn look(&self, model: ModelId, parameters: &RoundParameters) -> Result<Seen> {
        let first = self.peers.first()?;
        let model = first.client.model(&ModelRef::Id(model)).await?;
        let folder = self.folder.join("look");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let wanted = Wanted {
            hash: model.head.checkpoint,
            providers: Vec::new(),
            bytes_max: CHECKPOINT_BYTES_MAX,
            target: Some(&folder.join("head")),
        };
        Api::of(first.client.clone()).get(&wanted).await.context("the head is fetched")?;
        fs::write(folder.join("suite"), &self.questions.records)?;
        fs::write(folder.join("outer"), codec::encode(&OuterState::default()))?;
        let records = u64::try_from(self.questions.len())?;
        let bytes = u64::try_from(self.questions.records.len())?;
        let request = WorkerRequest::Evaluate(EvaluateJob {
            spec: ModelSpec { evaluation_suite_bytes: bytes, ..model.spec },
            parameters: parameters.clone(),
            files: ModelFiles::default(),
            checkpoint: FileName::new("head")?,
            outer: OuterFiles { state: FileName::new("outer")?, momentum: None, aggregate: None },
            suite: FileName::new("suite")?,
            windows: (0..records).collect(),
            submitted: Vec::new(),
            divisor: 1,
            variants: vec![Variant { weights_ppm: Vec::new() }],
        });
        let mut command = Command::new(self.workspace.program("ayni-worker")?);
        command.arg("--dir").arg(&folder).args(["--threads", "1"]);
        let mut worker = Worker::start(command, &folder)?;
        let outcome = worker.run(&request, |_| {}).await?;
        worker.stop().await?;
        match outcome {
            WorkerOutcome::Evaluated { losses, .. } => match losses.as_slice() {
                [Some(row)] => self.questions.read(row),
                _ => bail!("the worker's losses do not fit the question"),
            },
            other => bail!("the worker answered something else: {other:?}"),
        }
    }

    fn figures(&self, rounds: &[Round], seen: Seen, started: Instant) -> Figures {
        let (mut honest, mut hostile) = (Tally::default(), Tally::default());
        for round in rounds {
            for delta in &round.deltas {
                let is_hostile = self.peers.is_hostile(&delta.author);
                let tally = if is_hostile { &mut hostile } else { &mut honest };
                tally.submitted += 1;
                match delta.verdict {
                    Some(Verdict::Accept) if round.phase == RoundPhase::Certified => {
                        tally.merged += 1;
                    }
                    Some(Verdict::Decline) => tally.declined += 1,
                    Some(Verdict::Fault) => tally.faults += 1,
                    _ => {}
                }
            }
        }
        let certified = rounds.iter().filter(|round| round.phase == RoundPhase::Certified).count();
        Figures {
            accuracy_percent: seen.accuracy,
            fooled_percent: seen.fooled,
            rounds_certified: certified,
            honest,
            hostile,
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}
