//! Figures and what is printed.

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::Options;
use super::scaling::Scaling;
use crate::blobs::MIB;

/// What runs beside a measured transfer between nodes, in words.
const BESIDE: &str = "beside a transfer one validator makes an empty block every 3 s, and the \
                      client is told of it; the client looks at its job every 10 ms";

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// User and system time.
    pub(super) client_cpu_s: f64,
    pub(super) provider_cpu_s: f64,
    pub(super) client_peak_kib: u64,
    pub(super) provider_peak_kib: u64,
}

impl Sample {
    pub(super) fn mib_per_s(&self) -> f64 {
        self.bytes as f64 / MIB as f64 / self.seconds
    }

    fn per_gib(&self, seconds: f64) -> f64 {
        seconds * (1_024 * MIB) as f64 / self.bytes as f64
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of values in any order; with an even number the lower of the two in the middle.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied();
        let last = values.len().checked_sub(1).context("nothing was measured")?;
        let spread = at(0).zip(at(last)).zip(at(last / 2));
        let ((min, max), median) = spread.context("nothing was measured")?;
        Ok(Self { median, min, max })
    }

    fn shown(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

/// Figures of one program.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Its name.
    pub(super) program: &'static str,
    pub(super) mib_per_s: Spread,
    /// User and system seconds over the GiB moved.
    pub(super) client_cpu_s_per_gib: Spread,
    pub(super) provider_cpu_s_per_gib: Spread,
    /// The most of all runs.
    pub(super) client_peak_mib: f64,
    /// The most since the provider began; it has taken in the file before.
    pub(super) provider_peak_mib: f64,
}

impl Figures {
    pub(super) fn of(program: &'static str, samples: &[Sample]) -> Result<Self> {
        let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
        let peak = |value: fn(&Sample) -> u64| {
            samples.iter().map(value).max().unwrap_or_default() as f64 / 1_024.0
        };
        Ok(Self {
            program,
            mib_per_s: spread(Sample::mib_per_s)?,
            client_cpu_s_per_gib: spread(|s| s.per_gib(s.client_cpu_s))?,
            provider_cpu_s_per_gib: spread(|s| s.per_gib(s.provider_cpu_s))?,
            client_peak_mib: peak(|s| s.client_peak_kib),
            provider_peak_mib: peak(|s| s.provider_peak_kib),
        })
    }
}

/// The whole benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    cores: usize,
    runs: usize,
    size_mib: u64,
    beside: &'static str,
    /// Ayni first; empty when only scaling was asked for.
    pub(super) programs: Vec<Figures>,
    /// Several providers at once.
    pub(super) scaling: Scaling,
    /// Ayni's median speed over that of each other program.
    pub(super) over: Vec<Over>,
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Over {
    pub(super) program: &'static str,
    pub(super) ratio: f64,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        cores: usize,
        programs: Vec<Figures>,
        scaling: Scaling,
    ) -> Self {
        let over = programs.split_first().map(|(ours, others)| {
            let ratio = |other: &Figures| Over {
                program: other.program,
                ratio: ours.mib_per_s.median / other.mib_per_s.median,
            };
            others.iter().map(ratio).collect()
        });
        Self {
            cores,
            runs: options.runs,
            size_mib: options.size_mib,
            beside: BESIDE,
            programs,
            scaling,
            over: over.unwrap_or_default(),
        }
    }
}

/// Prints the tables.
pub(super) fn print(report: &Report) {
    if !report.programs.is_empty() {
        print_programs(report);
    }
    report.scaling.print();
}

fn print_programs(report: &Report) {
    println!(
        "\n{} MiB over loopback, provider and client on a core each of {}; median of {} runs \
         (least to most)",
        report.size_mib, report.cores, report.runs
    );
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "",
        "MiB/s",
        "client, CPU s/GiB",
        "provider, CPU s/GiB",
        "client, peak MiB",
        "provider, peak MiB",
    ]);
    for figures in &report.programs {
        table.add_row([
            figures.program.to_owned(),
            figures.mib_per_s.shown(0),
            figures.client_cpu_s_per_gib.shown(2),
            figures.provider_cpu_s_per_gib.shown(2),
            format!("{:.0}", figures.client_peak_mib),
            format!("{:.0}", figures.provider_peak_mib),
        ]);
    }
    println!("{table}");
    for over in &report.over {
        println!("ayni is {:.2} times as fast as {}", over.ratio, over.program);
    }
    println!("{BESIDE}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_by_hand() {
        let spread = Spread::of([3.0, 1.0, 2.0, 9.0]).expect("values");
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 9.0));
        Spread::of([]).expect_err("nothing was measured");
    }

    #[test]
    fn a_sample_is_stated_for_a_gib() {
        let sample = Sample {
            bytes: 256 * MIB,
            seconds: 0.5,
            client_cpu_s: 0.25,
            provider_cpu_s: 0.5,
            client_peak_kib: 2_048,
            provider_peak_kib: 1_024,
        };
        let figures = Figures::of("x", &[sample]).expect("a sample");
        assert_eq!(figures.mib_per_s.median, 512.0);
        assert_eq!(figures.client_cpu_s_per_gib.median, 1.0);
        assert_eq!(figures.provider_cpu_s_per_gib.median, 2.0);
        assert_eq!((figures.client_peak_mib, figures.provider_peak_mib), (2.0, 1.0));
    }
}
