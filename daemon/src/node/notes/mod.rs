//! What a node must remember of its duties across a restart: its delta before it commits to it,
//! its verdict before it commits to that, the head before it attests it.
//!
//! Small files under `data/duties/<model>/<round>/`, each written to a temporary name, synced
//! and renamed, so that a note is there whole or not at all.

pub mod run;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use protocol::codec::{self, Canonical};
use protocol::ids::{Commitment, ContentHash, ContributionId, ModelId};
use protocol::model::{DeltaManifest, Head};
use protocol::replay::ShownStates;
use protocol::review::{Gain, Review};
use serde::{Deserialize, Serialize};

/// Rounds whose notes are kept; the last one holds the error feedback.
const ROUNDS_KEPT: u32 = 4;

/// Rounds whose training can still be asked for: the one before may be under review.
const RUNS_KEPT: u32 = 1;

/// What is attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadNote {
    /// The head.
    pub head: Head,
    /// Proof of possession.
    pub possession: Commitment,
    /// Measured gain.
    pub gain: Gain,
    /// Hash of the list of accepted contributions that were merged.
    pub merged: [u8; 32],
}

impl Canonical for HeadNote {
    const BYTES_MAX: usize = 256;
}

/// See the module. All methods block.
#[derive(Clone, Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// Notes under `dir`.
    pub const fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    fn round(&self, model: &ModelId, round: u32) -> PathBuf {
        self.0.join(model.short()).join(format!("{round:08}"))
    }

    /// Error feedback for the case that the round's delta was merged, or was not.
    pub fn feedback(&self, model: &ModelId, round: u32, merged: bool) -> PathBuf {
        let name = if merged { "feedback-merged" } else { "feedback-kept" };
        self.round(model, round).join(format!("{name}.safetensors"))
    }

    /// Remembers a delta; the error feedback is written first.
    pub fn put_delta(
        &self,
        manifest: &DeltaManifest,
        merged: &[u8],
        kept: &[u8],
    ) -> io::Result<()> {
        let (model, round) = (&manifest.model, manifest.round);
        write(&self.feedback(model, round, true), merged)?;
        write(&self.feedback(model, round, false), kept)?;
        write(&self.round(model, round).join("manifest"), &codec::encode(manifest))
    }

    /// The delta of a round.
    pub fn delta(&self, model: &ModelId, round: u32) -> Option<DeltaManifest> {
        read(&self.round(model, round).join("manifest"))
    }

    /// Remembers a verdict.
    pub fn put_review(
        &self,
        model: &ModelId,
        round: u32,
        id: &ContributionId,
        review: &Review,
    ) -> io::Result<()> {
        let path = self.round(model, round).join(format!("review-{id}"));
        write(&path, &codec::encode(review))
    }

    /// The verdict on a contribution.
    pub fn review(&self, model: &ModelId, round: u32, id: &ContributionId) -> Option<Review> {
        read(&self.round(model, round).join(format!("review-{id}")))
    }

    /// Remembers a head.
    pub fn put_head(&self, model: &ModelId, round: u32, note: &HeadNote) -> io::Result<()> {
        write(&self.round(model, round).join("head"), &codec::encode(note))
    }

    /// The head of a round.
    pub fn head(&self, model: &ModelId, round: u32) -> Option<HeadNote> {
        read(&self.round(model, round).join("head"))
    }

    /// Blobs of every round that is remembered: own deltas, states that are shown, and heads that
    /// were merged here.
    pub fn blobs(&self) -> Vec<ContentHash> {
        let folders = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let rounds = folders(&self.0).into_iter().flat_map(|model| folders(&model));
        rounds
            .flat_map(|round| {
                let delta = read::<DeltaManifest>(&round.join("manifest")).map(|m| m.payload);
                let head = read::<HeadNote>(&round.join("head")).map(|note| note.head);
                let head = head.map(|head| [head.checkpoint, head.outer_state]);
                let shown = read::<ShownStates>(&round.join("shown")).map(|shown| shown.before);
                delta.into_iter().chain(shown).chain(head.into_iter().flatten())
            })
            .collect()
    }

    /// Forgets rounds that are long over.
    pub fn prune(&self, model: &ModelId, current: u32) -> io::Result<()> {
        let Ok(entries) = fs::read_dir(self.0.join(model.short())) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            let round = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if round.is_some_and(|round| round.saturating_add(ROUNDS_KEPT) < current) {
                fs::remove_dir_all(entry.path())?;
            } else if round.is_some_and(|round| round.saturating_add(RUNS_KEPT) < current) {
                run::forget(&entry.path().join("run"))?;
            }
        }
        Ok(())
    }
}

fn read<T: Canonical>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    match codec::decode(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a duty note is damaged; ignoring it");
            None
        }
    }
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use protocol::review::Verdict;

    use super::*;

    #[test]
    fn notes_survive_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let notes = Notes::new(dir.path().to_owned());
        let (model, id) = (ModelId::default(), ContributionId::default());
        let review = Review { verdict: Verdict::Accept, gain: Gain::default() };
        notes.put_review(&model, 1, &id, &review).expect("writable");
        assert!(notes.blobs().is_empty());
        let head = Head {
            checkpoint: ContentHash::of(b"c"),
            outer_state: ContentHash::of(b"o"),
            parameters: ContentHash::default(),
        };
        let note = HeadNote {
            head,
            possession: Commitment::default(),
            gain: Gain::default(),
            merged: [0; 32],
        };
        notes.put_head(&model, 1, &note).expect("writable");
        assert_eq!(notes.blobs(), [head.checkpoint, head.outer_state]);
        assert_eq!(Notes::new(dir.path().to_owned()).review(&model, 1, &id), Some(review));
        notes.prune(&model, 5).expect("writable");
        assert_eq!(notes.review(&model, 1, &id), Some(review));
        notes.prune(&model, 6).expect("writable");
        assert_eq!(notes.review(&model, 1, &id), None);
    }
}
