//! What proposals change: checked when they are made and again when they are executed.

use std::collections::BTreeSet;

use crate::amount::{Credits, PPM};
use crate::ids::{AccountId, ContentHash, ModelId};
use crate::ledger::Rejection;
use crate::ledger::entries::{AdoptedText, DatasetStatus, Failure, Model};
use crate::ledger::governance::{proposals, rules};
use crate::ledger::parameters::LedgerParameters;
use crate::ledger::rounds;
use crate::ledger::state::State;
use crate::limits;
use crate::transaction::{Change, ProposalId};

/// Whether a change could be made now. What the treasury holds is asked at its execution only.
pub(super) fn check(state: &State<'_>, change: &Change) -> Result<(), Rejection> {
    let require = |ok: bool, failure: Failure| {
        if ok { Ok(()) } else { Err(Rejection::Change(failure)) }
    };
    match change {
        Change::Parameters(values) => {
            require((1..=limits::PROPOSAL_PARAMETERS_MAX).contains(&values.len()), Failure::List)?;
            let names: BTreeSet<_> = values.iter().map(|(name, _)| name).collect();
            require(names.len() == values.len(), Failure::List)?;
            require(changed(state, values)? != state.parameters(), Failure::Already)
        }
        Change::Text { .. } => Ok(()),
        Change::Dataset { manifest, admitted } => {
            let dataset = state.dataset(manifest).ok_or(Rejection::Change(Failure::Dataset))?;
            require(dataset.status != decided(*admitted), Failure::Already)
        }
        Change::ModelWeight { model, weight_ppm } => {
            let weight = u64::from(*weight_ppm);
            let old = u64::from(named(state, model)?.weight_ppm);
            let others = state.weights().saturating_sub(old);
            // One that falls is never refused, whatever the others have.
            let fits = weight <= old || others.saturating_add(weight) <= PPM;
            require(weight <= PPM && fits, Failure::Weight)
        }
        Change::Direction { model, datasets } => {
            named(state, model)?;
            require(datasets.len() <= limits::DIRECTION_DATASETS_MAX, Failure::List)?;
            let names: BTreeSet<_> = datasets.iter().collect();
            require(names.len() == datasets.len(), Failure::List)?;
            require(datasets.iter().all(|d| state.dataset(d).is_some()), Failure::Dataset)
        }
        Change::TreasurySpend { amount, .. } => require(*amount > Credits::ZERO, Failure::Treasury),
        Change::Rules { version, height } => rules::check(state, *version, *height),
        Change::Pause { model, paused } => {
            require(named(state, model)?.paused != *paused, Failure::Already)
        }
    }
}

fn named(state: &State<'_>, model: &ModelId) -> Result<Model, Rejection> {
    state.model(model).ok_or(Rejection::Change(Failure::Model))
}

const fn decided(admitted: bool) -> DatasetStatus {
    if admitted { DatasetStatus::Admitted } else { DatasetStatus::Removed }
}

fn changed(state: &State<'_>, values: &[(String, u64)]) -> Result<LedgerParameters, Rejection> {
    let values = values.iter().map(|(name, value)| (name.as_str(), *value));
    Ok(state.parameters().with(values)?)
}

/// Makes a change that was checked.
pub(super) fn execute(
    state: &mut State<'_>,
    proposal: ProposalId,
    change: &Change,
) -> Result<(), Rejection> {
    match change {
        Change::Parameters(values) => set_parameters(state, values)?,
        Change::Text { content } => adopt(state, proposal, *content),
        Change::Dataset { manifest, admitted } => {
            let mut dataset = state.dataset(manifest).ok_or(Rejection::Change(Failure::Dataset))?;
            dataset.status = decided(*admitted);
            state.put_dataset(&dataset);
        }
        Change::ModelWeight { model: id, weight_ppm } => {
            let mut model = named(state, id)?;
            model.weight_ppm = *weight_ppm;
            state.put_model(id, &model);
        }
        Change::Direction { model: id, datasets } => {
            let mut model = named(state, id)?;
            model.direction.clone_from(datasets);
            state.put_model(id, &model);
        }
        Change::TreasurySpend { to, amount } => spend(state, to, *amount)?,
        Change::Rules { version, height } => rules::decide(state, *version, *height),
        Change::Pause { model: id, paused } => {
            let mut model = named(state, id)?;
            model.paused = *paused;
            state.put_model(id, &model);
            if !paused {
                rounds::resume(state, id)?;
            }
        }
    }
    Ok(())
}

fn set_parameters(state: &mut State<'_>, values: &[(String, u64)]) -> Result<(), Rejection> {
    let after = changed(state, values)?;
    state.put_parameters(&after);
    shorten_votes(state, &after);
    Ok(())
}

/// No vote may outlast the unbonding delay, or stake that has voted could leave and vote again. A
/// shorter delay also holds for stake that is leaving already, so it ends longer votes with it.
fn shorten_votes(state: &mut State<'_>, parameters: &LedgerParameters) {
    for mut proposal in proposals::voting(state) {
        let ends = proposal.submitted.plus(parameters.unbonding_ms);
        let ends_height = proposal.submitted_height.plus(parameters.unbonding_blocks_min);
        if proposal.ends > ends || proposal.ends_height > ends_height {
            proposal.ends = proposal.ends.min(ends);
            proposal.ends_height = proposal.ends_height.min(ends_height);
            state.put_proposal(&proposal);
        }
    }
}

fn adopt(state: &mut State<'_>, proposal: ProposalId, content: ContentHash) {
    let mut agenda = state.agenda();
    agenda.texts.push(AdoptedText { proposal, content });
    let surplus = agenda.texts.len().saturating_sub(limits::TEXTS_KEPT_MAX);
    agenda.texts.drain(..surplus);
    state.put_agenda(&agenda);
}

fn spend(state: &mut State<'_>, to: &AccountId, amount: Credits) -> Result<(), Rejection> {
    let mut supply = state.supply();
    supply.treasury =
        supply.treasury.checked_sub(amount).ok_or(Rejection::Change(Failure::Treasury))?;
    state.put_supply(&supply);
    state.credit(to, amount)
}
