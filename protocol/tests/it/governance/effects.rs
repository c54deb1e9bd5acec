//! Every kind of change, with the same blocks and no such change as its control.

use ayni_protocol::amount::{Credits, Height};
use ayni_protocol::codec;
use ayni_protocol::duties::{Duty, owed};
use ayni_protocol::host::{Refused, Standing};
use ayni_protocol::ids::{ContentHash, ModelId};
use ayni_protocol::ledger::entries::{DatasetStatus, Failure, Phase, ProposalStatus};
use ayni_protocol::ledger::{BlockError, Rejection};
use ayni_protocol::model::DataKind;
use ayni_protocol::transaction::{Change, Choice, Payload};

use super::{
    account, adopt, decide, finish, parameter, propose, proposing, quick_genesis, reject, status,
    text, voting,
};
use crate::chain::{TestChain, credits, parameters, replay, root, spec};
use crate::overlap::{self, Answer, phase, until};
use crate::rounds::{Script, open, play};

fn chain() -> TestChain {
    TestChain::of(quick_genesis(4))
}

fn contributors(chain: &TestChain) -> u64 {
    (0..4).map(|i| chain.view().account(&account(chain, i)).earned.contributor.micro()).sum()
}

fn run(chain: &mut TestChain, model: ModelId, escrow: Credits) -> u32 {
    let index = chain.view().model(&model).expect("registered").next_round;
    chain.send(0, Payload::OpenRounds { model, rounds: 1, parameters: parameters(), escrow });
    chain.step();
    index
}

#[test]
fn the_lowest_base_fee_is_charged_as_voted() {
    let burned_by_transfer = |chain: &mut TestChain| {
        let to = account(chain, 1);
        let signed = chain.sign(0, Payload::Transfer { to, amount: credits(1) });
        let size = codec::encode(&signed).len() as u64;
        let before = chain.view().supply().burned;
        chain.submit(signed).expect("fits");
        chain.step();
        (chain.view().supply().burned.micro() - before.micro()) / size
    };
    let mut control = chain();
    reject(&mut control, parameter("base_fee_min_micro_per_byte", 700));
    assert_eq!(burned_by_transfer(&mut control), 10);
    let mut chain = chain();
    adopt(&mut chain, parameter("base_fee_min_micro_per_byte", 700));
    assert_eq!(burned_by_transfer(&mut chain), 700);
}

#[test]
fn the_shares_of_the_emission_are_paid_as_voted() {
    let shares = Change::Parameters(vec![
        ("contributors_ppm".to_owned(), 700_000),
        ("reviewers_ppm".to_owned(), 50_000),
    ]);
    let paid = |mut chain: TestChain| {
        let model = open(&mut chain, 1, Credits::ZERO);
        assert_eq!(play(&mut chain, &model, 1, &Script::default()).phase, Phase::Certified);
        contributors(&chain)
    };
    let mut control = chain();
    reject(&mut control, shares.clone());
    assert_eq!(paid(control), 60_000_000);
    let mut chain = chain();
    adopt(&mut chain, shares);
    assert_eq!(paid(chain), 70_000_000);
}

#[test]
fn a_weight_gives_a_model_its_share_of_the_emission() {
    let mut chain = chain();
    open(&mut chain, 1, Credits::ZERO);
    chain.send(1, Payload::RegisterModel { spec: spec(2) });
    chain.step();
    let model = spec(2).id();
    let opening =
        Payload::OpenRounds { model, rounds: 1, parameters: parameters(), escrow: Credits::ZERO };
    let refused = chain.try_now(1, opening);
    assert!(matches!(refused, Err(Rejection::Mismatch(_))), "control: {refused:?}");
    // The first model has it all: the weights are shares of one emission.
    let weigh = |model, weight_ppm| Change::ModelWeight { model, weight_ppm };
    let too_much = Err(Rejection::Change(Failure::Weight));
    assert_eq!(chain.try_now(0, proposing(weigh(model, 250_000))), too_much);
    adopt(&mut chain, weigh(spec(1).id(), 750_000));
    assert_eq!(chain.try_now(0, proposing(weigh(model, 250_001))), too_much);
    adopt(&mut chain, weigh(model, 250_000));
    assert_eq!(chain.try_now(0, proposing(weigh(spec(1).id(), 750_001))), too_much);
    let index = run(&mut chain, model, Credits::ZERO);
    assert_eq!(play(&mut chain, &model, index, &Script::default()).phase, Phase::Certified);
    assert_eq!(contributors(&chain), 15_000_000);
    assert_eq!(chain.try_now(0, proposing(weigh(model, 1_000_001))), too_much);
}

#[test]
fn two_votes_together_cannot_give_more_than_the_whole() {
    let mut chain = chain();
    let first = open(&mut chain, 1, Credits::ZERO);
    chain.send(1, Payload::RegisterModel { spec: spec(2) });
    chain.step();
    let second = spec(2).id();
    adopt(&mut chain, Change::ModelWeight { model: first, weight_ppm: 400_000 });
    // Each fits by itself when it is made; both are voted at once.
    let ids = [first, second].map(|model| {
        let id = propose(&mut chain, 0, Change::ModelWeight { model, weight_ppm: 600_000 });
        (0..4).for_each(|node| chain.send(node, voting(id, Choice::Yes, 0)));
        id
    });
    for id in ids {
        finish(&mut chain, id);
    }
    assert!(matches!(status(&chain, ids[0]), ProposalStatus::Executed { .. }));
    let refused = ProposalStatus::Failed { reason: Failure::Weight };
    assert_eq!(status(&chain, ids[1]), refused);
    assert_eq!(chain.view().weights(), 600_000);
}

fn publish(chain: &mut TestChain, tag: u8) -> ContentHash {
    publish_of(chain, tag, DataKind::Text)
}

fn publish_of(chain: &mut TestChain, tag: u8, kind: DataKind) -> ContentHash {
    let manifest = ContentHash::of(&[tag]);
    let node = chain.nodes[0].node.public().node_id();
    let name = format!("data-{tag}");
    chain.send(0, Payload::PublishDataset { manifest, name, shards: 3, bytes: 1_000, kind, node });
    chain.step();
    manifest
}

/// The datasets that the next round assigns.
fn assigned(chain: &mut TestChain, model: ModelId) -> Vec<ContentHash> {
    let index = run(chain, model, Credits::ZERO);
    let round = play(chain, &model, index, &Script::default());
    assert_eq!(round.phase, Phase::Certified);
    round.datasets.iter().map(|(manifest, _)| *manifest).collect()
}

#[test]
fn datasets_are_assigned_as_voted() {
    let mut chain = chain();
    let (first, second) = (publish(&mut chain, 1), publish(&mut chain, 2));
    let model = open(&mut chain, 1, Credits::ZERO);
    let all = play(&mut chain, &model, 1, &Script::default()).datasets;
    assert_eq!(all, [(first, 3), (second, 3)], "control");
    adopt(&mut chain, Change::Dataset { manifest: first, admitted: false });
    assert_eq!(assigned(&mut chain, model), [second]);
    let again = Change::Dataset { manifest: first, admitted: false };
    let refused = chain.try_now(0, proposing(again));
    assert_eq!(refused, Err(Rejection::Change(Failure::Already)));
    adopt(&mut chain, parameter("datasets_need_admission", 1));
    assert!(assigned(&mut chain, model).is_empty(), "nothing was admitted");
    let third = publish(&mut chain, 3);
    adopt(&mut chain, Change::Dataset { manifest: third, admitted: true });
    assert_eq!(assigned(&mut chain, model), [third]);
    adopt(&mut chain, Change::Dataset { manifest: first, admitted: true });
    assert_eq!(assigned(&mut chain, model), [first, third]);
    adopt(&mut chain, parameter("datasets_need_admission", 0));
    assert_eq!(assigned(&mut chain, model), [first, second, third]);
    let decided = chain.view().dataset(&second).expect("published").status;
    assert_eq!(decided, DatasetStatus::Undecided);
}

#[test]
fn a_model_is_given_only_data_of_its_kind() {
    let mut chain = chain();
    publish_of(&mut chain, 1, DataKind::Rows { inputs: 4, classes: 3 });
    let text = publish(&mut chain, 2);
    publish_of(&mut chain, 3, DataKind::LabelledTexts { record: 130, classes: 3 });
    let model = open(&mut chain, 1, Credits::ZERO);
    let round = play(&mut chain, &model, 1, &Script::default());
    assert_eq!(round.datasets, [(text, 3)]);
}

#[test]
fn a_direction_narrows_the_data_of_one_model_until_it_is_lifted() {
    let mut chain = chain();
    let (first, second) = (publish(&mut chain, 1), publish(&mut chain, 2));
    let model = open(&mut chain, 1, Credits::ZERO);
    play(&mut chain, &model, 1, &Script::default());
    adopt(&mut chain, Change::Direction { model, datasets: vec![second] });
    assert_eq!(assigned(&mut chain, model), [second]);
    adopt(&mut chain, Change::Direction { model, datasets: Vec::new() });
    assert_eq!(assigned(&mut chain, model), [first, second]);
    let check = |datasets: Vec<ContentHash>, expect: Failure| {
        let refused = chain.try_now(0, proposing(Change::Direction { model, datasets }));
        assert_eq!(refused, Err(Rejection::Change(expect)));
    };
    check(vec![first, first], Failure::List);
    check((0..33).map(|tag| ContentHash::of(&[tag])).collect(), Failure::List);
    check(vec![ContentHash::of(b"nobody has it")], Failure::Dataset);
}

#[test]
fn the_treasury_pays_what_it_has_and_no_more() {
    let mut chain = chain();
    let model = open(&mut chain, 1, credits(100));
    play(&mut chain, &model, 1, &Script::default());
    let treasury = chain.view().supply().treasury;
    assert!(treasury >= credits(5), "{treasury}");
    let to = ayni_protocol::ids::AccountId::from_bytes([9; 32]);
    let amount = treasury.scaled(2, 3);
    reject(&mut chain, Change::TreasurySpend { to, amount });
    assert_eq!(chain.view().account(&to).balance, Credits::ZERO, "control");
    adopt(&mut chain, Change::TreasurySpend { to, amount });
    assert_eq!(chain.view().account(&to).balance, amount);
    let left = treasury.checked_sub(amount).expect("less");
    assert_eq!(chain.view().supply().treasury, left);
    // More than is left: adopted, and fails at its time.
    let yes = [Some(Choice::Yes); 4];
    let ended = decide(&mut chain, Change::TreasurySpend { to, amount }, &yes);
    assert_eq!(ended, ProposalStatus::Failed { reason: Failure::Treasury });
    assert_eq!(chain.view().supply().treasury, left);
    assert!(chain.view().proposals(None, 1)[0].deposit == Credits::ZERO);
    adopt(&mut chain, Change::TreasurySpend { to, amount: left });
    assert_eq!(chain.view().account(&to).balance, treasury);
}

#[test]
fn a_paused_model_lets_nobody_in_and_its_run_waits() {
    let mut chain = chain();
    let model = open(&mut chain, 2, credits(50));
    chain.send(0, Payload::JoinRound { model, round: 1 });
    chain.step();
    let started = chain.view().clock().time;
    adopt(&mut chain, Change::Pause { model, paused: true });
    let took = chain.view().clock().time.get() - started.get();
    assert!(took < quick_genesis(4).parameters.voting_ms, "an emergency is short: {took}");
    let paused = Err(Rejection::WrongPhase("the model is paused by a vote"));
    assert_eq!(chain.try_now(1, Payload::JoinRound { model, round: 1 }), paused);
    let opening =
        Payload::OpenRounds { model, rounds: 1, parameters: parameters(), escrow: credits(1) };
    assert_eq!(chain.try_now(1, opening), paused);
    let node = chain.nodes[1].node.public().node_id();
    assert!(owed(&chain.view(), &node, |_| true).is_empty(), "nobody owes a joining");
    // The round ends by its default, and the next one does not start.
    while !chain.round(&model, 1).phase.is_over() {
        chain.step();
    }
    chain.steps(50);
    assert_eq!(chain.round(&model, 1).phase, Phase::Unchanged);
    assert_eq!(chain.view().round(&model, 2), None);
    let run = chain.view().model(&model).expect("registered").run.expect("waits");
    assert_eq!((run.rounds_left, run.escrow), (1, credits(25)));

    let resumed = chain.view().clock().time;
    adopt(&mut chain, Change::Pause { model, paused: false });
    let took = chain.view().clock().time.get() - resumed.get();
    assert!(took >= quick_genesis(4).parameters.voting_ms + 3_000, "no haste: {took}");
    assert_eq!(play(&mut chain, &model, 2, &Script::default()).phase, Phase::Certified);
    assert!(chain.view().model(&model).expect("registered").run.is_none());
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn a_paused_run_does_not_overlap_until_it_is_resumed() {
    let mut chain = chain();
    // Reviews and training last longer than the vote.
    let model = overlap::open(&mut chain, true, 2, |p| {
        (p.train_ms, p.review_ms) = (86_400_000, 86_400_000);
    });
    let everything = |_: &TestChain, _: usize, _| Answer::Do;
    until(&mut chain, everything, |c| phase(c, &model, 1) == Some(Phase::Training));
    adopt(&mut chain, Change::Pause { model, paused: true });
    let no_review = |_: &TestChain, _: usize, duty| match duty {
        Duty::Review { .. } => Answer::Nothing,
        _ => Answer::Do,
    };
    until(&mut chain, no_review, |c| phase(c, &model, 1) == Some(Phase::Reviewing));
    assert_eq!(phase(&chain, &model, 2), None);
    adopt(&mut chain, Change::Pause { model, paused: false });
    assert_eq!(phase(&chain, &model, 1), Some(Phase::Reviewing));
    assert_eq!(phase(&chain, &model, 2), Some(Phase::Joining), "it opens when it may");
    until(&mut chain, everything, |c| phase(c, &model, 2) == Some(Phase::Certified));
    assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
}

#[test]
fn a_pause_in_the_middle_lets_the_round_finish() {
    let mut chain = chain();
    let model = open(&mut chain, 2, credits(50));
    (0..4).for_each(|node| chain.send(node, Payload::JoinRound { model, round: 1 }));
    chain.steps(4);
    assert_eq!(chain.round(&model, 1).phase, Phase::Training);
    adopt(&mut chain, Change::Pause { model, paused: true });
    assert_eq!(play(&mut chain, &model, 1, &Script::default()).phase, Phase::Certified);
    chain.steps(5);
    assert_eq!(chain.view().round(&model, 2), None);
}

#[test]
fn a_pause_needs_two_thirds_and_takes_no_conviction() {
    let mut chain = TestChain::of(quick_genesis(3));
    let model = open(&mut chain, 1, Credits::ZERO);
    let pause = Change::Pause { model, paused: true };
    let (yes, no) = (Some(Choice::Yes), Some(Choice::No));
    let ended = decide(&mut chain, pause.clone(), &[yes, yes, no]);
    assert_eq!(ended, ProposalStatus::Rejected, "two thirds are not more than two thirds");
    let abstain = Some(Choice::Abstain);
    let ended = decide(&mut chain, pause.clone(), &[yes, yes, abstain]);
    assert_eq!(ended, ProposalStatus::Rejected, "who abstains voted");
    let id = propose(&mut chain, 0, pause);
    let refused = chain.try_now(0, voting(id, Choice::Yes, 1));
    assert!(matches!(refused, Err(Rejection::Mismatch(_))), "{refused:?}");
    (0..2).for_each(|node| chain.send(node, voting(id, Choice::Yes, 0)));
    assert!(matches!(finish(&mut chain, id), ProposalStatus::Executed { .. }));
    assert!(chain.view().model(&model).expect("registered").paused);
}

#[test]
fn new_rules_stop_programs_that_do_not_know_them_at_their_height() {
    let mut chain = chain();
    let near = chain.view().clock().height.plus(99);
    let refused = chain.try_now(0, proposing(Change::Rules { version: 2, height: near }));
    assert_eq!(refused, Err(Rejection::Change(Failure::RulesNotice)));
    let far = Change::Rules { version: 3, height: Height::new(10_000) };
    let refused = chain.try_now(0, proposing(far));
    assert_eq!(refused, Err(Rejection::Change(Failure::RulesVersion)));

    let from = Height::new(150);
    adopt(&mut chain, Change::Rules { version: 2, height: from });
    while chain.host.height() < from {
        let block = chain.build();
        assert_eq!(block.header.rules_version, 1);
        let mut early = block.clone();
        early.header.rules_version = 2;
        let refused = chain.check(&early, Standing::Proposed);
        assert_eq!(refused, Err(Refused::Header("another rules version")));
        chain.decide(&block).expect("valid below the height");
    }
    let outdated = Refused::Rules(BlockError::Outdated { known: 1, version: 2, from });
    assert_eq!(
        outdated.to_string(),
        "this program knows rules up to 1; the network voted for 2 from height 150: install a \
         newer program"
    );
    assert_eq!(chain.try_build().expect_err("stops"), outdated);
    // Nor does it judge what others build, whichever version they write.
    let mut other = control_block(from);
    for version in [1, 2] {
        other.header.rules_version = version;
        let refused = chain.check(&other, Standing::Decided);
        assert_eq!(refused, Err(outdated.clone()));
        let applied =
            ayni_protocol::ledger::apply_block(&chain.state, &other.header, &[], &[], None);
        assert!(matches!(applied, Err(BlockError::Outdated { .. })), "{applied:?}");
    }
    assert!(outdated.is_own_lack());
}

/// A block at a height of a chain that never voted.
fn control_block(height: Height) -> ayni_protocol::block::Block {
    let mut chain = chain();
    while chain.host.height() < height {
        chain.step();
    }
    chain.build()
}

#[test]
fn rules_decided_too_late_fail_and_waiting_ones_can_be_withdrawn() {
    let mut chain = chain();
    // Notice enough when proposed, not when executed.
    let height = chain.host.height().plus(101);
    let yes = [Some(Choice::Yes); 4];
    let ended = decide(&mut chain, Change::Rules { version: 2, height }, &yes);
    assert_eq!(ended, ProposalStatus::Failed { reason: Failure::RulesNotice });
    let from = chain.host.height().plus(120);
    adopt(&mut chain, Change::Rules { version: 2, height: from });
    adopt(&mut chain, Change::Rules { version: 1, height: from });
    while chain.host.height() <= from {
        chain.step();
    }
    assert_eq!(chain.view().rules().version_at(from), 1);
}

#[test]
fn another_epoch_length_never_turns_the_count_of_epochs_back() {
    let mut genesis = quick_genesis(4);
    genesis.parameters.epoch_ms = 10_000;
    let mut chain = TestChain::of(genesis);
    let steps_of_an_epoch = |chain: &mut TestChain| {
        let turn = |chain: &mut TestChain| {
            let before = chain.view().clock().epoch;
            let mut steps = 0;
            while chain.view().clock().epoch == before {
                chain.step();
                steps += 1;
            }
            (steps, chain.view().clock().epoch.checked_sub(before).expect("never back"))
        };
        // The running epoch may be longer than several of the new ones.
        turn(chain);
        let (steps, passed) = turn(chain);
        assert_eq!(passed, 1, "one after the other");
        steps
    };
    assert_eq!(steps_of_an_epoch(&mut chain), 10, "control");
    adopt(&mut chain, parameter("epoch_ms", 40_000));
    assert_eq!(steps_of_an_epoch(&mut chain), 40);
    adopt(&mut chain, parameter("epoch_ms", 5_000));
    assert_eq!(steps_of_an_epoch(&mut chain), 5);
}

#[test]
fn an_adopted_text_is_listed_and_changes_no_rule() {
    let mut chain = chain();
    let before = chain.view().parameters();
    adopt(&mut chain, text(7));
    let adopted = chain.view().adopted_texts();
    assert_eq!(adopted.len(), 1);
    assert_eq!((adopted[0].proposal, adopted[0].content), (1, ContentHash::of(&[7])));
    assert_eq!(chain.view().parameters(), before);
    assert!(matches!(status(&chain, 1), ProposalStatus::Executed { .. }));
}

#[test]
fn what_is_not_there_cannot_be_proposed() {
    let chain = chain();
    let check = |change: Change, expect: Rejection| {
        assert_eq!(chain.try_now(0, proposing(change.clone())), Err(expect), "{change:?}");
    };
    let (model, manifest) = (spec(9).id(), ContentHash::of(b"nothing"));
    let no_model = || Rejection::Change(Failure::Model);
    check(Change::ModelWeight { model, weight_ppm: 1 }, no_model());
    check(Change::Direction { model, datasets: Vec::new() }, no_model());
    check(Change::Pause { model, paused: true }, no_model());
    check(Change::Dataset { manifest, admitted: true }, Rejection::Change(Failure::Dataset));
    let to = account(&chain, 1);
    let nothing = Change::TreasurySpend { to, amount: Credits::ZERO };
    check(nothing, Rejection::Change(Failure::Treasury));
    check(Change::Parameters(Vec::new()), Rejection::Change(Failure::List));
    let twice = vec![("quorum_ppm".to_owned(), 400_000), ("quorum_ppm".to_owned(), 500_000)];
    check(Change::Parameters(twice), Rejection::Change(Failure::List));
    for change in [parameter("quorum_ppm", 1), parameter("no_such_ppm", 1)] {
        let refused = chain.try_now(0, proposing(change));
        assert!(matches!(refused, Err(Rejection::Parameters(_))), "{refused:?}");
    }
}
