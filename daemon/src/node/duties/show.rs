//! Showing reviewers a slice of one's own training: the state before the drawn slice as a blob,
//! and proofs that it and the state after it are among those committed to.
//!
//! A run keeps a few of its states; the one that is asked for is made from the last one before it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use protocol::ids::{ContentHash, ContributionId, ModelId};
use protocol::ledger::state::State;
use protocol::merkle;
use protocol::replay::{ShownStates, Slice};
use protocol::worker::{ReplayJob, WorkerOutcome, WorkerRequest};

use super::inputs::{Inputs, JOB_MAX, name};
use super::train::{blocking, fetch_shards, inner_run, put_shards, state_bytes};
use super::{Done, Outcome};
use crate::network::MetaResponse;
use crate::node::Node;
use crate::node::notes::{Notes, run};
use crate::worker::{Job, Lane};

/// Hashes of the states of the longest run.
const LEAVES_BYTES_MAX: u64 = 32 * 1_000_001;

/// The slice that the beacon has drawn of a delta's training; none before it has, or if the delta
/// is not to be replayed.
pub(super) fn slice(state: &State<'_>, id: &ContributionId) -> Option<Slice> {
    let contribution = state.contribution(id)?;
    let round = state.round(&contribution.model, contribution.merged_in)?;
    let is_drawn = round.review_beacon != protocol::ids::Beacon::default();
    let (steps, replay_ppm) = (contribution.manifest?.steps, round.parameters.replay_ppm);
    Slice::draw(&round.review_beacon, id, steps, replay_ppm).filter(|_| is_drawn)
}

/// What this node answers whoever asks for its states. Blocks.
pub(crate) fn shown(node: &Node, id: &ContributionId) -> MetaResponse {
    let own = node.ledger.read(|view| view.contribution(id)).filter(|c| c.author == node.id());
    let notes = Notes::new(node.home.data().join("duties"));
    let shown = own.and_then(|c| notes.shown(&c.model, c.round));
    shown.map_or(MetaResponse::Refused, |shown| MetaResponse::States(Box::new(shown)))
}

pub(super) async fn show(
    node: &Arc<Node>,
    notes: &Notes,
    (model, index): (ModelId, u32),
) -> Outcome {
    let inputs = Inputs::read(node, &model, index)?;
    let id = inputs.round.contribution_id(&node.id());
    let slice = node.ledger.read(|view| slice(view, &id)).context("no slice was drawn")?;
    let trained = notes.trained(&model, index).context("the note of what was trained is gone")?;
    let folder = notes.run(&model, index);
    let leaves = folder.join(format!("{}.leaves", run::STATES));
    let leaves = blocking(move || read_leaves(&leaves)).await?;
    ensure!(merkle::root(&leaves) == trained.step_states, "the worker wrote other states down");
    let shown = ShownStates::of(&leaves, slice).context("the slice is not of this run")?;

    let kept = kept_before(&folder, slice.from).context("no state before the slice was kept")?;
    let file = folder.join(format!("{}.{kept}", run::STATES));
    let bytes_max = state_bytes(inputs.spec().parameters());
    let _hold = node.store.hold(shown.before);
    let hash = if kept == slice.from {
        let store = node.store.clone();
        tokio::task::spawn_blocking(move || store.put_file(&file, bytes_max)).await??
    } else {
        let mut job = node.worker.job(Lane::Duty).await?;
        job.put_file(&name(FROM)?, &file, bytes_max).await?;
        let between = Slice { from: kept, steps: slice.from.saturating_sub(kept) };
        let (author, out) = (node.id(), name("state-out")?);
        let states = again(node, &inputs, &mut job, &author, between, trained.steps).await?;
        ensure!(states.last() == Some(&shown.before), "the same steps gave another state");
        job.keep(&out, &node.store, bytes_max).await?
    };
    ensure!(hash == shown.before, "a state that was kept is not the one of its step");
    let notes = notes.clone();
    blocking(move || notes.put_shown(&model, index, &shown))
        .await
        .context("cannot write down what is shown")?;
    Ok(Done::Noted)
}

/// File of a job with the state from which steps are run again.
pub(super) const FROM: &str = "state-from";

/// Steps of somebody's run again; the job holds the state before them as [`FROM`]. The state
/// after them is left as `state-out`.
pub(super) async fn again(
    node: &Arc<Node>,
    inputs: &Inputs,
    job: &mut Job,
    author: &protocol::ids::NodeId,
    slice: Slice,
    steps: u32,
) -> anyhow::Result<Vec<ContentHash>> {
    let round = &inputs.round;
    let member = round.member_index(author).context("the author is not a member")?;
    let shards = fetch_shards(node, round, &round.shards_of(member)).await?;
    let texts = put_shards(node, job, &shards).await?;
    let files = node.put_files(job, inputs.spec(), &inputs.peers).await?;
    let request = WorkerRequest::Replay(ReplayJob {
        run: inner_run(inputs, files, steps, author, texts),
        state: name(FROM)?,
        from: slice.from,
        steps: slice.steps,
        state_out: Some(name("state-out")?),
    });
    let outcome = job.run(request, JOB_MAX, None).await?;
    let WorkerOutcome::Replayed { states } = outcome else {
        bail!("an answer to another question")
    };
    Ok(states)
}

fn read_leaves(path: &Path) -> std::io::Result<Vec<ContentHash>> {
    if std::fs::metadata(path)?.len() > LEAVES_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "too many states"));
    }
    let bytes = std::fs::read(path)?;
    let (leaves, _) = bytes.as_chunks::<32>();
    Ok(leaves.iter().map(|leaf| ContentHash::from_bytes(*leaf)).collect())
}

/// The last step before or at `from` whose state was kept.
fn kept_before(folder: &Path, from: u32) -> Option<u32> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| {
            name.to_str()?.strip_prefix(run::STATES)?.strip_prefix('.')?.parse().ok()
        })
        .filter(|step| *step <= from)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_before_a_slice_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["state.0", "state.8", "state.16", "state.leaves", "resume", "state.x"] {
            std::fs::write(dir.path().join(name), [0; 70]).expect("writable");
        }
        let kept = |from| kept_before(dir.path(), from);
        assert_eq!([kept(0), kept(7), kept(8), kept(30)], [Some(0), Some(0), Some(8), Some(16)]);
        let leaves = read_leaves(&dir.path().join("state.leaves")).expect("readable");
        assert_eq!(leaves, [ContentHash::from_bytes([0; 32]); 2]);
    }
}
