//! Training: accumulation and checkpointing change nothing, runs resume and replay bit for bit.

use ayni_ml::data::{Shards, Source};
use ayni_ml::initialize::initial_checkpoint;
use ayni_ml::torch::backward::gradients;
use ayni_ml::torch::model::{Model, Options};
use ayni_ml::torch::{batch, prepare_thread};
use protocol::ids::ContentHash;
use protocol::merkle;
use protocol::model::{
    Architecture, Determinism, InnerOptimizer, ModelSpec, Precision, RoundParameters,
};
use protocol::worker::{
    FailureKind, InnerRun, ModelFiles, ReplayJob, StateOutputs, TrainJob, TrainOutcome,
    WorkerOutcome, WorkerRequest,
};

use crate::process::{Process, file};
use crate::support::{parameters, small_spec};

fn text(bytes: usize) -> Vec<u8> {
    let words = ["the ", "river ", "carries ", "a ", "stone ", "and ", "returns.\n"];
    let mut at = 1usize;
    let mut text = Vec::new();
    while text.len() < bytes {
        at = (at * 31 + 17) % 1009;
        text.extend_from_slice(words[at % words.len()].as_bytes());
    }
    text.truncate(bytes);
    text
}

fn ready(threads: &str) -> Process {
    let mut worker = Process::start_with(&["--threads", threads]);
    worker.put("text", &text(20_000));
    let spec = small_spec();
    worker.done(WorkerRequest::Initialize { spec, checkpoint_out: file("head") });
    worker
}

fn job(steps: u32, parameters: RoundParameters) -> TrainJob {
    TrainJob {
        run: InnerRun {
            spec: small_spec(),
            files: ModelFiles::default(),
            parameters,
            steps,
            steps_before: 0,
            seed: 5,
            shards: vec![file("text")],
        },
        checkpoint: file("head"),
        checkpoint_out: file("trained"),
        resume: None,
        states: None,
    }
}

fn train(worker: &mut Process, job: TrainJob) -> TrainOutcome {
    match worker.done(WorkerRequest::Train(job)) {
        WorkerOutcome::Trained(outcome) => outcome,
        other => panic!("expected training, got {other:?}"),
    }
}

/// Models of every kind that trains on bytes or records.
fn models() -> Vec<ModelSpec> {
    let of = |architecture| ModelSpec { architecture, ..small_spec() };
    vec![
        small_spec(),
        of(Architecture::Gpt {
            layers: 3,
            width: 32,
            heads: 2,
            context: 16,
            vocabulary: 256,
            tied: true,
        }),
        of(Architecture::Llama {
            layers: 2,
            width: 32,
            heads: 4,
            kv_heads: 2,
            hidden: 64,
            context: 16,
            vocabulary: 256,
            rope_theta: 10_000,
            norm_epsilon_ppb: 10_000,
            tied: false,
        }),
        of(Architecture::Mlp { inputs: 5, hidden: 16, layers: 2, classes: 3 }),
        of(Architecture::Cnn {
            height: 10,
            width: 12,
            channels: 1,
            features: 4,
            classes: 3,
            mean_ppm: 130_700,
            deviation_ppm: 308_100,
        }),
        of(Architecture::TextClassifier {
            layers: 2,
            width: 32,
            heads: 2,
            context: 16,
            vocabulary: 256,
            classes: 3,
        }),
    ]
}

/// Data that a model can read.
fn shard(spec: &ModelSpec) -> Vec<u8> {
    let record = |content: &[u8], i: u8| [content, &[i % 3, 0]].concat();
    let records = |content: fn(u8) -> Vec<u8>| {
        (0..30u8).flat_map(|i| record(&content(i), i)).collect::<Vec<u8>>()
    };
    match spec.architecture {
        Architecture::Mlp { .. } => {
            records(|i| (0..5u8).flat_map(|j| (f32::from(i ^ j) / 8.0).to_le_bytes()).collect())
        }
        Architecture::Cnn { .. } => records(|i| (0..120u8).map(|j| j.wrapping_mul(i)).collect()),
        Architecture::TextClassifier { .. } => records(|i| {
            let mut text = vec![i % 16, 0];
            text.extend((0..16u8).map(|j| j.wrapping_mul(i)));
            text
        }),
        _ => text(4_000),
    }
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-6 + 1e-4 * b.abs()
}

#[test]
fn pieces_and_recomputing_give_the_same_gradients() {
    prepare_thread(1);
    for spec in models() {
        let shards = Shards::in_memory(vec![shard(&spec)]);
        let source = Source::new(&spec, shards, None, 1).expect("data");
        let options = Options { trainable: true, ..Options::inference() };
        let model = Model::new(&spec, &initial_checkpoint(&spec), None, options).expect("a model");
        let examples = source.step(0, 6).expect("read");
        let batch = batch::of(&spec.architecture, &examples, tch::Device::Cpu).expect("tensors");
        let (loss, plain) = gradients(&model, &batch, 0, false).expect("computed");
        for (micro, recompute) in [(0, true), (4, false), (1, true)] {
            let (other, gradients) = gradients(&model, &batch, micro, recompute).expect("computed");
            assert!((loss - other).abs() < 1e-6, "{loss} {other}");
            for (spec, (a, b)) in model.specs().iter().zip(plain.iter().zip(&gradients)) {
                let values = |tensor: &tch::Tensor| {
                    Vec::<f32>::try_from(tensor.reshape([-1])).expect("values")
                };
                let equal = values(a).iter().zip(values(b)).all(|(a, b)| close(*a, b));
                assert!(equal, "{} in pieces of {micro}, recomputed {recompute}", spec.name);
            }
        }
    }
}

#[test]
fn every_model_learns_with_both_optimizers_and_precisions() {
    let mut worker = ready("1");
    for spec in models() {
        worker.put("data", &shard(&spec));
        worker.done(WorkerRequest::Initialize { spec: spec.clone(), checkpoint_out: file("head") });
        for (optimizer, precision) in [
            (InnerOptimizer::AdamW, Precision::F32),
            (InnerOptimizer::AdamW, Precision::Bf16),
            (InnerOptimizer::Muon, Precision::F32),
        ] {
            let parameters = RoundParameters {
                optimizer,
                precision,
                micro_batch: 3,
                warmup_steps: 4,
                decay_steps: 60,
                learning_rate_ppm: 5_000,
                ..parameters()
            };
            let mut job = job(60, parameters);
            job.run.spec = spec.clone();
            job.run.shards = vec![file("data")];
            let outcome = train(&mut worker, job.clone());
            assert!(
                outcome.loss_last_nanonats < outcome.loss_first_nanonats,
                "{:?} {optimizer:?} {precision:?}: {outcome:?}",
                spec.architecture
            );
            assert_eq!(outcome.determinism, Determinism::Exact);
            let again = train(&mut worker, job);
            assert_eq!(again.step_states, outcome.step_states, "{optimizer:?} {precision:?}");
        }
    }
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let steps = 400;
    let mut undisturbed = ready("1");
    let expect = train(&mut undisturbed, job(steps, parameters()));
    assert_eq!(expect.resumed_at, 0);

    let mut worker = ready("1");
    let resumable = TrainJob { resume: Some(file("saved")), ..job(steps, parameters()) };
    worker.ask_without_waiting(WorkerRequest::Train(resumable.clone()));
    // A state is saved after the first step; some more steps are lost by the kill.
    while !worker.path().join("saved").exists() {
        worker.next_progress();
    }
    for _ in 0..20 {
        worker.next_progress();
    }
    let mut worker = worker.kill_and_restart();
    let outcome = train(&mut worker, resumable.clone());
    assert!(outcome.resumed_at > 0 && outcome.resumed_at < steps, "{outcome:?}");
    assert_eq!(outcome.step_states, expect.step_states);
    assert_eq!(outcome.loss_first_nanonats, expect.loss_first_nanonats);
    assert_eq!(outcome.loss_last_nanonats, expect.loss_last_nanonats);
    assert_eq!(outcome.bytes_trained, expect.bytes_trained);
    assert_eq!(worker.get("trained"), undisturbed.get("trained"));
    assert!(!worker.path().join("saved").exists(), "a finished run leaves nothing");
}

#[test]
fn a_saved_state_of_another_run_or_a_damaged_one_is_not_used() {
    let mut worker = ready("1");
    let resumable = TrainJob { resume: Some(file("saved")), ..job(300, parameters()) };
    worker.ask_without_waiting(WorkerRequest::Train(resumable.clone()));
    while !worker.path().join("saved").exists() {
        worker.next_progress();
    }
    let mut worker = worker.kill_and_restart();
    let saved = worker.get("saved");
    let mut other = resumable.clone();
    other.run.seed += 1;
    assert_eq!(train(&mut worker, other).resumed_at, 0);

    let mut damaged = saved.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for bytes in [&damaged[..], &saved[..100], &[]] {
        worker.put("saved", bytes);
        let outcome = train(&mut worker, resumable.clone());
        assert_eq!(outcome.resumed_at, 0);
    }
    worker.put("saved", &saved);
    worker.put("text", &text(19_999));
    assert_eq!(train(&mut worker, resumable.clone()).resumed_at, 0, "other data");
    worker.put("text", &text(20_000));
    worker.put("saved", &saved);
    assert!(train(&mut worker, resumable).resumed_at > 0);
}

#[test]
fn a_slice_is_replayed_bit_for_bit_and_proved() {
    for (optimizer, precision) in
        [(InnerOptimizer::AdamW, Precision::F32), (InnerOptimizer::Muon, Precision::Bf16)]
    {
        let parameters = RoundParameters { optimizer, precision, ..parameters() };
        let mut worker = ready("1");
        let states = Some(StateOutputs { prefix: file("state"), every: 4 });
        let job = TrainJob { states, ..job(10, parameters) };
        let outcome = train(&mut worker, job.clone());
        let leaves: Vec<ContentHash> = worker
            .get("state.leaves")
            .as_chunks::<32>()
            .0
            .iter()
            .map(|bytes| ContentHash::from_bytes(*bytes))
            .collect();
        assert_eq!(leaves.len(), 11, "before the first step and after each");
        assert_eq!(merkle::root(&leaves), outcome.step_states);

        // Another process, which has only the state and the data.
        let mut reviewer = ready("1");
        let state = worker.get("state.4");
        assert_eq!(ContentHash::of(&state), leaves[4]);
        reviewer.put("claimed", &state);
        let replay = |from, steps| ReplayJob {
            run: job.run.clone(),
            state: file("claimed"),
            from,
            steps,
            state_out: Some(file("after")),
        };
        let outcome_replayed = reviewer.done(WorkerRequest::Replay(replay(4, 4)));
        let WorkerOutcome::Replayed { states } = outcome_replayed else {
            panic!("expected states, got {outcome_replayed:?}");
        };
        assert_eq!(states, leaves[5..9]);
        assert_eq!(reviewer.get("after"), worker.get("state.8"));
        let proof = merkle::prove(&leaves, 8).expect("a leaf");
        let count = u64::try_from(leaves.len()).expect("few");
        assert!(proof.verify(&outcome.step_states, &states[3], 8, count));
        assert!(!proof.verify(&outcome.step_states, &states[2], 8, count));

        let mut lie = state.clone();
        lie[40] ^= 1;
        reviewer.put("claimed", &lie);
        let WorkerOutcome::Replayed { states } = reviewer.done(WorkerRequest::Replay(replay(4, 1)))
        else {
            panic!("expected states");
        };
        assert_ne!(states[0], leaves[5]);
        let mut infinite = state.clone();
        infinite[32..36].copy_from_slice(&f32::NAN.to_le_bytes());
        for (bytes, from, steps) in [
            (&state[..], 5, 1),
            (&state[..], 4, 7),
            (&state[..], 4, 0),
            (&state[1..], 4, 1),
            (&infinite[..], 4, 1),
        ] {
            reviewer.put("claimed", bytes);
            let (kind, _) = reviewer.fails(WorkerRequest::Replay(replay(from, steps)));
            assert_eq!(kind, FailureKind::BadInput);
        }
    }
}

#[test]
fn more_threads_are_not_called_exact_and_too_large_jobs_are_refused() {
    let mut worker = ready("2");
    assert_eq!(train(&mut worker, job(3, parameters())).determinism, Determinism::Close);
    let mut large = job(1, RoundParameters { batch: 1_024, ..parameters() });
    large.run.spec.architecture =
        Architecture::BytesGpt { layers: 99, width: 4_096, heads: 32, context: 32_768 };
    let (kind, message) = worker.fails(WorkerRequest::Train(large));
    // A model above the protocol's limit is a bad request; one below it has no room here.
    assert!(matches!(kind, FailureKind::OutOfMemory | FailureKind::BadInput), "{message}");
    let mut large = job(1, RoundParameters { batch: 1_024, ..parameters() });
    large.run.spec.architecture =
        Architecture::BytesGpt { layers: 12, width: 1_024, heads: 16, context: 32_768 };
    let (kind, message) = worker.fails(WorkerRequest::Train(large));
    assert_eq!(kind, FailureKind::OutOfMemory);
    assert!(message.contains("MiB are left by"), "{message}");
}
