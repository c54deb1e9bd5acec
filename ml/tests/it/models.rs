//! Every architecture: it learns, stage by stage it is the whole, an adapter folds, bfloat16 is
//! close, and what is refused.

use ayni_ml::checkpoint::Checkpoint;
use ayni_ml::huggingface::fold;
use ayni_ml::initialize::initial_checkpoint;
use ayni_ml::tensors::{TensorSpec, adapter_specs, architecture_specs};
use ayni_ml::torch::model::{Batch, IGNORED, Model, Options};
use protocol::ids::ContentHash;
use protocol::model::{Adapter, Architecture, ModelSpec, Precision};
use tch::{Device, Kind, Reduction, Tensor};

use crate::support::{generated, small_spec};

const LAYERS: u32 = 2;
const WIDTH: u32 = 32;
const HEADS: u32 = 4;
const CONTEXT: u32 = 16;
const CLASSES: u32 = 3;
pub(crate) const VOCABULARY: u32 = 300;

pub(crate) fn of(architecture: Architecture) -> ModelSpec {
    let tokenizer = (!architecture.reads_bytes()).then(ContentHash::default);
    ModelSpec { architecture, tokenizer, ..small_spec() }
}

pub(crate) fn llama(tied: bool) -> ModelSpec {
    of(Architecture::Llama {
        layers: LAYERS,
        width: WIDTH,
        heads: HEADS,
        kv_heads: 2,
        hidden: 48,
        context: CONTEXT,
        vocabulary: VOCABULARY,
        rope_theta: 10_000,
        norm_epsilon_ppb: 10_000,
        tied,
    })
}

pub(crate) fn gpt(tied: bool) -> ModelSpec {
    of(Architecture::Gpt {
        layers: LAYERS,
        width: WIDTH,
        heads: HEADS,
        context: CONTEXT,
        vocabulary: VOCABULARY,
        tied,
    })
}

fn bytes_gpt() -> ModelSpec {
    of(Architecture::BytesGpt { layers: LAYERS, width: WIDTH, heads: HEADS, context: CONTEXT })
}

fn cnn() -> ModelSpec {
    of(Architecture::Cnn {
        height: 9,
        width: 11,
        channels: 3,
        features: 4,
        classes: CLASSES,
        mean_ppm: 130_700,
        deviation_ppm: 308_100,
    })
}

fn mlp() -> ModelSpec {
    of(Architecture::Mlp { inputs: 7, hidden: 12, layers: 2, classes: CLASSES })
}

fn text_classifier() -> ModelSpec {
    of(Architecture::TextClassifier {
        layers: LAYERS,
        width: WIDTH,
        heads: HEADS,
        context: CONTEXT,
        vocabulary: 256,
        classes: CLASSES,
    })
}

fn each() -> [ModelSpec; 8] {
    let (g, l) = (gpt, llama);
    [bytes_gpt(), g(false), g(true), l(false), l(true), mlp(), cnn(), text_classifier()]
}

/// Numbers below `bound` without a short period.
fn pattern(shape: &[i64], bound: i64) -> Tensor {
    let count: i64 = shape.iter().product();
    let values: Vec<i64> = (0..count).map(|i| (i * i * 7 + i * 31 + 5) % 10_007 % bound).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Something for the model to learn.
fn batch(spec: &ModelSpec) -> Batch {
    let rows = 6;
    let classes = || pattern(&[rows], i64::from(CLASSES));
    match spec.architecture {
        Architecture::Mlp { inputs, .. } => Batch {
            input: pattern(&[rows, i64::from(inputs)], 9).to_kind(Kind::Float) / 4.5 - 1.0,
            target: classes(),
            lengths: None,
        },
        Architecture::Cnn { height, width, channels, .. } => Batch {
            input: pattern(&[rows, i64::from(height * width * channels)], 256).to_kind(Kind::Uint8),
            target: classes(),
            lengths: None,
        },
        Architecture::TextClassifier { context, .. } => Batch {
            input: pattern(&[rows, i64::from(context)], 256),
            target: classes(),
            lengths: Some(Tensor::from_slice(&[16i64, 1, 5, 9, 3, 16])),
        },
        _ => Batch::of_windows(&pattern(&[rows, i64::from(CONTEXT) + 1], 256)).expect("windows"),
    }
}

fn model(spec: &ModelSpec, checkpoint: &Checkpoint, options: Options) -> Model {
    // Tests run side by side.
    ayni_ml::torch::prepare_thread(1);
    Model::new(spec, checkpoint, None, options).expect("fits")
}

fn training() -> Options {
    Options { trainable: true, ..Options::inference() }
}

fn loss(model: &Model, batch: &Batch) -> f64 {
    model.loss(batch, Reduction::Mean).expect("computes").double_value(&[])
}

/// Plain gradient descent on all parameters.
fn descend(model: &Model, batch: &Batch, rate: f64, steps: usize) {
    for _ in 0..steps {
        let loss = model.loss(batch, Reduction::Mean).expect("computes");
        let gradients = Tensor::run_backward(&[loss], model.parameters(), false, false);
        let _guard = tch::no_grad_guard();
        for (parameter, gradient) in model.parameters().iter().zip(gradients) {
            let _ = parameter.shallow_clone().g_sub_(&(gradient * rate));
        }
    }
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn each_learns_its_batch() {
    for spec in each() {
        let model = model(&spec, &initial_checkpoint(&spec), training());
        let batch = batch(&spec);
        let before = loss(&model, &batch);
        descend(&model, &batch, 0.2, 30);
        let after = loss(&model, &batch);
        assert!(after < 0.9 * before, "{:?}: {before} to {after}", spec.architecture);
        let saved = model.to_checkpoint().expect("copied");
        assert_eq!(loss(&self::model(&spec, &saved, training()), &batch), after);
    }
}

/// What activation checkpointing relies on: stages use the parameters they say and no others.
#[test]
fn stages_own_their_parameters() {
    for spec in each() {
        let model = model(&spec, &initial_checkpoint(&spec), training());
        let (batch, network) = (batch(&spec), model.network());
        let mut owned = std::collections::BTreeSet::new();
        let mut stream = network.begin(&batch).expect("computes");
        for stage in 0..network.stages() {
            let input = stream.detach();
            let output = network.stage(stage, &input, &batch).expect("computes");
            let own = network.stage_parameters(stage);
            assert!(!own.is_empty());
            let tensors: Vec<&Tensor> = own.iter().map(|i| &model.parameters()[*i]).collect();
            let sum = output.square().sum(Kind::Float);
            let gradients = Tensor::run_backward(&[sum], &tensors, false, false);
            assert!(
                gradients.iter().all(|gradient| gradient.isfinite().all().int64_value(&[]) > 0)
            );
            assert!(own.iter().all(|index| owned.insert(*index)), "no tensor has two stages");
            stream = output;
        }
        let whole = model.logits(&batch).expect("computes");
        let end = network.end(&stream, &batch).expect("computes");
        assert_eq!(largest(&(end - whole)), 0.0);
    }
}

#[test]
fn bfloat16_is_close_and_learns() {
    for spec in each() {
        let checkpoint = initial_checkpoint(&spec);
        let options = Options { precision: Precision::Bf16, ..training() };
        let (exact, rounded) =
            (model(&spec, &checkpoint, training()), model(&spec, &checkpoint, options));
        let batch = batch(&spec);
        let (x, y) = (loss(&exact, &batch), loss(&rounded, &batch));
        assert!((x - y).abs() < 0.02 * x, "{:?}: {x} and {y}", spec.architecture);
        descend(&rounded, &batch, 0.2, 30);
        assert!(loss(&rounded, &batch) < 0.9 * y);
        assert_eq!(rounded.logits(&batch).expect("computes").kind(), Kind::Float);
    }
}

#[test]
fn adapters_begin_as_their_base_learn_alone_and_fold() {
    for mut spec in [bytes_gpt(), gpt(true), llama(false), text_classifier()] {
        let base = initial_checkpoint(&spec);
        let batch = batch(&spec);
        let plain = spec.clone();
        let expected = loss(&model(&plain, &base, training()), &batch);
        let adapter = Adapter { base: base.hash(), rank: 3, alpha: 6 };
        spec.adapter = Some(adapter);
        let first = initial_checkpoint(&spec);
        let adapted = Model::new(&spec, &first, Some(&base), training()).expect("fits");
        let count: usize = adapter_specs(&spec.architecture, 3).iter().map(TensorSpec::len).sum();
        assert_eq!(adapted.flat().numel(), count);
        assert!((loss(&adapted, &batch) - expected).abs() < 1e-6);
        descend(&adapted, &batch, 0.5, 30);
        let after = loss(&adapted, &batch);
        assert!(after < expected - 0.01, "{:?}: {expected} to {after}", spec.architecture);
        let folded = fold(base.clone(), &adapted.to_checkpoint().expect("copied"), &adapter);
        let difference = (loss(&model(&plain, &folded, training()), &batch) - after).abs();
        assert!(difference < 1e-5, "{:?}: {difference}", spec.architecture);
        assert!(Model::new(&spec, &first, None, training()).is_err(), "no base");
        assert!(Model::new(&spec, &first, Some(&first), training()).is_err(), "another base");
    }
}

#[test]
fn padding_and_ignored_targets_count_for_nothing() {
    let spec = text_classifier();
    let model = model(&spec, &initial_checkpoint(&spec), Options::inference());
    let first = batch(&spec);
    let mut second = batch(&spec);
    // Other padding: row 2 has five tokens.
    let mut padding = second.input.narrow(0, 2, 1).narrow(1, 5, 11);
    padding.copy_(&(255 - padding.copy()));
    let logits = |batch: &Batch| model.logits(batch).expect("computes");
    assert!(largest(&(logits(&first) - logits(&second))) < 1e-6);
    second.target = Tensor::from_slice(&[0, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED]);
    let one = model.loss(&second, Reduction::None).expect("computes").double_value(&[0]);
    assert!((loss(&model, &second) - one).abs() < 1e-6, "the mean over one target");
    second.lengths = None;
    assert!(model.logits(&second).is_err(), "a text without its length");
}

#[test]
fn too_long_texts_and_foreign_checkpoints_are_refused() {
    for spec in [bytes_gpt(), gpt(true), llama(true)] {
        let checkpoint = initial_checkpoint(&spec);
        let model = model(&spec, &checkpoint, Options::inference());
        let long = pattern(&[1, i64::from(CONTEXT) + 2], 256);
        assert!(model.logits(&Batch::of_windows(&long).expect("windows")).is_err());
        let other = generated(&architecture_specs(&cnn().architecture), 1, 0.01);
        assert!(Model::new(&spec, &other, None, Options::inference()).is_err());
        assert_eq!(model.device(), Device::Cpu);
    }
}
