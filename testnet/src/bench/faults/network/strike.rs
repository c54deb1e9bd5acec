//! Whom a kill hits and when, drawn from the seed.

use std::time::Duration;

use serde::Serialize;

use crate::bench::training::record::{Job, Kind};
use crate::crash_store::chain::Draw;

/// Longest time that a node stays down.
const DOWN_MS_MAX: u64 = 3_000;

/// What a worker has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Moment {
    /// Inner steps.
    Training,
    /// Its own steps again, to show their states.
    Showing,
    /// Others' steps again, or the losses of their deltas.
    Reviewing,
    /// The next head, or its gain.
    Merging,
    /// Anything else, or nothing.
    Between,
}

impl Moment {
    /// Those that are waited for.
    const ALL: [Self; 4] = [Self::Training, Self::Showing, Self::Reviewing, Self::Merging];

    /// What a worker with these jobs has in hand now.
    pub(super) fn now(jobs: &[Job]) -> Self {
        let open = jobs.split_last().filter(|(job, _)| job.ended.is_none());
        let Some((job, before)) = open else { return Self::Between };
        let is_own = |seed| {
            before.iter().any(|job| job.task.kind == Kind::Train && job.task.seed == Some(seed))
        };
        match job.task.kind {
            Kind::Train => Self::Training,
            Kind::Replay if job.task.seed.is_some_and(is_own) => Self::Showing,
            Kind::Merge => Self::Merging,
            Kind::Evaluate if before.last().is_some_and(|job| job.task.kind == Kind::Merge) => {
                Self::Merging
            }
            Kind::Replay | Kind::Evaluate => Self::Reviewing,
            Kind::Start | Kind::Compress | Kind::Other => Self::Between,
        }
    }

    /// Longest wait into the moment: about as long as it lasts, so that its whole is hit.
    const fn wait_ms_max(self) -> u64 {
        match self {
            Self::Training => 2_000,
            Self::Reviewing => 1_000,
            Self::Showing | Self::Merging | Self::Between => 250,
        }
    }
}

/// One kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strike {
    /// Who.
    pub(super) victim: usize,
    /// What it is to have in hand.
    pub(super) moment: Moment,
    /// From then to the kill.
    pub(super) wait: Duration,
    /// From the kill to the start.
    pub(super) down: Duration,
}

/// Draws the kills: every moment comes up before any comes up again.
pub(super) fn draw(seed: u64, kills: usize, nodes: usize) -> Vec<Strike> {
    let mut draw = Draw(seed);
    let mut left: Vec<Moment> = Vec::new();
    let mut strikes = Vec::with_capacity(kills);
    for _ in 0..kills {
        if left.is_empty() {
            left = Moment::ALL.into();
        }
        let moment = left.remove(below(&mut draw, left.len()));
        strikes.push(Strike {
            victim: below(&mut draw, nodes),
            moment,
            wait: Duration::from_millis(draw.below(moment.wait_ms_max())),
            down: Duration::from_millis(draw.below(DOWN_MS_MAX)),
        });
    }
    strikes
}

fn below(draw: &mut Draw, bound: usize) -> usize {
    usize::try_from(draw.below(bound as u64)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::bench::training::record::Task;

    #[test]
    fn every_moment_comes_up_twice_in_eight_and_the_seed_decides() {
        let strikes = draw(1, 8, 4);
        assert_eq!(strikes, draw(1, 8, 4));
        assert_ne!(strikes, draw(2, 8, 4));
        for half in strikes.chunks(4) {
            let moments: BTreeSet<Moment> = half.iter().map(|strike| strike.moment).collect();
            assert_eq!(moments.len(), 4);
        }
        let victims: BTreeSet<usize> = draw(1, 100, 4).iter().map(|strike| strike.victim).collect();
        assert_eq!(victims, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn what_is_in_hand_is_told_by_the_jobs() {
        let job = |kind, seed, ended| Job {
            task: Task { kind, round: None, seed },
            begin_ms: 0,
            end_ms: 0,
            cpu_ms: 0,
            ended,
            progress: Vec::new(),
        };
        let done = |kind| job(kind, Some(1), Some(true));
        let open = |kind, seed| job(kind, seed, None);
        for (jobs, expect) in [
            (vec![], Moment::Between),
            (vec![done(Kind::Train)], Moment::Between),
            (vec![open(Kind::Train, Some(1))], Moment::Training),
            (vec![done(Kind::Train), open(Kind::Replay, Some(1))], Moment::Showing),
            (vec![done(Kind::Train), open(Kind::Replay, Some(2))], Moment::Reviewing),
            (vec![done(Kind::Train), open(Kind::Evaluate, None)], Moment::Reviewing),
            (vec![open(Kind::Merge, None)], Moment::Merging),
            (vec![done(Kind::Merge), open(Kind::Evaluate, None)], Moment::Merging),
            (vec![open(Kind::Train, Some(1)), open(Kind::Start, None)], Moment::Between),
        ] {
            assert_eq!(Moment::now(&jobs), expect, "{jobs:?}");
        }
    }
}
