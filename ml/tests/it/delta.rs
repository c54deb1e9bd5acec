//! The delta encoding: pinned, lossless on what it sends, deaf to strangers.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::delta::{self, CHUNK, Delta, DeltaError, DeltaTensor, Part, Plan, kept_of_tensor};
use ayni_ml::feedback;
use ayni_ml::tensors::{TensorSpec, tensor_specs};
use proptest::prelude::*;
use protocol::ids::ContentHash;
use protocol::model::{Architecture, Compression, ModelSpec, RoundParameters};

use crate::support::{generated, parameters, small_generated, small_spec, tensor};

const COMPRESSIONS: [Compression; 3] =
    [Compression::Sparse, Compression::Dense, Compression::RandomK];

fn plan(specs: &[TensorSpec], compression: Compression, keep: u32) -> Plan {
    let parameters = RoundParameters { compression, keep_per_chunk: keep, ..parameters() };
    Plan::new(specs, &parameters, 3, 11)
}

fn sample(compression: Compression) -> (Plan, Vec<u8>) {
    let plan = plan(&tensor_specs(&small_spec()), compression, 256);
    let delta = Delta::compress(&small_generated(1, 1e-4), &plan).expect("finite");
    let bytes = delta::encode(&delta, &plan);
    (plan, bytes)
}

#[test]
fn the_encodings_are_pinned() {
    let hashes = COMPRESSIONS.map(|c| ContentHash::of(&sample(c).1).to_string());
    assert_eq!(
        hashes,
        [
            "0aa2945d4827753ba9d3afdd98a30888edbd5ef1ec55860d232c468df4a32299",
            "08aae7126028ee49c1c6c4b2080ce59be165c436d5115e0bcaea204814c40a49",
            "fa41db6301a3354295e9ad3eec13f109bfff624cbfa95246f59daee8630e6322",
        ]
    );
}

#[test]
fn keeps_the_largest_and_their_number() {
    let specs = [tensor("a", CHUNK * 2), tensor("b", 600), tensor("c", CHUNK + 1)];
    let dense = generated(&specs, 9, 1.0);
    let delta = Delta::compress(&dense, &plan(&specs, Compression::Sparse, 64)).expect("finite");
    let kept: Vec<usize> = delta.tensors.iter().map(DeltaTensor::len).collect();
    assert_eq!(kept, [128, 10, 65]);
    assert_eq!(kept[1], kept_of_tensor(600, 64));
    for (sparse, dense) in delta.tensors.iter().zip(&dense.tensors) {
        let mut all: Vec<f32> = dense.values[..CHUNK.min(dense.values.len())].to_vec();
        all.sort_by(|x, y| y.abs().total_cmp(&x.abs()));
        let entries = sparse.entries();
        let inside = entries.iter().filter(|(at, _)| *at < CHUNK).count();
        let smallest = all[inside - 1].abs();
        for (position, _) in entries.iter().take(inside) {
            assert!(dense.values[*position].abs() >= smallest);
        }
    }
}

#[test]
fn small_tensors_are_sent_whole() {
    let specs = [tensor("a", 511), tensor("b", 512)];
    for compression in [Compression::Sparse, Compression::RandomK] {
        let plan = plan(&specs, compression, 64);
        assert_eq!(plan.parts().next(), Some(Part::Quantized));
        assert_ne!(plan.parts().nth(1), Some(Part::Quantized));
        let delta = Delta::compress(&generated(&specs, 9, 1.0), &plan).expect("finite");
        assert_eq!((delta.tensors[0].len(), delta.tensors[1].len()), (511, 8));
    }
    // Keeping (nearly) everything is cheaper without positions.
    assert!(plan(&specs, Compression::Sparse, 4_096).parts().all(|p| p == Part::Quantized));
}

/// Bits per parameter of a delta of bell-shaped values with k=64.
fn bits_per_parameter(layers: u32, width: u32) -> (u64, f64) {
    let architecture = Architecture::BytesGpt { layers, width, heads: width / 32, context: 128 };
    let spec = ModelSpec { architecture, ..small_spec() };
    let specs = tensor_specs(&spec);
    let plan = plan(&specs, Compression::Sparse, 64);
    let dense = generated(&specs, 2, 1e-4);
    let bytes = delta::encode(&Delta::compress(&dense, &plan).expect("finite"), &plan);
    let parameters = spec.parameters();
    let bits = u32::try_from(bytes.len() * 8).expect("small");
    let bits = f64::from(bits) / f64::from(u32::try_from(parameters).expect("small"));
    eprintln!("{parameters} parameters: {} bytes, {bits:.4} bits per parameter", bytes.len());
    (parameters, bits)
}

#[test]
fn bits_per_parameter_of_real_shapes() {
    // SparseLoCo's own 12-bit positions take 0.219 (training.md 4).
    for (layers, width, around, aim) in [(4, 128, 1_000_000, 0.165), (7, 768, 50_000_000, 0.150)] {
        let (parameters, bits) = bits_per_parameter(layers, width);
        assert!(parameters.abs_diff(around) < around / 7, "{parameters}");
        assert!(bits <= aim, "{bits} bits per parameter");
    }
}

#[test]
fn drawn_positions_do_not_depend_on_values() {
    let specs = [tensor("a", CHUNK * 2 + 700)];
    let plan = plan(&specs, Compression::RandomK, 64);
    let positions = |seed| -> Vec<usize> {
        let delta = Delta::compress(&generated(&specs, seed, 1.0), &plan).expect("finite");
        delta.tensors[0].entries().into_iter().map(|(at, _)| at).collect()
    };
    assert_eq!(positions(1), positions(2));
    assert_eq!(positions(1).len(), 64 + 64 + 11);
    let other =
        RoundParameters { compression: Compression::RandomK, keep_per_chunk: 64, ..parameters() };
    let other = Plan::new(&specs, &other, 3, 12);
    let delta = Delta::compress(&generated(&specs, 1, 1.0), &other).expect("finite");
    let drawn: Vec<usize> = delta.tensors[0].entries().into_iter().map(|(at, _)| at).collect();
    assert_ne!(drawn, positions(1), "another seed draws others");
}

#[test]
fn what_is_not_sent_stays_in_the_feedback() {
    let specs = tensor_specs(&small_spec());
    let dense = small_generated(4, 1e-3);
    for compression in COMPRESSIONS {
        let parameters = RoundParameters { compression, fragments: 3, ..parameters() };
        for round in 0..3 {
            let plan = Plan::new(&specs, &parameters, round, 5);
            let sent = Delta::compress(&dense, &plan).expect("finite");
            // Error feedback uses what others decode.
            let bytes = delta::encode(&sent, &plan);
            assert_eq!(delta::decode(&bytes, &plan), Ok(sent.clone()));
            let rest = feedback::residual(dense.clone(), &sent);
            for ((tensor, rest), dense) in
                sent.tensors.iter().zip(&rest.tensors).zip(&dense.tensors)
            {
                let mut back = rest.values.clone();
                for (at, value) in tensor.entries() {
                    assert_eq!(rest.values[at], dense.values[at] - value);
                    back[at] = dense.values[at];
                }
                assert_eq!(back, dense.values, "what is not sent is untouched");
                let whole = compression == Compression::Dense && !tensor.is_empty();
                assert!(!whole || rest.values.iter().all(|value| *value == 0.0));
            }
        }
    }
}

#[test]
fn hostile_bytes_are_refused() {
    let (plan, good) = sample(Compression::Sparse);
    let decode = |bytes: &[u8]| delta::decode(bytes, &plan);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    assert!(decode(&good).is_ok());
    assert!(matches!(decode(&[]), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(&good[..good.len() / 2]), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(&vec![0; 64 << 20]), Err(DeltaError::Length { .. })));
    assert_eq!(decode(&with(3, &[1])), Err(DeltaError::Header));
    assert_eq!(decode(&with(4, &64u32.to_le_bytes())), Err(DeltaError::Header));
    assert_eq!(decode(&with(8, &u32::MAX.to_le_bytes())), Err(DeltaError::Header));
    assert_eq!(decode(&with(12, &[1])), Err(DeltaError::Header));
    // NaN and infinity as bfloat16, in the first and second codebook.
    assert_eq!(decode(&with(16, &0x7fc0u16.to_le_bytes())), Err(DeltaError::Codebook(0)));
    assert_eq!(decode(&with(24, &0xff80u16.to_le_bytes())), Err(DeltaError::Codebook(1)));
    // All ones is an endless unary gap.
    let bits = good.len() - 600;
    assert!(matches!(decode(&with(bits, &[0xff; 600])), Err(DeltaError::Position(_))));
    assert!(decode(&good[..good.len() - 1]).is_err());
    let trailing = [good.as_slice(), &[0]].concat();
    assert_eq!(decode(&trailing), Err(DeltaError::NotCanonical));

    let (plan, good) = sample(Compression::Dense);
    let mut infinite = good.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(delta::decode(&infinite, &plan), Err(DeltaError::NotFinite(_))));
    assert!(matches!(delta::decode(&good[1..], &plan), Err(DeltaError::Length { .. })));
}

#[test]
fn a_payload_of_another_round_model_or_density_is_refused() {
    let specs = tensor_specs(&small_spec());
    let (_, good) = sample(Compression::Sparse);
    let plan = |specs: &[TensorSpec], change: fn(&mut RoundParameters)| {
        let mut parameters = parameters();
        change(&mut parameters);
        Plan::new(specs, &parameters, 3, 11)
    };
    assert!(delta::decode(&good, &plan(&specs, |_| ())).is_ok());
    assert!(delta::decode(&good, &plan(&specs[1..], |_| ())).is_err());
    for change in [
        (|p| p.keep_per_chunk += 1) as fn(&mut RoundParameters),
        |p| p.compression = Compression::RandomK,
        |p| p.compression = Compression::Dense,
        |p| p.fragments = 2,
    ] {
        assert!(delta::decode(&good, &plan(&specs, change)).is_err());
    }
    let halves = RoundParameters { fragments: 2, ..parameters() };
    let [even, odd] = [2, 3].map(|round| Plan::new(&specs, &halves, round, 11));
    let sent = Delta::compress(&small_generated(1, 1e-4), &even).expect("finite");
    let bytes = delta::encode(&sent, &even);
    assert!(delta::decode(&bytes, &even).is_ok());
    assert!(delta::decode(&bytes, &odd).is_err());
}

#[test]
fn unused_levels_and_padding_have_one_spelling() {
    for (len, keep) in [(3, 256), (600, 1)] {
        let specs = [tensor("a", len)];
        let plan = plan(&specs, Compression::Sparse, keep);
        let delta = Delta::compress(&generated(&specs, 4, 1.0), &plan).expect("finite");
        let bytes = delta::encode(&delta, &plan);
        assert_eq!(delta::decode(&bytes, &plan), Ok(delta.clone()));
        let mut padded = bytes.clone();
        *padded.last_mut().expect("not empty") |= 0x80;
        assert_eq!(delta::decode(&padded, &plan), Err(DeltaError::NotCanonical), "{len}");
        // Fewer than four values leave a level unused: it must be +0.
        let unused = bytes[16..24].chunks(2).position(|level| level == [0, 0]).expect("unused");
        let mut filled = bytes;
        filled[16 + 2 * unused] = 1;
        assert_eq!(delta::decode(&filled, &plan), Err(DeltaError::NotCanonical), "{len}");
    }
}

#[test]
fn values_that_are_not_finite_are_not_sent() {
    let specs = [tensor("a", 600), tensor("b", 3)];
    let mut dense = Checkpoint::zeros(&specs);
    dense.tensors[1].values[2] = f32::NAN;
    for compression in COMPRESSIONS {
        let plan = plan(&specs, compression, 64);
        assert_eq!(Delta::compress(&dense, &plan), Err(DeltaError::NotFinite(1)));
    }
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(COMPRESSIONS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        lens in prop::collection::vec(1usize..9_000, 1..4),
        keep in 1u32..=4_096,
        compression in any_compression(),
        fragments in 1u32..4,
        round in any::<u32>(),
        seed in any::<u8>(),
        scale in prop::sample::select(vec![0.0f32, 1e-40, 1e-6, 1.0, 1e30]),
    ) {
        let specs: Vec<_> = lens.iter().enumerate().map(|(i, l)| tensor(&i.to_string(), *l)).collect();
        let parameters =
            RoundParameters { compression, fragments, keep_per_chunk: keep, ..parameters() };
        let plan = Plan::new(&specs, &parameters, round, u64::from(seed));
        let delta = Delta::compress(&generated(&specs, seed, scale), &plan).expect("finite");
        let bytes = delta::encode(&delta, &plan);
        let (min, max) = plan.bytes_range();
        prop_assert!((min..=max).contains(&bytes.len()));
        let values = u64::try_from(lens.iter().sum::<usize>()).expect("few");
        prop_assert!(u64::try_from(max).expect("few") <= parameters.delta_bytes_max(values));
        for (tensor, spec) in delta.tensors.iter().zip(&specs) {
            let sum: f64 = tensor.entries().iter().map(|(_, x)| f64::from(*x).powi(2)).sum();
            let norm = f64::from(tensor.norm());
            prop_assert!((sum.sqrt() - norm).abs() <= 1e-6 * norm);
            prop_assert!(tensor.entries().iter().all(|(at, _)| *at < spec.len()));
        }
        prop_assert_eq!(delta::decode(&bytes, &plan), Ok(delta));
    }

    #[test]
    fn mutated_bytes_never_panic_and_have_one_spelling(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 0usize..40,
        compression in any_compression(),
    ) {
        let (plan, mut bytes) = sample(compression);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] ^= value;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(20));
        if let Ok(delta) = delta::decode(&bytes, &plan) {
            prop_assert_eq!(delta::encode(&delta, &plan), bytes);
            let specs = tensor_specs(&small_spec());
            for (tensor, spec) in delta.tensors.iter().zip(&specs) {
                let entries = tensor.entries();
                prop_assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b));
                prop_assert!(entries.iter().all(|(at, x)| *at < spec.len() && x.is_finite()));
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(
        tail in prop::collection::vec(any::<u8>(), 0..4_000),
        compression in any_compression(),
    ) {
        let (plan, good) = sample(compression);
        let _ = delta::decode(&tail, &plan);
        let start = good.len() / 3;
        let mut mixed = good[..start].to_vec();
        mixed.extend(tail.iter().cycle().take(if tail.is_empty() { 0 } else { good.len() - start }));
        let _ = delta::decode(&mixed, &plan);
    }
}
