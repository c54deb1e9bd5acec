//! Readers beside a writer, and many writers of one blob.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ayni_storage::BlobStore;
use protocol::store::StateReader;

use crate::support::{Place, extend, replay};

/// A snapshot stays at one height although blocks are committed meanwhile.
#[test]
fn snapshots_are_of_one_height() {
    let place = Place::new();
    let mut opened = place.open();
    replay(&mut opened.store);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (view, done) = (opened.store.view(), Arc::clone(&done));
            thread::spawn(move || {
                let mut reads = 0_u64;
                while !done.load(Ordering::Relaxed) || reads == 0 {
                    view.read(|state| {
                        let height = state.tip().unwrap().height.get();
                        let stored = state.get(b"height").unwrap();
                        assert_eq!(stored, height.to_le_bytes());
                        let root = ayni_storage::integrity::root_of(state.scan(b"", usize::MAX));
                        assert_eq!(root, state.root());
                    });
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    extend(&mut opened.store, 100);
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}

#[test]
fn many_writers_of_one_blob_and_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let writers: Vec<_> = (0..8_u8)
        .map(|i| {
            let store = store.clone();
            thread::spawn(move || {
                let same = store.put_bytes(&vec![7; 50_000]).unwrap();
                let own = store.put_bytes(&vec![i; 40_000 + usize::from(i)]).unwrap();
                (same, own)
            })
        })
        .collect();
    let mut hashes: Vec<_> = writers
        .into_iter()
        .flat_map(|w| {
            let (same, own) = w.join().unwrap();
            [same, own]
        })
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(store.list().len(), hashes.len());
    assert_eq!(hashes.len(), 9);
    for hash in hashes {
        assert_eq!(store.verify(&hash).unwrap(), ayni_storage::blobs::Verification::Intact);
    }
    let left = std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count();
    assert_eq!(left, 0, "temporary files stay");
}
