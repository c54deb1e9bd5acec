//! `attack --network`: attackers as real peers.
//!
//! Seven daemons with workers of their own train a small network on digits; two of them send
//! something else than they should, through the same commitments, reviews and merges as everybody.
//! Each attack meets the programs as they are, and the same network without their defences, which
//! it has to harm to show anything. Toy scale, one seed: the rules are tested in the grid beside
//! this, here it is that they are applied.
//!
//! Fewer than ten deltas are merged by the clipped mean, whatever rule is asked for (design 7.4):
//! what stands against the attackers is the clip to the median norm and the reviewers' gain.
//! Deliberately absent: detection of backdoors. A delta that is as useful as others and also
//! teaches a trigger passes every review; how far that goes is measured and said.

mod digits;
mod kept;
mod peers;
mod report;
pub(crate) mod scene;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::Options;
use crate::blobs::conclude;
use crate::network::stop_asked;
use crate::workspace::Workspace;
use kept::Shelf;
use peers::Peers;
use scene::{Attack, Defence, Scene};
use stage::Stage;

/// Rounds of every scene.
const ROUNDS: u32 = 4;

/// The scenes of the table, those with all defences first; of the short form, one attack beside
/// none.
fn scenes(short: bool) -> Vec<Scene> {
    let of = |defence| move |attack: &Attack| Scene { attack: *attack, defence };
    if short {
        let attacked = of(Defence::Off)(&Attack::Scaled);
        return [Attack::None, Attack::Scaled]
            .iter()
            .map(of(Defence::On))
            .chain([attacked])
            .collect();
    }
    // What the clip does by itself, without reviewers.
    let clipped = [Attack::SignFlip, Attack::Scaled, Attack::Backdoor];
    let on = Attack::ALL.iter().map(of(Defence::On));
    let off = Attack::ALL.iter().rev().map(of(Defence::Off));
    on.chain(off).chain(clipped.iter().map(of(Defence::Clip))).collect()
}

/// Plays the scenes that have no result yet; success when every aim stated for them is met.
pub(super) fn run(workspace: &Workspace, options: &Options, mnist: &Path) -> Result<ExitCode> {
    let scenes = scenes(options.short);
    let parameters = stage::parameters()?;
    let folder = workspace.target().join("bench").join("attack-network");
    let shelf = Shelf::open(workspace, &folder, (ROUNDS, parameters.hash()), options.fresh)?;
    let missing: Vec<Scene> = {
        let found = shelf.found(&scenes);
        scenes.iter().copied().filter(|scene| !found.contains_key(scene)).collect()
    };
    eprintln!(
        "attack: {} scenes of {ROUNDS} rounds, {} of them there from before",
        scenes.len(),
        scenes.len() - missing.len()
    );
    if !missing.is_empty() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                played = play(workspace, &shelf, &missing, (&folder, mnist)) => played,
                // Dropping the network kills its processes.
                _ = stop_asked() => bail!(
                    "interrupted; the scenes that were done are kept in {}, and the same command \
                     goes on from there",
                    folder.display()
                ),
            }
        })?;
    }
    let report = report::Report::new(&scenes, &shelf.found(&scenes), ROUNDS, options.short)?;
    conclude(options.json, &report, report.missed(), || report.print())
}

async fn play(
    workspace: &Workspace,
    shelf: &Shelf,
    scenes: &[Scene],
    (folder, mnist): (&Path, &Path),
) -> Result<()> {
    let parameters = stage::parameters()?;
    eprintln!("  starting {} members, {} hostile", peers::NODES, peers::HOSTILE);
    let mut peers = Peers::start(workspace, &folder.join("nodes")).await?;
    let mut stage = Stage::new(workspace, &peers, mnist, folder.to_owned()).await?;
    for (number, scene) in scenes.iter().enumerate() {
        eprintln!(
            "  {} of {}: {}, defence: {}",
            number + 1,
            scenes.len(),
            scene.attack.name(),
            scene.defence.describe()
        );
        let figures = stage.play(*scene, ROUNDS, &parameters).await?;
        eprintln!("    accuracy {:.1} %, {:.0} s", figures.accuracy_percent, figures.seconds);
        shelf.put(*scene, figures)?;
    }
    drop(stage);
    peers.stop().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_complete() {
        let all = scenes(false);
        let distinct: BTreeSet<Scene> = all.iter().copied().collect();
        assert_eq!((all.len(), distinct.len()), (15, 15));
        for attack in Attack::ALL {
            for defence in [Defence::On, Defence::Off] {
                assert!(distinct.contains(&Scene { attack, defence }), "{attack:?} {defence:?}");
            }
        }
        let short = scenes(true);
        assert!(short.len() == 3 && short.iter().all(|scene| distinct.contains(scene)));
    }
}
