//! Where the time of the cores went, and what was trained meanwhile: sums over what was recorded.
//!
//! **The window** lasts from the moment at which the last member had trained for the warm-up round
//! to the moment at which the last member had trained for the last round: whole turns of a round,
//! with the training of the measured rounds, and the reviews and merges of as many.
//!
//! **Over alone.** What was trained in the window, over what the same workers alone train in as many
//! core seconds. Core seconds that other programs took are left out on both sides: on an idle
//! machine nothing changes by that, on a busy one the others do not decide. Idle ones stay in.
//!
//! **Without review.** The core seconds of review, replay, evaluation and merging are left out too.
//! Waiting for blocks, sending, hashing, compressing, the daemons and starting workers again stay
//! in: they are what the network costs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::record::{Job, Kind};

/// A span of time, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
}

/// Counters of the machine at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) at_ms: u64,
    /// Processor time of all daemons.
    pub(super) daemons_ms: f64,
    /// Processor time of everything on the machine, this network included.
    pub(super) busy_ms: f64,
}

/// Core seconds of the window, by what they went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct CoreSeconds {
    /// All that there were.
    pub(super) all: f64,
    /// Inner steps.
    pub(super) training: f64,
    /// Making deltas.
    pub(super) deltas: f64,
    /// Replaying steps: one's own, to show them, and others'.
    pub(super) replay: f64,
    /// Losses, for reviews and of new heads.
    pub(super) evaluation: f64,
    /// Merging.
    pub(super) merging: f64,
    /// Starting workers (again).
    pub(super) starting: f64,
    /// The daemons.
    pub(super) daemons: f64,
    /// Everything else on the machine: this program, and what has nothing to do with it.
    pub(super) others: f64,
    /// Nothing.
    pub(super) idle: f64,
}

/// What the window gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Account {
    pub(super) seconds: f64,
    pub(super) core_seconds: CoreSeconds,
    /// Steps of the measured rounds, each counted once.
    pub(super) steps: u64,
    /// Steps taken again after an interruption.
    pub(super) steps_again: u64,
    /// Processor time of an inner step, in milliseconds.
    pub(super) cpu_ms_per_step: f64,
    /// Text trained on over what the workers alone train in as many seconds, whatever else ran.
    pub(super) over_alone_by_the_clock: f64,
    /// Over what they train in as many core seconds, without those that other programs took.
    pub(super) over_alone: f64,
    /// The same without those that review took.
    pub(super) over_alone_without_review: f64,
    /// Review, replay, evaluation and merging over all that workers and daemons did.
    pub(super) review_share: f64,
}

/// The cores of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cores {
    pub(super) there: usize,
    /// Those that the workers can use, of one thread each.
    pub(super) usable: usize,
}

impl Cores {
    /// This machine's, for so many workers.
    pub(super) fn for_workers(workers: usize) -> Result<Self> {
        let there = std::thread::available_parallelism()?.get();
        Ok(Self { there, usable: there.min(workers) })
    }

    /// Core seconds that workers could have had while others took some of all.
    pub(super) fn available(&self, seconds: f64, others: f64) -> f64 {
        let unusable = (self.there - self.usable) as f64 * seconds;
        self.usable as f64 * seconds - (others - unusable).max(0.0)
    }
}

/// What the workers alone do, and what is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    pub(super) alone_tokens_per_s: f64,
    pub(super) alone_tokens_per_core_s: f64,
    pub(super) step_tokens: f64,
    pub(super) cores: Cores,
    /// The warm-up round; the window begins with its training's end.
    pub(super) first_round: u32,
    pub(super) last_round: u32,
}

/// The window of the recorded rounds.
pub(super) fn window(jobs: &[Vec<Job>], basis: &Basis) -> Result<Window> {
    let end_of = |round: u32| {
        let of_round = |job: &&Job| job.task.kind == Kind::Train && job.task.round == Some(round);
        jobs.iter()
            .flatten()
            .filter(of_round)
            .filter(|job| job.ended == Some(true))
            .map(|job| job.end_ms)
            .max()
            .with_context(|| format!("nobody has trained for round {round}"))
    };
    let window = Window { from_ms: end_of(basis.first_round)?, to_ms: end_of(basis.last_round)? };
    ensure!(window.from_ms < window.to_ms, "the clock was set back");
    Ok(window)
}

impl Account {
    /// The account of a window; `samples` must begin before it and end after it.
    pub(super) fn of(
        jobs: &[Vec<Job>],
        samples: &[Sample],
        window: Window,
        basis: &Basis,
    ) -> Result<Self> {
        let Window { from_ms, to_ms } = window;
        let seconds = (to_ms - from_ms) as f64 / 1_000.0;
        let spent = |kinds: &[Kind]| -> f64 {
            let fits = |job: &&Job| kinds.contains(&job.task.kind);
            let all = jobs.iter().flatten().filter(fits);
            all.map(|job| job.cpu_within(from_ms, to_ms)).sum::<f64>() / 1_000.0
        };
        let (before, after) = (at(samples, from_ms)?, at(samples, to_ms)?);
        let daemons = (after.daemons_ms - before.daemons_ms) / 1_000.0;
        let busy = (after.busy_ms - before.busy_ms) / 1_000.0;
        let mut cores = CoreSeconds {
            all: seconds * basis.cores.there as f64,
            training: spent(&[Kind::Train]),
            deltas: spent(&[Kind::Compress]),
            replay: spent(&[Kind::Replay]),
            evaluation: spent(&[Kind::Evaluate]),
            merging: spent(&[Kind::Merge]),
            starting: spent(&[Kind::Start, Kind::Other]),
            daemons,
            ..CoreSeconds::default()
        };
        let review = cores.review();
        let ours = cores.training + cores.deltas + review + cores.starting + cores.daemons;
        (cores.others, cores.idle) = ((busy - ours).max(0.0), (cores.all - busy).max(0.0));

        let (steps, taken) = steps(jobs, basis);
        let tokens = steps as f64 * basis.step_tokens;
        let available = basis.cores.available(seconds, cores.others);
        let alone = |core_seconds: f64| basis.alone_tokens_per_core_s * core_seconds;
        ensure!(available > review && ours > 0.0, "nothing was measured");
        Ok(Self {
            seconds,
            core_seconds: cores,
            steps,
            steps_again: taken.saturating_sub(steps),
            cpu_ms_per_step: cores.training * 1_000.0 / taken.max(1) as f64,
            over_alone_by_the_clock: tokens / (basis.alone_tokens_per_s * seconds),
            over_alone: tokens / alone(available),
            over_alone_without_review: tokens / alone(available - review),
            review_share: review / ours,
        })
    }
}

impl CoreSeconds {
    /// What training alone has not.
    pub(super) const fn review(&self) -> f64 {
        self.replay + self.evaluation + self.merging
    }
}

/// Steps of the measured rounds: each once, and as often as they were taken.
fn steps(jobs: &[Vec<Job>], basis: &Basis) -> (u64, u64) {
    let mut reached: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    let mut taken = 0;
    for (node, jobs) in jobs.iter().enumerate() {
        for job in jobs.iter().filter(|job| job.task.kind == Kind::Train) {
            let (Some(round), Some((first, last))) = (job.task.round, job.steps()) else {
                continue;
            };
            if round <= basis.first_round || round > basis.last_round {
                continue;
            }
            taken += last - first;
            let reached = reached.entry((node, round)).or_default();
            *reached = last.max(*reached);
        }
    }
    (reached.values().sum(), taken)
}

/// The counters at a moment, between two samples in proportion.
pub(super) fn at(samples: &[Sample], at_ms: u64) -> Result<Sample> {
    let after = samples.iter().position(|sample| sample.at_ms >= at_ms);
    let after = after.context("the counters were not read for long enough")?;
    let (Some(before), Some(after)) = (samples.get(after.saturating_sub(1)), samples.get(after))
    else {
        anyhow::bail!("the counters were not read")
    };
    ensure!(before.at_ms <= at_ms, "the counters were read too late");
    let span = (after.at_ms - before.at_ms).max(1) as f64;
    let part = (at_ms - before.at_ms) as f64 / span;
    let between = |from: f64, to: f64| from + part * (to - from);
    Ok(Sample {
        at_ms,
        daemons_ms: between(before.daemons_ms, after.daemons_ms),
        busy_ms: between(before.busy_ms, after.busy_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::training::record::Task;

    const BASIS: Basis = Basis {
        alone_tokens_per_s: 100.0,
        alone_tokens_per_core_s: 60.0,
        step_tokens: 10.0,
        cores: Cores { there: 2, usable: 2 },
        first_round: 1,
        last_round: 2,
    };

    /// Seconds, of both ends and of the processor.
    fn job(kind: Kind, round: Option<u32>, (begin, end, cpu): (u64, u64, u64)) -> Job {
        Job {
            task: Task { kind, round, seed: None },
            begin_ms: begin * 1_000,
            end_ms: end * 1_000,
            cpu_ms: cpu * 1_000,
            ended: Some(true),
            progress: Vec::new(),
        }
    }

    fn trained(round: u32, times: (u64, u64, u64), first: u64, last: u64) -> Job {
        let steps = (first..last).map(|step| (times.1 * 1_000, step + 1)).collect();
        Job { progress: steps, ..job(Kind::Train, Some(round), times) }
    }

    /// Two members on two cores. The window is from 10 s to 30 s.
    fn story() -> Vec<Vec<Job>> {
        let mut stopped = trained(2, (14, 20, 6), 0, 60);
        stopped.ended = None;
        vec![
            vec![
                trained(1, (0, 10, 10), 0, 90),
                job(Kind::Compress, None, (10, 11, 1)),
                job(Kind::Evaluate, None, (11, 13, 2)),
                job(Kind::Merge, None, (13, 14, 1)),
                stopped,
                job(Kind::Start, None, (20, 22, 2)),
                trained(2, (22, 30, 8), 50, 90),
            ],
            vec![
                trained(1, (0, 9, 9), 0, 90),
                job(Kind::Replay, None, (9, 11, 2)),
                trained(2, (11, 29, 9), 0, 80),
                job(Kind::Evaluate, None, (30, 40, 10)),
            ],
        ]
    }

    #[test]
    fn the_window_is_from_training_done_to_training_done() {
        let window = window(&story(), &BASIS).expect("trained");
        assert_eq!(window, Window { from_ms: 10_000, to_ms: 30_000 });
        let missing = Basis { last_round: 3, ..BASIS };
        assert!(super::window(&story(), &missing).is_err());
    }

    #[test]
    fn every_second_is_accounted_for() {
        let jobs = story();
        let sample = |at_ms, daemons_ms, busy_ms| Sample { at_ms, daemons_ms, busy_ms };
        let samples = [
            sample(0, 0.0, 0.0),
            sample(20_000, 1_000.0, 22_000.0),
            sample(40_000, 3_000.0, 73_000.0),
        ];
        let window = window(&jobs, &BASIS).expect("trained");
        let account = Account::of(&jobs, &samples, window, &BASIS).expect("measured");
        let cores = account.core_seconds;
        assert_eq!(cores.training, 6.0 + 8.0 + 9.0);
        // Half of the replay is before the window, the last evaluation after it.
        assert_eq!((cores.replay, cores.evaluation, cores.merging), (1.0, 2.0, 1.0));
        assert_eq!((cores.deltas, cores.starting, cores.daemons), (1.0, 2.0, 1.5));
        // Of the 36.5 s in which the machine was busy 31.5 are ours.
        assert_eq!((cores.all, cores.others, cores.idle), (40.0, 5.0, 3.5));
        // Of 100 steps of the first member's, ten were taken again.
        assert_eq!((account.steps, account.steps_again), (90 + 80, 10));
        assert!((account.over_alone_by_the_clock - 1_700.0 / 2_000.0).abs() < 1e-9);
        // Of 40 core seconds others took five, and review four.
        assert!((account.over_alone - 1_700.0 / (60.0 * 35.0)).abs() < 1e-9);
        assert!((account.over_alone_without_review - 1_700.0 / (60.0 * 31.0)).abs() < 1e-9);
        assert!((account.review_share - 4.0 / 31.5).abs() < 1e-9);
    }

    #[test]
    fn only_others_on_cores_that_the_workers_need_are_in_the_way() {
        let cores = Cores { there: 8, usable: 4 };
        assert_eq!(
            [0.0, 40.0, 45.0].map(|others| cores.available(10.0, others)),
            [40.0, 40.0, 35.0]
        );
    }

    #[test]
    fn counters_must_cover_the_window() {
        let sample = |at_ms| Sample { at_ms, daemons_ms: at_ms as f64, busy_ms: 0.0 };
        let samples = [sample(10), sample(20)];
        assert_eq!(at(&samples, 15).expect("between").daemons_ms, 15.0);
        assert_eq!(at(&samples, 10).expect("first").daemons_ms, 10.0);
        assert!(at(&samples, 9).is_err() && at(&samples, 21).is_err() && at(&[], 1).is_err());
    }
}
