//! Datasets and models.

use crate::amount::PPM;
use crate::ids::{AccountId, ContentHash, NodeId};
use crate::ledger::Rejection;
use crate::ledger::entries::{Dataset, DatasetStatus, Model};
use crate::ledger::state::State;
use crate::limits;
use crate::model::{DataKind, Head, ModelSpec, check_name};

pub(super) fn publish(
    state: &mut State<'_>,
    owner: &AccountId,
    (manifest, name): (&ContentHash, &str),
    (shards, bytes, kind): (u32, u64, DataKind),
    node: &NodeId,
) -> Result<(), Rejection> {
    check_name("name", name)?;
    let count = usize::try_from(shards).unwrap_or(usize::MAX);
    if !(1..=limits::DATASET_SHARDS_MAX).contains(&count) {
        return Err(Rejection::Mismatch("the number of shards"));
    }
    if bytes == 0 || bytes > limits::SHARD_BYTES_MAX.saturating_mul(u64::from(shards)) {
        return Err(Rejection::Mismatch("the number of bytes"));
    }
    if state.node(node).ok_or(Rejection::Unknown("node"))?.account != *owner {
        return Err(Rejection::NotAuthorized);
    }
    if state.dataset(manifest).is_some() {
        return Err(Rejection::Exists("the dataset"));
    }
    let mut registry = state.registry();
    if registry.datasets.len() >= limits::DATASETS_MAX {
        return Err(Rejection::Full("datasets"));
    }
    registry.datasets.push(*manifest);
    let height = state.clock().height;
    state.put_registry(&registry);
    state.put_dataset(&Dataset {
        manifest: *manifest,
        name: name.to_owned(),
        owner: *owner,
        node: *node,
        shards,
        bytes,
        kind,
        height,
        status: DatasetStatus::default(),
    });
    Ok(())
}

pub(super) fn register_model(
    state: &mut State<'_>,
    owner: &AccountId,
    spec: &ModelSpec,
) -> Result<(), Rejection> {
    spec.validate()?;
    let id = spec.id();
    if state.model(&id).is_some() {
        return Err(Rejection::Exists("the model"));
    }
    let mut registry = state.registry();
    if usize::try_from(registry.models).unwrap_or(usize::MAX) >= limits::MODELS_MAX {
        return Err(Rejection::Full("models"));
    }
    // The genesis gives the whole weight to the first model; governance moves it.
    let weight_ppm = if registry.models == 0 { u32::try_from(PPM).unwrap_or(0) } else { 0 };
    let number = registry.models;
    registry.models = registry.models.saturating_add(1);
    state.put_registry(&registry);
    state.put_model(
        &id,
        &Model {
            spec: spec.clone(),
            owner: *owner,
            number,
            head: Head::initial(spec),
            weight_ppm,
            run: None,
            next_round: 1,
            paused: false,
            direction: Vec::new(),
        },
    );
    Ok(())
}
