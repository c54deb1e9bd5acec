//! The training of one cell.

use std::time::Instant;

use protocol::ids::{ContentHash, derive};
use protocol::model::{Architecture, ModelSpec, Precision};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::mnist::{Digits, PIXELS};
use super::state::{self, State};
use super::{Attack, EVALUATE_EVERY, HONEST, HOSTILE, Options, WORKERS, attacks, robust};
use crate::error::JobError;
use crate::figures::CommandError;
use crate::initialize::initial_checkpoint;
use crate::torch::model::{self, Batch, Model};

/// Samples of a step of one worker.
const BATCH: usize = 32;
const LEARNING_RATE: f64 = 0.01;
const MOMENTUM: f64 = 0.9;
/// Test images at once.
const TEST_BATCH: usize = 500;

/// What a run gives.
pub(super) struct Outcome {
    /// Iteration and test accuracy in percent.
    pub(super) evaluations: Vec<(u32, f64)>,
    /// Of this process; evaluations included.
    pub(super) seconds_per_iteration: f64,
}

/// Runs the cell.
pub(super) fn run(options: &Options) -> Result<Outcome, CommandError> {
    crate::torch::prepare_thread(options.threads);
    let train = Digits::read(&options.data, "train")?;
    let test = Digits::read(&options.data, "t10k")?;
    if train.len() < HONEST * BATCH {
        return Err(CommandError::Failed("fewer images than the workers need".into()));
    }
    let mut cell = Cell::new(options, &train).map_err(torch)?;
    if let Some(path) = &options.resume {
        let values = cell.values_len();
        if let Some(state) = state::read(path, options, values)? {
            cell.restore(state).map_err(torch)?;
        }
    }
    let (start, started) = (cell.iteration, Instant::now());
    while cell.iteration < options.iterations {
        cell.step(options, &train).map_err(torch)?;
        let last = cell.iteration == options.iterations;
        if cell.iteration.is_multiple_of(EVALUATE_EVERY) || last {
            let accuracy = cell.accuracy(&test).map_err(torch)?;
            cell.evaluations.push((cell.iteration, accuracy));
            let (done, all) = (cell.iteration, options.iterations);
            eprintln!("{done} of {all} iterations, accuracy {accuracy:.2} %");
            if let Some(path) = &options.resume {
                state::write(path, options, &cell.save().map_err(torch)?)?;
            }
        }
    }
    let done = f64::from((cell.iteration - start).max(1));
    let seconds_per_iteration = started.elapsed().as_secs_f64() / done;
    Ok(Outcome { evaluations: cell.evaluations, seconds_per_iteration })
}

fn torch(error: TchError) -> CommandError {
    CommandError::Job(JobError::Torch(error))
}

/// A run in memory.
struct Cell {
    model: Model,
    /// `[WORKERS, parameters]`.
    momenta: Tensor,
    aggregate: Tensor,
    /// Images of each worker.
    shards: Vec<Vec<usize>>,
    iteration: u32,
    evaluations: Vec<(u32, f64)>,
}

impl Cell {
    fn new(options: &Options, train: &Digits) -> Result<Self, TchError> {
        let spec = spec(options.seed);
        let options_of_model =
            model::Options { trainable: true, device: Device::Cpu, precision: Precision::F32 };
        let model = Model::new(&spec, &initial_checkpoint(&spec), None, options_of_model)
            .map_err(|error| TchError::Kind(error.to_string()))?;
        let parameters = i64::try_from(model.flat().numel()).expect("a small model");
        let workers = i64::try_from(WORKERS).expect("few workers");
        let kind = (Kind::Float, Device::Cpu);
        Ok(Self {
            momenta: Tensor::f_zeros([workers, parameters], kind)?,
            aggregate: Tensor::f_zeros([parameters], kind)?,
            model,
            shards: shards(options.seed, train, options.attack),
            iteration: 0,
            evaluations: Vec::new(),
        })
    }

    fn step(&mut self, options: &Options, train: &Digits) -> Result<(), TchError> {
        let busy = if options.attack.trains() { WORKERS } else { HONEST };
        for worker in 0..busy {
            let flip = options.attack == Attack::Labelflip && worker >= HONEST;
            let batch = self.batch(options.seed, train, worker, flip)?;
            let loss = self.model.loss(&batch, Reduction::Mean)?;
            let gradients = Tensor::f_run_backward(&[loss], self.model.parameters(), false, false)?;
            let _guard = tch::no_grad_guard();
            let flat: Result<Vec<Tensor>, TchError> =
                gradients.iter().map(|gradient| gradient.f_flatten(0, -1)).collect();
            let mut row = self.momenta.f_get(i64::try_from(worker).expect("few workers"))?;
            let _ = row.f_mul_scalar_(MOMENTUM)?.f_add_(&Tensor::f_cat(&flat?, 0)?)?;
        }
        let _guard = tch::no_grad_guard();
        attacks::apply(options.attack, options.rule, &self.momenta)?;
        let iteration = u64::from(self.iteration);
        let seed = seed_of("ayni 2026 lab attack buckets v1", options.seed, iteration, 0);
        let bucket = usize::from(options.bucket);
        self.aggregate =
            robust::aggregate(options.rule, &self.momenta, &self.aggregate, bucket, seed)?;
        attacks::undo(options.attack, &self.momenta)?;
        let mut flat = self.model.flat().shallow_clone();
        let _ = flat.f_sub_(&self.aggregate.f_mul_scalar(LEARNING_RATE)?)?;
        self.iteration += 1;
        Ok(())
    }

    /// The next batch of a worker: its images in an order that is drawn anew at every evaluation,
    /// as published.
    fn batch(
        &self,
        seed: u64,
        train: &Digits,
        worker: usize,
        flip: bool,
    ) -> Result<Batch, TchError> {
        let turn = u64::from(self.iteration / EVALUATE_EVERY);
        let number = u64::try_from(worker).expect("few workers");
        let mut order = self.shards[worker].clone();
        shuffle(&mut order, seed_of("ayni 2026 lab attack order v1", seed, turn, number));
        let at = crate::tensors::index(self.iteration % EVALUATE_EVERY) * BATCH;
        let chosen: Vec<usize> = order.iter().cycle().skip(at).take(BATCH).copied().collect();
        batch_of(train, &chosen, flip)
    }

    fn accuracy(&self, test: &Digits) -> Result<f64, TchError> {
        let _guard = tch::no_grad_guard();
        let mut right = 0.0;
        let all: Vec<usize> = (0..test.len()).collect();
        for chosen in all.chunks(TEST_BATCH) {
            let batch = batch_of(test, chosen, false)?;
            let guess = self.model.logits(&batch)?.f_argmax(1, false)?;
            let hits = guess.f_eq_tensor(&batch.target)?.f_sum(Kind::Double)?;
            right += hits.f_double_value(&[])?;
        }
        Ok(100.0 * right / crate::arithmetic::count(test.len()))
    }

    fn values_len(&self) -> usize {
        self.model.flat().numel() + self.aggregate.numel() + self.momenta.numel()
    }

    fn save(&self) -> Result<State, TchError> {
        let mut values = Vec::with_capacity(self.values_len());
        for tensor in [self.model.flat(), &self.aggregate, &self.momenta] {
            let mut own = vec![0.0f32; tensor.numel()];
            tensor.f_contiguous()?.f_copy_data(&mut own, tensor.numel())?;
            values.extend(own);
        }
        Ok(State { iteration: self.iteration, evaluations: self.evaluations.clone(), values })
    }

    fn restore(&mut self, state: State) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        let mut rest = state.values.as_slice();
        let flat = self.model.flat().shallow_clone();
        for tensor in [flat, self.aggregate.shallow_clone(), self.momenta.shallow_clone()] {
            let (own, others) = rest.split_at(tensor.numel());
            rest = others;
            let mut tensor = tensor;
            tensor.f_copy_(&Tensor::f_from_slice(own)?.f_view_as(&tensor)?)?;
        }
        self.iteration = state.iteration;
        self.evaluations = state.evaluations;
        Ok(())
    }
}

fn spec(seed: u64) -> ModelSpec {
    ModelSpec {
        name: "mnist".into(),
        architecture: Architecture::Cnn {
            height: 28,
            width: 28,
            channels: 1,
            features: 32,
            classes: 10,
            // Mean and standard deviation of MNIST's pixels.
            mean_ppm: 130_700,
            deviation_ppm: 308_100,
        },
        tokenizer: None,
        adapter: None,
        seed,
        imported: false,
        initial_checkpoint: ContentHash::default(),
        evaluation_suite: ContentHash::default(),
        evaluation_suite_bytes: 1 << 20,
        licence: "none".into(),
    }
}

/// Honest workers share the images sorted by label in equal runs, hostile ones hold even samples.
/// Without an attack everybody is honest.
fn shards(seed: u64, train: &Digits, attack: Attack) -> Vec<Vec<usize>> {
    let sorted = train.sorted();
    let honest = if attack == Attack::None { WORKERS } else { HONEST };
    let each = sorted.len() / honest;
    let mut shards: Vec<Vec<usize>> =
        sorted.chunks(each).take(honest).map(<[usize]>::to_vec).collect();
    let mut mixed = sorted.clone();
    shuffle(&mut mixed, seed_of("ayni 2026 lab attack samples v1", seed, 0, 0));
    shards.extend(mixed.chunks(each).take(WORKERS - honest).map(<[usize]>::to_vec));
    assert!(shards.len() == WORKERS && HOSTILE < HONEST, "a shard for everybody");
    shards
}

fn seed_of(purpose: &'static str, seed: u64, a: u64, b: u64) -> [u8; 32] {
    derive(purpose, &[&seed.to_le_bytes(), &a.to_le_bytes(), &b.to_le_bytes()])
}

fn shuffle(items: &mut [usize], seed: [u8; 32]) {
    let mut stream = ChaCha8Rng::from_seed(seed);
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last + 1).expect("usize has at most 64 bits");
        let drawn = usize::try_from(stream.next_u64() % bound).expect("below a length");
        items.swap(drawn, last);
    }
}

fn batch_of(digits: &Digits, chosen: &[usize], flip: bool) -> Result<Batch, TchError> {
    let mut pixels = Vec::with_capacity(chosen.len() * PIXELS);
    let mut labels = Vec::with_capacity(chosen.len());
    for index in chosen {
        pixels.extend_from_slice(digits.image(*index));
        let label = i64::from(digits.label(*index));
        labels.push(if flip { 9 - label } else { label });
    }
    let pixels_each = i64::try_from(PIXELS).expect("small");
    Ok(Batch {
        input: Tensor::f_from_slice(&pixels)?.f_view([-1, pixels_each])?,
        target: Tensor::f_from_slice(&labels)?,
        lengths: None,
    })
}
