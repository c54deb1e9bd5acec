//! Finding providers that nobody named, and batches with a liar in them.

use protocol::codec;

use super::*;
use crate::network::wire::Announcement;

#[tokio::test]
async fn a_provider_is_found_in_the_table_by_one_who_never_met_it() {
    let (mut source, _serving) = Node::lonely(1);
    let (mut between, _) = Node::lonely(2);
    let (mut node, service) = Node::lonely(3);
    let hash = source.store.put_bytes(&noise(1, 100_000)).expect("stored");
    between.connect(&mut source).await;
    node.connect(&mut between).await;
    let error = service.fetch(hash, 100_000, Vec::new()).await.expect_err("not announced");
    assert!(matches!(error, FetchError::NotFound { .. }), "{error}");
    source.network.provide(hash).await;
    // The record travels to the node between them, whenever it is routed.
    let found = async {
        loop {
            if let Ok(size) = service.fetch(hash, 100_000, Vec::new()).await {
                return size;
            }
        }
    };
    assert_eq!(timeout(LONG, found).await.expect("in time"), 100_000);
    assert_eq!(node.store.verify(&hash).expect("read"), Verification::Intact);
    for node in [node, between, source] {
        node.stop().await;
    }
}

#[tokio::test]
async fn announcements_are_hints_and_malformed_ones_are_refused() {
    let (node, service) = Node::honest(1);
    let peer = PeerId::random();
    let hash = ContentHash::of(b"announced");
    let bytes = codec::encode(&Announcement { blobs: vec![hash] });
    assert_eq!(service.announced(peer, &bytes), Acceptance::Accept);
    assert_eq!(service.0.announcers(&hash), [peer]);
    let many = Announcement { blobs: vec![hash; ANNOUNCED_MAX + 1] };
    for bad in [&bytes[..bytes.len() - 1], &codec::encode(&many), b"", &[0xff; 40]] {
        assert_eq!(service.announced(peer, bad), Acceptance::Reject);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_liar_in_a_batch_is_banned_and_the_rest_comes_from_others() {
    let mut liar = Node::hostile(1, |stream, store| async move {
        let everything = |_: &ContentHash| Availability::All { size: 50_000 };
        let flip = |number: usize, frame: &mut Vec<u8>| frame[9] ^= u8::from(number == 20);
        serve_spoilt(stream, store, everything, flip).await;
    });
    let (mut honest, _) = Node::honest(2);
    let (mut node, service) = Node::honest(3);
    let mut wanted = Vec::new();
    for seed in 0..60 {
        let bytes = noise(seed, 50_000);
        wanted.push((liar.store.put_bytes(&bytes).expect("stored"), 50_000));
        honest.store.put_bytes(&bytes).expect("stored");
    }
    node.connect(&mut liar).await;
    node.connect(&mut honest).await;
    let results = timeout(LONG, service.fetch_all(&wanted, &[liar.id()])).await.expect("in time");
    assert!(results.iter().all(|result| matches!(result, Ok(50_000))), "{results:?}");
    for (hash, _) in &wanted {
        assert_eq!(node.store.verify(hash).expect("read"), Verification::Intact);
    }
    assert!(service.stats().attempts_lied >= 1);
    assert_eq!(settled(&node.network).await.banned, 1);
    for node in [node, honest, liar] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_quota_refuses_what_would_not_fit_before_it_arrives() {
    let (mut source, _) = Node::honest(1);
    let (mut node, service) = Node::honest(2);
    let large = source.store.put_bytes(&noise(1, 8 * MIB)).expect("stored");
    let small = source.store.put_bytes(&noise(2, MIB)).expect("stored");
    node.store.set_limits(storage::blobs::BlobLimits { bytes_max: 2 * MIB });
    node.connect(&mut source).await;
    let error = service.fetch(large, 8 * MIB, vec![source.id()]).await.expect_err("too much");
    assert!(matches!(error, FetchError::Store { .. }) && error.to_string().contains("quota"));
    assert!(service.stats().bytes_received < MIB);
    assert_eq!(service.fetch(small, MIB, vec![source.id()]).await.expect("fits"), MIB);
    node.store.set_limits(storage::blobs::BlobLimits { bytes_max: 0 });
    assert_eq!(service.fetch(large, 8 * MIB, vec![source.id()]).await.expect("now"), 8 * MIB);
    node.stop().await;
    source.stop().await;
}
