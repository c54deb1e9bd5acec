//! Merging: pinned to the bit, and bounded in what one delta can do.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::Delta;
use ayni_ml::merge::{MergeError, Merger, parse_outer_state};
use protocol::codec;
use protocol::model::OuterState;

use crate::support::{generated, parameters, small_generated, tensor};

const FULL: u32 = 1_000_000;

fn dense_delta(values: &Checkpoint) -> Option<Delta> {
    Some(Delta::compress(values, 4_096).expect("finite"))
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
    let merger = Merger::new(head, state, deltas, &parameters(), divisor)?;
    Ok((merger.merge(weights)?, merger.outer_state()))
}

#[test]
fn two_rounds_are_pinned() {
    let mut head = small_generated(1, 1e-3);
    let mut state = OuterState::default();
    for round in 0..2u8 {
        let deltas: Vec<_> = (0..5u8)
            .map(|i| {
                let scale = 1e-5 * f32::from(i + 1);
                Some(Delta::compress(&small_generated(10 * round + i + 2, scale), 256).expect("ok"))
            })
            .collect();
        let weights = [FULL, 500_000, 0, 333_333, 1];
        (head, state) = merge(&head, &state, &deltas, &weights, 5).expect("merges");
    }
    assert_eq!(
        head.hash().to_string(),
        "6a9afc675a7f9b804801c0fbda6ea85d619b9d81b1b6c27ea89fe066e9a1a981"
    );
    assert_eq!(
        codec::hash(&state).to_string(),
        "4adaa12fb5c0401b19b7f1043e309e61073c78cb1cc698a5c381e7cdd8ba928d"
    );
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
    assert_eq!(parse_outer_state(&[0]), Ok(OuterState::default()));
}
