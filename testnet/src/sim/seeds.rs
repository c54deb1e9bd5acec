//! Running seeds: each in a directory of its own, several at a time, a panic being a result.

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use super::checkers::{Checker, Violation};
use super::faults::{Counts, Mode, SignOrder};
use super::world::World;

thread_local! {
    /// Where this thread panicked last, and with what.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Scratch directories made by this process, so that two never share a name.
static SCRATCHES: AtomicU64 = AtomicU64::new(0);

/// A directory for simulated disks; removed when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// In memory where the system has a place for that: a disk would wait for every sync.
    pub fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ayni-sim-{}-{number}", std::process::id()));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make {} for the simulated disks", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} was not removed: {error}", self.0.display());
        }
    }
}

/// What a seed is run for, and how.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it is drawn for.
    pub mode: Mode,
    /// Heights to decide.
    pub heights: u64,
    /// What is made durable first when something is signed.
    pub sign_order: SignOrder,
    /// Print every event.
    pub traces: bool,
}

/// How one seed ended.
#[derive(Clone, Debug)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// Hash over all its events; zero after a panic.
    pub hash: [u8; 32],
    /// Heights decided by the slowest honest node.
    pub heights: u64,
    /// Events.
    pub events: u64,
    /// Virtual time in milliseconds.
    pub time_ms: u64,
    /// Blocks checked or applied for real.
    pub executed: u64,
    /// Whether its blocks were replayed from genesis.
    pub is_replayed: bool,
    /// How often each fault happened.
    pub counts: Counts,
    /// What did not hold.
    pub violations: Vec<Violation>,
}

/// From now on a panic of a seed is remembered and not printed.
pub(super) fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        PANICKED.with(|slot| *slot.borrow_mut() = Some(text));
    }));
}

/// Runs one seed.
pub fn run_seed(seed: u64, setup: &Setup, scratch: &Scratch) -> SeedResult {
    let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
    let directory = scratch.0.join(format!("{seed}-{number}"));
    let ended = catch_unwind(AssertUnwindSafe(|| World::new(seed, setup, &directory).run()));
    // Gone already if the seed ended before it wrote anything.
    let _ = fs::remove_dir_all(&directory);
    match ended {
        Ok(outcome) => SeedResult {
            seed,
            hash: outcome.hash,
            heights: outcome.heights,
            events: outcome.events,
            time_ms: outcome.time / super::message::MS,
            executed: outcome.executed,
            is_replayed: outcome.is_replayed,
            counts: outcome.counts,
            violations: outcome.violations,
        },
        Err(panic) => SeedResult {
            seed,
            hash: [0; 32],
            heights: 0,
            events: 0,
            time_ms: 0,
            executed: 0,
            is_replayed: false,
            counts: Counts::default(),
            violations: vec![Violation {
                checker: Checker::NoFailure,
                text: format!("panic: {}", describe(panic.as_ref())),
            }],
        },
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let noted = PANICKED.with(|slot| slot.borrow_mut().take());
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    noted.unwrap_or_else(|| text.unwrap_or("without a message").to_owned())
}

/// Runs seeds on `threads` threads; results are in the order of `seeds`. `done` hears how many
/// have ended.
pub(super) fn run_all(
    seeds: &[u64],
    setup: &Setup,
    threads: usize,
    scratch: &Scratch,
    done: &(dyn Fn(u64) + Sync),
) -> Vec<SeedResult> {
    let next = AtomicUsize::new(0);
    let ended = AtomicU64::new(0);
    let results = Mutex::new(Vec::with_capacity(seeds.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_seed(*seed, setup, scratch);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                    done(ended.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|result| result.seed);
    results
}
