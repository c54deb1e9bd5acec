//! Any course of a run: whoever joins, commits, reveals, lies, is absent or late, credits are
//! conserved after every block, rounds end in order, and the run ends.

use ayni_protocol::amount::Credits;
use ayni_protocol::duties::{Duty, owed};
use ayni_protocol::ledger::entries::{Phase, Round};
use ayni_protocol::ledger::rounds::open_rounds_of;
use ayni_protocol::model::Head;
use ayni_protocol::review::Verdict;
use ayni_protocol::transaction::Payload;
use proptest::prelude::*;

use super::{id, open_indexes, opened, payload};
use crate::chain::{TestChain, replay, root, spec};

/// Blocks after which even a run of which nobody takes notice is over.
const BLOCKS_MAX: u32 = 3_000;

/// How somebody behaves in the whole run: chances of 255 to do what is owed in a block, and of
/// lying where one can.
#[derive(Clone, Debug)]
struct Character {
    join: u8,
    commit: u8,
    reveal: u8,
    review: u8,
    attest: u8,
    lies: u8,
    /// States that a delta is unavailable when it may.
    blind: u8,
}

fn characters() -> impl Strategy<Value = Character> {
    let chance = || prop_oneof![Just(255_u8), Just(128), Just(20), Just(0)];
    let rare = || prop_oneof![4 => Just(0_u8), 1 => Just(60)];
    (chance(), chance(), chance(), chance(), chance(), rare(), rare()).prop_map(
        |(join, commit, reveal, review, attest, lies, blind)| Character {
            join,
            commit,
            reveal,
            review,
            attest,
            lies,
            blind,
        },
    )
}

/// A number that is drawn from everything that names the moment: no state to carry.
fn dice(seed: u64, parts: &[u64]) -> u8 {
    let bytes: Vec<[u8; 8]> = parts.iter().map(|part| part.to_le_bytes()).collect();
    let mut all: Vec<&[u8]> = bytes.iter().map(<[u8; 8]>::as_slice).collect();
    let seed = seed.to_le_bytes();
    all.push(&seed);
    ayni_protocol::ids::derive("ayni test dice", &all)[0]
}

const VERDICTS: [Verdict; 3] = [Verdict::Decline, Verdict::Fault, Verdict::Unavailable];

fn act(chain: &mut TestChain, node: usize, character: &Character, seed: u64) {
    let height = chain.host.height().get();
    for (number, duty) in owed(&chain.view(), &id(chain, node), |_| true).into_iter().enumerate() {
        let roll = |kind| dice(seed, &[height, node as u64, number as u64, kind]);
        let chance = match duty {
            Duty::Join { .. } => character.join,
            Duty::Train { .. } | Duty::Show { .. } => continue,
            Duty::Commit { .. } => character.commit,
            Duty::Submit { .. } => character.reveal,
            Duty::Review { .. } | Duty::Reveal { .. } => character.review,
            Duty::Attest { .. } => character.attest,
        };
        if roll(0) >= chance {
            continue;
        }
        // What is said of a delta is the same in commitment and reveal.
        let lie = match duty {
            Duty::Review { contribution, .. } | Duty::Reveal { contribution } => {
                dice(seed, &[node as u64, u64::from(contribution.as_bytes()[0])])
            }
            _ => roll(1),
        };
        let lies = lie < character.lies;
        let verdict = if lies { VERDICTS[usize::from(lie) % 3] } else { Verdict::Accept };
        if let Some(payload) = payload(chain, node, duty, verdict, u8::from(lies)) {
            // A node that has no credits left for it is refused like any other.
            let signed = chain.sign(node, payload);
            let _ = chain.submit(signed);
        }
    }
    let blind = dice(seed, &[height, node as u64, 99]) < character.blind;
    let attesting = |round: &Round| round.phase == Phase::Attesting;
    let model = spec(1).id();
    if let Some(round) = open_rounds_of(&chain.view(), &model).into_iter().find(attesting)
        && blind
    {
        let contribution = round.entries().map(|(id, _)| id).next().expect("a member");
        let signed = chain.sign(node, Payload::AttestUnavailable { contribution });
        let _ = chain.submit(signed);
    }
}

fn check(chain: &TestChain) -> Result<(), TestCaseError> {
    let model = spec(1).id();
    let view = chain.view();
    let open = open_indexes(chain, &model);
    prop_assert!(open.len() <= 2, "open: {open:?}");
    prop_assert!(open.windows(2).all(|pair| pair[0] + 1 == pair[1]), "open: {open:?}");
    let mut head = Head::initial(&spec(1));
    let mut over = true;
    for round in view.rounds(&model, 100) {
        prop_assert!(over || !round.phase.is_over(), "round {} ended first", round.index);
        over = round.phase.is_over();
        if round.phase > Phase::Training && !round.phase.is_over() {
            prop_assert_eq!(round.base.map(|base| base.head.id()), Some(head.id()));
        }
        if round.phase == Phase::Certified {
            prop_assert_eq!(round.base().id(), head.id(), "heads are a chain");
            let winner = round.attestors.iter().filter_map(|a| a.attested);
            let winner = winner.map(|a| a.head).find(|h| Some(h.id()) == round.head);
            head = winner.expect("somebody attested it");
        }
        if round.phase.is_over() {
            prop_assert_eq!(round.escrow, Credits::ZERO);
            prop_assert!(round.members.iter().chain(&round.late).all(|m| m.bond == Credits::ZERO));
        }
    }
    prop_assert_eq!(view.model(&model).expect("registered").head, head);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_they_do_credits_are_conserved_and_the_run_ends(
        seed in any::<u64>(),
        overlap in any::<bool>(),
        late in any::<bool>(),
        cast in proptest::collection::vec(characters(), 4),
    ) {
        let change: fn(&mut ayni_protocol::model::RoundParameters) =
            if late { |_| {} } else { |p| p.late_ppm = 0 };
        let (mut chain, model) = opened(overlap, 3, change);
        let mut blocks = 0;
        while chain.view().model(&model).expect("registered").run.is_some() {
            for (node, character) in cast.iter().enumerate() {
                act(&mut chain, node, character, seed);
            }
            chain.step();
            check(&chain)?;
            blocks += 1;
            prop_assert!(blocks < BLOCKS_MAX, "the run does not end");
        }
        prop_assert!(chain.view().registry().active.is_empty());
        prop_assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
    }
}
