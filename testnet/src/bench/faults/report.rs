//! Figures, aims, and what is printed.

use std::path::Path;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::bench::loss::{Arm, Plan, RATE_PPM, Run};
use crate::cells::{Grid, Range};

/// Least that must be integrated of what was trained with one member dying, beside what the dead
/// one had in hand: everything. Below this a survivor's work was lost.
const SURVIVORS_LOSE_MAX: f64 = 0.0;
/// The arms.
const ARMS: [Arm; 2] = [Arm::Diloco, Arm::Sparse64];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    Nothing,
    HalfDropped,
    OneKilled,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Nothing, Self::HalfDropped, Self::OneKilled];

    const fn arguments(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::HalfDropped => "--drop 500000",
            Self::OneKilled => "--kill",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::HalfDropped => "half of the deltas lost",
            Self::OneKilled => "one of the members killed in every round",
        }
    }
}

/// One arm under one fault.
#[derive(Clone, Debug, Serialize)]
struct Row {
    arm: Arm,
    fault: Fault,
    /// Held-out loss at the end, nats per byte.
    loss: Range,
    /// That less the undisturbed one's, seed by seed, and as a change of perplexity in percent.
    penalty: Range,
    perplexity_percent: Range,
    /// Text in merged deltas over text trained on.
    integrated: Range,
    /// Text of members that did not die and whose delta arrived, and was not merged: over all.
    lost_of_survivors: Range,
}

/// The whole benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    scale: &'static str,
    plan: Plan,
    builds: Vec<String>,
    rows: Vec<Row>,
    aims_missed: Vec<String>,
}

pub(super) async fn measure(grid: &Grid, plan: &Plan, data: &Path) -> Result<Report> {
    eprintln!("bench faults");
    let mut cells = Vec::new();
    for arm in ARMS {
        for fault in Fault::ALL {
            for seed in 1..=plan.seeds {
                cells.push(plan.cell(arm, RATE_PPM, seed, fault.arguments(), data)?);
            }
        }
    }
    let results = grid.run(&cells).await?;
    let mut rows = Vec::new();
    for arm in ARMS {
        let runs = |fault: Fault| -> Result<Vec<Run>> {
            let name = |seed| plan.name(arm, RATE_PPM, seed, fault.arguments());
            (1..=plan.seeds).map(|seed| results.figures(&name(seed))).collect()
        };
        let undisturbed = runs(Fault::Nothing)?;
        for fault in Fault::ALL {
            rows.push(Row::of(arm, fault, &runs(fault)?, &undisturbed)?);
        }
    }
    let scale = "toy scale: says nothing about larger models";
    let builds = results.builds();
    let mut report = Report { scale, plan: *plan, builds, rows, aims_missed: Vec::new() };
    report.aims_missed = report.missed();
    Ok(report)
}

impl Row {
    fn of(arm: Arm, fault: Fault, runs: &[Run], undisturbed: &[Run]) -> Result<Self> {
        let last = runs.iter().map(Run::last).collect::<Result<Vec<_>>>()?;
        let base = undisturbed.iter().map(Run::last).collect::<Result<Vec<_>>>()?;
        let penalties = || last.iter().zip(&base).map(|(own, base)| own.loss - base.loss);
        let share = |part: u64, all: u64| part as f64 / all.max(1) as f64;
        Ok(Self {
            arm,
            fault,
            loss: Range::of(last.iter().map(|point| point.loss))?,
            penalty: Range::of(penalties())?,
            perplexity_percent: Range::of(penalties().map(|nats| 100.0 * nats.exp_m1()))?,
            integrated: Range::of(
                last.iter().map(|point| share(point.integrated, point.computed)),
            )?,
            lost_of_survivors: Range::of(last.iter().map(|point| {
                let accounted = point.integrated + point.dropped + point.died;
                share(point.computed.saturating_sub(accounted), point.computed)
            }))?,
        })
    }
}

impl Report {
    /// The aims that were missed, in words.
    pub(super) fn missed(&self) -> Vec<String> {
        let lost = self.rows.iter().filter(|row| row.lost_of_survivors.max > SURVIVORS_LOSE_MAX);
        lost.map(|row| {
            format!(
                "no work of survivors is lost ({}, {}): {} of it",
                row.arm.title(),
                row.fault.title(),
                row.lost_of_survivors.shown(3)
            )
        })
        .collect()
    }

    /// The table.
    pub(super) fn print(&self) {
        let Plan { workers, rounds, steps, seeds, .. } = self.plan;
        println!(
            "\n{workers} members, {rounds} rounds of {steps} steps, {seeds} seed(s): mean (least \
             to most)\n{}",
            self.scale
        );
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "",
            "what goes wrong",
            "loss, nats/byte",
            "penalty, nats/byte",
            "perplexity, %",
            "merged of trained",
        ]);
        for row in &self.rows {
            table.add_row([
                row.arm.title().to_owned(),
                row.fault.title().to_owned(),
                row.loss.shown(3),
                row.penalty.shown(3),
                row.perplexity_percent.shown(1),
                row.integrated.shown(3),
            ]);
        }
        println!("{table}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::loss::Point;

    fn run(loss: f64, integrated: u64, dropped: u64, died: u64) -> Run {
        let point = Point { loss, computed: 1_000, integrated, dropped, died, ..Point::default() };
        Run { parameters: 1, bits_per_parameter: None, ring_f32_bytes: 1, curve: vec![point] }
    }

    #[test]
    fn what_is_unaccounted_for_is_lost() {
        let base = [run(2.0, 1_000, 0, 0)];
        let row =
            |runs: &[Run]| Row::of(Arm::Sparse64, Fault::OneKilled, runs, &base).expect("measured");
        let good = row(&[run(2.1, 700, 200, 100)]);
        assert!((good.penalty.mean - 0.1).abs() < 1e-9);
        assert!((good.perplexity_percent.mean - 10.517).abs() < 1e-3);
        assert_eq!((good.integrated.mean, good.lost_of_survivors.max), (0.7, 0.0));
        let bad = row(&[run(2.1, 699, 200, 100)]);
        let report = |rows| Report {
            scale: "",
            plan: Plan::new(1, 30, false, true),
            builds: Vec::new(),
            rows,
            aims_missed: Vec::new(),
        };
        assert!(report(vec![good]).missed().is_empty());
        assert_eq!(report(vec![bad]).missed().len(), 1);
    }
}
