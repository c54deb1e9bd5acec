//! Merging: pinned to the bit, and bounded in what one delta can do.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::{CHUNK, Delta, Plan};
use ayni_ml::merge::{Inputs, MergeError, Merged, Merger, bucket_seed, parse_outer_state};
use ayni_ml::tensors::TensorSpec;
use protocol::ids::ContentHash;
use protocol::model::{Compression, MergeRule, OuterState, RoundParameters};

use crate::support::{generated, parameters, small_generated, tensor};

const FULL: u32 = 1_000_000;
const FAULTY_PPM: u32 = 200_000;

const RULES: [(&str, MergeRule); 5] = [
    ("mean", MergeRule::Mean),
    ("trimmed mean", MergeRule::TrimmedMean { faulty_ppm: FAULTY_PPM }),
    ("krum", MergeRule::MultiKrum { faulty_ppm: FAULTY_PPM, keep: 3 }),
    (
        "geometric median",
        MergeRule::GeometricMedian { faulty_ppm: FAULTY_PPM, bucket: 2, iterations: 8 },
    ),
    (
        "centred clipping",
        MergeRule::CentredClip {
            faulty_ppm: FAULTY_PPM,
            bucket: 2,
            iterations: 3,
            radius_ppm: 1_000_000,
        },
    ),
];

/// A state before any merge, and nobody's momentum.
fn inputs<'a>(
    head: &'a Checkpoint,
    state: &'a OuterState,
    deltas: &'a [Option<Delta>],
    parameters: &'a RoundParameters,
    divisor: u32,
) -> Inputs<'a> {
    let (momentum, aggregate) = (None, None);
    let seed = bucket_seed(&[ContentHash::of(b"payload")]);
    Inputs { head, state, momentum, aggregate, deltas, parameters, divisor, seed, threads: 1 }
}

fn specs(values: &Checkpoint) -> Vec<TensorSpec> {
    values.tensors.iter().map(|tensor| tensor.spec.clone()).collect()
}

fn delta_with(values: &Checkpoint, parameters: &RoundParameters, round: u32) -> Option<Delta> {
    let plan = Plan::new(&specs(values), parameters, round, 1);
    Some(Delta::compress(values, &plan).expect("finite"))
}

fn dense() -> RoundParameters {
    RoundParameters { compression: Compression::Dense, ..parameters() }
}

fn dense_delta(values: &Checkpoint) -> Option<Delta> {
    delta_with(values, &dense(), 0)
}

fn one(value: f32) -> Checkpoint {
    let mut checkpoint = Checkpoint::zeros(&[tensor("a", 2)]);
    checkpoint.tensors[0].values = vec![value, value];
    checkpoint
}

fn merge(
    head: &Checkpoint,
    state: &OuterState,
    deltas: &[Option<Delta>],
    weights: &[u32],
    divisor: u32,
) -> Result<(Checkpoint, OuterState), MergeError> {
    let merged = Merger::new(inputs(head, state, deltas, &parameters(), divisor))?.step(weights)?;
    Ok((merged.checkpoint, merged.state))
}

/// Two rounds of twelve deltas, one of them late, under a rule with momentum.
fn two_rounds(rule: MergeRule, threads: usize) -> Vec<Merged> {
    let shape = [tensor("a", 3 * CHUNK + 70), tensor("b", 100), tensor("c", 2_000)];
    let parameters = RoundParameters {
        merge: rule,
        outer_momentum_ppm: 900_000,
        outer_learning_rate_ppm: 700_000,
        ..parameters()
    };
    let mut head = generated(&shape, 1, 1e-3);
    let mut state = OuterState::default();
    let mut rounds: Vec<Merged> = Vec::new();
    for round in 0..2u8 {
        let deltas: Vec<_> = (0..12u8)
            .map(|i| {
                let values = generated(&shape, 20 * round + i + 2, 1e-5 * f32::from(i + 1));
                delta_with(&values, &parameters, 0)
            })
            .collect();
        let weights = [FULL, FULL, 500_000, FULL, FULL, FULL, 333_333, FULL, FULL, FULL, FULL, 0];
        let last = rounds.last();
        let merged = Merger::new(Inputs {
            momentum: last.and_then(|last| last.momentum.as_ref()),
            aggregate: last.and_then(|last| last.aggregate.as_ref()),
            threads,
            ..inputs(&head, &state, &deltas, &parameters, 12)
        })
        .and_then(|merger| merger.step(&weights))
        .expect("merges");
        head = merged.checkpoint.clone();
        state = merged.state.clone();
        rounds.push(merged);
    }
    rounds
}

#[test]
fn two_rounds_of_every_rule_are_pinned() {
    let golden = [
        ("mean", "fa460c97de23944d90dd87ca25a00d974e58bf8559f1ce2580c2fba14147023b"),
        ("trimmed mean", "69a1e1c859549cbee082ee98fd8f4e0e89ba889d756ceeda50e8d492938b7242"),
        ("krum", "5de278a17ee84e79fe45b5ad1cf4189b9f3d57f074ece4a93d2254a02fe44a95"),
        ("geometric median", "a10ae60eecffca13611a3a1a7bd82c335f5541ff38f570981da4bb481f9448c7"),
        ("centred clipping", "f8b1833e935104c43782c7c5a0e8c9421f70219b1932fc94ab92cee63f479663"),
    ];
    let hashes = RULES.map(|(name, rule)| {
        let rounds = two_rounds(rule, 1);
        let last = rounds.last().expect("two");
        let kept = matches!(rule, MergeRule::CentredClip { .. });
        assert_eq!(last.aggregate.is_some(), kept, "{name}");
        assert_eq!(last.state.momentum, last.momentum.as_ref().map(Checkpoint::hash));
        let state = protocol::codec::hash(&last.state);
        let both = [*last.checkpoint.hash().as_bytes(), *state.as_bytes()].concat();
        (name, ContentHash::of(&both).to_string())
    });
    let hashes: Vec<(&str, &str)> = hashes.iter().map(|(name, hash)| (*name, &**hash)).collect();
    assert_eq!(hashes, golden);
}

#[test]
fn threads_change_nothing() {
    // More than one piece of a million values, and several tensors.
    let shape = [tensor("a", 300 * CHUNK), tensor("b", 10), tensor("c", 5_000)];
    let head = generated(&shape, 1, 1e-3);
    let state = OuterState::default();
    for (name, rule) in RULES {
        let parameters = RoundParameters { merge: rule, ..parameters() };
        let deltas: Vec<_> = (0..10u8)
            .map(|i| delta_with(&generated(&shape, i + 2, 1e-5), &parameters, 0))
            .collect();
        let [one, two, three, seven] = [1, 2, 3, 7].map(|threads| {
            let inputs = Inputs { threads, ..inputs(&head, &state, &deltas, &parameters, 10) };
            let merger = Merger::new(inputs).expect("merges");
            merger.step(&[FULL; 10]).expect("merges")
        });
        assert_ne!(one.checkpoint, head, "{name}");
        assert!(one == two && one == three && one == seven, "{name}");
        assert_eq!(two_rounds(rule, 1), two_rounds(rule, 3), "{name}");
    }
}

#[test]
fn the_formula() {
    let deltas = [dense_delta(&one(3.0)), dense_delta(&one(1.0)), dense_delta(&one(2.0))];
    // Norms 3, 1, 2 (times sqrt 2): the lower median is 2, so the first is scaled by 2/3.
    let head = one(10.0);
    let (next, state) =
        merge(&head, &OuterState::default(), &deltas, &[FULL, FULL, 500_000], 4).expect("merges");
    assert_eq!(next.tensors[0].values, [9.0, 9.0]);
    assert_eq!(state.clip_norm_bits, [8.0f32.sqrt().to_bits()]);
    // No weights: the head itself.
    let (same, _) = merge(&head, &state, &deltas, &[], 4).expect("merges");
    assert_eq!(same, head);
}

/// m <- 0.5 m + A and θ <- θ - 0.5 (A + 0.5 m) with A = 1, twice (DiLoCo's Nesterov step).
#[test]
fn nesterov_momentum() {
    let parameters = RoundParameters {
        outer_momentum_ppm: 500_000,
        outer_learning_rate_ppm: 500_000,
        ..parameters()
    };
    let deltas = [dense_delta(&one(1.0))];
    let (head, state) = (one(0.0), OuterState::default());
    let merger = Merger::new(inputs(&head, &state, &deltas, &parameters, 1)).expect("merges");
    let first = merger.step(&[FULL]).expect("merges");
    let momentum = first.momentum.as_ref().expect("has one");
    assert_eq!(momentum.tensors[0].values, [1.0, 1.0]);
    assert_eq!(first.checkpoint.tensors[0].values, [-0.75, -0.75]);
    let merger = Merger::new(Inputs {
        momentum: Some(momentum),
        ..inputs(&first.checkpoint, &first.state, &deltas, &parameters, 1)
    })
    .expect("merges");
    let second = merger.step(&[FULL]).expect("merges");
    assert_eq!(second.momentum.expect("has one").tensors[0].values, [1.5, 1.5]);
    // -0.75 - 0.5 (1 + 0.75).
    assert_eq!(second.checkpoint.tensors[0].values, [-1.625, -1.625]);
    // A variant is judged without the momentum.
    assert_eq!(merger.merge(&[FULL]).expect("merges").tensors[0].values, [-1.25, -1.25]);
}

#[test]
fn fragments_step_one_by_one() {
    let shape = [tensor("a", 600), tensor("b", 600)];
    let parameters = RoundParameters { fragments: 2, outer_momentum_ppm: 500_000, ..parameters() };
    let head = generated(&shape, 1, 1e-2);
    let state = OuterState::default();
    let values = generated(&shape, 2, 1e-3);
    let even = [delta_with(&values, &parameters, 0)];
    let merger = Merger::new(inputs(&head, &state, &even, &parameters, 1)).expect("merges");
    let first = merger.step(&[FULL]).expect("merges");
    assert_ne!(first.checkpoint.tensors[0], head.tensors[0]);
    assert_eq!(first.checkpoint.tensors[1], head.tensors[1]);
    let odd = [delta_with(&values, &parameters, 1)];
    let second = Merger::new(Inputs {
        momentum: first.momentum.as_ref(),
        ..inputs(&first.checkpoint, &first.state, &odd, &parameters, 1)
    })
    .and_then(|merger| merger.step(&[FULL]))
    .expect("merges");
    assert_eq!(second.checkpoint.tensors[0], first.checkpoint.tensors[0]);
    let momentum = |merged: &Merged| merged.momentum.as_ref().expect("has one").tensors[0].clone();
    assert_eq!(momentum(&second), momentum(&first), "no step, no decay");
    assert_eq!(second.state.clip_norm_bits[0], first.state.clip_norm_bits[0]);
    assert_ne!(second.checkpoint.tensors[1], first.checkpoint.tensors[1]);
}

/// Twelve deltas of which two are hostile: where every robust rule and the mean end up, as the
/// largest distance of a coordinate from the honest mean, which is 1.
fn pulled_by_two_of_twelve(rule: MergeRule, hostile: f32) -> f32 {
    let shape = [tensor("a", 64)];
    let parameters = RoundParameters { merge: rule, ..parameters() };
    let deltas: Vec<_> = (0..12u8)
        .map(|i| {
            let mut values = generated(&shape, i + 1, 1e-4);
            let centre = if i < 2 { hostile } else { 1.0 };
            values.tensors[0].values.iter_mut().for_each(|value| *value += centre);
            dense_delta(&values)
        })
        .collect();
    let head = Checkpoint::zeros(&shape);
    let aggregate = {
        let mut honest = Checkpoint::zeros(&shape);
        honest.tensors[0].values.fill(1.0);
        honest
    };
    let state = OuterState::default();
    let merged = Merger::new(Inputs {
        aggregate: Some(&aggregate),
        ..inputs(&head, &state, &deltas, &parameters, 12)
    })
    .and_then(|merger| merger.merge(&[FULL; 12]))
    .expect("merges");
    merged.tensors[0].values.iter().map(|value| (value + 1.0).abs()).fold(0.0, f32::max)
}

#[test]
fn robust_rules_withstand_what_moves_the_mean() {
    // Clipping to the median norm leaves -1: two of twelve pull the mean by a third.
    let mean = pulled_by_two_of_twelve(MergeRule::Mean, -50.0);
    assert!(mean > 0.32, "the attack wins without a robust rule: {mean}");
    for (name, rule) in RULES {
        let pulled = pulled_by_two_of_twelve(rule, -50.0);
        assert!(rule == MergeRule::Mean || pulled < 0.75 * mean, "{name}: {pulled}");
        // Nobody attacks: nothing is lost.
        assert!(pulled_by_two_of_twelve(rule, 1.0) < 0.05, "{name}");
    }
    for exact in ["trimmed mean", "krum"] {
        let (_, rule) = RULES.into_iter().find(|(name, _)| *name == exact).expect("there");
        assert!(pulled_by_two_of_twelve(rule, -50.0) < 0.05, "{exact}");
    }
}

#[test]
fn an_unsound_rule_gives_way_to_the_mean() {
    let deltas: Vec<_> = (0..9u8).map(|i| dense_delta(&one(f32::from(i)))).collect();
    let (head, state) = (one(0.0), OuterState::default());
    let merged = RULES.map(|(_, merge)| {
        let parameters = RoundParameters { merge, ..parameters() };
        let merger = Merger::new(inputs(&head, &state, &deltas, &parameters, 9)).expect("merges");
        merger.merge(&[FULL; 9]).expect("merges")
    });
    let [mean, others @ ..] = &merged;
    assert!(others.iter().all(|other| other == mean), "9 deltas are too few");
}

#[test]
fn the_sum_is_over_all_submitted_whatever_the_rule() {
    // Ten equal deltas with a weight, twenty submitted: half of what all would give.
    let deltas: Vec<_> = (0..20u8).map(|_| dense_delta(&one(1.0))).collect();
    let weights: Vec<u32> = (0..20).map(|i| if i < 10 { FULL } else { 0 }).collect();
    let (head, state) = (one(0.0), OuterState::default());
    for (name, merge) in RULES {
        // Centred clipping starts from zero here, one radius away from the deltas: it arrives.
        let parameters = RoundParameters { merge, ..parameters() };
        let merger = Merger::new(inputs(&head, &state, &deltas, &parameters, 20)).expect("merges");
        let [value, _] = merger.merge(&weights).expect("merges").tensors[0].values[..] else {
            panic!("two values")
        };
        assert!((value + 0.5).abs() < 1e-6, "{name}: {value}");
    }
}

#[test]
fn one_huge_delta_moves_no_more_than_the_others() {
    let head = one(0.0);
    let deltas: Vec<_> = [1.0, 1.0, 1.0, 1e6].map(|v| dense_delta(&one(v))).into();
    // Without clipping it would be 250,000 away.
    let unclipped = -(1.0 + 1.0 + 1.0 + 1e6) / 4.0;
    let (next, _) = merge(&head, &OuterState::default(), &deltas, &[FULL; 4], 4).expect("merges");
    assert_eq!(next.tensors[0].values, [-1.0, -1.0]);
    assert!(unclipped < -250_000.0);
}

#[test]
fn tiny_deltas_shrink_the_norm_by_half_at_most() {
    let head = one(0.0);
    let deltas: Vec<_> = [1.0, 1e-9, 1e-9].map(|v| dense_delta(&one(v))).into();
    let (swamped, _) =
        merge(&head, &OuterState::default(), &deltas, &[FULL; 3], 3).expect("merges");
    assert!(swamped.tensors[0].values[0].abs() < 1e-8, "without a floor they silence the honest");
    let before =
        OuterState { clip_norm_bits: vec![2.0f32.sqrt().to_bits()], ..OuterState::default() };
    let (floored, after) = merge(&head, &before, &deltas, &[FULL; 3], 3).expect("merges");
    assert!((floored.tensors[0].values[0] + 1.0 / 6.0).abs() < 1e-6);
    assert_eq!(after.clip_norm_bits, [(2.0f32.sqrt() * 0.5).to_bits()]);
    // Nobody sent anything: the floor stays.
    let zero = [dense_delta(&one(0.0))];
    let (_, after) = merge(&head, &before, &zero, &[FULL], 1).expect("merges");
    assert_eq!(after.clip_norm_bits, [(2.0f32.sqrt() * 0.5).to_bits()]);
}

#[test]
fn undecodable_deltas_count_for_nothing() {
    let head = generated(&[tensor("a", 5_000)], 3, 1.0);
    let good = dense_delta(&generated(&[tensor("a", 5_000)], 4, 0.1));
    let state = OuterState::default();
    let (with, _) = merge(&head, &state, &[good.clone(), None], &[FULL, 0], 2).expect("merges");
    let (without, _) = merge(&head, &state, &[good], &[FULL], 2).expect("merges");
    assert_eq!(with, without);
    let none = [None];
    assert_eq!(merge(&head, &state, &none, &[1], 2), Err(MergeError::Undecodable(0)));
}

#[test]
fn refusals() {
    let head = one(f32::MAX);
    let state = OuterState::default();
    let down = [dense_delta(&one(-f32::MAX))];
    let name = MergeError::NotFinite("a".into());
    assert_eq!(merge(&head, &state, &down, &[FULL], 1), Err(name));
    assert_eq!(merge(&head, &state, &down, &[FULL], 0), Err(MergeError::Divisor));
    let weights = MergeError::Weights { weights: 2, deltas: 1 };
    assert_eq!(merge(&head, &state, &down, &[1, 1], 1), Err(weights));
    for bits in [vec![0, 0], vec![f32::NAN.to_bits()], vec![(-1.0f32).to_bits()]] {
        let state = OuterState { clip_norm_bits: bits, ..OuterState::default() };
        assert_eq!(merge(&head, &state, &down, &[FULL], 1), Err(MergeError::OuterState));
    }
    assert!(parse_outer_state(&[9, 9]).is_err());
    let initial = protocol::codec::encode(&OuterState::default());
    assert_eq!(parse_outer_state(&initial), Ok(OuterState::default()));
}

#[test]
fn a_whole_model_merges() {
    let head = small_generated(1, 1e-3);
    let deltas: Vec<_> =
        (0..3u8).map(|i| delta_with(&small_generated(i + 2, 1e-5), &parameters(), 0)).collect();
    let (next, state) =
        merge(&head, &OuterState::default(), &deltas, &[FULL; 3], 3).expect("merges");
    assert_ne!(next, head);
    assert_eq!(state.clip_norm_bits.len(), head.tensors.len());
}
