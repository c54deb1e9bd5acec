//! What is fuzzed of blobs: the decoders of messages and collections, and the schedule of a fetch.
//! Each target takes any bytes and must neither panic nor break an invariant;
//! `tests/it/blobs/fuzz.rs` replays the corpus in every test run.

#![allow(dead_code, reason = "each program uses one target")]

use std::collections::BTreeMap;
use std::path::{Component, Path};

use ayni_protocol::blobs::collection::{Collection, MAGIC};
use ayni_protocol::blobs::schedule::{Effect, Ending, Input, RequestId, Schedule, ScheduleLimits};
use ayni_protocol::blobs::wire::{Availability, BlobRequest, Holdings, ItemHead, parts, window_of};
use ayni_protocol::blobs::{GroupRange, GroupRanges, all_groups};
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::limits::{BLOB_BYTES_MAX, BLOB_RUNS_PER_ITEM_MAX, GROUP_BYTES};

fn round_trip<T: Canonical>(bytes: &[u8]) -> Option<T> {
    let value = codec::decode::<T>(bytes).ok()?;
    assert_eq!(codec::encode(&value), bytes, "a value has one spelling");
    Some(value)
}

/// A request as it comes from a peer: what is decoded is within the bounds, and falls into parts
/// that cover it once.
pub(crate) fn blob_request(bytes: &[u8]) {
    let Some(request) = round_trip::<BlobRequest>(bytes) else { return };
    assert_eq!(request.check(), Ok(()));
    let BlobRequest::Get(items) = request else { return };
    for item in items {
        let first =
            item.hash.as_bytes().first_chunk().map_or(0, |first| u32::from_le_bytes(*first));
        // A blob of at most 512 groups, so that no request means many parts.
        let size = u64::from(first) % (512 * GROUP_BYTES);
        let mut covered = GroupRanges::new();
        for part in parts(&item.want, size) {
            assert_eq!(covered.insert(part), part.groups(), "no group twice");
            assert!(window_of(part.start()).contains(part.end() - 1), "in one window");
            assert!(part.end() <= all_groups(size).end(), "inside the blob");
        }
        assert_eq!(covered, item.want.groups(size));
    }
}

/// What a peer says it has.
pub(crate) fn blob_holdings(bytes: &[u8]) {
    if let Some(ItemHead::Found { size }) = round_trip::<ItemHead>(bytes) {
        assert!(size <= BLOB_BYTES_MAX);
    }
    let Some(holdings) = round_trip::<Holdings>(bytes) else { return };
    for said in holdings.as_slice() {
        let groups = said.groups();
        let Some(size) = said.size() else { continue };
        assert!(groups.within(all_groups(size)).eq(groups.iter()), "inside the blob");
        assert_eq!(&Availability::of(size, &groups), said);
    }
    assert_eq!(Holdings::new(holdings.as_slice().to_vec()), holdings);
}

/// A collection from a stranger: with its first line, and with one put before it.
pub(crate) fn collection(bytes: &[u8]) {
    for bytes in [bytes, &[MAGIC, bytes].concat()] {
        let Ok(collection) = Collection::from_bytes(bytes) else { continue };
        assert_eq!(collection.to_bytes().as_deref(), Ok(bytes), "a collection has one spelling");
        for file in collection.files() {
            let mut components = Path::new(file.path.as_str()).components();
            assert!(components.all(|part| matches!(part, Component::Normal(_))), "{}", file.path);
            assert_eq!(collection.file(&file.path), Some(file));
        }
        let files = collection.files().iter().rev().cloned().collect();
        assert_eq!(Collection::new(files).as_ref(), Ok(&collection));
    }
}

/// A fetch whose shell and peers do anything: five bytes an input.
pub(crate) fn schedule(bytes: &[u8]) {
    const GROUPS: u64 = 1_000;
    let mut fetch = Schedule::new(GROUPS, &GroupRanges::new(), [0; 32], ScheduleLimits::default());
    let mut open: BTreeMap<RequestId, u8> = BTreeMap::new();
    let mut now_ms = 0;
    for chunk in bytes.chunks_exact(5) {
        let [operation, who, a, b, wait] = chunk.try_into().expect("five");
        now_ms += u64::from(wait) * u64::from(wait) / 4;
        let peer = who % 5;
        let has = GroupRange::new(u64::from(a) * 4, u64::from(a) * 4 + u64::from(b) * 4);
        let has: GroupRanges = has.into_iter().collect();
        let request = open.keys().nth(usize::from(who)).copied();
        let input = match (operation % 10, request) {
            (0, _) => Input::Joined { peer, has, proven: a.is_multiple_of(2) },
            (1, _) => Input::Updated { peer, has },
            (2, _) => Input::Left { peer },
            (3, Some(request)) => Input::Progress { request },
            (4 | 5, Some(request)) => {
                let wanted = fetch.wanted(request).and_then(GroupRanges::first);
                let asked = wanted.map(|run| run.start() + u64::from(a % 8));
                Input::Received { request, range: GroupRange::one(asked.unwrap_or(b.into())) }
            }
            (6, Some(request)) => {
                let endings = [
                    Ending::Complete,
                    Ending::Broken,
                    Ending::Busy,
                    Ending::Absent,
                    Ending::Missing,
                    Ending::Lied,
                    Ending::Malformed,
                ];
                let ending = endings[usize::from(a) % endings.len()];
                Input::Ended { request, ending }
            }
            (7, _) => Input::Pause,
            (8, _) => Input::Resume,
            _ => Input::Tick,
        };
        for effect in fetch.step(now_ms, input) {
            match effect {
                Effect::Ask { peer, request, ranges } => {
                    assert!((1..=BLOB_RUNS_PER_ITEM_MAX).contains(&ranges.runs().len()));
                    assert_eq!(open.insert(request, peer), None);
                }
                Effect::Cancel { request } => drop(open.remove(&request)),
                _ => {}
            }
        }
        open.retain(|request, _| fetch.wanted(*request).is_some());
        for request in open.keys() {
            let wanted = fetch.wanted(*request).expect("open");
            assert!(!wanted.overlaps(fetch.verified()), "nothing verified is wanted");
        }
        assert_eq!(fetch.verified().groups() + fetch.missing().groups(), GROUPS);
        assert_eq!(fetch.is_complete(), fetch.missing().is_empty());
        assert!(fetch.next_deadline_ms().is_none_or(|due| due > now_ms));
    }
}
