//! Generation: the cache changes nothing, prompts do not touch each other, stops and streaming.

use ayni_ml::initialize::initial_checkpoint;
use ayni_ml::torch::generate::{Engine, choose};
use ayni_ml::torch::model::{Batch, Model, Options, dimension};
use protocol::ids::ContentHash;
use protocol::model::{Adapter, ModelSpec};
use protocol::worker::{
    FailureKind, GenerateJob, ModelFiles, Progress, WorkerOutcome, WorkerReply, WorkerRequest,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tch::{Device, Tensor};

use crate::models::{gpt, llama};
use crate::models_import::tokenizer_json;
use crate::process::{Process, file};
use crate::support::small_spec;

const CONTEXT: usize = 16;

fn greedy(logits: &[f32]) -> u32 {
    choose(logits, 0, 1_000_000, &mut ChaCha20Rng::from_seed([0; 32])).expect("finite")
}

fn model(spec: &ModelSpec) -> Model {
    // Tests run side by side.
    ayni_ml::torch::prepare_thread(1);
    // Larger than at the beginning, so that every token changes the next.
    let mut checkpoint = initial_checkpoint(spec);
    for tensor in &mut checkpoint.tensors {
        if tensor.spec.shape.len() > 1 {
            tensor.values.iter_mut().for_each(|value| *value *= 3.0);
        }
    }
    Model::new(spec, &checkpoint, None, Options::inference()).expect("fits")
}

/// Greedy tokens with the cache, all prompts at once.
fn cached(model: &Model, prompts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let _guard = tch::no_grad_guard();
    let decoder = model.network().decoder().expect("continues texts");
    let mut engine = Engine::new(decoder, prompts, tokens, Device::Cpu).expect("fits");
    let mut made = vec![Vec::new(); prompts.len()];
    for _ in 0..tokens {
        let logits = engine.logits().expect("computes");
        let next: Vec<u32> = logits.chunks(logits.len() / prompts.len()).map(greedy).collect();
        engine.push(&next, &vec![true; prompts.len()]).expect("computes");
        for (row, token) in made.iter_mut().zip(next) {
            row.push(token);
        }
    }
    made
}

/// The oracle: the whole window through the model for every token. Full, it loses its older half.
fn plain(model: &Model, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let _guard = tch::no_grad_guard();
    let mut window = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
    let mut made = Vec::new();
    for _ in 0..tokens {
        let input: Vec<i64> = window.iter().copied().map(i64::from).collect();
        let input = Tensor::from_slice(&input).view([1, dimension(input.len())]);
        let batch = Batch { target: input.copy(), input, lengths: None };
        let last = model.logits(&batch).expect("computes").get(-1);
        let logits = Vec::<f32>::try_from(last).expect("numbers");
        if window.len() == CONTEXT {
            window.drain(..CONTEXT / 2);
        }
        window.push(greedy(&logits));
        made.push(greedy(&logits));
    }
    made
}

fn prompts() -> Vec<Vec<u32>> {
    vec![
        vec![5],
        (0..40).map(|i| i * 7 % 256).collect(),
        vec![9, 200, 31, 4, 4, 77],
        (100..116).collect(),
        vec![1, 2, 3],
    ]
}

#[test]
fn the_cache_changes_nothing() {
    for spec in [small_spec(), gpt(true), gpt(false), llama(true), llama(false)] {
        let model = model(&spec);
        for prompt in prompts() {
            let expected = plain(&model, &prompt, 45);
            assert_eq!(cached(&model, &[prompt], 45), [expected], "{:?}", spec.architecture);
        }
    }
}

#[test]
fn a_batch_changes_nothing() {
    for spec in [small_spec(), gpt(true), llama(false)] {
        let model = model(&spec);
        let alone: Vec<Vec<u32>> = prompts().iter().map(|p| plain(&model, p, 45)).collect();
        assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "prompts matter");
        assert_eq!(cached(&model, &prompts(), 45), alone, "{:?}", spec.architecture);
    }
}

#[test]
fn rows_that_leave_do_not_disturb_the_others() {
    let _guard = tch::no_grad_guard();
    let model = model(&llama(false));
    let decoder = model.network().decoder().expect("continues texts");
    let mut engine = Engine::new(decoder, &prompts(), 45, Device::Cpu).expect("fits");
    let mut open: Vec<usize> = (0..prompts().len()).collect();
    let mut made = vec![Vec::new(); prompts().len()];
    for step in 0..45 {
        let logits = engine.logits().expect("computes");
        let next: Vec<u32> = logits.chunks(logits.len() / open.len()).map(greedy).collect();
        for (row, token) in open.iter().zip(&next) {
            made[*row].push(*token);
        }
        // Row r leaves after 8 (r + 1) tokens: some just as a full context is cut.
        let stays: Vec<bool> = open.iter().map(|row| step + 1 < 8 * (row + 1)).collect();
        engine.push(&next, &stays).expect("computes");
        let mut stays = stays.into_iter();
        open.retain(|_| stays.next() == Some(true));
        if open.is_empty() {
            break;
        }
    }
    for (row, prompt) in prompts().iter().enumerate() {
        assert_eq!(made[row], plain(&model, prompt, 8 * (row + 1)), "row {row}");
    }
}

/// A worker with an untrained model: its text is noise, but the same noise for the same job.
fn worker(spec: &ModelSpec) -> Process {
    let worker = Process::start();
    worker.put("head", &initial_checkpoint(spec).to_bytes());
    worker.put("tokenizer", &tokenizer_json());
    worker
}

fn job(spec: &ModelSpec, prompts: &[&str]) -> GenerateJob {
    let tokenizer = spec.tokenizer.map(|_| file("tokenizer"));
    GenerateJob {
        spec: spec.clone(),
        files: ModelFiles { tokenizer, base: None },
        checkpoint: file("head"),
        prompts: prompts.iter().map(|prompt| prompt.as_bytes().to_vec()).collect(),
        bytes: 60,
        temperature_ppm: 900_000,
        top_p_ppm: 1_000_000,
        stop: vec![],
        seed: 5,
    }
}

fn texts(worker: &mut Process, job: GenerateJob) -> (Vec<Progress>, Vec<Vec<u8>>) {
    match worker.ask(WorkerRequest::Generate(job)) {
        (steps, WorkerReply::Done(WorkerOutcome::Generated { texts, tokens })) => {
            assert!(tokens > 0);
            (steps, texts)
        }
        other => panic!("{other:?}"),
    }
}

/// What was streamed for a prompt.
fn streamed(steps: &[Progress], prompt: u32) -> Vec<u8> {
    let own = steps.iter().filter(|step| step.prompt == prompt);
    own.flat_map(|step| step.text.clone()).collect()
}

#[test]
fn streams_stops_and_repeats() {
    let spec = small_spec();
    let mut worker = worker(&spec);
    let (steps, all) = texts(&mut worker, job(&spec, &["the river", "", "stone"]));
    for (i, text) in (0u32..).zip(&all) {
        assert_eq!(text.len(), 60, "a byte model gives every byte asked for");
        assert_eq!(&streamed(&steps, i), text);
    }
    assert_eq!(texts(&mut worker, job(&spec, &["the river", "", "stone"])).1, all);
    let other = GenerateJob { seed: 6, ..job(&spec, &["the river", "", "stone"]) };
    assert_ne!(texts(&mut worker, other).1, all);
    let alone = texts(&mut worker, job(&spec, &["the river"])).1;
    assert_eq!(alone[0], all[0], "a prompt is continued as in company");

    // Three bytes from the middle of the first text, which end it there.
    let stop = all[0][30..33].to_vec();
    let expected = all[0].windows(3).position(|w| w == stop).expect("it is there");
    let stopped = GenerateJob { stop: vec![stop], ..job(&spec, &["the river", "", "stone"]) };
    let (steps, texts) = texts(&mut worker, stopped);
    assert_eq!(texts[0], all[0][..expected]);
    assert_eq!(streamed(&steps, 0), texts[0], "nothing of the stop was shown");
    assert!(texts[1..].iter().zip(&all[1..]).all(|(text, whole)| whole.starts_with(text)));
}

#[test]
fn trained_tokenizers_give_whole_characters() {
    let json = tokenizer_json();
    let mut spec = llama(true);
    spec.tokenizer = Some(ContentHash::of(&json));
    let mut worker = worker(&spec);
    let (steps, all) = texts(&mut worker, job(&spec, &["the river", "éa", ""]));
    for (i, text) in (0u32..).zip(&all) {
        assert!(text.len() <= 60, "{}", text.len());
        assert!(std::str::from_utf8(text).is_ok());
        assert_eq!(&streamed(&steps, i), text);
    }
    let own = steps.iter().all(|step| std::str::from_utf8(&step.text).is_ok());
    assert!(own, "every piece is text by itself");
    worker.put("tokenizer", b"{}");
    let (kind, message) = worker.fails(WorkerRequest::Generate(job(&spec, &["a"])));
    assert_eq!(kind, FailureKind::BadInput);
    assert!(message.contains("not the tokenizer"), "{message}");
}

#[test]
fn an_adapter_is_folded() {
    let base = small_spec();
    let mut worker = worker(&base);
    let expected = texts(&mut worker, job(&base, &["the river"])).1;
    worker.put("base", &initial_checkpoint(&base).to_bytes());
    let adapter = Adapter { base: initial_checkpoint(&base).hash(), rank: 2, alpha: 4 };
    let spec = ModelSpec { adapter: Some(adapter), ..base };
    worker.put("head", &initial_checkpoint(&spec).to_bytes());
    let files = ModelFiles { tokenizer: None, base: Some(file("base")) };
    let with = GenerateJob { files, ..job(&spec, &["the river"]) };
    assert_eq!(texts(&mut worker, with).1, expected, "untrained, it is its base");
    let (kind, _) = worker.fails(WorkerRequest::Generate(job(&spec, &["the river"])));
    assert_eq!(kind, FailureKind::BadInput, "the base is missing");
}

#[test]
fn requests_over_the_limits_are_refused() {
    let spec = small_spec();
    let mut worker = worker(&spec);
    let good = || job(&spec, &["a"]);
    for (what, bad) in [
        ("no prompt", job(&spec, &[])),
        ("too many", job(&spec, &["a"; 33])),
        ("a long prompt", GenerateJob { prompts: vec![vec![b'a'; 65_537]], ..good() }),
        ("many bytes", GenerateJob { bytes: 16_385, ..good() }),
        ("hot", GenerateJob { temperature_ppm: u32::MAX, ..good() }),
        ("no mass", GenerateJob { top_p_ppm: 0, ..good() }),
        ("an empty stop", GenerateJob { stop: vec![vec![]], ..good() }),
        ("a long stop", GenerateJob { stop: vec![vec![1; 257]], ..good() }),
        ("many stops", GenerateJob { stop: vec![vec![1]; 17], ..good() }),
    ] {
        let (kind, _) = worker.fails(WorkerRequest::Generate(bad));
        assert_eq!(kind, FailureKind::BadInput, "{what}");
    }
    let none = GenerateJob { bytes: 0, ..good() };
    let outcome = worker.done(WorkerRequest::Generate(none));
    assert_eq!(outcome, WorkerOutcome::Generated { texts: vec![vec![]], tokens: 0 });
}
