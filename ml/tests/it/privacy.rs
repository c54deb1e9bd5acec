//! Private data: what leaves training is clipped and noised before anything is written.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::{self, Plan};
use ayni_ml::tensors::tensor_specs;
use protocol::model::{Compression, RoundParameters};
use protocol::worker::{
    CompressJob, CompressOutcome, DeltaOutputs, FailureKind, PrivacyParameters, WorkerOutcome,
    WorkerRequest,
};

use crate::process::{Process, file};
use crate::support::{parameters, small_generated, small_spec};

/// Clip to norm 1, noise of 2 norms per value.
const PRIVACY: PrivacyParameters = PrivacyParameters {
    clip_norm_ppm: 1_000_000,
    noise_multiplier_ppm: 2_000_000,
    delta_ppb: 10_000,
    rounds_before: 0,
    noise_seed: [5; 32],
};

fn job(compression: Compression, privacy: Option<PrivacyParameters>) -> CompressJob {
    CompressJob {
        spec: small_spec(),
        parameters: RoundParameters { compression, ..parameters() },
        round: 2,
        seed: 9,
        checkpoint: file("head"),
        trained: file("trained"),
        feedback: None,
        privacy,
        outputs: DeltaOutputs {
            payload: file("payload"),
            feedback_accepted: file("accepted"),
            feedback_rejected: file("rejected"),
        },
    }
}

fn compress(worker: &mut Process, job: CompressJob) -> CompressOutcome {
    match worker.done(WorkerRequest::Compress(job)) {
        WorkerOutcome::Compressed(outcome) => outcome,
        other => panic!("expected a delta, got {other:?}"),
    }
}

fn read(worker: &Process, name: &str) -> Vec<f32> {
    let specs = tensor_specs(&small_spec());
    let checkpoint = Checkpoint::from_bytes(&worker.get(name), &specs).expect("canonical");
    checkpoint.tensors.into_iter().flat_map(|tensor| tensor.values).collect()
}

/// A worker with a head of zeros and weights that training moved away from it by -change.
fn worker(change: &Checkpoint) -> Process {
    let worker = Process::start();
    let mut trained = change.clone();
    for value in trained.tensors.iter_mut().flat_map(|tensor| &mut tensor.values) {
        *value = -*value;
    }
    worker.put("head", &Checkpoint::zeros(&tensor_specs(&small_spec())).to_bytes());
    worker.put("trained", &trained.to_bytes());
    worker
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn nothing_leaves_without_noise() {
    let change = small_generated(3, 1e-2);
    let secret: Vec<f32> = change.tensors.iter().flat_map(|t| t.values.clone()).collect();
    let norm = secret.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 10.0, "it will be clipped");
    let mut worker = worker(&change);

    // Without privacy the feedback is the bare change.
    compress(&mut worker, job(Compression::RandomK, None));
    assert_eq!(read(&worker, "rejected"), secret);

    for compression in [Compression::RandomK, Compression::Dense] {
        let outcome = compress(&mut worker, job(compression, Some(PRIVACY)));
        let privacy = outcome.privacy.expect("asked for");
        assert_eq!((privacy.epsilon_ppm, privacy.useful), (5_302_586, true));
        let rejected = read(&worker, "rejected");
        let noise: Vec<f64> = rejected
            .iter()
            .zip(&secret)
            .map(|(noised, bare)| f64::from(*noised) - f64::from(*bare) / norm)
            .collect();
        // Each value has noise of its own, with a standard deviation of 2.
        let n = f64::from(u32::try_from(noise.len()).expect("small"));
        let deviation = (noise.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
        assert!((deviation - 2.0).abs() < 0.05, "{deviation}");
        assert!(noise.iter().filter(|x| x.abs() < 1e-4).count() < 10);
        // What is sent and what is kept make up the noised change, value by value.
        let specs = tensor_specs(&small_spec());
        let plan = Plan::new(&specs, &RoundParameters { compression, ..parameters() }, 2, 9);
        let sent = delta::decode(&worker.get("payload"), &plan).expect("canonical");
        let accepted = Checkpoint::from_bytes(&worker.get("accepted"), &specs).expect("canonical");
        let whole = Checkpoint::from_bytes(&worker.get("rejected"), &specs).expect("canonical");
        assert_eq!(ayni_ml::feedback::residual(whole, &sent), accepted);
    }
}

#[test]
fn training_again_draws_other_noise() {
    let noise = |seed| -> Vec<f64> {
        let change = small_generated(seed, 1e-9);
        let mut worker = worker(&change);
        compress(&mut worker, job(Compression::Dense, Some(PRIVACY)));
        read(&worker, "rejected").into_iter().map(f64::from).collect()
    };
    let (first, second) = (noise(3), noise(4));
    assert!(correlation(&first, &noise(3)) > 0.999, "the same run gives the same bytes");
    // Standard error 0.007 of 21 thousand values.
    assert!(correlation(&first, &second).abs() < 0.05);
}

#[test]
fn feedback_of_earlier_rounds_is_not_noised_again() {
    let change = small_generated(3, 1e-2);
    let mut worker = worker(&change);
    compress(&mut worker, job(Compression::RandomK, Some(PRIVACY)));
    let carried = read(&worker, "rejected");
    let before = worker.get("rejected");
    worker.put("carried", &before);
    let next =
        CompressJob { feedback: Some(file("carried")), ..job(Compression::RandomK, Some(PRIVACY)) };
    compress(&mut worker, next);
    // The same change with the same noise, and β times what was carried.
    for (value, carried) in read(&worker, "rejected").into_iter().zip(carried) {
        let expect = 1.95 * f64::from(carried);
        assert!((f64::from(value) - expect).abs() <= 1e-5 * expect.abs() + 1e-6);
    }
}

#[test]
fn useless_or_contradictory_wishes() {
    let mut worker = worker(&small_generated(3, 1e-2));
    let outcome = compress(
        &mut worker,
        job(Compression::RandomK, Some(PrivacyParameters { rounds_before: 99, ..PRIVACY })),
    );
    assert!(!outcome.privacy.expect("asked for").useful);
    for (compression, privacy) in [
        (Compression::Sparse, PRIVACY),
        (Compression::Dense, PrivacyParameters { clip_norm_ppm: 0, ..PRIVACY }),
        (Compression::Dense, PrivacyParameters { noise_multiplier_ppm: 0, ..PRIVACY }),
        (Compression::Dense, PrivacyParameters { delta_ppb: 0, ..PRIVACY }),
        (Compression::Dense, PrivacyParameters { delta_ppb: 1_000_000_000, ..PRIVACY }),
    ] {
        let (kind, message) =
            worker.fails(WorkerRequest::Compress(job(compression, Some(privacy))));
        assert_eq!(kind, FailureKind::BadInput, "{message}");
    }
}
