//! Transfers between real swarms on loopback, and what liars and sluggards achieve.

mod bench;
mod finding;
mod large;

use protocol::blobs::wire::{Availability, BlobRequest, GetItem, ItemHead, PART_BYTES, Want};
use storage::blobs::Verification;
use tokio::time::timeout;

use super::wire::{read_value, write_value};
use super::*;
use bench::{Node, noise, serve_spoilt, settled};

const LONG: Duration = Duration::from_secs(30);
const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn blobs_of_every_size_travel() {
    let (mut a, source) = Node::honest(1);
    let (mut b, service) = Node::honest(2);
    b.connect(&mut a).await;
    let sizes = [0, 1, 16 * 1024, 16 * 1024 + 1, PART_BYTES + 16 * 1024, 4 * MIB, 5 * MIB + 12_345];
    let mut total = 0;
    for (seed, size) in (0..).zip(sizes) {
        let hash = a.store.put_bytes(&noise(seed, size)).expect("stored");
        // Half of them by a hint, half by asking around.
        let hints = if seed % 2 == 0 { vec![a.id()] } else { Vec::new() };
        let fetched = timeout(LONG, service.fetch(hash, 6 * MIB, hints)).await.expect("in time");
        assert_eq!(fetched.expect("fetched"), size);
        assert_eq!(b.store.read_all(&hash, 6 * MIB).expect("here"), noise(seed, size));
        assert_eq!(b.store.verify(&hash).expect("read"), Verification::Intact);
        assert_eq!(service.fetch(hash, size, Vec::new()).await.expect("local"), size);
        total += size;
    }
    assert_eq!(service.stats().bytes_received, total);
    assert_eq!(source.stats().bytes_sent, total);
    assert_eq!(service.stats().fetched, 7);
    assert_eq!(settled(&a.network).await.faults + settled(&b.network).await.faults, 0);
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_liar_alone_achieves_nothing() {
    type Spoil = fn(usize, &mut Vec<u8>);
    let flips: [(&str, Spoil, bool); 4] = [
        ("a bit of the last group", |number, frame| frame[70] ^= u8::from(number == 0), true),
        ("a bit of the first part", |number, frame| frame[9_999] ^= u8::from(number == 1), true),
        ("bytes too many", |_, frame| frame.insert(70, 0), true),
        ("a hash of another part", |number, frame| frame.rotate_left(64 * number), true),
    ];
    for (seed, (what, spoil, lie)) in (10..).zip(flips) {
        let mut liar = Node::hostile(seed, move |stream, store| async move {
            serve_spoilt(stream, store, |_| Availability::All { size: MIB }, spoil).await;
        });
        let (mut node, service) = Node::honest(3);
        node.connect(&mut liar).await;
        let hash = liar.store.put_bytes(&noise(seed, MIB)).expect("stored");
        let fetched = timeout(LONG, service.fetch(hash, MIB, Vec::new())).await.expect("in time");
        let error = fetched.expect_err(what);
        assert!(matches!(error, FetchError::Failed { .. }), "{what}: {error}");
        let stats = service.stats();
        assert_eq!(stats.attempts_lied, u64::from(lie), "{what}: {error}");
        assert_eq!(stats.attempts_malformed, u64::from(!lie), "{what}: {error}");
        assert_eq!(stats.failed_transfer, 1);
        let network = settled(&node.network).await;
        assert_eq!((network.faults, network.banned), (1, u64::from(lie)), "{what}");
        assert!(!node.store.contains(&hash));
        assert_eq!(node.unfinished(), 0, "{what}");
        node.stop().await;
        liar.stop().await;
    }
}

#[tokio::test]
async fn sizes_are_limited_by_proof_not_by_claim() {
    let (mut a, _) = Node::honest(1);
    let (mut b, service) = Node::honest(2);
    b.connect(&mut a).await;
    let hash = a.store.put_bytes(&noise(1, MIB)).expect("stored");
    let error = service.fetch(hash, MIB - 1, vec![a.id()]).await.expect_err("too large");
    assert!(matches!(error, FetchError::TooLarge { size: MIB, .. }), "{error}");
    assert!(service.stats().bytes_received < MIB, "given up at once");
    assert_eq!(service.fetch(hash, MIB, vec![a.id()]).await.expect("fits"), MIB);
    let error = service.fetch(hash, 5, Vec::new()).await.expect_err("too large, and here");
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn unknown_and_withheld_blobs_are_not_found() {
    let secret = ContentHash::of(&noise(1, 100));
    let (mut a, source) = Node::with(1, BlobConfig::default(), move |hash| *hash != secret);
    let (mut b, service) = Node::honest(2);
    let error = service.fetch(secret, 100, Vec::new()).await.expect_err("alone");
    assert!(error.to_string().contains("no peer is connected"), "{error}");
    b.connect(&mut a).await;
    assert_eq!(a.store.put_bytes(&noise(1, 100)).expect("stored"), secret);
    for hints in [Vec::new(), vec![a.id()]] {
        for hash in [secret, ContentHash::of(b"unknown")] {
            let error = service.fetch(hash, 100, hints.clone()).await.expect_err("not there");
            let FetchError::NotFound { tried, .. } = &error else { panic!("{error}") };
            assert_eq!(tried.attempts.len(), hints.len());
        }
    }
    assert_eq!(source.stats().bytes_sent, 0);
    assert_eq!(service.stats().failed_not_found, 5);
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn fetches_of_one_blob_share_a_transfer() {
    let (mut a, source) = Node::honest(1);
    let (mut b, service) = Node::honest(2);
    b.connect(&mut a).await;
    let hash = a.store.put_bytes(&noise(1, 3 * MIB)).expect("stored");
    let fetches = (0..20).map(|number| {
        let hints = if number == 0 { Vec::new() } else { vec![a.id()] };
        service.fetch(hash, 3 * MIB, hints)
    });
    for result in timeout(LONG, futures::future::join_all(fetches)).await.expect("in time") {
        assert_eq!(result.expect("fetched"), 3 * MIB);
    }
    assert_eq!(source.stats().bytes_sent, 3 * MIB, "sent once");
    assert_eq!(source.stats().served, 1);
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn many_small_blobs_arrive_without_offence() {
    let (mut a, source) = Node::honest(1);
    let (mut b, service) = Node::honest(2);
    b.connect(&mut a).await;
    let mut wanted = Vec::new();
    for number in 0..300u32 {
        let hash = a.store.put_bytes(&number.to_le_bytes()).expect("stored");
        wanted.push((hash, 4));
    }
    wanted.push((ContentHash::of(b"nobody has this"), 4));
    let results = timeout(LONG, service.fetch_all(&wanted, &[])).await.expect("in time");
    let (last, first) = results.split_last().expect("as many as asked");
    assert!(first.iter().all(|result| matches!(result, Ok(4))));
    assert!(matches!(last, Err(FetchError::NotFound { .. })));
    assert_eq!(source.stats().served, 300);
    for node in [&a, &b] {
        let stats = settled(&node.network).await;
        assert_eq!((stats.faults, stats.rate_limited), (0, 0));
    }
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn malformed_requests_cost_the_asker_and_nobody_else() {
    let (mut a, source) = Node::honest(1);
    let (mut b, service) = Node::honest(2);
    b.connect(&mut a).await;
    let hash = a.store.put_bytes(&noise(1, MIB)).expect("stored");
    let mut stream = b.network.open_blob_stream(a.id()).await.expect("opened");
    // Groups beyond the end of the blob.
    let want = Want::Ranges(protocol::blobs::GroupRange::one(64).into());
    let request = BlobRequest::Get(vec![GetItem { hash, want }]);
    write_value(&mut stream, &request, LONG).await.expect("sent");
    let answer = read_value::<ItemHead>(&mut stream, LONG).await;
    assert!(!matches!(answer, Ok(Some(_))), "closed without an answer");
    assert_eq!(settled(&a.network).await.faults, 1);
    let fetched = timeout(LONG, service.fetch(hash, MIB, vec![a.id()])).await.expect("in time");
    assert_eq!(fetched.expect("once is forgiven"), MIB);
    assert_eq!(source.stats().served, 1);
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_cancelled_fetch_leaves_nothing_and_shutdown_ends_others() {
    let mut silent = Node::hostile(1, |stream, _| async move {
        let _kept = stream;
        std::future::pending::<()>().await;
    });
    let (mut node, service) = Node::honest(2);
    node.connect(&mut silent).await;
    let hash = ContentHash::of(b"never sent");
    {
        let fetch = service.fetch(hash, 100, vec![silent.id()]);
        tokio::pin!(fetch);
        assert!(timeout(Duration::from_millis(200), &mut fetch).await.is_err(), "it waits");
    }
    assert!(service.in_flight().values().all(|running| running.transfer.upgrade().is_none()));
    let waiting = service.clone();
    let waiter = tokio::spawn(async move { waiting.fetch(hash, 100, Vec::new()).await });
    node.token.cancel();
    let result = timeout(LONG, waiter).await.expect("in time").expect("no panic");
    assert!(matches!(result, Err(FetchError::Stopped)), "{result:?}");
    node.stop().await;
    silent.stop().await;
}
