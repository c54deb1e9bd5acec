//! A worker that computes nothing but hashes: it keeps to the conversation and its files, so that
//! what the node makes of them can be tested without libtorch.
//!
//! It is this test program itself, started by the node with a variable that says so.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::codec;
use protocol::ids::{ContentHash, derive};
use protocol::merkle;
use protocol::model::{Determinism, OuterState};
use protocol::worker::{
    CompressOutcome, FailureKind, FileName, InnerRun, Progress, ReplayJob, TrainJob, TrainOutcome,
    WORKER_PROTOCOL_VERSION, WorkerDescription, WorkerFailure, WorkerOutcome, WorkerReply,
    WorkerRequest,
};

/// Says that this process is a worker: its directory.
const DIRECTORY: &str = "AYNI_STAND_IN_DIRECTORY";
const MANNER: &str = "AYNI_STAND_IN_MANNER";
const STEP_MS: &str = "AYNI_STAND_IN_STEP_MS";
const DIARY: &str = "AYNI_STAND_IN_DIARY";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Its steps are not those that everybody else takes.
    Lies,
    /// It loses the hashes of its states.
    Forgets,
    /// Its arithmetic is another, and says so.
    Differs,
}

impl Manner {
    const ALL: [Self; 4] = [Self::Honest, Self::Lies, Self::Forgets, Self::Differs];
}

/// The command of a worker that behaves so, takes so long for a step and writes down what it does.
pub(super) fn command(manner: Manner, step_ms: u64, diary: &Path) -> Vec<String> {
    let program = std::env::current_exe().expect("a program");
    // The test harness prints to standard output: frames go where that was.
    let script = format!(
        "exec env {DIRECTORY}=\"$2\" {MANNER}={manner:?} {STEP_MS}={step_ms} {DIARY}='{}' '{}' \
         --exact pipeline::worker::stands_in --nocapture 3>&1 1>/dev/null",
        diary.display(),
        program.display()
    );
    ["sh", "-c", &script, "stand-in"].map(str::to_owned).to_vec()
}

/// Not a test but the worker, if a node has started it.
#[test]
fn stands_in() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let variable = |name| std::env::var(name).expect("set with the directory");
    let manner = variable(MANNER);
    let mut worker = StandIn {
        directory: directory.into(),
        manner: *Manner::ALL.iter().find(|m| format!("{m:?}") == manner).expect("a manner"),
        step: Duration::from_millis(variable(STEP_MS).parse().expect("a number")),
        diary: variable(DIARY).into(),
        output: File::options().write(true).open("/dev/fd/3").expect("where frames go"),
    };
    let mut input = std::io::stdin().lock();
    while let Some(request) = receive(&mut input) {
        let reply = match worker.answer(request) {
            Ok(outcome) => WorkerReply::Done(outcome),
            Err(message) => {
                WorkerReply::Failed(WorkerFailure { kind: FailureKind::BadInput, message })
            }
        };
        worker.send(&reply);
    }
}

fn receive(input: &mut impl Read) -> Option<WorkerRequest> {
    let mut length = [0; 4];
    input.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut bytes).ok()?;
    Some(codec::decode(&bytes).expect("the node's frames are right"))
}

/// A state is its number and a hash of all before it.
type State = (u32, [u8; 32]);

fn state_bytes((number, hash): State) -> Vec<u8> {
    [&number.to_le_bytes(), hash.as_slice()].concat()
}

fn leaf(state: State) -> ContentHash {
    ContentHash::of(&state_bytes(state))
}

struct StandIn {
    directory: PathBuf,
    manner: Manner,
    step: Duration,
    diary: PathBuf,
    output: File,
}

impl StandIn {
    fn send(&mut self, reply: &WorkerReply) {
        let body = codec::encode(reply);
        let length = u32::try_from(body.len()).expect("short");
        let sent = self.output.write_all(&[&length.to_le_bytes(), body.as_slice()].concat());
        if sent.is_err() {
            // The node has gone.
            std::process::exit(0);
        }
    }

    fn note(&self, line: &str) {
        let mut diary = File::options().create(true).append(true).open(&self.diary).expect("open");
        diary.write_all(format!("{line}\n").as_bytes()).expect("written");
    }

    fn read(&self, name: &FileName) -> Result<Vec<u8>, String> {
        fs::read(self.directory.join(name.as_str())).map_err(|e| format!("{}: {e}", name.as_str()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> ContentHash {
        let whole = self.directory.join(name);
        let part = self.directory.join(".part");
        fs::write(&part, bytes).and_then(|()| fs::rename(&part, &whole)).expect("written");
        ContentHash::of(bytes)
    }

    fn answer(&mut self, request: WorkerRequest) -> Result<WorkerOutcome, String> {
        Ok(match request {
            WorkerRequest::Describe => WorkerOutcome::Described(self.description()),
            WorkerRequest::Initialize { spec, checkpoint_out } => {
                let seed = derive("ayni test weights", &[&spec.seed.to_le_bytes()]);
                let checkpoint = self.write(checkpoint_out.as_str(), &seed);
                WorkerOutcome::Initialized { checkpoint, parameters: spec.parameters() }
            }
            WorkerRequest::Train(job) => WorkerOutcome::Trained(self.train(&job)?),
            WorkerRequest::Replay(job) => WorkerOutcome::Replayed { states: self.replay(&job)? },
            WorkerRequest::Compress(job) => {
                let trained = self.read(&job.trained)?;
                let feedback = job.feedback.as_ref().map(|name| self.read(name)).transpose()?;
                let feedback = feedback.unwrap_or_default();
                self.note(&format!("compress {} with {}", job.round, !feedback.is_empty()));
                self.write(job.outputs.feedback_accepted.as_str(), b"accepted");
                self.write(job.outputs.feedback_rejected.as_str(), b"rejected");
                let bytes = derive("ayni test delta", &[&trained, &feedback]);
                let payload = self.write(job.outputs.payload.as_str(), &bytes);
                WorkerOutcome::Compressed(CompressOutcome {
                    payload,
                    payload_bytes: 32,
                    values_sent: 1,
                    privacy: None,
                })
            }
            WorkerRequest::Evaluate(job) => {
                let loss = |v: &protocol::worker::Variant| {
                    if v.weights_ppm.iter().any(|weight| *weight > 0) { 990_000 } else { 1_000_000 }
                };
                let row = |v| Some(vec![loss(v); job.windows.len()]);
                WorkerOutcome::Evaluated {
                    losses: job.variants.iter().map(row).collect(),
                    faults: vec![None; job.submitted.len()],
                }
            }
            WorkerRequest::Merge(job) => {
                let mut all = self.read(&job.checkpoint)?;
                for delta in &job.submitted {
                    all.extend(self.read(&delta.payload)?);
                    all.extend(delta.weight_ppm.to_le_bytes());
                }
                let weights: Vec<u32> = job.submitted.iter().map(|d| d.weight_ppm).collect();
                self.note(&format!("merge {weights:?}"));
                let merged = derive("ayni test merge", &[&all]);
                let state = codec::encode(&OuterState::default());
                WorkerOutcome::Merged {
                    checkpoint: self.write(job.checkpoint_out.as_str(), &merged),
                    outer_state: self.write(job.outer_out.state.as_str(), &state),
                    momentum: None,
                    aggregate: None,
                }
            }
            other => return Err(format!("not asked of a stand-in: {other:?}")),
        })
    }

    fn description(&self) -> WorkerDescription {
        WorkerDescription {
            protocol_version: WORKER_PROTOCOL_VERSION,
            version: "stand-in".to_owned(),
            device: "none".to_owned(),
            fingerprint: ContentHash::of(&[u8::from(self.manner == Manner::Differs)]),
            torch: true,
            sandbox: Default::default(),
        }
    }

    fn next(&self, run: &InnerRun, (number, hash): State) -> State {
        let lie = [u8::from(self.manner == Manner::Lies)];
        let parts: [&[u8]; 4] =
            [&hash, &run.seed.to_le_bytes(), &run.steps_before.to_le_bytes(), &lie];
        (number + 1, derive("ayni test step", &parts))
    }

    #[expect(clippy::disallowed_methods, reason = "time that a step takes, not a wait")]
    fn compute(&self) {
        std::thread::sleep(self.step);
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainOutcome, String> {
        let started = Instant::now();
        let run = &job.run;
        assert!(!run.shards.is_empty());
        let identity = derive(
            "ayni test run",
            &[&self.read(&job.checkpoint)?, &run.seed.to_le_bytes(), &run.steps.to_le_bytes()],
        );
        let resume = job.resume.as_ref().expect("a run that may be cut off");
        let saved = self.read(resume).ok().filter(|saved| saved.starts_with(&identity));
        let done = saved.map_or(0, |saved| u32::from(saved[32]));
        self.note(&format!("train from {done} of {}", run.steps));
        let kept = job.states.as_ref().expect("states are kept");
        let mut states: Vec<State> = vec![(0, identity)];
        while let Some(state) = states.last().copied().filter(|state| state.0 < run.steps) {
            if state.0 >= done {
                if state.0.is_multiple_of(kept.every) {
                    let name = format!("{}.{}", kept.prefix.as_str(), state.0);
                    self.write(&name, &state_bytes(state));
                }
                self.compute();
                let saved = [identity.as_slice(), &[u8::try_from(state.0 + 1).expect("few")]];
                self.write(resume.as_str(), &saved.concat());
                self.note(&format!("step {}", state.0 + 1));
                let progress = Progress {
                    done: u64::from(state.0 + 1),
                    total: u64::from(run.steps),
                    ..Progress::default()
                };
                self.send(&WorkerReply::Progress(progress));
            }
            states.push(self.next(run, state));
        }
        let leaves: Vec<ContentHash> = states.iter().map(|state| leaf(*state)).collect();
        if self.manner != Manner::Forgets {
            let bytes: Vec<u8> = leaves.iter().flat_map(|leaf| *leaf.as_bytes()).collect();
            self.write(&format!("{}.leaves", kept.prefix.as_str()), &bytes);
        }
        let last = states.last().expect("at least the first");
        self.write(job.checkpoint_out.as_str(), &last.1);
        fs::remove_file(self.directory.join(resume.as_str())).expect("there");
        Ok(TrainOutcome {
            loss_first_nanonats: 100,
            loss_last_nanonats: 90,
            bytes_trained: 1,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).expect("short").max(1),
            step_states: merkle::root(&leaves),
            determinism: Determinism::Exact,
            memory_bytes: 0,
            resumed_at: done,
        })
    }

    fn replay(&self, job: &ReplayJob) -> Result<Vec<ContentHash>, String> {
        self.note(&format!("replay {} of {}", job.steps, job.from));
        let bytes = self.read(&job.state)?;
        let (number, hash) = bytes.split_at_checked(4).ok_or("not a state")?;
        let hash = hash.try_into().map_err(|_| "not a state")?;
        let mut state = (u32::from_le_bytes(number.try_into().expect("four bytes")), hash);
        if state.0 != job.from {
            return Err("the state of another step".to_owned());
        }
        let mut states = Vec::new();
        for _ in 0..job.steps {
            state = self.next(&job.run, state);
            states.push(leaf(state));
        }
        if let Some(name) = &job.state_out {
            self.write(name.as_str(), &state_bytes(state));
        }
        Ok(states)
    }
}
