//! Training rounds: the honest course, the liar, the silent, the absent.

use ayni_protocol::amount::Credits;
use ayni_protocol::codec;
use ayni_protocol::commitment;
use ayni_protocol::duties::{Duty, owed};
use ayni_protocol::ids::{Commitment, ContentHash, ModelId};
use ayni_protocol::ledger::Rejection;
use ayni_protocol::ledger::entries::{Phase, Round};
use ayni_protocol::model::{DataClass, DeltaManifest, Determinism, Head};
use ayni_protocol::review::{Gain, Review, Verdict};
use ayni_protocol::training::steps_seed;
use ayni_protocol::transaction::Payload;

use crate::chain::{TestChain, credits, parameters, replay, spec};

pub(crate) const SALT: [u8; 32] = [5; 32];

/// What nodes do in a round.
pub(crate) struct Script {
    /// Nodes that join.
    join: Vec<usize>,
    /// Members that commit.
    commit: Vec<usize>,
    /// Members that reveal.
    reveal: Vec<usize>,
    /// Verdict of `reviewer` on `author`.
    verdict: fn(reviewer: usize, author: usize) -> Option<Verdict>,
    /// What `attestor` attests, by a tag that makes heads differ.
    head: fn(attestor: usize) -> Option<u8>,
}

impl Default for Script {
    fn default() -> Self {
        let all = vec![0, 1, 2, 3];
        Self {
            join: all.clone(),
            commit: all.clone(),
            reveal: all,
            verdict: |_, _| Some(Verdict::Accept),
            head: |_| Some(0),
        }
    }
}

pub(crate) fn manifest(chain: &TestChain, round: &Round, node: usize) -> DeltaManifest {
    let author = chain.nodes[node].node.public().node_id();
    let index = round.member_index(&author).expect("a member");
    DeltaManifest {
        author,
        model: round.model,
        round: round.index,
        parent: round.parent.id(),
        steps: round.parameters.inner_steps,
        seed: steps_seed(&round.assignment_beacon, &author, round.index),
        shards: Round::shards_hash(&round.shards_of(index)),
        feedback_in: ContentHash::default(),
        feedback_out: ContentHash::default(),
        step_states: ContentHash::default(),
        data_class: DataClass::Public,
        determinism: Determinism::Exact,
        fingerprint: ContentHash::default(),
        payload: ContentHash::of(&[node as u8]),
        payload_bytes: 1_000,
    }
}

pub(crate) const fn review(verdict: Verdict) -> Review {
    let mean_ppm = match verdict {
        Verdict::Accept => 10_000,
        _ => -50_000,
    };
    Review { verdict, gain: Gain { mean_ppm, error_ppm: 100 } }
}

pub(crate) fn head(round: &Round, tag: u8) -> Head {
    Head {
        checkpoint: ContentHash::of(&[tag]),
        outer_state: ContentHash::of(b"outer"),
        parameters: round.parameters.hash(),
    }
}

pub(crate) fn open(chain: &mut TestChain, rounds: u32, escrow: Credits) -> ModelId {
    let spec = spec(1);
    let model = spec.id();
    chain.send(0, Payload::RegisterModel { spec });
    chain.step();
    chain.send(0, Payload::OpenRounds { model, rounds, parameters: parameters(), escrow });
    chain.step();
    model
}

/// Lets every node do its duties by the script until the round is over.
pub(crate) fn play(chain: &mut TestChain, model: &ModelId, index: u32, script: &Script) -> Round {
    for _ in 0..1_000 {
        let round = chain.round(model, index);
        if round.phase.is_over() {
            return round;
        }
        for node in 0..chain.nodes.len() {
            let id = chain.nodes[node].node.public().node_id();
            let joins = script.join.contains(&node);
            for duty in owed(&chain.view(), &id, |m| joins && m == model) {
                act(chain, node, duty, script);
            }
        }
        chain.step();
    }
    panic!("the round does not end: {:?}", chain.round(model, index).phase);
}

fn act(chain: &mut TestChain, node: usize, duty: Duty, script: &Script) {
    let (id, ledger) = (chain.nodes[node].node.public().node_id(), *chain.host.chain());
    let author_of = |chain: &TestChain, contribution| {
        let author = chain.view().contribution(contribution).expect("reviewed").author;
        chain.nodes.iter().position(|n| n.node.public().node_id() == author).expect("known")
    };
    let payload = match duty {
        Duty::Join { model, round } if round == 1 || script.join.contains(&node) => {
            Payload::JoinRound { model, round }
        }
        Duty::Commit { model, round: index, .. } if script.commit.contains(&node) => {
            let content = codec::hash(&manifest(chain, &chain.round(&model, index), node));
            let commitment = commitment::submission(&ledger, &id, &content, &SALT);
            Payload::SubmitCommit { model, round: index, commitment }
        }
        Duty::Submit { model, round } if script.reveal.contains(&node) => {
            let manifest = manifest(chain, &chain.round(&model, round), node);
            Payload::Submit { manifest: Box::new(manifest), salt: SALT }
        }
        Duty::Review { contribution, .. } => {
            let author = author_of(chain, &contribution);
            let Some(verdict) = (script.verdict)(node, author) else { return };
            let commitment =
                commitment::review(&ledger, &id, &contribution, &review(verdict), &SALT);
            Payload::ReviewCommit { contribution, commitment }
        }
        Duty::Reveal { contribution } => {
            let author = author_of(chain, &contribution);
            let Some(verdict) = (script.verdict)(node, author) else { return };
            Payload::ReviewReveal { contribution, review: review(verdict), salt: SALT }
        }
        Duty::Attest { model, round: index } => {
            let Some(tag) = (script.head)(node) else { return };
            Payload::AttestHead {
                model,
                round: index,
                head: head(&chain.round(&model, index), tag),
                possession: Commitment::default(),
                gain: Gain { mean_ppm: 9_000, error_ppm: 100 },
            }
        }
        _ => return,
    };
    chain.send(node, payload);
}

#[test]
fn an_honest_round_gives_a_head_and_pays_by_the_shares() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 2, Credits::ZERO);
    let round = play(&mut chain, &model, 1, &Script::default());
    // Pins the encoding of every entry and every rule on the way.
    assert_eq!(&crate::chain::root(&chain.state).to_string()[..16], "6a96de50e1c4365d");
    assert_eq!(round.phase, Phase::Certified);
    assert_eq!(round.head, Some(head(&round, 0).id()));
    assert_eq!(chain.view().model(&model).expect("registered").head, head(&round, 0));
    let accounts = chain.view().accounts(10);
    let sum = |f: fn(&ayni_protocol::ledger::entries::Earned) -> Credits| {
        accounts.iter().map(|(_, a)| f(&a.earned).micro()).sum::<u64>()
    };
    // Of a pot of 100 credits; equal scores share without a rest. Validators and treasury have
    // theirs at the end of the epoch.
    assert_eq!(sum(|e| e.contributor), 60_000_000);
    assert_eq!(sum(|e| e.reviewer), 15_000_000);
    assert_eq!(chain.view().supply().minted_this_epoch, credits(75));
    assert!(chain.view().nodes().iter().all(|n| n.allowance > credits(99)), "bonds are back");
    let again = play(&mut chain, &model, 2, &Script::default());
    assert_eq!((again.phase, again.parent), (Phase::Certified, head(&round, 0)));
    assert!(chain.view().model(&model).expect("registered").run.is_none());
    let roots = replay(&chain.genesis, &chain.blocks, 4);
    assert_eq!(roots, crate::chain::root(&chain.state), "same blocks, same bytes");
}

#[test]
fn the_quorum_outvotes_a_liar_and_burns_the_bond_of_a_poisoner() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, Credits::ZERO);
    let script = Script {
        // Node 3 poisons, and calls everybody else's delta harmful.
        verdict: |reviewer, author| match (reviewer, author) {
            (_, 3) | (3, _) => Some(Verdict::Fault),
            _ => Some(Verdict::Accept),
        },
        ..Script::default()
    };
    let round = play(&mut chain, &model, 1, &script);
    assert_eq!(round.phase, Phase::Certified);
    let verdict = |node: usize| {
        let id = round.contribution_id(&chain.nodes[node].node.public().node_id());
        chain.view().contribution(&id).expect("submitted").verdict
    };
    assert_eq!(verdict(3), Some(Verdict::Fault));
    for honest in 0..3 {
        assert_eq!(verdict(honest), Some(Verdict::Accept), "node {honest}");
    }
    let liar = chain.nodes[3].account.public().account_id();
    let account = chain.view().account(&liar);
    assert_eq!(account.forfeited, parameters().bond);
    assert_eq!(account.earned.contributor, Credits::ZERO);
    assert_eq!(account.earned.reviewer, Credits::ZERO);
}

#[test]
fn who_commits_and_stays_silent_loses_the_bond_and_nobody_waits_for_ever() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, Credits::ZERO);
    let script = Script { reveal: vec![0, 1, 2], ..Script::default() };
    let round = play(&mut chain, &model, 1, &script);
    assert_eq!(round.phase, Phase::Certified);
    let silent = chain.nodes[3].account.public().account_id();
    assert_eq!(chain.view().account(&silent).forfeited, parameters().bond);
}

#[test]
fn a_node_that_dies_in_training_costs_only_its_own_part() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, Credits::ZERO);
    let script = Script {
        commit: vec![0, 1, 2],
        verdict: |reviewer, _| (reviewer != 3).then_some(Verdict::Accept),
        head: |attestor| (attestor != 3).then_some(0),
        ..Script::default()
    };
    let round = play(&mut chain, &model, 1, &script);
    assert_eq!(round.phase, Phase::Certified);
    assert_eq!(round.certified_ppm, 750_000);
    let dead = chain.nodes[3].account.public().account_id();
    assert_eq!(chain.view().account(&dead).forfeited, Credits::ZERO);
}

#[test]
fn heads_that_disagree_leave_the_head_as_it_was_and_return_the_escrow() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, credits(50));
    let before = chain.view().model(&model).expect("registered").head;
    let script = Script { head: |attestor| Some(attestor as u8 % 2), ..Script::default() };
    let round = play(&mut chain, &model, 1, &script);
    assert_eq!((round.phase, round.paid), (Phase::Unchanged, Credits::ZERO));
    assert_eq!(chain.view().model(&model).expect("registered").head, before);
    let sponsor = chain.nodes[0].account.public().account_id();
    assert!(chain.view().account(&sponsor).balance > credits(999));
}

#[test]
fn a_wrong_head_costs_the_whole_bond() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, Credits::ZERO);
    let script = Script { head: |attestor| Some(u8::from(attestor == 3)), ..Script::default() };
    let round = play(&mut chain, &model, 1, &script);
    // The round closes with the block that has the quorum; a wrong head in it is punished.
    assert_eq!(round.phase, Phase::Certified);
    let wrong = chain.nodes[3].account.public().account_id();
    assert_eq!(chain.view().account(&wrong).forfeited, parameters().bond);
}

#[test]
fn without_members_a_run_ends_by_itself() {
    let mut chain = TestChain::new(4);
    let model = open(&mut chain, 1, credits(50));
    let script = Script { join: vec![0], ..Script::default() };
    let round = play(&mut chain, &model, 1, &script);
    assert_eq!(round.phase, Phase::Unchanged);
    assert!(chain.view().model(&model).expect("registered").run.is_none());
    assert!(chain.view().registry().active.is_empty());
}

#[test]
fn reviews_cannot_be_made_by_others_or_changed_after_the_commitment() {
    let mut chain = TestChain::new(5);
    let model = open(&mut chain, 1, Credits::ZERO);
    for node in 0..4 {
        chain.send(node, Payload::JoinRound { model, round: 1 });
    }
    chain.steps(4);
    let round = chain.round(&model, 1);
    assert_eq!(round.phase, Phase::Training);
    for node in 0..4 {
        let id = chain.nodes[node].node.public().node_id();
        let content = codec::hash(&manifest(&chain, &round, node));
        let commitment = commitment::submission(chain.host.chain(), &id, &content, &SALT);
        chain.send(node, Payload::SubmitCommit { model, round: 1, commitment });
    }
    chain.step();
    // Somebody else's manifest, and another than the committed one.
    let stolen = manifest(&chain, &round, 1);
    let refused = chain.try_now(0, Payload::Submit { manifest: Box::new(stolen), salt: SALT });
    assert_eq!(refused, Err(Rejection::Mismatch("the author")));
    let mut other = manifest(&chain, &round, 0);
    other.payload = ContentHash::of(b"better");
    let refused = chain.try_now(0, Payload::Submit { manifest: Box::new(other), salt: SALT });
    assert_eq!(refused, Err(Rejection::Mismatch("the commitment")));
    for node in 0..4 {
        let manifest = Box::new(manifest(&chain, &round, node));
        chain.send(node, Payload::Submit { manifest, salt: SALT });
    }
    chain.steps(3);
    let author = chain.nodes[0].node.public().node_id();
    let contribution = round.contribution_id(&author);
    let panel = chain.view().contribution(&contribution).expect("submitted").panel;
    assert_eq!(panel.len(), 4);
    assert!(panel.iter().all(|seat| seat.node != author), "nobody reviews their own");
    let commitment = Commitment::default();
    let refused = chain.try_now(0, Payload::ReviewCommit { contribution, commitment });
    assert_eq!(refused, Err(Rejection::NotAuthorized));
    let early = Payload::ReviewReveal { contribution, review: review(Verdict::Accept), salt: SALT };
    assert_eq!(chain.try_now(1, early), Err(Rejection::WrongPhase("reviewing")));
}
