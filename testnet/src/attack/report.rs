//! Accuracies, aims, and what is printed.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::{Attack, Plan, Rule};
use crate::cells::{Range, Results};

/// Points that centred clipping may stay below what was published.
const BELOW_PUBLISHED_MAX: f64 = 0.5;
/// Points below centred clipping at which an attack has beaten a weak rule.
const BEATEN_BY: f64 = 5.0;
/// The least accuracy of centred clipping after the short form's iterations, in percent.
const SHORT_MIN: f64 = 90.0;

/// What a cell gives, as far as it is read here.
#[derive(Clone, Debug, Deserialize)]
struct Run {
    accuracy_percent: f64,
    collapsed: bool,
    seconds_per_iteration: f64,
}

/// A rule under an attack.
#[derive(Clone, Debug, Serialize)]
struct Row {
    rule: Rule,
    attack: Attack,
    /// Percent of the test images, over seeds.
    accuracy: Range,
    seeds: usize,
    collapsed: usize,
}

/// The grid.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    scale: &'static str,
    short: bool,
    iterations: u32,
    builds: Vec<String>,
    seconds_per_iteration: Range,
    rows: Vec<Row>,
    /// Of the runs of centred clipping, those that ended below half.
    collapse_rate: f64,
    aims_missed: Vec<String>,
}

impl Report {
    pub(super) fn new(plan: &Plan, short: bool, results: &Results) -> Result<Self> {
        let mut rows = Vec::new();
        let mut seconds = Vec::new();
        for (pair, seeds) in &plan.pairs {
            let runs = (0..*seeds)
                .map(|seed| results.figures::<Run>(&plan.name(*pair, seed)))
                .collect::<Result<Vec<_>>>()?;
            seconds.extend(runs.iter().map(|run| run.seconds_per_iteration));
            rows.push(Row {
                rule: pair.0,
                attack: pair.1,
                accuracy: Range::of(runs.iter().map(|run| run.accuracy_percent))?,
                seeds: runs.len(),
                collapsed: runs.iter().filter(|run| run.collapsed).count(),
            });
        }
        let clipped = || rows.iter().filter(|row| row.rule == Rule::Cclip);
        let all: usize = clipped().map(|row| row.seeds).sum();
        let collapsed: usize = clipped().map(|row| row.collapsed).sum();
        let mut report = Self {
            scale: "toy scale: MNIST, 25 simulated workers, gradients in one process",
            short,
            iterations: plan.iterations,
            builds: results.builds(),
            seconds_per_iteration: Range::of(seconds)?,
            collapse_rate: collapsed as f64 / all.max(1) as f64,
            rows,
            aims_missed: Vec::new(),
        };
        report.aims_missed = report.missed();
        Ok(report)
    }

    fn accuracy(&self, rule: Rule, attack: Attack) -> Option<Range> {
        let row = self.rows.iter().find(|row| row.rule == rule && row.attack == attack)?;
        Some(row.accuracy)
    }

    /// The weak rules that an attack brings far below centred clipping.
    fn beaten(&self, attack: Attack) -> Vec<Rule> {
        let Some(strong) = self.accuracy(Rule::Cclip, attack) else { return Vec::new() };
        let falls = |rule: &Rule| {
            self.accuracy(*rule, attack).is_some_and(|weak| weak.mean < strong.mean - BEATEN_BY)
        };
        Rule::WEAK.into_iter().filter(falls).collect()
    }

    /// The aims that were missed, in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let attacks = self.rows.iter().filter(|row| row.rule == Rule::Cclip);
        for row in attacks.clone() {
            let least = if self.short {
                Some(SHORT_MIN)
            } else {
                row.attack.published().map(|published| published - BELOW_PUBLISHED_MAX)
            };
            if let Some(least) = least.filter(|least| row.accuracy.mean < *least) {
                missed.push(format!(
                    "centred clipping under {} reaches {least:.1} %: {}",
                    row.attack.name(),
                    row.accuracy.shown(2)
                ));
            }
        }
        for row in attacks.filter(|row| row.attack != Attack::None) {
            if self.beaten(row.attack).is_empty() {
                missed.push(format!("{} beats at least one weak rule", row.attack.name()));
            }
        }
        missed
    }

    /// The table.
    pub(super) fn print(&self) {
        println!(
            "\nMNIST sorted by label, 25 workers, 5 attack, buckets of 2, {} iterations: accuracy in \
             percent, mean (least to most) over seeds\n{}",
            self.iterations, self.scale
        );
        let rules: Vec<Rule> = [Rule::Cclip]
            .into_iter()
            .chain(Rule::WEAK)
            .filter(|rule| self.rows.iter().any(|row| row.rule == *rule))
            .collect();
        let mut table = Table::new();
        let mut header = vec!["attack".to_owned(), "published".to_owned()];
        header.extend(rules.iter().map(|rule| rule.name().to_owned()));
        header.push("beats".to_owned());
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
        for attack in Attack::ALL {
            let Some(_) = self.accuracy(Rule::Cclip, attack) else { continue };
            let published = attack.published().filter(|_| !self.short);
            let mut row = vec![attack.name().to_owned()];
            row.push(published.map_or("-".to_owned(), |percent| percent.to_string()));
            row.extend(rules.iter().map(|rule| {
                self.accuracy(*rule, attack).map_or("-".to_owned(), |range| range.shown(2))
            }));
            let beaten: Vec<&str> = self.beaten(attack).into_iter().map(Rule::name).collect();
            row.push(beaten.join(", "));
            table.add_row(row);
        }
        println!("{table}");
        println!("{} s an iteration", self.seconds_per_iteration.shown(2));
        println!("runs of centred clipping that collapsed: {:.0} %", 100.0 * self.collapse_rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(accuracies: &[(Rule, Attack, f64)], short: bool) -> Report {
        let rows = accuracies.iter().map(|(rule, attack, percent)| Row {
            rule: *rule,
            attack: *attack,
            accuracy: Range::of([*percent]).expect("a value"),
            seeds: 1,
            collapsed: usize::from(*percent < 50.0),
        });
        Report {
            scale: "",
            short,
            iterations: 1,
            builds: Vec::new(),
            seconds_per_iteration: Range::of([1.0]).expect("a value"),
            rows: rows.collect(),
            collapse_rate: 0.0,
            aims_missed: Vec::new(),
        }
    }

    #[test]
    fn a_strong_rule_that_falls_and_a_weak_attack_are_both_misses() {
        let good = [
            (Rule::Cclip, Attack::None, 98.0),
            (Rule::Cclip, Attack::Alie, 97.7),
            (Rule::Krum, Attack::Alie, 10.0),
        ];
        assert_eq!(report(&good, false).missed(), Vec::<String>::new());
        let low = [(Rule::Cclip, Attack::Alie, 97.5), (Rule::Krum, Attack::Alie, 10.0)];
        assert_eq!(report(&low, false).missed().len(), 1);
        assert!(report(&low, true).missed().is_empty(), "fewer iterations, less asked for");
        let harmless = [(Rule::Cclip, Attack::Ipm, 97.9), (Rule::Mean, Attack::Ipm, 97.0)];
        let missed = report(&harmless, false).missed();
        assert!(missed.len() == 1 && missed[0].contains("ipm beats"), "{missed:?}");
    }

    #[test]
    fn the_grid_is_complete() {
        let options = super::super::Options {
            seeds: 3,
            network: false,
            short: false,
            fresh: false,
            json: false,
        };
        let plan = Plan::new(&options);
        let runs: u64 = plan.pairs.iter().map(|(_, seeds)| seeds).sum();
        assert_eq!(runs, 6 * 3 + 4 * 6);
        let short = Plan::new(&super::super::Options { short: true, ..options });
        assert_eq!((short.pairs.len(), short.iterations), (2, 150));
    }
}
