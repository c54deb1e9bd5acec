//! One rule of a fetch at a time. Whole fetches are simulated in `tests/it/blobs`.

use super::*;

type Peer = char;

const ALL: u64 = 10_000;

fn range(start: u64, end: u64) -> GroupRange {
    GroupRange::new(start, end).expect("not empty")
}

fn set(start: u64, end: u64) -> GroupRanges {
    range(start, end).into()
}

fn fetch(groups: u64) -> Schedule<Peer> {
    let last = GroupRange::one(groups - 1).into();
    Schedule::new(groups, &last, [7; 32], ScheduleLimits::default())
}

fn asks(effects: &[Effect<Peer>]) -> Vec<(Peer, RequestId, GroupRanges)> {
    let asks = effects.iter().filter_map(|effect| match effect {
        Effect::Ask { peer, request, ranges } => Some((*peer, *request, ranges.clone())),
        _ => None,
    });
    asks.collect()
}

fn join(fetch: &mut Schedule<Peer>, now_ms: u64, peer: Peer) -> Vec<Effect<Peer>> {
    let has = set(0, ALL);
    fetch.step(now_ms, Input::Joined { peer, has, proven: true })
}

/// A peer with two requests open: the second is made when the first part has come.
fn two(fetch: &mut Schedule<Peer>, now_ms: u64, peer: Peer) -> [RequestId; 2] {
    let first = asks(&join(fetch, now_ms, peer))[0].1;
    let start = fetch.wanted(first).and_then(GroupRanges::first).expect("something").start();
    let part = range(start, start + 32);
    let second = asks(&fetch.step(now_ms, Input::Received { request: first, range: part }))[0].1;
    [first, second]
}

/// Delivers all of a request; what the last part and the end led to.
fn deliver(fetch: &mut Schedule<Peer>, now_ms: u64, request: RequestId) -> Vec<Effect<Peer>> {
    let mut effects = Vec::new();
    for part in crate::blobs::wire::Parts::of(&fetch.wanted(request).expect("open").clone()) {
        effects.extend(fetch.step(now_ms, Input::Received { request, range: part }));
    }
    effects.extend(fetch.step(now_ms, Input::Ended { request, ending: Ending::Complete }));
    effects
}

fn end(
    fetch: &mut Schedule<Peer>,
    now_ms: u64,
    request: RequestId,
    ending: Ending,
) -> Vec<Effect<Peer>> {
    fetch.step(now_ms, Input::Ended { request, ending })
}

#[test]
fn a_stranger_proves_itself_with_one_group_and_then_gets_ranges() {
    let mut fetch = fetch(ALL);
    let has = set(300, 400);
    let effects = fetch.step(0, Input::Joined { peer: 'a', has: has.clone(), proven: false });
    let [(_, request, probe)] = &asks(&effects)[..] else { panic!("one request: {effects:?}") };
    assert_eq!(probe.groups(), 1);
    assert!(has.is_superset(probe));
    let range = probe.first().expect("a group");
    // 80 KiB/s: so far it is slow, and gets one request at a time.
    assert_eq!(fetch.step(200, Input::Received { request: *request, range }), []);
    let effects = end(&mut fetch, 200, *request, Ending::Complete);
    let [(_, _, first)] = &asks(&effects)[..] else { panic!("one more: {effects:?}") };
    assert!(first.groups() > 1 && has.is_superset(first) && !first.overlaps(probe));
}

#[test]
fn requests_grow_with_the_speed_and_stop_at_a_second() {
    let mut fetch = fetch(1 << 20);
    let has = set(0, 1 << 20);
    let mut open = asks(&fetch.step(0, Input::Joined { peer: 'a', has, proven: true }));
    assert_eq!(open.iter().map(|ask| ask.2.groups()).collect::<Vec<_>>(), [64]);
    // 10 MiB/s.
    let mut now = 0;
    let mut largest = 0;
    for _ in 0..40 {
        let (_, request, ranges) = open.remove(0);
        for part in crate::blobs::wire::Parts::of(&ranges) {
            now += 50;
            let effects = fetch.step(now, Input::Received { request, range: part });
            open.extend(asks(&effects));
        }
        open.extend(asks(&end(&mut fetch, now, request, Ending::Complete)));
        assert_eq!(open.len(), 2);
        largest = largest.max(ranges.groups());
    }
    assert!((576..=704).contains(&largest), "about 640 groups a second: {largest}");
    let report = fetch.peers().next().expect("a peer");
    assert_eq!((report.live, report.requests), (true, 2));
    assert!(report.bytes_per_s.is_some_and(|speed| speed.abs_diff(10 << 20) < 1 << 20));
}

#[test]
fn the_tail_of_the_slow_goes_to_the_idle() {
    let mut fetch = fetch(129);
    let [first, second] = two(&mut fetch, 0, 'a');
    let owed = [first, second].map(|request| fetch.wanted(request).cloned());
    assert_eq!(owed, [Some(set(32, 64)), Some(set(64, 128))], "all of it is asked");
    let effects = join(&mut fetch, 500, 'b');
    let [Effect::Shorten { request, ranges }, Effect::Ask { peer: 'b', ranges: taken, .. }] =
        &effects[..]
    else {
        panic!("a theft: {effects:?}")
    };
    assert_eq!(second, *request, "the one with more left");
    assert_eq!((ranges, taken), (&set(64, 96), &set(96, 128)));
    assert_eq!(fetch.wanted(*request), Some(ranges));
}

#[test]
fn of_what_a_peer_owes_one_part_is_asked_twice() {
    let mut fetch = fetch(97);
    let [first, second] = &two(&mut fetch, 0, 'a');
    assert_eq!(fetch.wanted(*second), Some(&set(64, 96)));
    // One part at each of both requests is left: nothing to steal.
    let effects = join(&mut fetch, 1_000, 'b');
    let doubled = asks(&effects);
    assert_eq!((effects.len(), doubled.len()), (1, 1), "asked, none shortened: {effects:?}");
    assert_eq!(doubled[0].2, set(64, 96));
    // Delivered by the second: the first is told, and the second gets nothing else of it.
    let effects = deliver(&mut fetch, 1_010, doubled[0].1);
    assert_eq!(effects, [Effect::Cancel { request: *second }]);
    assert_eq!(fetch.duplicates(), 0);
    let effects = deliver(&mut fetch, 1_020, *first);
    assert_eq!(effects, [Effect::Complete]);
    assert!(fetch.is_complete() && fetch.missing().is_empty());
}

#[test]
fn a_stalled_peer_is_out_and_its_groups_go_to_others() {
    let mut fetch = fetch(65);
    let open = asks(&join(&mut fetch, 0, 'a'));
    assert_eq!(fetch.next_deadline_ms(), Some(2_000));
    assert_eq!(fetch.step(2_000, Input::Tick), [], "nobody else is there");
    assert_eq!(fetch.next_deadline_ms(), Some(10_000));
    let effects = fetch.step(10_000, Input::Tick);
    let cancelled = open.iter().map(|(_, request, _)| Effect::Cancel { request: *request });
    let penalty = Effect::Penalize { peer: 'a', fault: Fault::Stalled };
    assert_eq!(effects, cancelled.chain([penalty, Effect::Starved]).collect::<Vec<_>>());
    assert_eq!(join(&mut fetch, 10_001, 'a'), [], "out for good");
    assert_eq!(fetch.fault('a'), Some(Fault::Stalled));
    assert_eq!(asks(&join(&mut fetch, 10_002, 'b'))[0].2, set(0, 64));
}

#[test]
fn bytes_that_trickle_in_count_for_a_minute() {
    let mut fetch = fetch(65);
    let open = asks(&join(&mut fetch, 0, 'a'));
    for now in (0..60_000).step_by(5_000) {
        assert_eq!(fetch.step(now, Input::Progress { request: open[0].1 }), []);
        assert_eq!(fetch.step(now, Input::Tick), []);
    }
    let effects = fetch.step(60_000, Input::Tick);
    assert!(effects.contains(&Effect::Penalize { peer: 'a', fault: Fault::Stalled }));
}

#[test]
fn a_quiet_peer_loses_its_requests_when_another_idles() {
    let mut fetch = fetch(33);
    let open = asks(&join(&mut fetch, 0, 'a'));
    let doubled = asks(&join(&mut fetch, 1_900, 'b'));
    assert_eq!(doubled[0].2, open[0].2);
    drop(fetch.step(1_950, Input::Left { peer: 'b' }));
    assert_eq!(asks(&join(&mut fetch, 1_960, 'b')), [], "not a second time");
    let effects = fetch.step(2_000, Input::Tick);
    let [Effect::Cancel { .. }, Effect::Ask { peer: 'b', ranges, .. }] = &effects[..] else {
        panic!("taken over: {effects:?}")
    };
    assert_eq!(*ranges, set(0, 32));
    assert_eq!(fetch.fault('a'), None, "it may be an accident");
}

#[test]
fn liars_are_out_at_once_with_all_their_requests() {
    for (ending, fault) in [
        (Ending::Lied, Fault::Lied),
        (Ending::Malformed, Fault::Malformed),
        (Ending::Missing, Fault::FalseClaim),
    ] {
        let mut fetch = fetch(ALL);
        let [first, second] = two(&mut fetch, 0, 'a');
        let effects = end(&mut fetch, 2, first, ending);
        let expect = [
            Effect::Cancel { request: second },
            Effect::Penalize { peer: 'a', fault },
            Effect::Starved,
        ];
        assert_eq!(effects, expect);
        assert!(fetch.verified().contains_all(range(0, 32)), "what it gave stays");
        assert_eq!(fetch.missing(), set(32, ALL - 1));
    }
}

#[test]
fn who_breaks_off_rests_longer_each_time_and_is_let_go() {
    let mut fetch = fetch(33);
    let mut open = asks(&join(&mut fetch, 0, 'a'));
    let mut now = 0;
    for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000] {
        assert_eq!(end(&mut fetch, now, open[0].1, Ending::Broken), []);
        assert_eq!(fetch.next_deadline_ms(), Some(now + pause));
        assert_eq!(fetch.step(now + pause - 1, Input::Tick), []);
        now += pause;
        open = asks(&fetch.step(now, Input::Tick));
        assert_eq!(open.len(), 1);
    }
    assert_eq!(end(&mut fetch, now, open[0].1, Ending::Broken), [Effect::Starved]);
    assert_eq!(fetch.fault('a'), None);
    assert_eq!(asks(&join(&mut fetch, now, 'a')).len(), 1, "it may join again");
}

#[test]
fn a_busy_peer_that_sends_is_asked_one_at_a_time() {
    let mut fetch = fetch(ALL);
    let [first, second] = two(&mut fetch, 0, 'a');
    assert_eq!(end(&mut fetch, 1, second, Ending::Busy), []);
    assert_eq!(asks(&deliver(&mut fetch, 2, first)).len(), 1);
}

#[test]
fn what_a_peer_lacks_is_not_asked_of_it_again() {
    let mut fetch = fetch(ALL);
    let open = asks(&join(&mut fetch, 0, 'a'));
    let next = asks(&end(&mut fetch, 1, open[0].1, Ending::Absent));
    assert_eq!((next.len(), next[0].2.first()), (1, Some(range(64, 128))));
    let next = asks(&end(&mut fetch, 2, next[0].1, Ending::Absent));
    assert_eq!((next.len(), next[0].2.first()), (1, Some(range(128, 192))));
    let effects = end(&mut fetch, 3, next[0].1, Ending::Absent);
    assert!(effects.contains(&Effect::Penalize { peer: 'a', fault: Fault::FalseClaim }));
}

#[test]
fn who_has_everything_begins_with_what_others_lack() {
    let mut fetch = fetch(ALL);
    let has = set(0, 5_000);
    drop(fetch.step(0, Input::Joined { peer: 'p', has, proven: true }));
    assert_eq!(asks(&join(&mut fetch, 0, 'a'))[0].2, set(5_000, 5_056), "up to a multiple of 64");
}

#[test]
fn a_pause_asks_for_nothing_new() {
    let mut fetch = fetch(ALL);
    assert_eq!(fetch.step(0, Input::Pause), []);
    assert_eq!(join(&mut fetch, 0, 'a'), []);
    assert_eq!(asks(&fetch.step(9, Input::Resume)).len(), 1);
}

#[test]
fn a_whole_blob_needs_nobody() {
    let mut fetch: Schedule<Peer> =
        Schedule::new(3, &set(0, 9), [0; 32], ScheduleLimits::default());
    assert_eq!(fetch.step(0, Input::Tick), [Effect::Complete]);
    assert_eq!(fetch.step(1, Input::Tick), []);
    assert_eq!(fetch.next_deadline_ms(), None);
}

#[test]
fn requests_end_on_multiples_of_two_parts() {
    let check = |run, groups, end| assert_eq!(assign::cut(run, groups).end(), end, "{groups}");
    check(range(0, 5_000), 64, 64);
    check(range(0, 5_000), 1_000, 960);
    check(range(300, 5_000), 64, 384);
    check(range(390, 5_000), 64, 448);
    check(range(300, 370), 70, 370);
    check(range(300, 371), 70, 371);
    // A slow peer: multiples of a part.
    check(range(64, 5_000), 32, 96);
    check(range(65, 5_000), 32, 96);
    check(range(95, 5_000), 32, 128);
    check(range(95, 5_000), 1, 96);
    check(range(96, 5_000), 1, 128);
}
