//! Sets of groups against a model that keeps every number, and the cut of requests into parts.

use std::collections::BTreeSet;

use ayni_protocol::blobs::wire::{Availability, Holdings, Parts, Want, parts, window_of};
use ayni_protocol::blobs::{GroupRange, GroupRanges, all_groups, groups_of, last_group};
use ayni_protocol::codec;
use ayni_protocol::limits::GROUP_BYTES;
use proptest::prelude::*;

const GROUPS: u64 = 160;

fn range() -> impl Strategy<Value = GroupRange> {
    (0..GROUPS, 1..=24_u64)
        .prop_map(|(start, groups)| GroupRange::new(start, start + groups).expect("not empty"))
}

fn set() -> impl Strategy<Value = GroupRanges> {
    prop::collection::vec(range(), 0..12).prop_map(|ranges| ranges.into_iter().collect())
}

fn numbers(set: &GroupRanges) -> BTreeSet<u64> {
    set.iter().flat_map(|run| run.start()..run.end()).collect()
}

/// The form that a set must have.
fn is_well_formed(set: &GroupRanges) -> bool {
    GroupRanges::from_runs(set.runs().to_vec()).as_ref() == Ok(set)
        && set.groups() == numbers(set).len() as u64
}

proptest! {
    #[test]
    fn changes_agree_with_the_model(script in prop::collection::vec((any::<bool>(), range()), 0..40)) {
        let (mut set, mut model) = (GroupRanges::new(), BTreeSet::new());
        for (adds, range) in script {
            let groups = range.start()..range.end();
            let (changed, expect) = if adds {
                (set.insert(range), groups.filter(|group| model.insert(*group)).count())
            } else {
                (set.remove(range), groups.filter(|group| model.remove(group)).count())
            };
            prop_assert_eq!(changed, expect as u64);
            prop_assert_eq!(&numbers(&set), &model);
            prop_assert!(is_well_formed(&set));
        }
    }

    #[test]
    fn operations_agree_with_the_model(a in set(), b in set(), window in range()) {
        let (x, y) = (numbers(&a), numbers(&b));
        let union = a.union(&b);
        let intersection = a.intersection(&b);
        let difference = a.difference(&b);
        for set in [&union, &intersection, &difference] {
            prop_assert!(is_well_formed(set));
        }
        prop_assert_eq!(numbers(&union), &x | &y);
        prop_assert_eq!(numbers(&intersection), &x & &y);
        prop_assert_eq!(numbers(&difference), &x - &y);
        let mut changed = a.clone();
        changed.insert_all(&b);
        prop_assert_eq!(&changed, &union);
        let mut changed = a.clone();
        changed.remove_all(&b);
        prop_assert_eq!(&changed, &difference);

        prop_assert_eq!(a.is_superset(&b), x.is_superset(&y));
        prop_assert_eq!(a.overlaps(&b), !x.is_disjoint(&y));
        let in_window: BTreeSet<_> = (window.start()..window.end()).collect();
        prop_assert_eq!(a.contains_all(window), x.is_superset(&in_window));
        prop_assert_eq!(a.intersects(window), !x.is_disjoint(&in_window));
        prop_assert_eq!(numbers(&a.within(window).collect()), &x & &in_window);
        prop_assert_eq!(numbers(&a.gaps(window).collect()), &in_window - &x);
        prop_assert_eq!(a.first_missing(window), a.gaps(window).next());
        for group in 0..GROUPS + 30 {
            prop_assert_eq!(a.contains(group), x.contains(&group));
        }
        let by_index: Vec<_> = (0..=a.groups()).map_while(|index| a.nth(index)).collect();
        prop_assert_eq!(by_index, x.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn parts_cover_what_is_wanted_exactly_once(
        wanted in set(),
        size in 0..GROUPS * GROUP_BYTES,
        whole_groups_max in 0..=256_u32,
    ) {
        let all = all_groups(size);
        let ranges = Want::Ranges(wanted.clone());
        let start = Want::Start { whole_groups_max };
        let expect: GroupRanges = wanted.within(all).collect();
        let whole = groups_of(size) <= u64::from(whole_groups_max);
        let expect_start = if whole { all } else { last_group(size) };
        for (want, expect) in [(&ranges, expect), (&start, expect_start.into())] {
            let found: Vec<_> = parts(want, size).collect();
            let groups: u64 = found.iter().map(|part| part.groups()).sum();
            prop_assert_eq!(groups, expect.groups(), "no group twice");
            prop_assert_eq!(&found.iter().copied().collect::<GroupRanges>(), &expect);
            prop_assert_eq!(want.groups(size), expect);
            for part in &found {
                let window = window_of(part.start());
                prop_assert!(window.contains(part.end() - 1), "{part:?} in one window");
            }
            let ascending = if want == &start {
                prop_assert_eq!(found[0], last_group(size));
                &found[1..]
            } else {
                &found[..]
            };
            prop_assert!(ascending.is_sorted());
        }
        prop_assert_eq!(
            Parts::of(&wanted).collect::<Vec<_>>(),
            parts(&ranges, 1000 * GROUP_BYTES).collect::<Vec<_>>()
        );
    }

    #[test]
    fn availability_never_says_too_much(sets in prop::collection::vec(set(), 0..8), size in 0..GROUPS * GROUP_BYTES) {
        let said = Holdings::new(sets.iter().map(|set| Availability::of(size, set)));
        let bytes = codec::encode_checked(&said).expect("within the bounds");
        prop_assert_eq!(codec::decode::<Holdings>(&bytes), Ok(said.clone()));
        for (said, has) in said.as_slice().iter().zip(&sets) {
            let has: GroupRanges = has.within(all_groups(size)).collect();
            prop_assert_eq!(said.groups(), has, "few runs are said exactly");
        }
    }
}

/// The largest blob with every second group verified: the worst there is.
#[test]
fn many_runs_stay_quick() {
    let mut set = GroupRanges::new();
    let runs = 200_000_u64;
    for run in 0..runs {
        set.insert(GroupRange::one(run * 2));
    }
    assert_eq!((set.runs().len() as u64, set.groups()), (runs, runs));
    assert_eq!(set.intersection(&set.clone()), set);
    // From the end, so that nothing has to move.
    for run in (1..runs).rev() {
        assert_eq!(set.insert(GroupRange::one(run * 2 - 1)), 1);
    }
    assert_eq!(set.runs().len(), 1);
}
