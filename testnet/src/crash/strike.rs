//! Whom a blow hits and when, drawn from the seed.

use std::time::Duration;

use crate::crash_store::chain::Draw;

/// Longest wait before a blow that comes at no moment in particular: some blocks.
const DELAY_MS_MAX: u64 = 400;
/// Longest wait after the news of a block, for blows into the work that follows it.
const AFTER_BLOCK_MS_MAX: u64 = 20;
/// Longest time that a node stays down without a reason.
const DOWN_MS_MAX: u64 = 300;
/// Longest life of a node that is killed while it starts: opening, replaying, binding its socket.
const STARTING_MS_MAX: u64 = 150;
/// Longest life, after its first answer, of a node that is killed while it catches up.
const CATCHING_UP_MS_MAX: u64 = 120;
/// Blocks that the others make while a node is away that will be killed while it catches up.
const AWAY_BLOCKS: u64 = 4;

/// The moment of a blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// At no moment in particular.
    Any,
    /// Soon after some node told of a block.
    AfterBlock,
    /// As [`Self::Any`], and again while the victims start.
    Starting {
        /// From the start to the second kill.
        life: Duration,
    },
    /// As [`Self::Any`], and again while the victim fetches what it missed.
    CatchingUp {
        /// Blocks that the others make meanwhile.
        away: u64,
        /// From the victim's first answer to the second kill.
        life: Duration,
    },
}

/// One blow.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    /// Who is killed, at once.
    pub(super) victims: Vec<usize>,
    /// When.
    pub(super) moment: Moment,
    /// Wait before the kill, from the moment on.
    pub(super) delay: Duration,
    /// From the kill to the start.
    pub(super) down: Duration,
}

impl Strike {
    /// Draws one that kills at most `kills_max` processes, which is not zero.
    pub(super) fn draw(draw: &mut Draw, nodes: usize, kills_max: u64) -> Self {
        let mut order: Vec<usize> = (0..nodes).collect();
        for at in (1..nodes).rev() {
            order.swap(at, index(draw, at + 1));
        }
        let count = match draw.below(20) {
            0..=12 => 1,
            13..=17 => 2,
            _ => nodes,
        };
        order.truncate(count.min(usize::try_from(kills_max).unwrap_or(nodes)));
        let twice = 2 * order.len() as u64 <= kills_max;
        let moment = match draw.below(10) {
            0..=3 => Moment::Any,
            8 if twice => Moment::Starting { life: millis(draw, STARTING_MS_MAX) },
            // Somebody must be left who makes the blocks.
            9 if twice && order.len() == 1 => {
                Moment::CatchingUp { away: AWAY_BLOCKS, life: millis(draw, CATCHING_UP_MS_MAX) }
            }
            _ => Moment::AfterBlock,
        };
        let delay_max =
            if moment == Moment::AfterBlock { AFTER_BLOCK_MS_MAX } else { DELAY_MS_MAX };
        Self {
            victims: order,
            moment,
            delay: millis(draw, delay_max),
            down: millis(draw, DOWN_MS_MAX),
        }
    }
}

fn millis(draw: &mut Draw, max: u64) -> Duration {
    Duration::from_millis(draw.below(max))
}

fn index(draw: &mut Draw, bound: usize) -> usize {
    usize::try_from(draw.below(bound as u64)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_node_and_every_moment_comes_up_and_the_seed_decides() {
        let strikes = |seed| {
            let mut draw = Draw(seed);
            (0..100).map(|_| Strike::draw(&mut draw, 4, 200)).collect::<Vec<_>>()
        };
        let drawn = strikes(1);
        assert_eq!(format!("{drawn:?}"), format!("{:?}", strikes(1)));
        assert_ne!(format!("{drawn:?}"), format!("{:?}", strikes(2)));
        let counts: BTreeSet<usize> = drawn.iter().map(|strike| strike.victims.len()).collect();
        assert_eq!(counts, BTreeSet::from([1, 2, 4]));
        let victims: BTreeSet<usize> = drawn.iter().flat_map(|s| s.victims.clone()).collect();
        assert_eq!(victims, BTreeSet::from([0, 1, 2, 3]));
        for wanted in [
            |m: &Moment| *m == Moment::Any,
            |m: &Moment| *m == Moment::AfterBlock,
            |m: &Moment| matches!(m, Moment::Starting { .. }),
            |m: &Moment| matches!(m, Moment::CatchingUp { .. }),
        ] {
            assert!(drawn.iter().any(|strike| wanted(&strike.moment)));
        }
    }

    #[test]
    fn no_more_are_killed_than_were_asked_for() {
        let mut draw = Draw(7);
        for _ in 0..200 {
            let strike = Strike::draw(&mut draw, 4, 1);
            assert_eq!(strike.victims.len(), 1);
            assert!(matches!(strike.moment, Moment::Any | Moment::AfterBlock));
        }
    }
}
