//! What the scenes gave, the aims, and what is printed.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::kept::Found;
use super::peers::{HOSTILE, NODES};
use super::scene::{Attack, Defence, Scene};
use super::stage::{Figures, Tally};

/// Points of accuracy that an attack may cost the network with its defences. Two of seven deltas
/// that are refused, or that do nothing, leave less progress: that is part of it.
const MARGIN: f64 = 3.0;
/// Points that the attack of a hundredfold delta must cost the network without them, or it would
/// show nothing.
const BEATEN_BY: f64 = 10.0;
/// What is said of backdoors, whatever was measured.
const BOUNDED: &str = "backdoors are bounded, not detected: a delta that is as useful as others and \
                       also teaches a trigger passes review, and the clip only limits its weight";

/// A scene.
#[derive(Clone, Debug, Serialize)]
struct Row {
    attack: Attack,
    defence: Defence,
    #[serde(flatten)]
    figures: Figures,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    scale: &'static str,
    members: usize,
    hostile: usize,
    rounds: u32,
    short: bool,
    builds: Vec<String>,
    rows: Vec<Row>,
    backdoors: &'static str,
    seconds: f64,
    aims_missed: Vec<String>,
}

impl Report {
    pub(super) fn new(scenes: &[Scene], found: &Found, rounds: u32, short: bool) -> Result<Self> {
        let mut builds = BTreeSet::new();
        let mut rows = Vec::new();
        for scene in scenes {
            let (figures, build) =
                found.get(scene).with_context(|| format!("{} is gone", scene.name()))?;
            builds.insert(build.clone());
            let Scene { attack, defence } = *scene;
            rows.push(Row { attack, defence, figures: *figures });
        }
        rows.sort_by_key(|row| (row.attack, row.defence));
        let mut report = Self {
            scale: "toy scale: MNIST, a CNN of 19,000 parameters, one seed, one machine",
            members: NODES,
            hostile: HOSTILE,
            rounds,
            short,
            builds: builds.into_iter().collect(),
            seconds: rows.iter().map(|row| row.figures.seconds).sum(),
            rows,
            backdoors: BOUNDED,
            aims_missed: Vec::new(),
        };
        report.aims_missed = report.missed();
        Ok(report)
    }

    fn accuracy(&self, attack: Attack, defence: Defence) -> Option<f64> {
        let is = |row: &&Row| (row.attack, row.defence) == (attack, defence);
        Some(self.rows.iter().find(is)?.figures.accuracy_percent)
    }

    /// The aims that were missed, in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let defended = |attack| self.accuracy(attack, Defence::On);
        let peace = defended(Attack::None).unwrap_or(0.0);
        let on = self.rows.iter().filter(|row| row.defence == Defence::On);
        for row in on.filter(|row| row.attack != Attack::None) {
            let accuracy = row.figures.accuracy_percent;
            if accuracy < peace - MARGIN {
                missed.push(format!(
                    "clip and review hold {} within {MARGIN} points of no attack ({peace:.1} %): \
                     {accuracy:.1} %",
                    row.attack.name()
                ));
            }
        }
        let bare = self.accuracy(Attack::Scaled, Defence::Off).unwrap_or(100.0);
        if bare > defended(Attack::Scaled).unwrap_or(0.0) - BEATEN_BY {
            missed.push(format!(
                "{} beats the network without defences by {BEATEN_BY} points: {bare:.1} %",
                Attack::Scaled.name()
            ));
        }
        missed
    }

    /// The table.
    pub(super) fn print(&self) {
        println!(
            "\n{} members, {} hostile, {} rounds, real daemons and workers\n{}",
            self.members, self.hostile, self.rounds, self.scale
        );
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "attack",
            "defence",
            "accuracy %",
            "trigger -> 0 %",
            "hostile deltas",
            "honest deltas",
            "heads",
            "s",
        ]);
        for Row { attack, defence, figures } in &self.rows {
            table.add_row([
                attack.name().to_owned(),
                defence.describe().to_owned(),
                format!("{:.1}", figures.accuracy_percent),
                format!("{:.1}", figures.fooled_percent),
                shown(&figures.hostile),
                shown(&figures.honest),
                format!("{} of {}", figures.rounds_certified, self.rounds),
                format!("{:.0}", figures.seconds),
            ]);
        }
        println!("{table}");
        println!("{BOUNDED}");
        println!("{} scenes in {:.0} s", self.rows.len(), self.seconds);
    }
}

/// What became of deltas.
fn shown(tally: &Tally) -> String {
    let Tally { submitted, merged, declined, faults } = tally;
    format!("{merged} merged, {declined} declined, {faults} at fault of {submitted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[(Attack, Defence, f64)]) -> Report {
        let figures = |accuracy_percent| Figures {
            accuracy_percent,
            fooled_percent: 0.0,
            rounds_certified: 4,
            honest: Tally::default(),
            hostile: Tally::default(),
            seconds: 1.0,
        };
        let found: Found = rows
            .iter()
            .map(|(attack, defence, percent)| {
                let scene = Scene { attack: *attack, defence: *defence };
                (scene, (figures(*percent), "b".to_owned()))
            })
            .collect();
        let scenes: Vec<Scene> = found.keys().copied().collect();
        Report::new(&scenes, &found, 4, false).expect("all scenes")
    }

    #[test]
    fn a_costly_attack_and_a_harmless_one_are_both_misses() {
        use Defence::{Off, On};
        let none = (Attack::None, On, 95.0);
        let good = [none, (Attack::Scaled, On, 92.5), (Attack::Scaled, Off, 10.0)];
        assert_eq!(report(&good).missed(), Vec::<String>::new());
        let costly = [none, (Attack::Scaled, On, 91.0), (Attack::Scaled, Off, 10.0)];
        let missed = report(&costly).aims_missed;
        assert!(missed.len() == 1 && missed[0].contains("scaled-x100 within 3"), "{missed:?}");
        let harmless = [none, (Attack::Scaled, On, 95.0), (Attack::Scaled, Off, 90.0)];
        let missed = report(&harmless).aims_missed;
        assert!(missed.len() == 1 && missed[0].contains("without defences"), "{missed:?}");
    }

    #[test]
    fn a_scene_that_is_not_there_is_named() {
        let scene = Scene { attack: Attack::Backdoor, defence: Defence::On };
        let error = Report::new(&[scene], &Found::new(), 4, true).expect_err("gone");
        assert!(error.to_string().contains("backdoor.on"));
    }
}
