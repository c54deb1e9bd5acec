//! Cells of a grid: experiments that `ayni-worker lab` runs, one process each, some at once.
//!
//! What a cell printed is kept in a file of its own, so a grid that was cut off goes on where it
//! stopped. **Invariant.** A kept result is used again only for the same arguments; it says which
//! build of the worker made it, and [`Results::builds`] says whether they are all one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::network::stop_asked;
use crate::workspace::Workspace;

/// Lines of a failed cell's log that are quoted.
const QUOTED_LINES: usize = 6;

/// One experiment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    /// Its name, good as a file name.
    pub(crate) name: String,
    /// What follows `ayni-worker --json lab`.
    pub(crate) arguments: Vec<String>,
}

impl Cell {
    /// A cell; the words of `line` are its arguments.
    pub(crate) fn new(name: String, line: &str) -> Self {
        Self { name, arguments: line.split_whitespace().map(str::to_owned).collect() }
    }

    /// The same with an argument that may hold spaces.
    pub(crate) fn with(mut self, option: &str, value: &Path) -> Result<Self> {
        let value = value.to_str().context("the path is not UTF-8")?;
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        Ok(self)
    }
}

/// What is kept of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    arguments: Vec<String>,
    /// BLAKE3 of the worker program.
    build: String,
    seconds: f64,
    figures: Value,
}

/// A grid in the making.
pub(crate) struct Grid {
    folder: PathBuf,
    worker: PathBuf,
    build: String,
    at_once: usize,
}

/// What the cells gave, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    kept: BTreeMap<String, Kept>,
}

impl Grid {
    /// A grid whose results are kept under `target/bench/NAME`. With `fresh`, earlier ones go.
    pub(crate) fn open(workspace: &Workspace, name: &str, fresh: bool) -> Result<Self> {
        let folder = workspace.target().join("bench").join(name);
        if fresh && folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("{} cannot be created", folder.display()))?;
        let worker = workspace.program("ayni-worker")?;
        let build = blake3::hash(&fs::read(&worker)?).to_hex()[..16].to_owned();
        let at_once = std::thread::available_parallelism()?.get();
        Ok(Self { folder, worker, build, at_once })
    }

    /// Where this grid's files lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the cells that have no result yet, as many at once as there are cores.
    pub(crate) async fn run(&self, cells: &[Cell]) -> Result<Results> {
        tokio::select! {
            results = self.all(cells) => results,
            // Dropping the cells kills their processes.
            _ = stop_asked() => bail!(
                "interrupted; the cells that were done are kept in {}, and the same command goes \
                 on from there",
                self.folder.display()
            ),
        }
    }

    async fn all(&self, cells: &[Cell]) -> Result<Results> {
        let kept: Vec<_> = cells.iter().filter_map(|cell| self.kept(cell)).collect();
        let missing: Vec<&Cell> = cells.iter().filter(|cell| self.kept(cell).is_none()).collect();
        if !kept.is_empty() {
            eprintln!("  {} of {} cells are there from before", kept.len(), cells.len());
        }
        let mut done = kept.len();
        let mut ready = stream::iter(missing.into_iter().map(|cell| self.one(cell)))
            .buffer_unordered(self.at_once);
        while let Some((name, seconds)) = ready.try_next().await? {
            done += 1;
            eprintln!("  {done} of {}: {name} ({seconds:.0} s)", cells.len());
        }
        let named = |cell: &Cell| {
            let kept = self.kept(cell).with_context(|| format!("{} is gone", cell.name))?;
            Ok((cell.name.clone(), kept))
        };
        Ok(Results { kept: cells.iter().map(named).collect::<Result<_>>()? })
    }

    fn path(&self, cell: &Cell, end: &str) -> PathBuf {
        self.folder.join(format!("{}.{end}", cell.name))
    }

    /// The result of a cell, if it is there and made with the same arguments.
    fn kept(&self, cell: &Cell) -> Option<Kept> {
        let bytes = fs::read(self.path(cell, "json")).ok()?;
        // A file that is not a result is as good as none: it is made again.
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.arguments == cell.arguments).then_some(kept)
    }

    async fn one(&self, cell: &Cell) -> Result<(String, f64)> {
        let started = Instant::now();
        let log = self.path(cell, "log");
        let output = Command::new(&self.worker)
            .args(["--json", "lab"])
            .args(&cell.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).with_context(|| log.display().to_string())?)
            .kill_on_drop(true)
            .spawn()
            .context("ayni-worker cannot be started")?
            .wait_with_output()
            .await?;
        let figures = serde_json::from_slice(&output.stdout);
        let Ok(figures) = figures else {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(QUOTED_LINES).collect();
            let words: Vec<&str> = lines.into_iter().rev().collect();
            bail!(
                "cell {} gave no figures ({}): {}\nTo run it alone: {} --json lab {}",
                cell.name,
                output.status,
                words.join("\n"),
                self.worker.display(),
                cell.arguments.join(" ")
            );
        };
        let seconds = started.elapsed().as_secs_f64();
        let arguments = cell.arguments.clone();
        let kept = Kept { arguments, build: self.build.clone(), seconds, figures };
        let temporary = self.path(cell, "part");
        fs::write(&temporary, serde_json::to_vec(&kept)?)?;
        fs::rename(&temporary, self.path(cell, "json"))?;
        Ok((cell.name.clone(), seconds))
    }
}

impl Results {
    /// The figures of one cell.
    pub(crate) fn figures<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let kept = self.kept.get(name).with_context(|| format!("no cell {name} in this grid"))?;
        serde_json::from_value(kept.figures.clone())
            .with_context(|| format!("cell {name} gave other figures than expected"))
    }

    /// Process seconds of all cells together.
    pub(crate) fn seconds(&self) -> f64 {
        self.kept.values().map(|kept| kept.seconds).sum()
    }

    /// Builds of the worker that made them; more than one after a change in mid-grid.
    pub(crate) fn builds(&self) -> Vec<String> {
        let builds: BTreeSet<&String> = self.kept.values().map(|kept| &kept.build).collect();
        builds.into_iter().cloned().collect()
    }

    /// All of both.
    pub(crate) fn merged(mut self, other: Self) -> Self {
        self.kept.extend(other.kept);
        self
    }
}

/// Mean, least and most over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Range {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Range {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let min = values.iter().copied().min_by(f64::total_cmp).context("nothing was measured")?;
        let max = values.iter().copied().max_by(f64::total_cmp).context("nothing was measured")?;
        Ok(Self { mean: values.iter().sum::<f64>() / values.len() as f64, min, max })
    }

    /// For people.
    pub(crate) fn shown(&self, digits: usize) -> String {
        let Self { mean, min, max } = self;
        if min == max {
            return format!("{mean:.digits$}");
        }
        format!("{mean:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grid whose worker is a shell script.
    fn grid(folder: &Path, script: &str) -> Grid {
        use std::os::unix::fs::PermissionsExt;
        let worker = folder.join("worker");
        fs::write(&worker, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o700)).expect("executable");
        let folder = folder.to_owned();
        Grid { folder, worker, build: "b".to_owned(), at_once: 2 }
    }

    fn run(grid: &Grid, cells: &[Cell]) -> Result<Results> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(grid.all(cells))
    }

    #[test]
    fn a_done_cell_is_not_run_again_and_a_changed_one_is() {
        let home = tempfile::tempdir().expect("a folder");
        let script =
            format!("echo x >> {0}/runs; echo \"{{\\\"n\\\": $4}}\"", home.path().display());
        let grid = grid(home.path(), &script);
        let cells =
            |n: u32| [Cell::new("a".into(), "loss 1"), Cell::new("b".into(), &format!("loss {n}"))];
        let runs =
            || fs::read_to_string(home.path().join("runs")).expect("written").lines().count();

        let results = run(&grid, &cells(2)).expect("runs");
        #[derive(Deserialize, PartialEq, Debug)]
        struct Figures {
            n: u32,
        }
        assert_eq!(results.figures::<Figures>("b").expect("there"), Figures { n: 2 });
        assert_eq!(runs(), 2);
        run(&grid, &cells(2)).expect("runs");
        assert_eq!(runs(), 2, "both are kept");
        let results = run(&grid, &cells(3)).expect("runs");
        assert_eq!((runs(), results.figures::<Figures>("b").expect("there").n), (3, 3));
        fs::write(home.path().join("a.json"), "{").expect("cut");
        run(&grid, &cells(3)).expect("runs");
        assert_eq!((runs(), results.builds().len()), (4, 1), "a cut file is made again");
    }

    #[test]
    fn a_failed_cell_is_quoted_with_the_way_to_repeat_it() {
        let home = tempfile::tempdir().expect("a folder");
        let grid = grid(home.path(), "echo no such arm >&2; exit 3");
        let error = run(&grid, &[Cell::new("a".into(), "loss --arm x")]).expect_err("fails");
        let message = error.to_string();
        assert!(
            message.contains("no such arm") && message.contains("lab loss --arm x"),
            "{message}"
        );
    }

    #[test]
    fn ranges() {
        let range = Range::of([3.0, 1.0, 2.0]).expect("values");
        assert_eq!(range.shown(1), "2.0 (1.0 to 3.0)");
        assert_eq!(Range::of([2.0]).expect("a value").shown(0), "2");
        Range::of([]).expect_err("nothing");
    }
}
