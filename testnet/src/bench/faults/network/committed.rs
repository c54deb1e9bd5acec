//! What nodes said was final, and whether it still is.
//!
//! Final are a round's head, once certified, and what was paid for each delta and review of it.
//! Whoever says so may be killed right after: what it said must come true all the same.
//! Every contradiction is one piece of work lost: another head, a missing one, fewer credits.

use std::collections::BTreeMap;

use protocol::api::{Round, RoundPhase};
use protocol::ids::{ContributionId, HeadId, NodeId};

/// Whom a credit went to: the author of a delta, or a reviewer of it.
type Paid = BTreeMap<(ContributionId, NodeId), u64>;

/// A certified round.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    head: HeadId,
    paid: Paid,
}

/// All that was said.
#[derive(Clone, Debug, Default)]
pub(super) struct Committed {
    facts: BTreeMap<u32, Fact>,
    /// What does not fit together, in words.
    contradictions: Vec<String>,
}

impl Committed {
    /// Takes in rounds as a node tells of them.
    pub(super) fn hear(&mut self, node: &str, rounds: &[Round]) {
        for round in rounds {
            let Some(fact) = fact(round) else { continue };
            match self.facts.get_mut(&round.round) {
                None => {
                    self.facts.insert(round.round, fact);
                }
                Some(known) => {
                    let lost = lost(known, &fact);
                    let said = |what| format!("round {}, {node}: {what}", round.round);
                    self.contradictions.extend(lost.into_iter().map(said));
                    // Credits that became final later.
                    for (whom, micro) in fact.paid {
                        let known = known.paid.entry(whom).or_default();
                        *known = micro.max(*known);
                    }
                }
            }
        }
    }

    /// Holds all rounds of a node at the end against what was said before.
    pub(super) fn check(&mut self, node: &str, rounds: &[Round]) {
        for number in self.facts.keys() {
            let is_there = rounds.iter().any(|r| r.round == *number && fact(r).is_some());
            if !is_there {
                self.contradictions.push(format!("round {number}, {node}: the head is missing"));
            }
        }
        self.hear(node, rounds);
    }

    /// Certified rounds that were heard of.
    pub(super) fn rounds(&self) -> usize {
        self.facts.len()
    }

    /// Credits that were heard of, in millionths.
    pub(super) fn paid_micro(&self) -> u64 {
        self.facts.values().flat_map(|fact| fact.paid.values()).sum()
    }

    /// What was lost, in words.
    pub(super) fn lost(&self) -> &[String] {
        &self.contradictions
    }
}

fn fact(round: &Round) -> Option<Fact> {
    if round.phase != RoundPhase::Certified {
        return None;
    }
    let mut paid = Paid::new();
    for delta in &round.deltas {
        paid.insert((delta.id, delta.author), delta.paid_micro.micro());
        for review in &delta.reviews {
            paid.insert((delta.id, review.reviewer), review.paid_micro.micro());
        }
    }
    Some(Fact { head: round.head?, paid })
}

fn lost(known: &Fact, now: &Fact) -> Vec<String> {
    let mut lost = Vec::new();
    if known.head != now.head {
        lost.push(format!("the head is {} and was {}", now.head, known.head));
    }
    for (whom, micro) in &known.paid {
        let has = now.paid.get(whom).copied().unwrap_or(0);
        if has < *micro {
            lost.push(format!("{} has {has} micro-credits and had {micro}", whom.1));
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use protocol::amount::{Credits, Height};
    use protocol::api::Contribution;
    use protocol::ids::{AccountId, ContentHash, ModelId};

    use super::*;

    fn round(number: u32, phase: RoundPhase, head: u8, paid: u64) -> Round {
        let delta = Contribution {
            id: ContributionId::from_bytes([1; 32]),
            model: ModelId::from_bytes([1; 32]),
            round: number,
            author: NodeId::from_bytes([1; 32]),
            account: AccountId::from_bytes([1; 32]),
            manifest: ContentHash::default(),
            payload_bytes: 1,
            millibits_per_parameter: 1,
            verdict: None,
            score_ppm: None,
            quorum: 2,
            reviews: Vec::new(),
            bond_micro: Credits::ZERO,
            bond_burned: false,
            paid_micro: Credits::from_micro(paid),
        };
        Round {
            round: number,
            phase,
            deadline_ms: None,
            opened_height: Height::new(1),
            members: Vec::new(),
            parent: HeadId::from_bytes([0; 32]),
            head: Some(HeadId::from_bytes([head; 32])),
            certified_by_stake_ppm: 1,
            gain: None,
            deltas: vec![delta],
            pot_micro: Credits::ZERO,
            paid_micro: Credits::ZERO,
        }
    }

    #[test]
    fn what_was_final_must_stay() {
        let certified = |head, paid| round(1, RoundPhase::Certified, head, paid);
        for (then, lost) in [
            (vec![certified(7, 5)], 0),
            (vec![certified(7, 6)], 0),
            (vec![certified(7, 4)], 1),
            (vec![certified(8, 5)], 1),
            (vec![certified(8, 4)], 2),
            (vec![], 1),
            (vec![round(1, RoundPhase::Attest, 7, 5)], 1),
        ] {
            let mut committed = Committed::default();
            committed.hear("node-0", &[certified(7, 5), round(2, RoundPhase::Train, 0, 0)]);
            assert_eq!((committed.rounds(), committed.paid_micro()), (1, 5));
            committed.check("node-1", &then);
            assert_eq!(committed.lost().len(), lost, "{:?}", committed.lost());
        }
    }

    #[test]
    fn a_contradiction_stays_one_when_it_was_only_once_said() {
        let mut committed = Committed::default();
        committed.hear("node-0", &[round(1, RoundPhase::Certified, 7, 5)]);
        committed.hear("node-1", &[round(1, RoundPhase::Certified, 8, 5)]);
        committed.check("node-0", &[round(1, RoundPhase::Certified, 7, 5)]);
        assert_eq!(committed.lost().len(), 1);
    }
}
