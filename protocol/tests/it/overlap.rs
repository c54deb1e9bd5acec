//! Rounds that overlap and deltas that come late: the course, the refusals, and any course.

mod any;

use ayni_protocol::amount::Credits;
use ayni_protocol::codec;
use ayni_protocol::commitment;
use ayni_protocol::duties::{Duty, owed, was_merged};
use ayni_protocol::ids::{Commitment, ContentHash, ModelId, NodeId};
use ayni_protocol::ledger::Rejection;
use ayni_protocol::ledger::entries::{Phase, Round};
use ayni_protocol::ledger::rounds::open_rounds_of;
use ayni_protocol::ledger::weights::merge_weights;
use ayni_protocol::model::{Head, RoundParameters};
use ayni_protocol::review::{Gain, Verdict};
use ayni_protocol::transaction::Payload;

use crate::chain::{TestChain, credits, parameters, replay, root, spec};
use crate::rounds::{SALT, head, manifest, review};

/// What a node does about a duty.
pub(crate) enum Answer {
    Do,
    Judge(Verdict),
    Nothing,
}

fn id(chain: &TestChain, node: usize) -> NodeId {
    chain.nodes[node].node.public().node_id()
}

fn opened(overlap: bool, rounds: u32, change: fn(&mut RoundParameters)) -> (TestChain, ModelId) {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, overlap, rounds, change);
    (chain, model)
}

pub(crate) fn open(
    chain: &mut TestChain,
    overlap: bool,
    rounds: u32,
    change: fn(&mut RoundParameters),
) -> ModelId {
    let mut parameters = RoundParameters { overlap, members_min: 2, ..parameters() };
    change(&mut parameters);
    let spec = spec(1);
    let model = spec.id();
    chain.send(0, Payload::RegisterModel { spec });
    chain.step();
    chain.send(0, Payload::OpenRounds { model, rounds, parameters, escrow: credits(30) });
    chain.step();
    model
}

/// The transaction for a duty; heads are told apart by `tag` and the round.
fn payload(
    chain: &TestChain,
    node: usize,
    duty: Duty,
    verdict: Verdict,
    tag: u8,
) -> Option<Payload> {
    let (me, ledger) = (id(chain, node), *chain.host.chain());
    Some(match duty {
        Duty::Train { .. } | Duty::Show { .. } => return None,
        Duty::Join { model, round } => Payload::JoinRound { model, round },
        Duty::Commit { model, round, .. } => {
            let content = codec::hash(&manifest(chain, &chain.round(&model, round), node));
            let commitment = commitment::submission(&ledger, &me, &content, &SALT);
            Payload::SubmitCommit { model, round, commitment }
        }
        Duty::Submit { model, round } => {
            let manifest = manifest(chain, &chain.round(&model, round), node);
            Payload::Submit { manifest: Box::new(manifest), salt: SALT }
        }
        Duty::Review { contribution, .. } => {
            let review = review(verdict);
            let commitment = commitment::review(&ledger, &me, &contribution, &review, &SALT);
            Payload::ReviewCommit { contribution, commitment }
        }
        Duty::Reveal { contribution } => {
            Payload::ReviewReveal { contribution, review: review(verdict), salt: SALT }
        }
        Duty::Attest { model, round } => {
            let round = chain.round(&model, round);
            let tag = tag.wrapping_mul(100).wrapping_add(round.index as u8);
            Payload::AttestHead {
                model,
                round: round.index,
                head: head(&round, tag),
                possession: Commitment::default(),
                gain: Gain { mean_ppm: 9_000, error_ppm: 100 },
            }
        }
    })
}

/// One block in which everybody does what `answer` says of what they owe.
fn block(chain: &mut TestChain, answer: impl Fn(&TestChain, usize, Duty) -> Answer) {
    for node in 0..chain.nodes.len() {
        let me = id(chain, node);
        for duty in owed(&chain.view(), &me, |_| true) {
            let verdict = match answer(chain, node, duty) {
                Answer::Do => Verdict::Accept,
                Answer::Judge(verdict) => verdict,
                Answer::Nothing => continue,
            };
            if let Some(payload) = payload(chain, node, duty, verdict, 0) {
                chain.send(node, payload);
            }
        }
    }
    chain.step();
}

pub(crate) fn until(
    chain: &mut TestChain,
    answer: impl Fn(&TestChain, usize, Duty) -> Answer + Copy,
    reached: impl Fn(&TestChain) -> bool,
) {
    for _ in 0..2_000 {
        if reached(chain) {
            return;
        }
        block(chain, answer);
    }
    panic!("it is never reached");
}

pub(crate) fn phase(chain: &TestChain, model: &ModelId, index: u32) -> Option<Phase> {
    chain.view().round(model, index).map(|round| round.phase)
}

fn over(chain: &TestChain, model: &ModelId, index: u32) -> bool {
    phase(chain, model, index).is_some_and(Phase::is_over)
}

#[test]
fn a_round_trains_while_the_one_before_is_reviewed_and_heads_are_a_chain() {
    let (mut chain, model) = opened(true, 3, |_| {});
    // Nobody reviews for a while.
    let lazy = |_: &TestChain, _: usize, duty: Duty| match duty {
        Duty::Review { .. } => Answer::Nothing,
        _ => Answer::Do,
    };
    until(&mut chain, lazy, |c| phase(c, &model, 2) == Some(Phase::Training));
    assert_eq!(phase(&chain, &model, 1), Some(Phase::Reviewing));
    let initial = Head::initial(&spec(1));
    let second = chain.round(&model, 2);
    assert_eq!((second.parent, second.base), (initial, None), "no newer head was certified");
    // Training is owed, committing is not: nobody knows yet what becomes of the delta before.
    let duties = owed(&chain.view(), &id(&chain, 0), |_| true);
    assert!(duties.contains(&Duty::Train { model, round: 2, late: false }));
    assert!(!duties.iter().any(|d| matches!(d, Duty::Commit { .. })), "{duties:?}");
    // Who commits all the same is heard, but the round waits.
    for node in 0..4 {
        let early = Duty::Commit { model, round: 2, late: false };
        let early = payload(&chain, node, early, Verdict::Accept, 0).expect("a transaction");
        chain.send(node, early);
    }
    chain.steps(10);
    assert_eq!(phase(&chain, &model, 2), Some(Phase::Training));
    assert_eq!(chain.view().round(&model, 3), None, "two at most");

    until(&mut chain, |_, _, _| Answer::Do, |c| over(c, &model, 1));
    let first = chain.round(&model, 1);
    let base = chain.round(&model, 2).base.expect("the round before is over").head;
    assert_eq!((first.phase, Some(base.id())), (Phase::Certified, first.head));
    until(&mut chain, |_, _, _| Answer::Do, |c| over(c, &model, 3));
    for index in 2..=3 {
        let (before, round) = (chain.round(&model, index - 1), chain.round(&model, index));
        assert_eq!(round.phase, Phase::Certified);
        assert_eq!(Some(round.base().id()), before.head, "a chain of heads");
        assert_eq!(round.steps_before(), u64::from(index - 1) * 30);
        assert_eq!(round.run_first, 1);
    }
    assert_eq!(chain.round(&model, 3).parent, *chain.round(&model, 2).base());
    assert!(chain.view().model(&model).expect("registered").run.is_none());
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn when_a_round_changes_nothing_the_next_one_goes_on() {
    let (mut chain, model) = opened(true, 2, |_| {});
    let answer = |_: &TestChain, _: usize, duty: Duty| match duty {
        Duty::Attest { round: 1, .. } => Answer::Nothing,
        _ => Answer::Do,
    };
    until(&mut chain, answer, |c| over(c, &model, 2));
    let (first, second) = (chain.round(&model, 1), chain.round(&model, 2));
    assert_eq!((first.phase, second.phase), (Phase::Unchanged, Phase::Certified));
    assert_eq!(*second.base(), second.parent);
}

#[test]
fn after_a_long_review_there_is_still_time_to_commit() {
    let (mut chain, model) = opened(true, 2, |p| p.review_ms = 600_000);
    let lazy = |_: &TestChain, _: usize, duty: Duty| match duty {
        Duty::Review { .. } => Answer::Nothing,
        _ => Answer::Do,
    };
    until(&mut chain, lazy, |c| phase(c, &model, 2) == Some(Phase::Training));
    // Training's time is over long before the review's.
    chain.steps(400);
    let round = chain.round(&model, 2);
    let late = chain.view().clock().time.get() - round.phase_since.get();
    assert!(late > u64::from(round.parameters.train_ms));
    assert_eq!(round.phase, Phase::Training);
    until(&mut chain, |_, _, _| Answer::Do, |c| over(c, &model, 1));
    assert_eq!(phase(&chain, &model, 2), Some(Phase::Training));
    until(&mut chain, |_, _, _| Answer::Do, |c| over(c, &model, 2));
    assert_eq!(phase(&chain, &model, 2), Some(Phase::Certified));
    assert_eq!(chain.round(&model, 2).members.len(), 4);
}

/// Node 3 misses the training of round 1.
fn misses_the_first(_: &TestChain, node: usize, duty: Duty) -> Answer {
    match duty {
        Duty::Commit { round: 1, .. } if node == 3 => Answer::Nothing,
        _ => Answer::Do,
    }
}

fn late_commitment(chain: &TestChain, node: usize, model: ModelId) -> Payload {
    let duty = Duty::Commit { model, round: 1, late: true };
    payload(chain, node, duty, Verdict::Accept, 0).expect("a transaction")
}

fn check_late(overlap: bool) {
    let (mut chain, model) = opened(overlap, 3, |_| {});
    until(&mut chain, misses_the_first, |c| {
        phase(c, &model, 2) == Some(Phase::Training) && over(c, &model, 1)
    });
    let me = id(&chain, 3);
    let first = chain.round(&model, 1);
    let late = Duty::Commit { model, round: 1, late: true };
    assert!(owed(&chain.view(), &me, |_| true).contains(&late));
    assert!(!was_merged(&chain.view(), &first, &me));
    assert_eq!(
        chain.try_now(0, late_commitment(&chain, 0, model)),
        Err(Rejection::Exists("a commitment of this member")),
        "one delta per member and round"
    );
    let before = chain.view().node(&me).expect("registered").allowance;
    chain.send(3, late_commitment(&chain, 3, model));
    block(&mut chain, |_, _, duty| match duty {
        Duty::Commit { .. } => Answer::Nothing,
        _ => Answer::Do,
    });
    assert_eq!(
        chain.try_now(3, late_commitment(&chain, 3, model)),
        Err(Rejection::Exists("a commitment of this member"))
    );
    assert_eq!(chain.round(&model, 2).late.len(), 1);
    let bonded = chain.view().node(&me).expect("registered").allowance;
    assert!(bonded < before.checked_sub(credits(4)).expect("more"), "a bond of its own");
    until(&mut chain, misses_the_first, |c| over(c, &model, 2));
    let second = chain.round(&model, 2);
    assert_eq!(second.phase, Phase::Certified);
    let contribution = chain.view().contribution(&first.contribution_id(&me)).expect("committed");
    assert_eq!((contribution.round, contribution.merged_in), (1, 2));
    assert_eq!(contribution.verdict, Some(Verdict::Accept));
    assert_eq!(contribution.panel.len(), 3, "nobody reviews their own");
    assert!(contribution.paid > Credits::ZERO);
    assert_eq!(second.late[0].bond, Credits::ZERO, "the bond is back");
    assert!(was_merged(&chain.view(), &first, &me));
    let weights = merge_weights(&chain.view(), &second);
    let whole: Vec<u32> = weights.iter().map(|(_, weight)| *weight).collect();
    assert_eq!(whole, [1_000_000, 1_000_000, 1_000_000, 1_000_000, 500_000]);
    assert_eq!(weights[4].0, contribution.id());
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn a_late_delta_is_carried_to_the_next_round_at_a_discount() {
    check_late(false);
}

#[test]
fn a_late_delta_is_carried_with_overlap_too() {
    check_late(true);
}

#[test]
fn a_late_delta_is_taken_while_its_own_round_is_reviewed() {
    let (mut chain, model) = opened(true, 2, |_| {});
    until(&mut chain, misses_the_first, |c| phase(c, &model, 1) == Some(Phase::Reviewing));
    chain.send(3, late_commitment(&chain, 3, model));
    chain.step();
    // It is no delta of the round in which it is late.
    until(&mut chain, misses_the_first, |c| over(c, &model, 1));
    assert_eq!(merge_weights(&chain.view(), &chain.round(&model, 1)).len(), 3);
    let account = chain.view().account(&chain.nodes[3].account.public().account_id());
    assert_eq!(account.forfeited, Credits::ZERO, "nothing was due from it yet");
    until(&mut chain, misses_the_first, |c| over(c, &model, 2));
    assert_eq!(merge_weights(&chain.view(), &chain.round(&model, 2)).len(), 5);
}

#[test]
fn late_deltas_are_refused_where_there_is_no_room_for_them() {
    let wrong = Err(Rejection::WrongPhase("committing to a delta"));
    // The rules of the run want none.
    let (mut chain, model) = opened(true, 2, |p| p.late_ppm = 0);
    until(&mut chain, misses_the_first, |c| phase(c, &model, 2) == Some(Phase::Training));
    assert_eq!(chain.try_now(3, late_commitment(&chain, 3, model)), wrong);
    // Two rounds late.
    let (mut chain, model) = opened(false, 3, |_| {});
    until(&mut chain, misses_the_first, |c| phase(c, &model, 3) == Some(Phase::Training));
    assert_eq!(chain.try_now(3, late_commitment(&chain, 3, model)), wrong);
    // After the next round's training.
    let (mut chain, model) = opened(false, 3, |_| {});
    until(&mut chain, misses_the_first, |c| phase(c, &model, 2) == Some(Phase::Reviewing));
    assert_eq!(chain.try_now(3, late_commitment(&chain, 3, model)), wrong);
    // In another run.
    let (mut chain, model) = opened(false, 1, |_| {});
    until(&mut chain, misses_the_first, |c| over(c, &model, 1));
    let opening =
        Payload::OpenRounds { model, rounds: 1, parameters: parameters(), escrow: Credits::ZERO };
    chain.send(0, opening);
    chain.step();
    assert_eq!(phase(&chain, &model, 2), Some(Phase::Joining));
    assert_eq!(chain.try_now(3, late_commitment(&chain, 3, model)), wrong);
    assert!(owed(&chain.view(), &id(&chain, 3), |_| false).is_empty());
}

#[test]
fn a_late_delta_that_is_not_revealed_or_at_fault_costs_its_bond() {
    for silent in [true, false] {
        let (mut chain, model) = opened(true, 2, |_| {});
        until(&mut chain, misses_the_first, |c| phase(c, &model, 2) == Some(Phase::Joining));
        chain.send(3, late_commitment(&chain, 3, model));
        chain.step();
        let late = chain.round(&model, 1).contribution_id(&id(&chain, 3));
        until(
            &mut chain,
            move |_, node, duty| match duty {
                Duty::Submit { round: 1, .. } if silent && node == 3 => Answer::Nothing,
                Duty::Review { contribution, .. } | Duty::Reveal { contribution }
                    if contribution == late =>
                {
                    Answer::Judge(Verdict::Fault)
                }
                _ => Answer::Do,
            },
            |c| over(c, &model, 2),
        );
        let account = chain.view().account(&chain.nodes[3].account.public().account_id());
        assert_eq!(account.forfeited, parameters().bond, "silent: {silent}");
        assert_eq!(merge_weights(&chain.view(), &chain.round(&model, 2)).len(), 4);
    }
}

#[test]
fn manifests_of_late_deltas_are_those_of_the_round_before() {
    let (mut chain, model) = opened(true, 2, |_| {});
    until(&mut chain, misses_the_first, |c| phase(c, &model, 2) == Some(Phase::Joining));
    let first = chain.round(&model, 1);
    let forged = |change: fn(&mut ayni_protocol::model::DeltaManifest)| {
        let mut forged = manifest(&chain, &first, 3);
        change(&mut forged);
        Payload::Submit { manifest: Box::new(forged), salt: SALT }
    };
    for (payload, expect) in [
        (forged(|m| m.steps = 0), Rejection::Mismatch("the number of inner steps")),
        (forged(|m| m.steps = 31), Rejection::Mismatch("the number of inner steps")),
        (
            forged(|m| m.shards = ContentHash::default()),
            Rejection::Mismatch("the list of assigned shards"),
        ),
        (forged(|m| m.seed ^= 1), Rejection::Mismatch("the seed")),
        (forged(|m| m.steps = 1), Rejection::Unknown("commitment")),
    ] {
        assert_eq!(chain.try_now(3, payload), Err(expect));
    }
    chain.send(3, late_commitment(&chain, 3, model));
    chain.step();
    let early = Payload::Submit { manifest: Box::new(manifest(&chain, &first, 3)), salt: SALT };
    assert_eq!(chain.try_now(3, early), Err(Rejection::WrongPhase("revealing a delta")));
}

fn open_indexes(chain: &TestChain, model: &ModelId) -> Vec<u32> {
    open_rounds_of(&chain.view(), model).iter().map(|round: &Round| round.index).collect()
}
