//! What a certified round pays: emission or escrow, split by governed shares (design 4 and 8).
//!
//! The pot is the round's escrow plus what the model's weight may still mint in this epoch. What
//! nobody earned is not minted; unearned escrow goes back to the sponsor.

use crate::amount::Credits;
use crate::ids::AccountId;
use crate::ledger::Rejection;
use crate::ledger::entries::{Contribution, Earned, Member, Model, Round, Seat};
use crate::ledger::rounds::submitted;
use crate::ledger::state::State;
use crate::review::Verdict;

/// Pays from the escrow first, then by minting.
struct Pot {
    escrow: Credits,
    mintable: Credits,
    paid: Credits,
}

impl Pot {
    fn take(&mut self, state: &mut State<'_>, amount: Credits) -> Result<Credits, Rejection> {
        let from_escrow = self.escrow.min(amount);
        let rest = amount.checked_sub(from_escrow).unwrap_or(Credits::ZERO);
        let minted = self.mintable.min(rest);
        self.escrow = self.escrow.checked_sub(from_escrow).ok_or(Rejection::Overflow)?;
        self.mintable = self.mintable.checked_sub(minted).ok_or(Rejection::Overflow)?;
        state.mint(minted)?;
        let taken = from_escrow.checked_add(minted).ok_or(Rejection::Overflow)?;
        self.paid = self.paid.checked_add(taken).ok_or(Rejection::Overflow)?;
        Ok(taken)
    }
}

fn pay(
    state: &mut State<'_>,
    pot: &mut Pot,
    to: &AccountId,
    amount: Credits,
    role: fn(&mut Earned) -> &mut Credits,
) -> Result<Credits, Rejection> {
    let taken = pot.take(state, amount)?;
    let mut account = state.account(to);
    account.balance = account.balance.checked_add(taken).ok_or(Rejection::Overflow)?;
    let slot = role(&mut account.earned);
    *slot = slot.checked_add(taken).ok_or(Rejection::Overflow)?;
    state.put_account(to, &account);
    Ok(taken)
}

/// What the round may pay in all.
fn pot_of(state: &State<'_>, model: &Model, escrow: Credits) -> Pot {
    let parameters = state.parameters();
    let earnable = parameters.contributors_ppm.saturating_add(parameters.reviewers_ppm);
    let epoch_left = parameters
        .emission_per_epoch()
        .ppm(earnable)
        .checked_sub(state.supply().minted_this_epoch)
        .unwrap_or(Credits::ZERO);
    let mintable = parameters.emission_per_round().ppm(u64::from(model.weight_ppm)).min(epoch_left);
    Pot { escrow, mintable, paid: Credits::ZERO }
}

/// Pays everybody of a certified round and returns what is left of the escrow.
pub(super) fn distribute(
    state: &mut State<'_>,
    model: &Model,
    round: &mut Round,
) -> Result<(), Rejection> {
    let mut pot = pot_of(state, model, round.escrow);
    round.escrow = Credits::ZERO;
    let total = pot.escrow.checked_add(pot.mintable).ok_or(Rejection::Overflow)?;
    // "Nothing if the new head's gain is not positive with confidence" (design 4).
    if round.gain.lower_ppm() > 0 {
        let parameters = state.parameters();
        // Validators and treasury have a share of an escrow here, of the emission at the end of
        // the epoch; theirs is set aside before the others reach for it.
        let escrow = pot.escrow;
        let validators = pot.take(state, escrow.ppm(parameters.validators_ppm))?;
        let treasury = pot.take(state, escrow.ppm(parameters.treasury_ppm))?;
        let mut supply = state.supply();
        supply.validators = supply.validators.checked_add(validators).ok_or(Rejection::Overflow)?;
        supply.treasury = supply.treasury.checked_add(treasury).ok_or(Rejection::Overflow)?;
        state.put_supply(&supply);
        pay_contributors(state, &mut pot, round, total.ppm(parameters.contributors_ppm))?;
        pay_reviewers(state, &mut pot, round, total.ppm(parameters.reviewers_ppm))?;
    }
    round.paid = pot.paid;
    state.credit(&round.sponsor, pot.escrow)
}

fn accepted(state: &State<'_>, round: &Round) -> Vec<(Member, Contribution)> {
    let mut all = submitted(state, round);
    all.retain(|(_, c)| c.verdict == Some(Verdict::Accept));
    all
}

fn pay_contributors(
    state: &mut State<'_>,
    pot: &mut Pot,
    round: &Round,
    share: Credits,
) -> Result<(), Rejection> {
    let accepted = accepted(state, round);
    let score = |c: &Contribution| u64::try_from(c.score_ppm).unwrap_or(0);
    let sum = accepted.iter().fold(0_u64, |sum, (_, c)| sum.saturating_add(score(c)));
    for (member, mut contribution) in accepted {
        let amount = share.scaled(score(&contribution), sum);
        contribution.paid = pay(state, pot, &member.account, amount, |e| &mut e.contributor)?;
        withhold(state, &member, contribution.paid)?;
        state.put_contribution(&contribution.id(), &contribution);
    }
    Ok(())
}

/// A newcomer that joined without a bond leaves it from its first reward, as its node's allowance.
fn withhold(state: &mut State<'_>, member: &Member, paid: Credits) -> Result<(), Rejection> {
    let bond = member.withheld.min(paid);
    if bond == Credits::ZERO {
        return Ok(());
    }
    state.debit(&member.account, bond)?;
    state.credit_allowance(&member.node, bond)
}

/// Reviews that agree with the quorum share equally.
fn pay_reviewers(
    state: &mut State<'_>,
    pot: &mut Pot,
    round: &Round,
    share: Credits,
) -> Result<(), Rejection> {
    let all: Vec<Contribution> = submitted(state, round).into_iter().map(|(_, c)| c).collect();
    let agrees = |c: &Contribution, seat: &Seat| {
        seat.review.is_some() && seat.review.map(|r| r.verdict) == c.verdict
    };
    let agreeing =
        all.iter().map(|c| c.panel.iter().filter(|seat| agrees(c, seat)).count()).sum::<usize>();
    let fee = share.scaled(1, u64::try_from(agreeing).unwrap_or(u64::MAX));
    for mut contribution in all {
        let verdicts = contribution.clone();
        for seat in &mut contribution.panel {
            if agrees(&verdicts, seat)
                && let Some(node) = state.node(&seat.node)
            {
                seat.paid = pay(state, pot, &node.account, fee, |e| &mut e.reviewer)?;
            }
        }
        state.put_contribution(&contribution.id(), &contribution);
    }
    Ok(())
}
