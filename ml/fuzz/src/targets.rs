//! What is fuzzed: everything a worker reads that a stranger wrote. Each target takes any bytes
//! and must neither panic nor break an invariant; `ml/tests/it/delta_fuzz.rs` replays the corpus
//! in every test run.
//!
//! Headers stop random bytes before they reach a decoder, so [`delta`] and [`checkpoint`] also put
//! the right header before them and fuzz the rest.

#![allow(dead_code, reason = "each program uses one target")]

use std::io::Cursor;

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::{self, Delta, Plan};
use ayni_ml::feedback;
use ayni_ml::frames::{read_frame, write_frame};
use ayni_ml::merge::{Inputs, Merger, parse_outer_state};
use ayni_ml::tensors::TensorSpec;
use protocol::model::{Compression, MergeRule, OuterState, RoundParameters};
use protocol::worker::{WorkerReply, WorkerRequest};

/// Tensors below, at and above the border of small ones and of a chunk.
pub(super) fn specs() -> Vec<TensorSpec> {
    [("a", 10), ("b", 600), ("c", 4_097), ("d", 511)]
        .map(|(name, len)| TensorSpec { name: name.into(), shape: vec![len] })
        .into()
}

/// Every compression, with and without fragments, sparse and nearly whole.
pub(super) fn plans() -> Vec<(Plan, RoundParameters)> {
    let mut plans = Vec::new();
    for compression in [Compression::Sparse, Compression::Dense, Compression::RandomK] {
        for (keep_per_chunk, fragments) in [(64, 1), (1, 2), (1_500, 1), (4_096, 1)] {
            let parameters = RoundParameters {
                compression,
                keep_per_chunk,
                fragments,
                ..RoundParameters::default()
            };
            plans.push((Plan::new(&specs(), &parameters, 1, 7), parameters));
        }
    }
    plans
}

/// The first byte chooses a plan, the second whether the plan's header comes before the rest.
pub(super) fn delta(bytes: &[u8]) {
    let [choice, whole, rest @ ..] = bytes else { return };
    let plans = plans();
    let (plan, parameters) = &plans[usize::from(*choice) % plans.len()];
    let payload = if whole % 2 == 0 {
        rest.to_vec()
    } else {
        let empty = Delta::compress(&Checkpoint::zeros(&specs()), plan).expect("zeros are finite");
        let mut payload = delta::encode(&empty, plan);
        payload.truncate(16);
        payload.extend_from_slice(rest);
        payload
    };
    let Ok(decoded) = delta::decode(&payload, plan) else { return };
    assert_eq!(delta::encode(&decoded, plan), payload, "one spelling");
    for (tensor, spec) in decoded.tensors.iter().zip(specs()) {
        let entries = tensor.entries();
        assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(entries.iter().all(|(at, value)| *at < spec.len() && value.is_finite()));
        assert_eq!(entries.len(), tensor.len());
        assert!(tensor.norm().is_finite());
    }
    // What decodes can be merged, by every rule, and be taken from error feedback.
    let _ = feedback::residual(Checkpoint::zeros(&specs()), &decoded);
    let deltas: Vec<Option<Delta>> = (0..10).map(|_| Some(decoded.clone())).collect();
    let faulty_ppm = 100_000;
    for merge in [
        MergeRule::Mean,
        MergeRule::TrimmedMean { faulty_ppm },
        MergeRule::CentredClip { faulty_ppm, bucket: 2, iterations: 2, radius_ppm: 1_000_000 },
    ] {
        let parameters = RoundParameters { merge, ..parameters.clone() };
        merge_all(&deltas, &parameters);
    }
}

fn merge_all(deltas: &[Option<Delta>], parameters: &RoundParameters) {
    let (head, state) = (Checkpoint::zeros(&specs()), OuterState::default());
    let merger = Merger::new(Inputs {
        head: &head,
        state: &state,
        momentum: None,
        aggregate: None,
        deltas,
        parameters,
        divisor: 10,
        seed: [1; 32],
        threads: 1,
    });
    // Values near the largest f32 may leave it: that is an error, never a head.
    if let Ok(next) = merger.expect("a state of this model").merge(&[1_000_000; 10]) {
        let mut values = next.tensors.iter().flat_map(|tensor| &tensor.values);
        assert!(values.all(|value| value.is_finite()));
    }
}

/// A checkpoint, or error feedback, with or without the right header; and an outer state.
pub(super) fn checkpoint(bytes: &[u8]) {
    let _ = parse_outer_state(bytes);
    let [whole, rest @ ..] = bytes else { return };
    let specs = &specs()[..1];
    let good = Checkpoint::zeros(specs).to_bytes();
    let header = good.len() - 4 * 10;
    let bytes = if whole % 2 == 0 { rest.to_vec() } else { [&good[..header], rest].concat() };
    let Ok(parsed) = Checkpoint::from_bytes(&bytes, specs) else { return };
    assert_eq!(parsed.to_bytes(), bytes, "one spelling");
    assert!(parsed.tensors.iter().flat_map(|t| &t.values).all(|value| value.is_finite()));
}

/// A stream of frames, as the worker and as the daemon read it.
pub(super) fn frames(bytes: &[u8]) {
    let mut stream = Cursor::new(bytes);
    let mut start = 0;
    while let Ok(Some(frame)) = read_frame::<WorkerRequest>(&mut stream) {
        let end = usize::try_from(stream.position()).expect("in memory");
        if let Ok(request) = frame {
            let mut again = Vec::new();
            write_frame(&mut again, &request).expect("it was small enough");
            assert_eq!(again, bytes[start..end], "one spelling");
        }
        start = end;
    }
    let mut stream = Cursor::new(bytes);
    // Ends at the first frame that cannot be read over; a reply that does not decode is none.
    while let Ok(Some(_)) = read_frame::<WorkerReply>(&mut stream) {}
}
