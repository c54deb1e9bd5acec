//! Whole fetches, with good and bad peers that come and go. The rules that hold at every step are
//! asserted by the simulation.

use ayni_protocol::blobs::schedule::Fault;
use ayni_protocol::blobs::{GroupRange, GroupRanges};
use ayni_protocol::limits::GROUP_BYTES;
use proptest::prelude::*;

use super::simulation::{Conduct, Outcome, Provider, Simulation};

const MIB: u64 = 1024 * 1024;
const GROUPS_MAX: u64 = 3_000;

fn run(groups: u64, providers: Vec<Provider>) -> Outcome {
    let last = GroupRange::one(groups - 1).into();
    let outcome = Simulation::new(groups, &last, 1, providers).run();
    assert!(outcome.complete, "{outcome:?}");
    outcome
}

fn ranges() -> impl Strategy<Value = GroupRanges> {
    let range = (0..GROUPS_MAX, 1..600_u64).prop_map(|(start, groups)| {
        let end = (start + groups).min(GROUPS_MAX);
        GroupRange::new(start, end).expect("not empty")
    });
    prop::collection::vec(range, 0..6).prop_map(|ranges| ranges.into_iter().collect())
}

fn conduct() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        3 => Just(Conduct::Honest),
        1 => (0..20_u32).prop_map(Conduct::Stalls),
        1 => (0..20_u32).prop_map(Conduct::Lies),
        1 => (0..5_u32).prop_map(Conduct::Breaks),
        1 => (1..4_u32).prop_map(Conduct::Busy),
        1 => Just(Conduct::Boasts),
        1 => Just(Conduct::Missing),
    ]
}

fn provider() -> impl Strategy<Value = Provider> {
    let has = prop_oneof![ranges(), Just(GroupRange::first(GROUPS_MAX).into())];
    let speed = prop_oneof![100 * 1024..MIB, MIB..200 * MIB];
    let leaves = prop::option::weighted(0.3, 0..40_000_u64);
    (conduct(), has, speed, 0..20_000_u64, leaves).prop_map(
        |(conduct, has, bytes_per_s, joins_ms, leaves_ms)| Provider {
            conduct,
            has,
            bytes_per_s,
            joins_ms,
            leaves_ms,
        },
    )
}

/// Cuts what is beyond the end off.
fn fit(groups: u64, mut provider: Provider) -> Provider {
    provider.has = provider.has.within(GroupRange::first(groups)).collect();
    provider
}

proptest! {
    #[test]
    fn a_fetch_ends_when_one_honest_peer_remains(
        groups in 1..GROUPS_MAX,
        verified in ranges(),
        seed in any::<u8>(),
        others in prop::collection::vec(provider(), 0..7),
        speed in 200 * 1024..100 * MIB,
        joins_ms in 0..30_000_u64,
    ) {
        let verified: GroupRanges = verified.within(GroupRange::first(groups)).collect();
        let anchor = Provider { joins_ms, ..Provider::honest(groups, speed) };
        let mut providers: Vec<_> = others.into_iter().map(|other| fit(groups, other)).collect();
        providers.push(anchor);
        let conducts: Vec<_> = providers.iter().map(|provider| provider.conduct).collect();
        let outcome = Simulation::new(groups, &verified, seed, providers).run();
        prop_assert!(outcome.complete, "{:?}", outcome);
        for (peer, conduct) in conducts.iter().enumerate() {
            let fault = outcome.faults.get(&peer).copied();
            let may = match conduct {
                Conduct::Honest | Conduct::Breaks(_) | Conduct::Busy(_) => None,
                Conduct::Stalls(_) => Some(Fault::Stalled),
                Conduct::Lies(_) => Some(Fault::Lied),
                Conduct::Boasts | Conduct::Missing => Some(Fault::FalseClaim),
            };
            prop_assert!(fault.is_none() || fault == may, "{:?} for {:?}", fault, conduct);
            prop_assert!(fault.is_some() || !outcome.caught.contains(&peer), "a liar goes free");
        }
        // The honest peer alone, and what bad ones can cost: a stall, and a slow part at the end.
        let alone = joins_ms + groups * GROUP_BYTES * 1_000 / speed;
        prop_assert!(outcome.took_ms <= alone + 17_000, "{} against {}", outcome.took_ms, alone);
        // All was asked at least once; the rest was taken over, given back or asked twice.
        prop_assert!(outcome.asked >= groups - verified.groups());
    }

    /// Nobody has everything, but all together have.
    #[test]
    fn parts_of_a_blob_make_a_whole(
        cuts in prop::collection::btree_set(1..GROUPS_MAX, 1..6),
        speeds in prop::collection::vec(MIB..100 * MIB, 7),
        seed in any::<u8>(),
    ) {
        let mut from = 0;
        let mut providers = Vec::new();
        for (cut, speed) in cuts.into_iter().chain([GROUPS_MAX]).zip(speeds) {
            let has = GroupRange::new(from, cut).expect("ascending").into();
            providers.push(Provider { has, ..Provider::honest(GROUPS_MAX, speed) });
            from = cut;
        }
        let outcome = Simulation::new(GROUPS_MAX, &GroupRanges::new(), seed, providers).run();
        prop_assert!(outcome.complete && outcome.faults.is_empty(), "{:?}", outcome);
    }
}

#[test]
fn without_an_honest_peer_a_fetch_starves_and_says_so() {
    let groups = 500;
    let liar = Provider { conduct: Conduct::Lies(3), ..Provider::honest(groups, MIB) };
    let outcome = Simulation::new(groups, &GroupRanges::new(), 1, vec![liar]).run();
    assert!(!outcome.complete);
    assert_eq!(outcome.faults.get(&0), Some(&Fault::Lied));
}

/// 1 GiB from peers that send 50 MiB/s each.
#[test]
fn more_providers_are_faster_in_proportion() {
    let groups = 1024 * MIB / GROUP_BYTES;
    let took = |count: usize| {
        let providers = vec![Provider::honest(groups, 50 * MIB); count];
        run(groups, providers).took_ms
    };
    let one = took(1);
    assert!((20_480..21_000).contains(&one), "the link is always busy: {one} ms");
    for (count, scaling_percent) in [(2, 195), (4, 380)] {
        let many = took(count);
        assert!(one * 100 / many >= scaling_percent, "{count} providers: {one} to {many} ms");
    }
}

#[test]
fn a_slow_peer_does_not_hold_up_a_fast_one() {
    let groups = 256 * MIB / GROUP_BYTES;
    let fast = Provider::honest(groups, 64 * MIB);
    let alone = run(groups, vec![fast.clone()]).took_ms;
    let slow = vec![Provider::honest(groups, 200 * 1024); 3];
    let outcome = run(groups, [vec![fast], slow].concat());
    assert!(outcome.took_ms <= alone + 300, "{alone} alone, {} with others", outcome.took_ms);
}

/// Three providers: one corrupts, one stalls, one boasts; the fourth is honest and joins late.
#[test]
fn bad_providers_cost_little_time() {
    let groups = 256 * MIB / GROUP_BYTES;
    let honest = Provider { joins_ms: 500, ..Provider::honest(groups, 50 * MIB) };
    let alone = run(groups, vec![honest.clone()]).took_ms;
    let bad = [Conduct::Lies(9), Conduct::Stalls(9), Conduct::Boasts].map(|conduct| {
        let mut bad = Provider { conduct, ..Provider::honest(groups, 50 * MIB) };
        if conduct == Conduct::Boasts {
            bad.has = GroupRange::first(groups / 8).into();
        }
        bad
    });
    let outcome = run(groups, [bad.to_vec(), vec![honest]].concat());
    assert!(outcome.took_ms <= alone, "{alone} alone, {} with others", outcome.took_ms);
    assert_eq!(outcome.faults.get(&0), Some(&Fault::Lied));
    assert_eq!(outcome.faults.get(&2), Some(&Fault::FalseClaim));
}

#[test]
fn a_provider_that_joins_late_takes_its_share() {
    let groups = 512 * MIB / GROUP_BYTES;
    let first = Provider::honest(groups, 50 * MIB);
    let late = Provider { joins_ms: 5_000, ..first.clone() };
    let outcome = run(groups, vec![first, late]);
    // 250 MiB are gone by then; both share the rest.
    assert!(outcome.took_ms <= 5_000 + 5_240 / 2 + 400, "{} ms", outcome.took_ms);
    assert!(outcome.given[&1] * 10 >= outcome.given[&0] * 3, "{:?}", outcome.given);
}
