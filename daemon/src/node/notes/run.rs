//! What a training run needs to go on where it was cut off, whether the worker, the node or the
//! machine died, or a review came first.
//!
//! The worker writes into the job directory, which is emptied for the next job; files that a run
//! needs later are moved from there to `run/` beside the round's notes and back again. A mark in
//! the directory says whose they are, so that they are found after a kill too. They are the
//! worker's: nothing here believes them, and they are given to workers only, or to the blob store,
//! which hashes what it copies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::codec::{self, Canonical};
use protocol::ids::{ContentHash, ContributionId, ModelId};
use protocol::limits;
use protocol::model::{DataClass, Determinism};
use protocol::replay::{Replayed, ShownStates};
use serde::{Deserialize, Serialize};

use super::{Notes, read, write};

/// File in a job directory in which a run is kept.
pub const RESUME: &str = "resume";
/// Prefix of the files with the states of a run.
pub const STATES: &str = "state";
/// File in a job directory that says whose run it is.
pub const MARK: &str = "run";
/// The trained checkpoint.
pub const TRAINED: &str = "trained.safetensors";

/// What a run was begun with: the same when it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    /// Inner steps.
    pub steps: u32,
}

impl Canonical for RunPlan {
    const BYTES_MAX: usize = 16;
}

/// What a run gave, for the covering letter of its delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedNote {
    /// Inner steps.
    pub steps: u32,
    /// Root of the hashes of its states.
    pub step_states: ContentHash,
    /// Public or with private data.
    pub data_class: DataClass,
    /// How far it can be reproduced.
    pub determinism: Determinism,
    /// Fingerprint of the worker's arithmetic.
    pub fingerprint: ContentHash,
}

impl Canonical for TrainedNote {
    const BYTES_MAX: usize = 128;
}

/// How often deltas were made with the private data, the last one's included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PrivateUses {
    model: ModelId,
    round: u32,
    uses: u32,
}

impl Canonical for PrivateUses {
    const BYTES_MAX: usize = 48;
}

/// Whose run lies in a job directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    model: ModelId,
    round: u32,
}

impl Canonical for Mark {
    const BYTES_MAX: usize = 40;
}

/// The mark of a run, for its job directory.
pub fn mark(model: ModelId, round: u32) -> Vec<u8> {
    codec::encode(&Mark { model, round })
}

/// Steps per second of the last run of a model, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Speed {
    steps_per_s_milli: u64,
}

impl Canonical for Speed {
    const BYTES_MAX: usize = 16;
}

impl Notes {
    /// Where the files of a run are kept.
    pub fn run(&self, model: &ModelId, round: u32) -> PathBuf {
        self.round(model, round).join("run")
    }

    /// Remembers how a run begins.
    pub fn put_plan(&self, model: &ModelId, round: u32, plan: &RunPlan) -> io::Result<()> {
        write(&self.round(model, round).join("plan"), &codec::encode(plan))
    }

    /// How a run began, if it did.
    pub fn plan(&self, model: &ModelId, round: u32) -> Option<RunPlan> {
        read(&self.round(model, round).join("plan"))
    }

    /// Remembers what a run gave; its files must be in place.
    pub fn put_trained(&self, model: &ModelId, round: u32, note: &TrainedNote) -> io::Result<()> {
        write(&self.round(model, round).join("trained"), &codec::encode(note))
    }

    /// What a run gave.
    pub fn trained(&self, model: &ModelId, round: u32) -> Option<TrainedNote> {
        read(&self.round(model, round).join("trained"))
    }

    /// Remembers what is shown of a run.
    pub fn put_shown(&self, model: &ModelId, round: u32, shown: &ShownStates) -> io::Result<()> {
        write(&self.round(model, round).join("shown"), &codec::encode(shown))
    }

    /// What is shown of a run.
    pub fn shown(&self, model: &ModelId, round: u32) -> Option<ShownStates> {
        read(&self.round(model, round).join("shown"))
    }

    /// Remembers what came of replaying somebody's slice, for people.
    pub fn put_replayed(
        &self,
        model: &ModelId,
        round: u32,
        id: &ContributionId,
        replayed: Replayed,
    ) -> io::Result<()> {
        let path = self.round(model, round).join(format!("replay-{id}"));
        write(&path, &codec::encode(&replayed))
    }

    /// What came of it.
    pub fn replayed(&self, model: &ModelId, round: u32, id: &ContributionId) -> Option<Replayed> {
        read(&self.round(model, round).join(format!("replay-{id}")))
    }

    /// Remembers how fast this node trains a model.
    pub fn put_speed(&self, model: &ModelId, steps_per_s_milli: u64) -> io::Result<()> {
        let path = self.0.join(model.short()).join("speed");
        write(&path, &codec::encode(&Speed { steps_per_s_milli }))
    }

    /// How fast it trained it last, in thousandths of a step per second; zero if it never did.
    pub fn speed(&self, model: &ModelId) -> u64 {
        read::<Speed>(&self.0.join(model.short()).join("speed"))
            .unwrap_or_default()
            .steps_per_s_milli
    }

    /// Counts a use of the private data, once for each model and round: gives the uses before it.
    pub fn count_private(&self, model: &ModelId, round: u32) -> io::Result<u32> {
        let path = self.0.join("private-uses");
        let known = read::<PrivateUses>(&path);
        let before = match known {
            Some(uses) if (uses.model, uses.round) == (*model, round) => {
                return Ok(uses.uses.saturating_sub(1));
            }
            Some(uses) => uses.uses,
            None => 0,
        };
        let uses = before.saturating_add(1);
        write(&path, &codec::encode(&PrivateUses { model: *model, round, uses }))?;
        Ok(before)
    }

    /// After a start: takes what a run that was killed left in the job directory.
    pub fn salvage(&self, job: &Path) {
        let Some(Mark { model, round }) = read(&job.join(MARK)) else { return };
        match rescue(job, &self.run(&model, round)) {
            Ok(0) => {}
            Ok(files) => tracing::info!(round, files, "found what a cut off run had saved"),
            Err(error) => tracing::warn!(%error, "what a cut off run had saved is lost"),
        }
    }
}

fn is_kept(name: &str) -> bool {
    is_continued(name) || name == TRAINED
}

/// What a run that goes on finds again.
fn is_continued(name: &str) -> bool {
    name == RESUME || name.strip_prefix(STATES).is_some_and(|rest| rest.starts_with('.'))
}

/// Moves a run's files out of a job directory; says how many. Blocks.
pub fn rescue(job: &Path, run: &Path) -> io::Result<usize> {
    move_files(job, run, is_kept)
}

/// Moves a run's files into a job directory. Blocks.
pub fn put_back(run: &Path, job: &Path) -> io::Result<usize> {
    if run.is_dir() { move_files(run, job, is_continued) } else { Ok(0) }
}

fn move_files(from: &Path, to: &Path, is_meant: fn(&str) -> bool) -> io::Result<usize> {
    fs::create_dir_all(to)?;
    let mut moved = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // Of the entry itself, not of what a link names.
        let metadata = entry.metadata()?;
        let fits = metadata.is_file() && metadata.len() <= limits::WORKER_FILE_BYTES_MAX;
        if fits && entry.file_name().to_str().is_some_and(is_meant) {
            fs::rename(entry.path(), to.join(entry.file_name()))?;
            moved += 1;
        }
    }
    Ok(moved)
}

/// Forgets a run's files.
pub fn forget(run: &Path) -> io::Result<()> {
    match fs::remove_dir_all(run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_found_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (notes, job) = (Notes::new(dir.path().join("notes")), dir.path().join("job"));
        let model = ModelId::from_bytes([7; 32]);
        notes.salvage(&job);
        fs::create_dir(&job).expect("writable");
        let put = |name: &str| fs::write(job.join(name), name).expect("writable");
        for name in [RESUME, "state.0", "state.10", "state.leaves", "shard-0.txt", "statement"] {
            put(name);
        }
        std::os::unix::fs::symlink("/etc/passwd", job.join("state.20")).expect("writable");
        notes.salvage(&job);
        assert!(!notes.run(&model, 3).exists(), "nobody says whose it is");
        fs::write(job.join(MARK), mark(model, 3)).expect("writable");
        notes.salvage(&job);
        let names = |dir: &Path| {
            let mut names: Vec<String> = fs::read_dir(dir)
                .expect("readable")
                .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let kept = ["resume", "state.0", "state.10", "state.leaves"];
        assert_eq!(names(&notes.run(&model, 3)), kept);
        // And back, for the next worker; a link is nobody's.
        let next = dir.path().join("next");
        assert_eq!(put_back(&notes.run(&model, 3), &next).expect("writable"), 4);
        assert_eq!(names(&next), kept);
        assert_eq!(put_back(&notes.run(&model, 4), &next).expect("nothing to do"), 0);
    }

    #[test]
    fn uses_of_private_data_are_counted_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let notes = Notes::new(dir.path().to_owned());
        let (one, other) = (ModelId::default(), ModelId::from_bytes([1; 32]));
        let count = |model, round| notes.count_private(model, round).expect("writable");
        assert_eq!([count(&one, 1), count(&one, 1), count(&one, 2)], [0, 0, 1]);
        assert_eq!([count(&other, 2), count(&other, 2), count(&one, 3)], [2, 2, 3]);
    }

    #[test]
    fn plans_results_and_speeds_are_remembered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (notes, model) = (Notes::new(dir.path().to_owned()), ModelId::default());
        assert_eq!((notes.plan(&model, 1), notes.speed(&model)), (None, 0));
        notes.put_plan(&model, 1, &RunPlan { steps: 7 }).expect("writable");
        notes.put_speed(&model, 2_500).expect("writable");
        let trained = TrainedNote {
            steps: 7,
            step_states: ContentHash::of(b"root"),
            data_class: DataClass::Private,
            determinism: Determinism::Statistical,
            fingerprint: ContentHash::of(b"fingerprint"),
        };
        notes.put_trained(&model, 1, &trained).expect("writable");
        assert_eq!(notes.plan(&model, 1), Some(RunPlan { steps: 7 }));
        assert_eq!(notes.trained(&model, 1), Some(trained));
        assert_eq!(notes.speed(&model), 2_500);
    }
}
