//! What the node itself needs of the blob store, whatever the pins say.
//!
//! **Invariant.** Everything that the ledger's state refers to and everything that a duty under way
//! has written down is listed: when in doubt, a blob is needed. Deliberately absent: the owner's
//! pins, and blobs that a running job holds, which the store knows; a snapshot to begin with, which
//! is removed before anything is collected.

use std::collections::BTreeSet;

use anyhow::Context as _;
use protocol::codec::{self, Canonical as _};
use protocol::ids::ContentHash;
use protocol::ledger::rounds::submitted;
use protocol::ledger::state::View;
use protocol::model::{DatasetManifest, OuterState};
use protocol::transaction::Change;
use storage::BlobStore;

use super::Node;
use super::notes::Notes;

/// Rounds of a model whose deltas and heads are kept after they are over: a challenge may return
/// to an earlier head.
const ROUNDS_KEPT: u32 = 4;
/// Rounds of one model that are read at once.
const ROUNDS_READ_MAX: usize = 1 << 20;

/// Lists what is needed. Blocks.
///
/// # Errors
/// When the manifest of a dataset is here and cannot be read: its shards are not known then.
pub fn roots(node: &Node) -> anyhow::Result<BTreeSet<ContentHash>> {
    let mut roots = node.ledger.read(of_ledger);
    roots.extend(node.withheld.hashes());
    roots.extend(Notes::new(node.home.data().join("duties")).blobs());
    let pins = node.store.pins().context("cannot read the pins")?;
    let manifests: Vec<ContentHash> =
        roots.iter().chain(pins.pins.keys()).chain(pins.names.values()).copied().collect();
    for manifest in manifests {
        roots.extend(named(&node.store, &manifest)?);
    }
    Ok(roots)
}

/// Blobs that the state refers to. Dataset manifests are among them, their shards are not.
fn of_ledger(view: &View<'_>) -> BTreeSet<ContentHash> {
    let mut roots: BTreeSet<ContentHash> =
        view.datasets().into_iter().map(|dataset| dataset.manifest).collect();
    for model in view.models() {
        let spec = &model.spec;
        roots.extend([spec.initial_checkpoint, spec.evaluation_suite]);
        roots.extend([model.head.checkpoint, model.head.outer_state]);
        for round in view.rounds(&spec.id(), ROUNDS_READ_MAX) {
            let is_old = round.index.saturating_add(ROUNDS_KEPT) < model.next_round;
            if is_old && round.phase.is_over() {
                continue;
            }
            for head in [&round.parent, round.base()] {
                roots.extend([head.checkpoint, head.outer_state]);
            }
            roots.extend(round.datasets.iter().map(|(manifest, _)| *manifest));
            let deltas = submitted(view, &round).into_iter();
            roots.extend(deltas.filter_map(|(_, delta)| Some(delta.manifest?.payload)));
        }
    }
    roots.extend(view.adopted_texts().into_iter().map(|text| text.content));
    let active = view.agenda().active.into_iter().filter_map(|id| view.proposal(id));
    roots.extend(active.filter_map(|proposal| match proposal.change {
        Change::Text { content } => Some(content),
        _ => None,
    }));
    roots
}

/// What a blob that is here names: the shards of a dataset, the momentum and the aggregate of an
/// outer state.
fn named(store: &BlobStore, hash: &ContentHash) -> anyhow::Result<Vec<ContentHash>> {
    let bytes_max = u64::try_from(DatasetManifest::BYTES_MAX.max(OuterState::BYTES_MAX))?;
    if store.size(hash).is_none_or(|size| size > bytes_max) {
        return Ok(Vec::new());
    }
    let bytes = store.read_all(hash, bytes_max).context("cannot read what may be a manifest")?;
    // Shards are text and checkpoints are no manifests: only a manifest decodes canonically, and
    // what else may pass for an outer state keeps two blobs too many.
    if let Ok(manifest) = codec::decode::<DatasetManifest>(&bytes) {
        return Ok(manifest.shards.iter().map(|shard| shard.blob).collect());
    }
    let state = codec::decode::<OuterState>(&bytes).unwrap_or_default();
    Ok([state.momentum, state.aggregate].into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use protocol::model::Shard;

    use super::*;

    #[test]
    fn a_manifest_that_is_here_keeps_its_shards() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open(dir.path()).expect("a store");
        let blob = store.put_bytes(b"text").expect("writable");
        let shard = Shard { blob, bytes: 4, documents: 1 };
        let manifest = DatasetManifest {
            name: "n".to_owned(),
            licence: "MIT".to_owned(),
            shards: vec![shard],
        };
        let hash = store.put_bytes(&codec::encode(&manifest)).expect("writable");
        assert_eq!(named(&store, &hash).expect("readable"), [blob]);
        assert!(named(&store, &blob).expect("readable").is_empty(), "a text is no manifest");
        let momentum = ContentHash::of(b"momentum");
        let state = OuterState { momentum: Some(momentum), ..OuterState::default() };
        let state = store.put_bytes(&codec::encode(&state)).expect("writable");
        assert_eq!(named(&store, &state).expect("readable"), [momentum]);
        assert!(named(&store, &ContentHash::of(b"none")).expect("absent").is_empty());
    }
}
