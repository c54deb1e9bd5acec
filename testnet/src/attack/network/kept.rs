//! What scenes gave, a file each, so that a table that was cut off goes on where it stopped.
//!
//! **Invariant.** A kept result is used again only for the same rounds and parameters. It says
//! which build of the programs made it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::ids::ContentHash;
use serde::{Deserialize, Serialize};

use super::scene::Scene;
use super::stage::Figures;
use crate::workspace::Workspace;

/// The programs that a network is made of.
const PROGRAMS: [&str; 3] = ["aynid", "ayni-worker", "ayni-testnet"];

/// A file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    rounds: u32,
    parameters: ContentHash,
    build: String,
    figures: Figures,
}

/// The files of a table.
pub(super) struct Shelf {
    folder: PathBuf,
    rounds: u32,
    parameters: ContentHash,
    build: String,
}

/// What was found on it, with the builds that made it.
pub(super) type Found = BTreeMap<Scene, (Figures, String)>;

impl Shelf {
    /// A shelf for scenes of so many rounds. With `fresh`, what lies there goes.
    pub(super) fn open(
        workspace: &Workspace,
        folder: &Path,
        (rounds, parameters): (u32, ContentHash),
        fresh: bool,
    ) -> Result<Self> {
        if fresh && folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be created", folder.display()))?;
        let mut hasher = blake3::Hasher::new();
        for name in PROGRAMS {
            hasher.update(&fs::read(workspace.program(name)?)?);
        }
        let build = hasher.finalize().to_hex()[..16].to_owned();
        Ok(Self { folder: folder.to_owned(), rounds, parameters, build })
    }

    fn path(&self, scene: Scene, end: &str) -> PathBuf {
        self.folder.join(format!("{}.{end}", scene.name()))
    }

    /// The result of a scene, if it is there and of the same rounds.
    fn get(&self, scene: Scene) -> Option<(Figures, String)> {
        let bytes = fs::read(self.path(scene, "json")).ok()?;
        // A file that is not a result is as good as none: it is made again.
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        let same = kept.rounds == self.rounds && kept.parameters == self.parameters;
        same.then_some((kept.figures, kept.build))
    }

    /// What is there of some scenes.
    pub(super) fn found(&self, scenes: &[Scene]) -> Found {
        scenes.iter().filter_map(|scene| Some((*scene, self.get(*scene)?))).collect()
    }

    /// Keeps a result.
    pub(super) fn put(&self, scene: Scene, figures: Figures) -> Result<()> {
        let (rounds, parameters, build) = (self.rounds, self.parameters, self.build.clone());
        let kept = Kept { rounds, parameters, build, figures };
        let temporary = self.path(scene, "part");
        fs::write(&temporary, serde_json::to_vec(&kept)?)?;
        fs::rename(&temporary, self.path(scene, "json"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::network::scene::{Attack, Defence};
    use crate::attack::network::stage::Tally;

    #[test]
    fn only_the_same_question_has_the_same_answer() {
        let home = tempfile::tempdir().expect("a folder");
        let shelf = |rounds| Shelf {
            folder: home.path().to_owned(),
            rounds,
            parameters: ContentHash::of(b"p"),
            build: "b".to_owned(),
        };
        let scene = Scene { attack: Attack::Scaled, defence: Defence::On };
        let figures = Figures {
            accuracy_percent: 97.25,
            fooled_percent: 0.1,
            rounds_certified: 4,
            honest: Tally { submitted: 20, merged: 19, declined: 1, faults: 0 },
            hostile: Tally::default(),
            seconds: 1.5,
        };
        shelf(4).put(scene, figures).expect("kept");
        let other = Scene { defence: Defence::Off, ..scene };
        let found = shelf(4).found(&[scene, other]);
        assert_eq!(found, BTreeMap::from([(scene, (figures, "b".to_owned()))]));
        assert!(shelf(5).found(&[scene]).is_empty(), "of other rounds");
        let changed = Shelf { parameters: ContentHash::of(b"q"), ..shelf(4) };
        assert!(changed.found(&[scene]).is_empty(), "of other parameters");
        fs::write(home.path().join("scaled-x100.on.json"), "{").expect("cut");
        assert!(shelf(4).found(&[scene]).is_empty(), "a cut file is none");
    }
}
