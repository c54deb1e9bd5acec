//! What must never happen, checked while it runs. Written before the faults.
//!
//! A checker sees only what honest validators do; it knows nothing of the faults that led there.

use std::collections::BTreeMap;

use protocol::amount::Height;
use protocol::ids::BlockHash;
use serde::Serialize;
use storage::Step;

use super::chain::Snapshot;

/// Violations of one seed that are kept; more say nothing new.
const KEPT_MAX: usize = 8;

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Checker {
    /// No two blocks are decided at one height.
    Agreement,
    /// Credits are conserved in every state.
    Conservation,
    /// An honest validator signs one thing for one (height, round, step), over all restarts.
    DoubleSign,
    /// A head only grows, block on block, and chain time never goes back.
    MonotoneHead,
    /// An acknowledged block survives a crash.
    Durability,
    /// What was decided is valid in the eyes of every honest node.
    Validity,
    /// Who is seen voting twice is named on the ledger, and nobody else is.
    Evidence,
    /// After the faults end, everybody honest goes on deciding.
    Liveness,
    /// Votes end as they were cast, and change the rules' numbers exactly as proposed; nothing else
    /// does.
    Governance,
    /// Whoever is jailed or proven guilty has no power, unless nobody else is left.
    Election,
    /// Replaying the stored blocks gives the stored state.
    Replay,
    /// The engine and the stores never fail by themselves.
    NoFailure,
}

impl Checker {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 12] = [
        Self::Agreement,
        Self::Conservation,
        Self::DoubleSign,
        Self::MonotoneHead,
        Self::Durability,
        Self::Validity,
        Self::Evidence,
        Self::Liveness,
        Self::Governance,
        Self::Election,
        Self::Replay,
        Self::NoFailure,
    ];

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::Conservation => "credits conserved",
            Self::DoubleSign => "no double sign",
            Self::MonotoneHead => "monotone head",
            Self::Durability => "nothing acknowledged is lost",
            Self::Validity => "decided blocks are valid",
            Self::Evidence => "equivocators are named",
            Self::Liveness => "liveness after healing",
            Self::Governance => "votes do what they say",
            Self::Election => "no power in jail",
            Self::Replay => "store equals replay",
            Self::NoFailure => "no failure of its own",
        }
    }
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which one.
    pub checker: Checker,
    /// What was seen.
    pub text: String,
}

type Slot = (usize, Height, u32, Step);

/// The checkers of one simulated network.
pub(super) struct Checkers {
    decided: BTreeMap<Height, BlockHash>,
    signed: BTreeMap<Slot, Option<BlockHash>>,
    /// Per instance: the last height that was acknowledged.
    acknowledged: Vec<Height>,
    violations: Vec<Violation>,
    suppressed: u64,
}

impl Checkers {
    pub(super) fn new(instances: usize) -> Self {
        Self {
            decided: BTreeMap::new(),
            signed: BTreeMap::new(),
            acknowledged: vec![Height::ZERO; instances],
            violations: Vec::new(),
            suppressed: 0,
        }
    }

    pub(super) fn violated(&mut self, checker: Checker, text: impl Into<String>) {
        if self.violations.len() < KEPT_MAX {
            self.violations.push(Violation { checker, text: text.into() });
        } else {
            self.suppressed += 1;
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    pub(super) fn into_violations(mut self) -> Vec<Violation> {
        if self.suppressed > 0
            && let Some(last) = self.violations.last_mut()
        {
            last.text.push_str(&format!(" (and {} more)", self.suppressed));
        }
        self.violations
    }

    /// An honest validator signs.
    pub(super) fn signed(
        &mut self,
        validator: usize,
        height: Height,
        round: u32,
        step: Step,
        value: Option<BlockHash>,
    ) {
        let before = *self.signed.entry((validator, height, round, step)).or_insert(value);
        if before != value {
            let text = format!(
                "validator {validator} signed {before:?} and {value:?} at height {height}, round \
                 {round}, {step:?}"
            );
            self.violated(Checker::DoubleSign, text);
        }
    }

    /// An honest instance stands on a decided block, fresh or read from its disk.
    pub(super) fn stands_on(&mut self, instance: usize, height: Height, block: BlockHash) {
        let first = *self.decided.entry(height).or_insert(block);
        if first != block {
            let text = format!(
                "instance {instance} decided {block} at height {height} where {first} was decided"
            );
            self.violated(Checker::Agreement, text);
        }
    }

    /// An honest instance moves its head.
    pub(super) fn moved(
        &mut self,
        instance: usize,
        before: &Snapshot,
        parent: BlockHash,
        after: &Snapshot,
    ) {
        let grows = after.height == before.height.plus(1) && parent == before.block;
        if !grows || after.time < before.time {
            let text = format!(
                "instance {instance} went from {} at {} to {} at {}",
                before.block, before.height, after.block, after.height
            );
            self.violated(Checker::MonotoneHead, text);
        }
        self.stands_on(instance, after.height, after.block);
    }

    /// An honest instance acknowledged a block.
    pub(super) fn acknowledged(&mut self, instance: usize, height: Height) {
        if let Some(slot) = self.acknowledged.get_mut(instance) {
            *slot = (*slot).max(height);
        }
    }

    /// An honest instance is back; `is_whole` unless its operator put an old copy back.
    pub(super) fn recovered(&mut self, instance: usize, tip: Height, is_whole: bool) {
        let known = self.acknowledged.get(instance).copied().unwrap_or_default();
        if is_whole && tip < known {
            let text = format!("instance {instance} acknowledged {known} and came back at {tip}");
            self.violated(Checker::Durability, text);
        }
        if let Some(slot) = self.acknowledged.get_mut(instance) {
            *slot = tip;
        }
    }
}
