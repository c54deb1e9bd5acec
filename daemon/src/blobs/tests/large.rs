//! Large blobs: several providers, liars among them, crashes in the middle.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::blobs::wire::Holdings;
use protocol::blobs::{GroupRange, GroupRanges, all_groups, groups_of};
use storage::blobs::decode_part;

use super::bench::Claim;
use super::*;

const SIZE: u64 = 24 * MIB + 4_321;

fn rates(bytes_per_s: u64) -> BlobConfig {
    BlobConfig { upload_bytes_per_s: bytes_per_s, ..BlobConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_providers_share_a_blob_and_no_byte_comes_twice() {
    let bytes = noise(7, SIZE);
    // Slow enough that each is needed.
    let mut sources: Vec<_> =
        (1..=3).map(|seed| Node::with(seed, rates(8 * MIB), |_| true)).collect();
    let (mut node, service) = Node::honest(9);
    let mut hash = ContentHash::default();
    for (source, _) in &mut sources {
        hash = source.store.put_bytes(&bytes).expect("stored");
        node.connect(source).await;
    }
    let hints = sources.iter().map(|(source, _)| source.id()).collect();
    let fetched = timeout(LONG, service.fetch(hash, SIZE, hints)).await.expect("in time");
    assert_eq!(fetched.expect("fetched"), SIZE);
    assert_eq!(node.store.verify(&hash).expect("read"), Verification::Intact);
    let received = service.stats().bytes_received;
    // At most one part a provider in the endgame, and the part that is cut off by a steal.
    assert!(received <= SIZE + 3 * 2 * PART_BYTES, "{received}");
    for (source, serving) in &sources {
        let sent = serving.stats().bytes_sent;
        assert!(sent > SIZE / 8, "{} sent {sent}", source.id());
    }
    node.stop().await;
    for (source, _) in sources {
        source.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_corrupts_one_stalls_one_lies_about_what_it_has_and_the_fetch_ends_well() {
    let bytes = noise(8, SIZE);
    let size = SIZE;
    let everything: Claim = |_| Availability::All { size: SIZE };
    // Right at first, then a flipped bit.
    let mut corrupt = Node::hostile(1, move |stream, store| async move {
        let flip = |number: usize, frame: &mut Vec<u8>| frame[100] ^= u8::from(number == 2);
        serve_spoilt(stream, store, everything, flip).await;
    });
    // Says that it has everything, and sends nothing after the head.
    let mut stalling = Node::hostile(2, move |mut stream, _| async move {
        loop {
            match read_value(&mut stream, LONG).await {
                Ok(Some(BlobRequest::Have(hashes))) => {
                    let holdings = Holdings::new(hashes.iter().map(everything));
                    let _ = write_value(&mut stream, &holdings, LONG).await;
                }
                Ok(Some(BlobRequest::Get(_))) => {
                    let _ = write_value(&mut stream, &ItemHead::Found { size }, LONG).await;
                    std::future::pending::<()>().await;
                }
                _ => return,
            }
        }
    });
    // Says that it has everything, and has nothing.
    let mut boaster = Node::hostile(3, move |mut stream, _| async move {
        loop {
            match read_value(&mut stream, LONG).await {
                Ok(Some(BlobRequest::Have(hashes))) => {
                    let holdings = Holdings::new(hashes.iter().map(everything));
                    let _ = write_value(&mut stream, &holdings, LONG).await;
                }
                Ok(Some(BlobRequest::Get(_))) => {
                    let _ = write_value(&mut stream, &ItemHead::Missing, LONG).await;
                }
                _ => return,
            }
        }
    });
    let (mut honest, source) = Node::with(4, rates(12 * MIB), |_| true);
    let config = BlobConfig { stall_max: Duration::from_secs(2), ..BlobConfig::default() };
    let (mut node, service) = Node::with(5, config, |_| true);
    let hash = honest.store.put_bytes(&bytes).expect("stored");
    corrupt.store.put_bytes(&bytes).expect("stored");
    for other in [&mut corrupt, &mut stalling, &mut boaster, &mut honest] {
        node.connect(other).await;
    }
    let began = Instant::now();
    let hints = vec![corrupt.id(), stalling.id(), boaster.id(), honest.id()];
    let fetched = timeout(LONG, service.fetch(hash, SIZE, hints)).await.expect("in time");
    let took = began.elapsed();
    assert_eq!(fetched.expect("from the honest one"), SIZE);
    assert_eq!(node.store.verify(&hash).expect("read"), Verification::Intact);
    let stats = service.stats();
    // On one stream or on both that it was given.
    assert!((1..=2).contains(&stats.attempts_lied), "{stats:?}");
    assert!(settled(&node.network).await.banned >= 1, "the liar");
    let alone = SIZE as f64 / (12 * MIB) as f64;
    eprintln!(
        "fetched in {:.2} s, {alone:.2} s from the honest one alone; it sent {} of {SIZE} bytes",
        took.as_secs_f64(),
        source.stats().bytes_sent
    );
    for node in [node, honest, corrupt, stalling, boaster] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_a_dropped_one_ended_and_another_node_gets_what_is_there() {
    let (mut source, serving) = Node::with(1, rates(24 * MIB), |_| true);
    let (mut node, service) = Node::honest(2);
    let hash = source.store.put_bytes(&noise(3, SIZE)).expect("stored");
    node.connect(&mut source).await;
    {
        let fetch = service.fetch(hash, SIZE, vec![source.id()]);
        tokio::pin!(fetch);
        // Dropped once a quarter has arrived.
        loop {
            let waited = timeout(Duration::from_millis(5), &mut fetch).await;
            assert!(waited.is_err(), "it was to be interrupted");
            if service.stats().bytes_received > SIZE / 4 {
                break;
            }
        }
    }
    let before = serving.stats().bytes_sent;
    assert!(before < SIZE);
    // What is there is served while it is partial.
    let (mut other, second) = Node::honest(4);
    other.connect(&mut node).await;
    let found = timeout(LONG, second.providers(hash)).await.expect("in time");
    // It may meanwhile have heard of the source, too.
    let partial = |(peer, holds): &(PeerId, Availability)| {
        *peer == node.id() && matches!(holds, Availability::Some { .. })
    };
    assert!(found.iter().any(partial), "{found:?}");
    let fetched = timeout(LONG, service.fetch(hash, SIZE, vec![source.id()])).await;
    assert_eq!(fetched.expect("in time").expect("fetched"), SIZE);
    assert_eq!(node.store.verify(&hash).expect("read"), Verification::Intact);
    let received = service.stats().bytes_received;
    // Parts that had arrived and were not yet written when it was dropped.
    assert!(received <= SIZE + 4 * PART_BYTES, "{received} of {SIZE}");
    let fetched = timeout(LONG, second.fetch(hash, SIZE, vec![node.id()])).await;
    assert_eq!(fetched.expect("in time").expect("fetched"), SIZE);
    for node in [other, node, source] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_joins_in_the_middle_helps_and_one_that_leaves_costs_only_its_part() {
    let (mut first, one) = Node::with(1, rates(6 * MIB), |_| true);
    let (mut second, two) = Node::with(2, rates(6 * MIB), |_| true);
    let (mut node, service) = Node::honest(3);
    let bytes = noise(5, SIZE);
    let hash = first.store.put_bytes(&bytes).expect("stored");
    second.store.put_bytes(&bytes).expect("stored");
    node.connect(&mut first).await;
    let fetching = {
        let (service, hint) = (service.clone(), first.id());
        tokio::spawn(async move { service.fetch(hash, SIZE, vec![hint]).await })
    };
    while service.stats().bytes_received < SIZE / 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.connect(&mut second).await;
    while two.stats().bytes_sent < 2 * MIB {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.stop().await;
    let fetched = timeout(LONG, fetching).await.expect("in time").expect("no panic");
    assert_eq!(fetched.expect("from the second"), SIZE);
    assert_eq!(node.store.verify(&hash).expect("read"), Verification::Intact);
    let sent = one.stats().bytes_sent + two.stats().bytes_sent;
    // What was on its way from the first when it left.
    assert!(sent <= SIZE + 24 * MIB / 2, "{sent}");
    node.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn partial_answers_name_what_is_verified() {
    let (node, service) = Node::honest(1);
    let source = Node::hostile(2, |_, _| async {});
    let hash = source.store.put_bytes(&noise(1, 8 * MIB)).expect("stored");
    let blob = source.store.open_for_serving(&hash).expect("there");
    let (size, groups) = (blob.size(), groups_of(blob.size()));
    let mut partial = node.store.partial(hash, size).expect("begun");
    let mut expected = GroupRanges::new();
    for start in [32, 128, groups - 1] {
        let range = GroupRange::new(start, (start + 32).min(groups)).expect("a range");
        let mut frame = Vec::new();
        storage::blobs::encode_part(&blob, range, &mut frame).expect("encoded");
        let part = decode_part(hash, size, range, frame).expect("verified");
        partial.write_part(&part).expect("written");
        expected.insert(range);
    }
    assert!(!expected.contains_all(all_groups(size)));
    assert_eq!(node.store.availability(&hash), Availability::Some { size, ranges: expected });
    drop((partial, service));
    node.stop().await;
    source.stop().await;
}

/// A bucket of bytes that two uploads share.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_does_not_wait_for_a_large_one() {
    let (mut source, _serving) = Node::with(1, rates(4 * MIB), |_| true);
    let (mut node, service) = Node::honest(2);
    let large = source.store.put_bytes(&noise(1, SIZE)).expect("stored");
    let small = source.store.put_bytes(&noise(2, 30_000)).expect("stored");
    node.connect(&mut source).await;
    let waiting = service.clone();
    let hint = source.id();
    let fetching = tokio::spawn(async move { waiting.fetch(large, SIZE, vec![hint]).await });
    while service.stats().bytes_received < MIB {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = AtomicU64::new(service.stats().bytes_received);
    let fetched = timeout(LONG, service.fetch(small, 30_000, vec![source.id()])).await;
    assert_eq!(fetched.expect("in time").expect("fetched"), 30_000);
    let meanwhile = service.stats().bytes_received - before.load(Ordering::Relaxed);
    // One part of each of the large fetch's two requests, and what was on its way.
    assert!(meanwhile < 8 * MIB, "{meanwhile} bytes of the large blob came first");
    fetching.abort();
    let _ = fetching.await;
    node.stop().await;
    source.stop().await;
}
