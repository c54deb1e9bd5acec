//! `ayni-testnet verify`: everything that must hold before a change is accepted.
//!
//! Steps run in order, cheap ones first and the tests last, so that the runner's closing line
//! stands near the end. The first failure stops the run and says how to repeat that step alone.
//! All compile in the release profile (with overflow checks), which the demo shares.

pub mod deny;
pub mod doc_tests;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::Table;

use crate::setup;
use crate::workspace::Workspace;

/// A command that must succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    title: &'static str,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Step {
    fn new(title: &'static str, arguments: &str) -> Self {
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        Self { title, arguments, variables: Vec::new() }
    }

    /// What a person types to run it alone.
    fn line(&self) -> String {
        let mut words: Vec<String> =
            self.variables.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        words.push("cargo".to_owned());
        words.extend(self.arguments.iter().cloned());
        words.join(" ")
    }

    fn run(&self, workspace: &Workspace) -> Result<()> {
        let mut cargo = workspace.cargo();
        cargo.args(&self.arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        let status = cargo.status().context("cargo could not be started")?;
        if !status.success() {
            bail!("its output is above ({status})");
        }
        Ok(())
    }
}

/// Sets up and runs every step; stops at the first that fails.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut times = Times::default();
    times.measure("libtorch", "cargo run --release -p ayni-testnet -- setup", || {
        setup::libtorch(workspace)
    })?;
    times.step(workspace, &Step::new("format", "fmt --all --check"))?;
    times.measure("dependencies", &deny::line(), || deny::run(workspace))?;
    for step in compiled_steps(has_nextest(workspace), doc_tests::exist(workspace.root())?) {
        times.step(workspace, &step)?;
    }
    println!("\n{}", times.table());
    println!("all checks passed");
    Ok(())
}

fn compiled_steps(nextest: bool, doc_tests: bool) -> Vec<Step> {
    let mut steps =
        vec![Step::new("lints", "clippy --release --workspace --all-targets -- -D warnings")];
    let mut documentation =
        Step::new("documentation", "doc --release --no-deps --workspace --document-private-items");
    documentation
        .variables
        .push(("RUSTDOCFLAGS", rustdoc_flags(std::env::var("RUSTDOCFLAGS").ok())));
    steps.push(documentation);
    if nextest {
        if doc_tests {
            steps.push(Step::new("documentation tests", "test --release --workspace --doc"));
        }
        steps.push(Step::new("tests", "nextest run --release --workspace"));
    } else {
        steps.push(Step::new("tests", "test --release --workspace"));
    }
    steps
}

/// Warnings denied, besides what the user set.
fn rustdoc_flags(own: Option<String>) -> String {
    own.filter(|own| !own.is_empty())
        .map_or("-D warnings".to_owned(), |own| format!("{own} -D warnings"))
}

/// Whether `cargo nextest` works here; plain `cargo test` does the same, slower.
fn has_nextest(workspace: &Workspace) -> bool {
    succeeds(workspace.cargo().args(["nextest", "--version"]))
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// How long each step took.
#[derive(Default)]
struct Times {
    rows: Vec<(&'static str, Duration)>,
}

impl Times {
    fn step(&mut self, workspace: &Workspace, step: &Step) -> Result<()> {
        let line = step.line();
        self.measure(step.title, &line, || step.run(workspace))
    }

    /// Runs one step under a heading; `line` runs it alone.
    fn measure(
        &mut self,
        title: &'static str,
        line: &str,
        step: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("\n== {title}: {line}");
        let start = Instant::now();
        let result = step();
        self.rows.push((title, start.elapsed()));
        if let Err(error) = result {
            println!("\n{}", self.table());
            bail!("verify stopped at step \"{title}\": {error:#}. To run it alone: {line}");
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_header(["step", "seconds"]);
        let all: Duration = self.rows.iter().map(|(_, time)| time).sum();
        for (title, time) in self.rows.iter().copied().chain([("in all", all)]) {
            table.add_row([title.to_owned(), format!("{:>7.1}", time.as_secs_f64())]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_come_last_with_either_runner() {
        for (nextest, doc_tests, expect) in [
            (true, true, "cargo nextest run --release --workspace"),
            (true, false, "cargo nextest run --release --workspace"),
            (false, true, "cargo test --release --workspace"),
        ] {
            let steps = compiled_steps(nextest, doc_tests);
            assert_eq!(steps.last().expect("steps").line(), expect);
            let separate = steps.iter().any(|step| step.line().ends_with("--doc"));
            assert_eq!(separate, nextest && doc_tests);
            assert!(steps.iter().all(|step| step.line().contains(" --release")));
        }
    }

    #[test]
    fn a_step_says_how_to_run_it_alone() {
        let mut step = Step::new("documentation", "doc --no-deps");
        step.variables.push(("RUSTDOCFLAGS", rustdoc_flags(None)));
        assert_eq!(step.line(), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
        assert_eq!(rustdoc_flags(Some("--cfg x".into())), "--cfg x -D warnings");
    }

    #[test]
    fn a_failure_names_the_step_and_stops() {
        let mut times = Times::default();
        times.measure("first", "cargo one", || Ok(())).expect("passes");
        let error = times.measure("second", "cargo two", || bail!("broken")).expect_err("fails");
        let message = error.to_string();
        assert!(message.contains("\"second\": broken") && message.ends_with("alone: cargo two"));
        assert_eq!(times.rows.len(), 2);
    }
}
