//! What goes wrong in a simulated round, drawn from the cell's seed.

use clap::Args;
use protocol::ids::Beacon;
use protocol::training::Draw;

const PPM: u64 = 1_000_000;

/// What goes wrong.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Share of the deltas that are lost on their way, in ppm.
    #[arg(long = "drop", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub drop_ppm: u32,
    /// In every round one member dies at a moment drawn from the whole round, and comes back for
    /// the next.
    #[arg(long = "kill")]
    pub kill: bool,
}

/// What becomes of a member's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its delta is merged.
    Merged,
    /// Its delta does not arrive; it learns that, and keeps all as error feedback.
    Dropped,
    /// It dies while it trains, after this part of its steps.
    Dies {
        /// In ppm.
        part_ppm: u32,
    },
}

impl Faults {
    /// What becomes of one member's round. Equal seeds give equal fates.
    pub fn fate(&self, seed: u64, round: u32, member: u32, members: u32) -> Fate {
        let draw = |what: &'static str, of: u32| {
            let parts: [&[u8]; 4] =
                [&seed.to_le_bytes(), &round.to_le_bytes(), what.as_bytes(), &of.to_le_bytes()];
            Draw::new("ayni lab 2026 faults v1", &Beacon::default(), &parts)
        };
        if self.kill {
            let mut draw = draw("kill", 0);
            let victim = draw.below(u64::from(members));
            // Half of a round's time is training, the other half is commits, reviews, merging.
            // Whoever dies after its delta was sent costs nothing.
            let moment = draw.below(2 * PPM);
            if victim == u64::from(member) && moment < PPM {
                return Fate::Dies { part_ppm: u32::try_from(moment).unwrap_or(u32::MAX) };
            }
        }
        let own = draw("drop", member).below(PPM);
        if own < u64::from(self.drop_ppm) { Fate::Dropped } else { Fate::Merged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(faults: Faults) -> Vec<Fate> {
        (0..200).flat_map(|r| (0..4).map(move |m| faults.fate(7, r, m, 4))).collect()
    }

    #[test]
    fn about_as_many_as_asked_for() {
        assert!(fates(Faults::default()).iter().all(|fate| *fate == Fate::Merged));
        let dropped = fates(Faults { drop_ppm: 500_000, kill: false });
        let count = dropped.iter().filter(|fate| **fate == Fate::Dropped).count();
        assert!((350..450).contains(&count), "{count} of 800");
        let mixed = dropped.chunks(4).filter(|round| round.iter().any(|fate| *fate != round[0]));
        assert!(mixed.count() > 150, "each member draws for itself");
        assert_eq!(dropped, fates(Faults { drop_ppm: 500_000, kill: false }), "drawn once");
    }

    #[test]
    fn one_member_dies_in_about_half_of_the_rounds() {
        let fates = fates(Faults { drop_ppm: 0, kill: true });
        let deaths: Vec<usize> = fates
            .chunks(4)
            .map(|round| round.iter().filter(|fate| matches!(fate, Fate::Dies { .. })).count())
            .collect();
        assert!(deaths.iter().all(|deaths| *deaths <= 1));
        let rounds: usize = deaths.iter().sum();
        assert!((75..125).contains(&rounds), "{rounds} of 200");
    }
}
