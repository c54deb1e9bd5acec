//! What a metered worker did, job by job: the lines that `meter` writes, and what they
//! come to.
//!
//! **Invariant.** A job's end is its last sign of life: of a job that was killed, with the process
//! or with the whole node, only what it had reported counts. Deliberately absent: the processor
//! time of a killed job after its last report, at most that of one inner step.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use protocol::worker::{WorkerReply, WorkerRequest};
use serde::{Deserialize, Serialize};

/// What the worker computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Starting, and saying who it is: that includes a few inner steps.
    Start,
    /// Inner steps.
    Train,
    /// A delta of what was trained.
    Compress,
    /// Inner steps again: one's own to show their states, or another's to compare them.
    Replay,
    /// Losses, for a review or of a new head.
    Evaluate,
    /// The next head.
    Merge,
    /// Anything else.
    Other,
}

/// One job as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    /// Round of the run, from 1, where the request tells it.
    pub(crate) round: Option<u32>,
    /// Seed of the inner steps, where there are any: it names member and round.
    pub(crate) seed: Option<u64>,
}

impl Task {
    /// What a request asks for.
    pub(crate) fn of(request: &WorkerRequest) -> Self {
        let (kind, run) = match request {
            WorkerRequest::Describe => (Kind::Start, None),
            WorkerRequest::Train(job) => (Kind::Train, Some(&job.run)),
            WorkerRequest::Replay(job) => (Kind::Replay, Some(&job.run)),
            WorkerRequest::Compress(_) => (Kind::Compress, None),
            WorkerRequest::Evaluate(_) => (Kind::Evaluate, None),
            WorkerRequest::Merge(_) => (Kind::Merge, None),
            _ => (Kind::Other, None),
        };
        let round = run.and_then(|run| {
            let before = run.steps_before.checked_div(u64::from(run.parameters.inner_steps))?;
            u32::try_from(before.saturating_add(1)).ok()
        });
        Self { kind, round, seed: run.map(|run| run.seed) }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// A worker process was started.
    Started,
    /// It was given a job.
    Began(Task),
    /// It reported progress: units done, of a training its inner steps.
    Did(u64),
    /// It answered; whether well.
    Ended(bool),
}

impl Event {
    /// What a reply tells.
    pub(crate) const fn of(reply: &WorkerReply) -> Self {
        match reply {
            WorkerReply::Progress(progress) => Self::Did(progress.done),
            WorkerReply::Done(_) => Self::Ended(true),
            WorkerReply::Failed(_) => Self::Ended(false),
        }
    }
}

/// One line of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Processor time of the worker process so far, in milliseconds.
    pub(crate) cpu_ms: u64,
    pub(crate) event: Event,
}

/// A job as it went.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) begin_ms: u64,
    /// Its answer, or its last sign of life.
    pub(crate) end_ms: u64,
    pub(crate) cpu_ms: u64,
    /// How it was answered; not at all if the process was killed, or it goes on.
    pub(crate) ended: Option<bool>,
    /// When so many units were done.
    pub(crate) progress: Vec<(u64, u64)>,
}

impl Job {
    /// Units done before this job took the first of its own, and after the last; of a training,
    /// which reports every step, its steps.
    pub(crate) fn steps(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.progress.first()?, self.progress.last()?);
        Some((first.1.saturating_sub(1), last.1))
    }

    /// Units done at a moment, between two reports in proportion.
    pub(crate) fn done_at(&self, at_ms: u64) -> f64 {
        let after = self.progress.iter().position(|(at, _)| *at > at_ms);
        let count = after.unwrap_or(self.progress.len());
        let last = count.checked_sub(1).and_then(|index| self.progress.get(index));
        let (from, done) = last.copied().unwrap_or((self.begin_ms, 0));
        let Some((to, next)) = self.progress.get(count) else { return done as f64 };
        let part = at_ms.saturating_sub(from) as f64 / (to - from).max(1) as f64;
        done as f64 + part * next.saturating_sub(done) as f64
    }

    /// Processor time within a span of time, in milliseconds, as if it were spread evenly.
    pub(crate) fn cpu_within(&self, from_ms: u64, to_ms: u64) -> f64 {
        let (begin, end) = (self.begin_ms.max(from_ms), self.end_ms.min(to_ms));
        let (within, all) = (end.saturating_sub(begin), self.end_ms - self.begin_ms);
        if all == 0 {
            let is_in = (from_ms..to_ms).contains(&self.begin_ms);
            return if is_in { self.cpu_ms as f64 } else { 0.0 };
        }
        self.cpu_ms as f64 * within as f64 / all as f64
    }
}

/// The lines that are there so far; none if no worker was started yet.
pub(crate) fn lines(path: &Path) -> Result<Vec<Line>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    // The last line may just be written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| serde_json::from_str(line).context("a line of a record");
    whole.lines().map(line).collect()
}

/// The jobs of one node's workers, in order.
pub(crate) fn jobs(lines: &[Line]) -> Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    // Processor time at the begin of the job in progress.
    let mut open: Option<u64> = None;
    for line in lines {
        let Line { at_ms, cpu_ms, event } = *line;
        let begun = |task| Job {
            task,
            begin_ms: at_ms,
            end_ms: at_ms,
            cpu_ms: 0,
            ended: None,
            progress: Vec::new(),
        };
        match event {
            Event::Started => {
                jobs.push(begun(Task { kind: Kind::Start, round: None, seed: None }));
                open = Some(0);
            }
            // Part of its start.
            Event::Began(Task { kind: Kind::Start, .. }) if open.is_some() => {}
            Event::Began(task) => {
                if open.is_some() {
                    bail!("a worker was given two jobs at once");
                }
                jobs.push(begun(task));
                open = Some(cpu_ms);
            }
            Event::Did(_) | Event::Ended(_) => {
                let (Some(since), Some(job)) = (open, jobs.last_mut()) else {
                    bail!("a worker answered what nobody asked");
                };
                // The clock may be set back.
                job.end_ms = at_ms.max(job.end_ms);
                job.cpu_ms = cpu_ms.saturating_sub(since);
                match event {
                    Event::Did(done) => job.progress.push((job.end_ms, done)),
                    Event::Ended(good) => (job.ended, open) = (Some(good), None),
                    _ => {}
                }
            }
        }
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN: Task = Task { kind: Kind::Train, round: Some(1), seed: Some(7) };
    const START: Task = Task { kind: Kind::Start, round: None, seed: None };

    fn line(at_ms: u64, cpu_ms: u64, event: Event) -> Line {
        Line { at_ms, cpu_ms, event }
    }

    #[test]
    fn a_killed_job_counts_as_far_as_it_reported() {
        let lines = [
            line(0, 0, Event::Started),
            line(5, 2, Event::Began(START)),
            line(20, 15, Event::Ended(true)),
            line(100, 15, Event::Began(TRAIN)),
            line(200, 65, Event::Did(1)),
            line(300, 115, Event::Did(2)),
            line(400, 0, Event::Started),
            line(401, 0, Event::Began(START)),
            line(410, 10, Event::Ended(true)),
            line(500, 10, Event::Began(TRAIN)),
            line(600, 60, Event::Did(2)),
            line(700, 110, Event::Did(3)),
            line(710, 115, Event::Ended(true)),
        ];
        let jobs = jobs(&lines).expect("in order");
        let kinds: Vec<_> = jobs.iter().map(|job| (job.task.kind, job.cpu_ms, job.ended)).collect();
        let expect = [
            (Kind::Start, 15, Some(true)),
            (Kind::Train, 100, None),
            (Kind::Start, 10, Some(true)),
            (Kind::Train, 105, Some(true)),
        ];
        assert_eq!(kinds, expect);
        assert_eq!([jobs[1].steps(), jobs[3].steps()], [Some((0, 2)), Some((1, 3))]);
        assert_eq!(jobs[0].steps(), None);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        for events in [
            &[Event::Ended(true)][..],
            &[Event::Began(TRAIN), Event::Began(TRAIN)],
            &[Event::Started, Event::Began(TRAIN)],
        ] {
            let lines: Vec<Line> = events.iter().map(|event| line(1, 1, *event)).collect();
            assert!(jobs(&lines).is_err(), "{events:?}");
        }
    }

    #[test]
    fn shares_of_a_job_are_in_proportion() {
        let progress = vec![(200, 1), (400, 3)];
        let (begin_ms, end_ms, cpu_ms) = (100, 500, 80);
        let job = Job { task: TRAIN, begin_ms, end_ms, cpu_ms, ended: None, progress };
        let done: Vec<f64> = [100, 150, 200, 300, 400, 900].map(|at| job.done_at(at)).into();
        assert_eq!(done, [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]);
        let cpu = |from, to| job.cpu_within(from, to);
        assert_eq!([cpu(0, 100), cpu(0, 200), cpu(300, 900), cpu(0, 900)], [0.0, 20.0, 40.0, 80.0]);
    }

    #[test]
    fn a_line_in_the_making_is_not_read() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("record");
        assert!(lines(&path).expect("none yet").is_empty());
        let whole = line(1, 2, Event::Began(TRAIN));
        let text = serde_json::to_string(&whole).expect("a line");
        fs::write(&path, format!("{text}\n{}", &text[..5])).expect("written");
        assert_eq!(lines(&path).expect("one"), [whole]);
        fs::write(&path, format!("{}\n{text}\n", &text[..5])).expect("written");
        assert!(lines(&path).is_err());
    }
}
