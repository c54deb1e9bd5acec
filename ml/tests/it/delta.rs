//! The delta encoding: pinned, lossless on what it keeps, deaf to strangers.

use ayni_ml::delta::{self, CHUNK, Delta, DeltaError, kept_of_tensor};
use ayni_ml::tensors::{TensorSpec, tensor_specs};
use proptest::prelude::*;
use protocol::ids::ContentHash;

use crate::support::{generated, small_generated, small_spec, tensor};

const KEEP: u32 = 256;

fn sample() -> (Vec<TensorSpec>, Vec<u8>) {
    let specs = tensor_specs(&small_spec());
    let delta = Delta::compress(&small_generated(1, 1e-4), KEEP).expect("finite");
    let bytes = delta::encode(&delta, &specs, KEEP).expect("small");
    (specs, bytes)
}

#[test]
fn the_encoding_is_pinned() {
    let (_, bytes) = sample();
    assert_eq!(
        ContentHash::of(&bytes).to_string(),
        "3bedfc8213028f39f878df22eb6b2666491c6678b0d22c434a29afad195ecc55"
    );
}

#[test]
fn keeps_the_largest_and_their_number() {
    let specs = [tensor("a", CHUNK * 2), tensor("b", 100), tensor("c", CHUNK + 1)];
    let dense = generated(&specs, 9, 1.0);
    let delta = Delta::compress(&dense, 64).expect("finite");
    let kept: Vec<usize> = delta.tensors.iter().map(|t| t.positions.len()).collect();
    assert_eq!(kept, [128, 2, 65]);
    assert_eq!(kept[1], kept_of_tensor(&specs[1], 64));
    for (sparse, dense) in delta.tensors.iter().zip(&dense.tensors) {
        let mut all: Vec<f32> = dense.values[..CHUNK.min(dense.values.len())].to_vec();
        all.sort_by(|x, y| y.abs().total_cmp(&x.abs()));
        let inside = sparse.positions.iter().filter(|p| **p < 4_096).count();
        let smallest = all[inside - 1].abs();
        for (position, _) in sparse.entries().take(inside) {
            assert!(dense.values[position].abs() >= smallest);
        }
    }
}

#[test]
fn two_hundred_times_smaller_than_f32() {
    let specs = [tensor("a", CHUNK * 64)];
    let delta = Delta::compress(&generated(&specs, 2, 1.0), 64).expect("finite");
    let bytes = delta::encode(&delta, &specs, 64).expect("small");
    // 64 values of 7.5 + 2 bits in 4,096 (training.md 4): 0.148 bits per parameter.
    assert!(bytes.len() * 200 < CHUNK * 64 * 4, "{} bytes", bytes.len());
}

#[test]
fn hostile_bytes_are_refused() {
    let (specs, good) = sample();
    let decode = |bytes: &[u8]| delta::decode(bytes, &specs, KEEP);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    assert!(decode(&good).is_ok());
    assert!(matches!(decode(&[]), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(&good[..good.len() / 2]), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(&vec![0; 64 << 20]), Err(DeltaError::Length { .. })));
    assert_eq!(decode(&with(3, &[2])), Err(DeltaError::Header));
    assert_eq!(decode(&with(4, &64u32.to_le_bytes())), Err(DeltaError::Header));
    assert_eq!(decode(&with(8, &u32::MAX.to_le_bytes())), Err(DeltaError::Header));
    assert_eq!(decode(&with(12, &f32::NAN.to_le_bytes())), Err(DeltaError::Codebook(0)));
    assert_eq!(decode(&with(28, &f32::INFINITY.to_le_bytes())), Err(DeltaError::Codebook(1)));
    // All ones is an endless unary gap.
    let bits = 12 + 16 * specs.len();
    assert_eq!(decode(&with(bits, &[0xff; 600])), Err(DeltaError::Position(0)));
    let trailing = [good.as_slice(), &[0]].concat();
    assert_eq!(decode(&trailing), Err(DeltaError::NotCanonical));
    // A payload for another density or model.
    assert!(delta::decode(&good, &specs, KEEP + 1).is_err());
    assert!(delta::decode(&good, &specs[1..], KEEP).is_err());
}

#[test]
fn unused_levels_and_padding_have_one_spelling() {
    let specs = [tensor("a", 3)];
    let dense = generated(&specs, 4, 1.0);
    let delta = Delta::compress(&dense, 4_096).expect("finite");
    let bytes = delta::encode(&delta, &specs, 4_096).expect("small");
    assert_eq!(delta::decode(&bytes, &specs, 4_096), Ok(delta.clone()));
    // Three values of one unary bit and two level bits: seven bits of padding.
    let mut padded = bytes.clone();
    *padded.last_mut().expect("not empty") |= 0x80;
    assert_eq!(delta::decode(&padded, &specs, 4_096), Err(DeltaError::NotCanonical));
    let unused = (0..4u8).find(|level| !delta.tensors[0].codes.contains(level)).expect("3 < 4");
    let mut filled = bytes;
    filled[12 + 4 * usize::from(unused)] = 1;
    assert_eq!(delta::decode(&filled, &specs, 4_096), Err(DeltaError::NotCanonical));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        lens in prop::collection::vec(1usize..9_000, 1..4),
        keep in 1u32..=4_096,
        seed in any::<u8>(),
        scale in prop::sample::select(vec![0.0f32, 1e-40, 1e-6, 1.0, 1e30]),
    ) {
        let specs: Vec<_> = lens.iter().enumerate().map(|(i, l)| tensor(&i.to_string(), *l)).collect();
        let delta = Delta::compress(&generated(&specs, seed, scale), keep).expect("finite");
        let bytes = delta::encode(&delta, &specs, keep).expect("small");
        prop_assert_eq!(delta::decode(&bytes, &specs, keep), Ok(delta));
    }

    #[test]
    fn mutated_bytes_never_panic_and_have_one_spelling(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0usize..40,
    ) {
        let (specs, mut bytes) = sample();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] ^= value;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(20));
        if let Ok(delta) = delta::decode(&bytes, &specs, KEEP) {
            prop_assert_eq!(delta::encode(&delta, &specs, KEEP), Ok(bytes));
            for (sparse, spec) in delta.tensors.iter().zip(&specs) {
                prop_assert_eq!(sparse.positions.len(), kept_of_tensor(spec, KEEP));
                prop_assert!(sparse.positions.is_sorted_by(|a, b| a < b));
                prop_assert!(sparse.entries().all(|(at, x)| at < spec.len() && x.is_finite()));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let (specs, good) = sample();
        let start = 12 + 16 * specs.len();
        let _ = delta::decode(&tail, &specs, KEEP);
        let _ = delta::decode(&[&good[..start], &tail].concat(), &specs, KEEP);
    }
}
