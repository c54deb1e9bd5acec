//! The worker as its daemon sees it: a process, two pipes and a directory.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::initialize::initial_checkpoint;
use protocol::ids::ContentHash;
use protocol::worker::{
    FailureKind, MergeJob, OuterFiles, OuterOutputs, WORKER_PROTOCOL_VERSION, WorkerOutcome,
    WorkerReply, WorkerRequest,
};

use crate::process::{Process, file};
use crate::support::{parameters, small_spec};

fn initialize() -> WorkerRequest {
    WorkerRequest::Initialize { spec: small_spec(), checkpoint_out: file("head") }
}

fn initial_state() -> Vec<u8> {
    protocol::codec::encode(&protocol::model::OuterState::default())
}

fn outer(state: &str) -> OuterFiles {
    OuterFiles { state: file(state), momentum: None, aggregate: None }
}

fn empty_merge() -> MergeJob {
    MergeJob {
        spec: small_spec(),
        parameters: parameters(),
        checkpoint: file("head"),
        outer: outer("state"),
        submitted: vec![],
        divisor: 1,
        checkpoint_out: file("next"),
        outer_out: OuterOutputs {
            state: file("state-next"),
            momentum: file("momentum-next"),
            aggregate: file("aggregate-next"),
        },
    }
}

#[test]
fn describes_initializes_merges_and_leaves() {
    let mut worker = Process::start();
    let WorkerOutcome::Described(description) = worker.done(WorkerRequest::Describe) else {
        panic!("expected a description");
    };
    assert_eq!(description.protocol_version, WORKER_PROTOCOL_VERSION);
    assert_eq!(description.torch, cfg!(feature = "torch"));
    assert_eq!(
        worker.done(WorkerRequest::Describe),
        WorkerOutcome::Described(description),
        "the fingerprint is stable"
    );
    let expected = initial_checkpoint(&small_spec());
    let parameters = u64::try_from(expected.len()).expect("small");
    assert_eq!(
        worker.done(initialize()),
        WorkerOutcome::Initialized { checkpoint: expected.hash(), parameters }
    );
    assert_eq!(worker.get("head"), expected.to_bytes());

    worker.put("state", &initial_state());
    let WorkerOutcome::Merged { checkpoint, outer_state, .. } =
        worker.done(WorkerRequest::Merge(empty_merge()))
    else {
        panic!("expected a merge");
    };
    assert_eq!(checkpoint, expected.hash(), "merging nothing changes nothing");
    assert_eq!(outer_state, ContentHash::of(&worker.get("state-next")));
    assert!(worker.finish());
}

#[test]
fn malformed_frames_are_answered() {
    let mut worker = Process::start();
    worker.send_raw(&[3, 0, 0, 0, 200, 201, 202]);
    assert!(matches!(worker.reply().1, WorkerReply::Failed(f) if f.kind == FailureKind::BadInput));
    worker.done(initialize());
    // A length over the limit cannot be recovered from: one reply, then a failed exit.
    worker.send_raw(&u32::MAX.to_le_bytes());
    assert!(matches!(worker.reply().1, WorkerReply::Failed(f) if f.kind == FailureKind::BadInput));
    assert!(!worker.finish());

    let mut worker = Process::start();
    worker.send_raw(&[9, 0]);
    assert!(!worker.finish(), "the input ended inside a frame");
    assert!(Process::start().finish(), "the input ended at once");
}

#[test]
fn bad_files_and_requests_are_bad_input() {
    let mut worker = Process::start();
    worker.done(initialize());
    worker.put("state", &initial_state());
    let good = worker.get("head");
    let mut infinite = good.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut bad_header = good.clone();
    bad_header[20] ^= 4;
    worker.put("short", &good[..100]);
    worker.put("infinite", &infinite);
    worker.put("header", &bad_header);
    std::os::unix::fs::symlink("head", worker.path().join("link")).expect("linked");
    for name in ["missing", "short", "infinite", "header", "link"] {
        let job = MergeJob { checkpoint: file(name), ..empty_merge() };
        let (kind, message) = worker.fails(WorkerRequest::Merge(job));
        assert_eq!(kind, FailureKind::BadInput, "{name}: {message}");
        assert!(!message.is_empty());
    }
    let job = MergeJob { divisor: 0, ..empty_merge() };
    assert_eq!(worker.fails(WorkerRequest::Merge(job)).0, FailureKind::BadInput);
    let mut spec = small_spec();
    spec.architecture = protocol::model::Architecture::BytesGpt {
        layers: u32::MAX,
        width: u32::MAX,
        heads: 1,
        context: u32::MAX,
    };
    let request = WorkerRequest::Initialize { spec, checkpoint_out: file("huge") };
    assert_eq!(worker.fails(request).0, FailureKind::BadInput);
    let zeros = Checkpoint::zeros(&ayni_ml::tensors::tensor_specs(&small_spec()));
    worker.put("head", &zeros.to_bytes());
    worker.done(WorkerRequest::Merge(empty_merge()));
    assert!(worker.finish());
}

#[cfg(not(feature = "torch"))]
#[test]
fn without_torch_generation_is_unsupported() {
    let mut worker = Process::start();
    let job = protocol::worker::GenerateJob {
        spec: small_spec(),
        files: protocol::worker::ModelFiles::default(),
        checkpoint: file("head"),
        prompts: vec![vec![]],
        bytes: 1,
        temperature_ppm: 0,
        top_p_ppm: 1_000_000,
        stop: vec![],
        seed: 0,
    };
    assert_eq!(worker.fails(WorkerRequest::Generate(job)).0, FailureKind::Unsupported);
}

#[cfg(feature = "torch")]
mod torch {
    //! A training round through the pipes.

    use ayni_ml::delta;
    use ayni_ml::tensors::tensor_specs;
    use protocol::model::Determinism;
    use protocol::worker::{
        CompressJob, CompressOutcome, DeltaOutputs, EvaluateJob, FileName, GenerateJob, InnerRun,
        ModelFiles, SubmittedDelta, TrainJob, TrainOutcome, Variant,
    };

    use super::*;

    const FULL: u32 = 1_000_000;

    /// English-like text: a few words in a fixed, uneven order.
    fn text(bytes: usize) -> Vec<u8> {
        let words = ["the ", "river ", "carries ", "a ", "stone ", "and ", "returns.\n"];
        let mut text = Vec::new();
        let mut at = 1usize;
        while text.len() < bytes {
            at = (at * 31 + 17) % 1009;
            text.extend_from_slice(words[at % words.len()].as_bytes());
        }
        text.truncate(bytes);
        text
    }

    fn ready() -> Process {
        let mut worker = Process::start();
        worker.done(initialize());
        worker.put("state", &initial_state());
        worker.put("text", &text(20_000));
        worker.put("suite", &text(4_096));
        worker
    }

    fn train_job(tag: &str, seed: u64) -> TrainJob {
        TrainJob {
            run: InnerRun {
                spec: small_spec(),
                files: ModelFiles::default(),
                parameters: parameters(),
                steps: 12,
                steps_before: 0,
                seed,
                shards: vec![file("text")],
            },
            checkpoint: file("head"),
            checkpoint_out: file(&format!("trained-{tag}")),
            resume: None,
            states: None,
        }
    }

    fn compress_job(tag: &str) -> CompressJob {
        CompressJob {
            spec: small_spec(),
            parameters: parameters(),
            round: 0,
            seed: 0,
            checkpoint: file("head"),
            trained: file(&format!("trained-{tag}")),
            feedback: None,
            privacy: None,
            outputs: DeltaOutputs {
                payload: file(&format!("delta-{tag}")),
                feedback_accepted: file(&format!("accepted-{tag}")),
                feedback_rejected: file(&format!("rejected-{tag}")),
            },
        }
    }

    fn train(worker: &mut Process, job: TrainJob) -> TrainOutcome {
        match worker.done(WorkerRequest::Train(job)) {
            WorkerOutcome::Trained(outcome) => outcome,
            other => panic!("expected training, got {other:?}"),
        }
    }

    fn compress(worker: &mut Process, job: CompressJob) -> CompressOutcome {
        match worker.done(WorkerRequest::Compress(job)) {
            WorkerOutcome::Compressed(outcome) => outcome,
            other => panic!("expected a delta, got {other:?}"),
        }
    }

    fn submitted(payload: &str, weight_ppm: u32) -> SubmittedDelta {
        SubmittedDelta { payload: file(payload), weight_ppm, seed: 0, round: 0 }
    }

    fn evaluate_job(names: &[&str], variants: Vec<Vec<u32>>) -> EvaluateJob {
        EvaluateJob {
            spec: small_spec(),
            parameters: parameters(),
            checkpoint: file("head"),
            files: ModelFiles::default(),
            outer: outer("state"),
            suite: file("suite"),
            windows: (0..small_spec().suite_windows()).step_by(3).collect(),
            submitted: names.iter().map(|name| submitted(name, 0)).collect(),
            divisor: 2,
            variants: variants.into_iter().map(|weights_ppm| Variant { weights_ppm }).collect(),
        }
    }

    fn evaluate(
        worker: &mut Process,
        job: EvaluateJob,
    ) -> (Vec<Option<Vec<u64>>>, Vec<Option<String>>) {
        match worker.done(WorkerRequest::Evaluate(job)) {
            WorkerOutcome::Evaluated { losses, faults } => (losses, faults),
            other => panic!("expected losses, got {other:?}"),
        }
    }

    fn total(row: &Option<Vec<u64>>) -> u64 {
        row.as_ref().expect("evaluated").iter().sum()
    }

    #[test]
    fn a_round_from_training_to_text() {
        let mut worker = ready();
        let (steps, _) = worker.ask(WorkerRequest::Train(train_job("a", 1)));
        assert_eq!(steps.len(), 12);
        assert!(steps.iter().all(|step| step.loss_nanonats.is_some() && step.total == 12));
        let outcome = train(&mut worker, train_job("b", 2));
        assert!(outcome.loss_last_nanonats < outcome.loss_first_nanonats);
        assert_eq!(outcome.bytes_trained, 12 * 4 * 16);
        assert_eq!(outcome.determinism, Determinism::Exact);
        let outcome = compress(&mut worker, compress_job("a"));
        compress(&mut worker, compress_job("b"));

        let specs = tensor_specs(&small_spec());
        let plan = delta::Plan::new(&specs, &parameters(), 0, 0);
        let delta = delta::decode(&worker.get("delta-a"), &plan).expect("canonical");
        let sent = u64::try_from(delta.len()).expect("small");
        assert_eq!(sent, outcome.values_sent, "equal models send equally many values");
        let accepted = Checkpoint::from_bytes(&worker.get("accepted-a"), &specs).expect("feedback");
        let rejected = Checkpoint::from_bytes(&worker.get("rejected-a"), &specs).expect("feedback");
        assert_eq!(ayni_ml::feedback::residual(rejected, &delta), accepted);

        let variants = vec![vec![], vec![FULL, 0], vec![0, FULL], vec![FULL, FULL]];
        let job = evaluate_job(&["delta-a", "delta-b"], variants);
        let (losses, faults) = evaluate(&mut worker, job);
        assert_eq!(faults, [None, None]);
        assert!(losses[1..].iter().all(|row| total(row) < total(&losses[0])));
        assert!(total(&losses[3]) < total(&losses[1]), "two help more than one");

        let both = ["delta-a", "delta-b"].map(|name| submitted(name, FULL));
        let job = MergeJob { submitted: both.into(), divisor: 2, ..empty_merge() };
        worker.done(WorkerRequest::Merge(job));
        let mut job = evaluate_job(&[], vec![vec![]]);
        job.checkpoint = file("next");
        job.outer = outer("state-next");
        let (merged, _) = evaluate(&mut worker, job);
        assert_eq!(merged[0], losses[3], "what was reviewed is what was merged");

        let job = GenerateJob {
            spec: small_spec(),
            files: ModelFiles::default(),
            checkpoint: file("next"),
            prompts: vec![b"the river ".to_vec()],
            bytes: 40,
            temperature_ppm: 800_000,
            top_p_ppm: FULL,
            stop: vec![],
            seed: 5,
        };
        let (steps, reply) = worker.ask(WorkerRequest::Generate(job.clone()));
        let streamed: Vec<u8> = steps.into_iter().flat_map(|step| step.text).collect();
        assert_eq!(streamed.len(), 40);
        let outcome = WorkerOutcome::Generated { texts: vec![streamed], tokens: 40 };
        assert_eq!(reply, WorkerReply::Done(outcome.clone()));
        assert_eq!(worker.done(WorkerRequest::Generate(job.clone())), outcome);
        let greedy = GenerateJob { temperature_ppm: 0, prompts: vec![vec![]], bytes: 3, ..job };
        worker.done(WorkerRequest::Generate(greedy));
        assert!(worker.finish());
    }

    #[test]
    fn the_same_job_gives_the_same_bytes() {
        let mut first = ready();
        let mut second = ready();
        let fed = |tag: &str| {
            let feedback = Some(file("accepted-a"));
            CompressJob { feedback, ..compress_job(tag) }
        };
        let mut outcomes = Vec::new();
        for worker in [&mut first, &mut second] {
            outcomes.push(train(worker, train_job("a", 3)).step_states);
            compress(worker, compress_job("a"));
            outcomes.push(train(worker, train_job("b", 4)).step_states);
            compress(worker, fed("b"));
        }
        assert_eq!(outcomes[..2], outcomes[2..]);
        assert_ne!(outcomes[0], outcomes[1]);
        for name in ["delta-a", "delta-b", "accepted-b", "rejected-b", "trained-b"] {
            assert_eq!(first.get(name), second.get(name), "{name}");
        }
        let again = train(&mut first, train_job("c", 3));
        assert_eq!(again.step_states, outcomes[0], "nothing is left of the jobs between");
        compress(&mut first, compress_job("c"));
        assert_eq!(first.get("delta-c"), first.get("delta-a"));
        let job = || evaluate_job(&["delta-a"], vec![vec![FULL]]);
        assert_eq!(evaluate(&mut first, job()), evaluate(&mut second, job()));
    }

    #[test]
    fn hostile_deltas_are_reported_and_harm_nobody() {
        let mut worker = ready();
        train(&mut worker, train_job("a", 1));
        compress(&mut worker, compress_job("a"));
        let mut broken = worker.get("delta-a");
        let middle = broken.len() / 2;
        broken[middle..].fill(0xff);
        worker.put("broken", &broken);
        worker.put("empty", &[]);
        let names = ["broken", "delta-a", "empty"];
        let variants = vec![vec![], vec![0, FULL, 0], vec![FULL, FULL, 0], vec![0, 0, 1]];
        let (losses, faults) = evaluate(&mut worker, evaluate_job(&names, variants));
        let present: Vec<bool> = losses.iter().map(Option::is_some).collect();
        assert_eq!(present, [true, true, false, false]);
        let faulty: Vec<bool> = faults.iter().map(Option::is_some).collect();
        assert_eq!(faulty, [true, false, true]);
        let (alone, _) =
            evaluate(&mut worker, evaluate_job(&["delta-a"], vec![vec![], vec![FULL]]));
        assert_eq!(alone, losses[..2], "the broken ones changed nothing for the others");

        // Levels near the largest number: finite, decodable, and far too large to merge.
        let mut huge = worker.get("delta-a");
        for level in huge[16..16 + 8 * tensor_specs(&small_spec()).len()].as_chunks_mut().0 {
            if *level != [0, 0] {
                // In bfloat16.
                *level = [0xff, 0x7e];
            }
        }
        worker.put("huge", &huge);
        let (losses, faults) =
            evaluate(&mut worker, evaluate_job(&["huge"], vec![vec![], vec![FULL]]));
        assert_eq!(faults, [None]);
        assert_eq!(losses[0], alone[0]);
        assert!(losses[1].iter().flatten().all(|loss| *loss == 1_000_000_000_000));

        let merge = |weight_ppm| {
            let submitted = vec![submitted("broken", weight_ppm)];
            WorkerRequest::Merge(MergeJob { submitted, ..empty_merge() })
        };
        worker.done(merge(0));
        let (kind, _) = worker.fails(merge(FULL));
        assert_eq!(kind, FailureKind::BadInput);
    }

    #[test]
    fn impossible_jobs_are_refused() {
        let mut worker = ready();
        worker.put("tiny", b"too short");
        let with = |shards: Vec<FileName>, steps| {
            let job = train_job("a", 1);
            TrainJob { run: InnerRun { shards, steps, ..job.run }, ..job }
        };
        let cases = [
            with(vec![], 12),
            with(vec![file("tiny")], 12),
            with(vec![file("missing")], 12),
            with(vec![file("text")], 0),
        ];
        for job in cases {
            assert_eq!(worker.fails(WorkerRequest::Train(job)).0, FailureKind::BadInput);
        }
        worker.done(WorkerRequest::Train(train_job("a", 1)));
        let job = CompressJob { feedback: Some(file("text")), ..compress_job("a") };
        assert_eq!(worker.fails(WorkerRequest::Compress(job)).0, FailureKind::BadInput);
        let mut beyond = evaluate_job(&[], vec![vec![]]);
        beyond.windows.push(small_spec().suite_windows());
        let mut other_suite = evaluate_job(&[], vec![vec![]]);
        other_suite.suite = file("text");
        let weights = evaluate_job(&[], vec![vec![FULL]]);
        let mut many = evaluate_job(&[], vec![vec![]; 4_096]);
        many.windows = vec![0; 100];
        for job in [beyond, other_suite, weights, many] {
            assert_eq!(worker.fails(WorkerRequest::Evaluate(job)).0, FailureKind::BadInput);
        }
        worker.done(WorkerRequest::Train(train_job("a", 1)));
        assert!(worker.finish());
    }
}
