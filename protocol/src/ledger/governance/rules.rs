//! Versions of the rules: from a height that was voted for, headers must carry the next version,
//! and a program that does not know it stops, rather than apply what it does not understand.

use crate::amount::Height;
use crate::block::Header;
use crate::ledger::entries::{Failure, Rules, RulesChange};
use crate::ledger::genesis::RULES_VERSION;
use crate::ledger::state::State;
use crate::ledger::{BlockError, Rejection};
use crate::limits;

/// The version that a block at `height` must carry, if a program that knows versions up to `known`
/// can make or judge it.
pub fn version_for(state: &State<'_>, height: Height, known: u32) -> Result<u32, BlockError> {
    let rules = state.rules();
    let version = rules.version_at(height);
    if version > known {
        let from = rules.next.map_or(height, |next| next.height);
        return Err(BlockError::Outdated { known, version, from });
    }
    Ok(version)
}

/// Whether a header carries the version in force.
pub(in crate::ledger) fn check_header(
    state: &State<'_>,
    header: &Header,
) -> Result<(), BlockError> {
    let expected = version_for(state, header.height, RULES_VERSION)?;
    if header.rules_version != expected {
        return Err(BlockError::RulesVersion { got: header.rules_version, expected });
    }
    Ok(())
}

/// The version in force now, and the one decided to follow.
fn standing(state: &State<'_>) -> (u32, Option<RulesChange>) {
    let (rules, height) = (state.rules(), state.clock().height);
    (rules.version_at(height), rules.next.filter(|next| next.height > height))
}

/// Whether a change of the rules could be decided now. The version in force itself withdraws the
/// one that waits.
pub(super) fn check(state: &State<'_>, version: u32, height: Height) -> Result<(), Rejection> {
    let (current, waiting) = standing(state);
    let withdraws = version == current && waiting.is_some();
    if withdraws {
        return Ok(());
    }
    if Some(version) != current.checked_add(1) {
        return Err(Rejection::Change(Failure::RulesVersion));
    }
    if height < state.clock().height.plus(limits::RULES_NOTICE_BLOCKS_MIN) {
        return Err(Rejection::Change(Failure::RulesNotice));
    }
    Ok(())
}

/// Decides what was checked.
pub(super) fn decide(state: &mut State<'_>, version: u32, height: Height) {
    let (current, _) = standing(state);
    let next = (version != current).then_some(RulesChange { version, height });
    state.put_rules(&Rules { version: current, next });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entries::Clock;
    use crate::store::MemoryState;

    fn at(height: u64, rules: Rules) -> MemoryState {
        let mut memory = MemoryState::default();
        let base = memory.clone();
        let mut state = State::new(&base);
        state.put_clock(&Clock { height: Height::new(height), ..Clock::default() });
        state.put_rules(&rules);
        memory.apply(&state.into_changes());
        memory
    }

    #[test]
    fn an_old_program_stops_and_a_new_one_goes_on() {
        let next = Some(RulesChange { version: 2, height: Height::new(500) });
        let memory = at(10, Rules { version: 1, next });
        let state = State::new(&memory);
        let check = |height: u64, known: u32, expect: Result<u32, BlockError>| {
            assert_eq!(version_for(&state, Height::new(height), known), expect, "{height} {known}");
        };
        check(499, 1, Ok(1));
        check(499, 2, Ok(1));
        let from = Height::new(500);
        check(500, 1, Err(BlockError::Outdated { known: 1, version: 2, from }));
        check(900, 1, Err(BlockError::Outdated { known: 1, version: 2, from }));
        check(500, 2, Ok(2));
    }

    #[test]
    fn versions_come_one_at_a_time_with_notice_and_can_be_moved_or_withdrawn() {
        let next = Some(RulesChange { version: 2, height: Height::new(500) });
        let check = |now: u64, next, version: u32, height: u64, expect: Option<Failure>| {
            let memory = at(now, Rules { version: 1, next });
            let got = super::check(&State::new(&memory), version, Height::new(height));
            assert_eq!(got, expect.map_or(Ok(()), |f| Err(Rejection::Change(f))), "at {now}");
        };
        check(10, None, 2, 110, None);
        check(10, None, 2, 109, Some(Failure::RulesNotice));
        check(10, None, 3, 900, Some(Failure::RulesVersion));
        check(10, None, 1, 900, Some(Failure::RulesVersion));
        check(10, next, 2, 900, None);
        check(10, next, 3, 900, Some(Failure::RulesVersion));
        check(499, next, 1, 0, None);
        check(500, next, 1, 900, Some(Failure::RulesVersion));
        check(500, next, 3, 900, None);

        let memory = at(500, Rules { version: 1, next });
        let mut state = State::new(&memory);
        decide(&mut state, 3, Height::new(900));
        let after = RulesChange { version: 3, height: Height::new(900) };
        assert_eq!(state.rules(), Rules { version: 2, next: Some(after) });
        decide(&mut state, 2, Height::ZERO);
        assert_eq!(state.rules(), Rules { version: 2, next: None });
    }
}
