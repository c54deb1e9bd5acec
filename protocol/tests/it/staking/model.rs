//! Stake against a model: rewards in exact fractions, and any sequence of actions.

use std::collections::BTreeMap;

use ayni_protocol::amount::PPM;
use proptest::prelude::*;

use super::*;
use crate::chain::{replay, root};

/// A sum of fractions, exact while numerators and denominators fit.
#[derive(Clone, Copy, Debug)]
struct Ratio(u128, u128);

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Ratio {
    fn plus(self, other: Self) -> Self {
        let (top, bottom) = (self.0 * other.1 + other.0 * self.1, self.1 * other.1);
        let common = gcd(top, bottom);
        Self(top / common, bottom / common)
    }

    fn of(whole: u64, part: u64, all: u64) -> Self {
        let common = gcd(part.into(), all.into());
        Self(u128::from(whole) * u128::from(part) / common, u128::from(all) / common)
            .plus(Self(0, 1))
    }
}

/// What a model of four validators of equal power pays in one epoch to the delegations on node 0.
struct Model {
    /// Whole credits of each account on node 0.
    stakes: [u64; 4],
    claims: [Ratio; 4],
    commission_ppm: u64,
    commission: u64,
}

impl Model {
    fn pay(&mut self, reward: u64) {
        let commission = reward * self.commission_ppm / PPM;
        self.commission += commission;
        let all: u64 = self.stakes.iter().sum();
        for (claim, stake) in self.claims.iter_mut().zip(self.stakes) {
            *claim = claim.plus(Ratio::of(reward - commission, stake, all));
        }
    }
}

/// What node 0 earned in the epoch that ends with the next block: its part of the work.
fn reward_of_node_0(chain: &TestChain) -> u64 {
    let attendance = chain.view().attendance();
    let id = chain.nodes[0].consensus.public().validator_id();
    let row = attendance.rows.iter().find(|r| r.validator == id).expect("in charge");
    let share = quick().emission_per_epoch_micro * quick().validators_ppm / PPM;
    u64::try_from(u128::from(share) * row.work / attendance.work).expect("small")
}

#[test]
fn rewards_are_exact_over_epochs_of_changing_stakes() {
    let mut chain = chain(4);
    let mut model = Model {
        stakes: [1_000, 0, 0, 0],
        claims: [Ratio(0, 1); 4],
        commission_ppm: 0,
        commission: 0,
    };
    // (epoch, account, change of its stake on node 0, in whole credits)
    let script: [(u64, usize, i64); 8] = [
        (1, 1, 137),
        (1, 2, 61),
        (2, 3, 7),
        (3, 1, -100),
        (4, 2, 500),
        (5, 1, -37),
        (5, 3, 3),
        (7, 2, -561),
    ];
    let mut script = script.into_iter().peekable();
    let mut epoch = chain.view().stake_epoch();
    let first = epoch;
    while epoch < first + 10 {
        let index = epoch - first;
        if let Some((_, who, change)) = script.next_if(|(at, _, _)| *at == index) {
            let amount = credits(change.unsigned_abs());
            let payload =
                if change < 0 { unbond(&chain, 0, amount) } else { bond(&chain, 0, amount) };
            chain.send(who, payload);
            model.stakes[who] = model.stakes[who].checked_add_signed(change).expect("positive");
        } else if index == 2 && model.commission_ppm == 0 && script.peek().is_some_and(|s| s.0 > 2)
        {
            // In force from the next epoch on; the last of this one is paid below without.
            if chain.try_now(0, commission(&chain, 0, 123_457)).is_ok() {
                chain.send(0, commission(&chain, 0, 123_457));
            }
        }
        let away = index % 3 == 1 && chain.host.tip().height.get().is_multiple_of(3);
        chain.silent = if away { vec![0] } else { Vec::new() };
        let reward = reward_of_node_0_or_none(&chain);
        let before = model.stakes;
        chain.step();
        let now = chain.view().stake_epoch();
        if now > epoch {
            // Epochs end before the transactions of their first block: no action is sent then.
            assert_eq!(before, model.stakes);
            model.pay(reward.expect("blocks were signed"));
            if index == 2 {
                model.commission_ppm = 123_457;
            }
            epoch = now;
        }
    }
    for who in 0..4 {
        let earned =
            |chain: &TestChain| chain.view().account(&account(chain, who)).earned.validator.micro();
        if chain.try_now(who, claim(&chain, 0)).is_ok() {
            act(&mut chain, who, |c| claim(c, 0));
        }
        let Ratio(top, bottom) = model.claims[who];
        let mut expect = u64::try_from(top / bottom).expect("small");
        if who == 0 {
            expect += model.commission;
        }
        let got = earned(&chain);
        assert!(expect - got <= 1, "account {who}: {got} where {top}/{bottom} is owed");
        assert!(got > 1_000 || who == 3, "account {who} earned {got}");
    }
}

fn reward_of_node_0_or_none(chain: &TestChain) -> Option<u64> {
    (chain.view().attendance().work > 0).then(|| reward_of_node_0(chain))
}

/// Something that happens to a chain with stake.
#[derive(Clone, Debug)]
enum Event {
    Bond { on: usize, micro: u64 },
    Unbond { from: usize, micro: u64 },
    Redelegate { from: usize, to: usize, micro: u64 },
    Claim { on: usize },
    Commission { ppm: u32 },
    Unjail,
    Equivocate { back: u64 },
    Silence,
    Wait { blocks: u32 },
}

fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1..10_u64, 1..1_100_000_000_u64, Just(1_000_000_000), Just(u64::MAX)]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4_usize, amounts()).prop_map(|(on, micro)| Event::Bond { on, micro }),
        4 => (0..4_usize, amounts()).prop_map(|(from, micro)| Event::Unbond { from, micro }),
        4 => (0..4_usize, 0..4_usize, amounts())
            .prop_map(|(from, to, micro)| Event::Redelegate { from, to, micro }),
        2 => (0..4_usize).prop_map(|on| Event::Claim { on }),
        1 => (0..600_000_u32).prop_map(|ppm| Event::Commission { ppm }),
        1 => Just(Event::Unjail),
        1 => (0..25_u64).prop_map(|back| Event::Equivocate { back }),
        1 => Just(Event::Silence),
        3 => (1..25_u32).prop_map(|blocks| Event::Wait { blocks }),
    ]
}

fn happen(chain: &mut TestChain, who: usize, event: &Event) {
    let micro = Credits::from_micro;
    let payload = match *event {
        Event::Bond { on, micro: n } => bond(chain, on, micro(n)),
        Event::Unbond { from, micro: n } => unbond(chain, from, micro(n)),
        Event::Redelegate { from, to, micro: n } => redelegate(chain, from, to, micro(n)),
        Event::Claim { on } => claim(chain, on),
        Event::Commission { ppm } => commission(chain, who, ppm),
        Event::Unjail => unjail(chain, who),
        Event::Equivocate { back } => {
            let height = chain.host.tip().height.get().saturating_sub(back);
            let evidence = double_vote(chain, who, height);
            chain.host.add_evidence(&chain.state, evidence);
            return chain.step();
        }
        Event::Silence => return chain.silent = vec![who],
        Event::Wait { blocks } => return chain.steps(blocks),
    };
    // Most refusals are the point; a queue that is full of them is not.
    if chain.try_now(who, payload.clone()).is_ok() {
        chain.send(who, payload);
    }
    chain.step();
}

/// The set that follows from the stakes, by a second way: all nodes, one after another.
fn elected(chain: &TestChain) -> Vec<([u8; 32], u64)> {
    let view = chain.view();
    let parameters = view.parameters();
    let candidates: Vec<_> = view
        .nodes()
        .into_iter()
        .filter(|n| {
            let id = n.keys.node.node_id();
            let pool = view.pool(&id).expect("every node has a pool");
            let own = view.delegated(&view.delegation(&n.account, &id)).micro();
            let is_free = pool.tombstone.is_none() && pool.jailed_until.is_none();
            n.capabilities.validates && is_free && own >= parameters.stake_min_micro
        })
        .map(|n| (*n.keys.consensus.as_bytes(), n.stake.micro() / PPM))
        .collect();
    let total: u64 = candidates.iter().map(|c| c.1).sum();
    let count = u64::try_from(candidates.len()).expect("small").max(1);
    let cap = (total * parameters.power_cap_ppm / PPM).max(total / count);
    let mut set: Vec<_> = candidates.into_iter().map(|(key, p)| (key, p.min(cap))).collect();
    set.retain(|c| c.1 > 0);
    set.sort();
    set
}

fn check(chain: &TestChain, start: &BTreeMap<usize, u64>, steps: u64) {
    let view = chain.view();
    for (index, secrets) in chain.nodes.iter().enumerate() {
        let id = secrets.node.public().node_id();
        let pool = view.pool(&id).expect("every node has a pool");
        let held: u128 = (0..4).map(|i| view.delegation(&account(chain, i), &id).shares).sum();
        assert_eq!(held, pool.shares, "shares of node {index}");
        assert!(pool.shares >= u128::from(stake_of(chain, index).micro()));
        let account_id = account(chain, index);
        let entry = view.account(&account_id);
        let leaving: u64 = (0..4)
            .flat_map(|on| view.delegation(&account_id, &node(chain, on)).unbonding)
            .map(|number| view.unbonding_value(number).micro())
            .sum();
        let has = entry.balance.micro() + view.bonded(&account_id).micro() + leaving;
        // Roundings of others may leave it a micro-credit at a time.
        let most = start[&index] + entry.earned.validator.micro() + steps;
        assert!(has <= most, "account {index} has {has} of {most}");
    }
    let expect = elected(chain);
    if !expect.is_empty() {
        let after = view.validators_after();
        let mut got: Vec<_> =
            after.as_slice().iter().map(|v| (*v.key.as_bytes(), v.power.get())).collect();
        got.sort();
        assert_eq!(got, expect, "the index of candidates is stale");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_conserves_credits_and_nobody_gains(
        script in proptest::collection::vec((0..4_usize, events()), 1..60)
    ) {
        let mut chain = chain(4);
        let start = (0..4).map(|i| (i, credits(2_000).micro())).collect();
        for (steps, (who, event)) in (1_u64..).zip(&script) {
            happen(&mut chain, *who, event);
            check(&chain, &start, steps * 4);
        }
        chain.silent.clear();
        chain.steps(60);
        check(&chain, &start, 1_000);
        prop_assert_eq!(chain.view().queue().first, chain.view().queue().next);
        prop_assert_eq!(replay(&chain.genesis, &chain.blocks, 4), root(&chain.state));
    }
}
