//! Blob stores whose process is killed at random points, or whose disk is full.

#![expect(clippy::print_stdout, reason = "the child says that it passed")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use ayni_storage::BlobStore;
use ayni_storage::blobs::{
    BlobError, ImportMode, Name, Retention, ServedBlob, Verification, VerifiedBlob, VerifiedPart,
    decode_part, encode_part,
};
use protocol::blobs::{GroupRange, groups_of};
use protocol::ids::ContentHash;

use crate::crashes::{RUN, child_dir, say, spawn};
use crate::full_disk::on_a_small_disk;
use crate::support::Draw;

const GROUP: usize = 16_384;
const FULL: &str = "AYNI_STORAGE_FULL_BLOBS";
const PASSED: &str = "the full disk was survived by the blobs";

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut draw = Draw(seed);
    (0..size).map(|_| draw.next() as u8).collect()
}

fn part(blob: &ServedBlob, start: u64) -> VerifiedPart<Vec<u8>> {
    let end = groups_of(blob.size()).min(start + 32);
    let (mut frame, range) = (Vec::new(), GroupRange::new(start, end).unwrap());
    encode_part(blob, range, &mut frame).unwrap();
    decode_part(blob.hash(), blob.size(), range, frame).unwrap()
}

/// A provider that outlives the one who receives.
fn provider(dir: &std::path::Path, seed: u64, groups: usize) -> ServedBlob {
    let store = BlobStore::open(dir).unwrap();
    let hash = store.put_bytes(&bytes(seed, groups * GROUP + 5)).unwrap();
    store.open_for_serving(&hash).unwrap()
}

/// Child: does everything that a store does, and says what it may rely on.
#[test]
fn child_blobs() {
    let Some(dir) = child_dir() else { return };
    let run: u64 = env::var(RUN).unwrap().parse().unwrap();
    let served = provider(&dir.join("provider"), 7, 400);
    let store = BlobStore::open(&dir.join("store")).unwrap();
    for step in 0.. {
        let seed = run * 1_000_000 + step;
        let small = (0..20).map(|n| VerifiedBlob::of(bytes(seed * 100 + n, 700)));
        let mut batch: Vec<VerifiedBlob> = small.collect();
        batch.push(VerifiedBlob::of(bytes(seed, 60_000)));
        let pins: Vec<_> = batch.iter().map(|blob| (blob.hash(), Retention::Forever)).collect();
        store.put_batch(&batch).unwrap();
        store.pin(&pins).unwrap();
        batch.iter().for_each(|blob| say(&format!("stored {}", blob.hash())));
        let path = dir.join(format!("file-{seed}"));
        fs::write(&path, bytes(seed + 1, 50_000)).unwrap();
        let imported = store.import(&path, ImportMode::InPlace, 1 << 20, &mut |_| true).unwrap();
        store.set_name(Name::new("newest").unwrap(), imported.hash).unwrap();
        say(&format!("named {}", imported.hash));
        match store.partial(served.hash(), served.size()) {
            Ok(mut partial) => {
                for start in (0..groups_of(served.size())).step_by(32) {
                    partial.write_part(&part(&served, start)).unwrap();
                    if start % 96 == 0 {
                        let checkpoint = partial.checkpoint();
                        let groups = checkpoint.groups();
                        checkpoint.run().unwrap();
                        say(&format!("durable {groups}"));
                    }
                }
                let hash = partial.hash();
                partial.finish().unwrap();
                say(&format!("finished {hash}"));
                store.pin(&[(hash, Retention::Forever)]).unwrap();
            }
            Err(BlobError::AlreadyStored(hash)) => {
                say("restarted 0");
                store.delete(&hash).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        store.put_bytes(&bytes(seed + 2, 3_000)).unwrap();
        store.gc(0, [served.hash()]).unwrap();
        say("collected 0");
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_false_is_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let served = provider(&dir.path().join("provider"), 7, 400);
    let (mut draw, mut stored) = (Draw(4), BTreeMap::new());
    for run in 0..12 {
        let lines = 1 + draw.below(220);
        let (mut durable, mut named, mut seen) = (0, None, 0);
        let mut child = spawn("blobs_crashes::child_blobs", dir.path(), run);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split_once(' ') {
                Some(("stored", hash)) => drop(stored.insert(hash.to_owned(), run)),
                Some(("named", hash)) => named = Some(hash.to_owned()),
                Some(("durable", groups)) => durable = groups.parse().unwrap(),
                Some(("finished", _)) => durable = groups_of(served.size()),
                Some(("restarted", _)) => durable = 0,
                Some(("collected", _)) => {}
                _ => continue,
            }
            seen += 1;
            if seen == lines {
                // SIGKILL, while the child goes on.
                child.kill().unwrap();
            }
        }
        let status = child.wait().unwrap();
        assert!(!status.success() && seen >= lines, "the child ended by itself: {status}");

        let store = BlobStore::open(&dir.path().join("store")).unwrap();
        for hash in stored.keys() {
            let hash: ContentHash = hash.parse().unwrap();
            let found = store.verify(&hash).unwrap();
            assert_eq!(found, Verification::Intact, "run {run}: {hash}");
            assert!(store.pins().unwrap().pins.contains_key(&hash), "run {run}: {hash}");
        }
        if let Some(named) = named {
            let name = Name::new("newest").unwrap();
            let found = store.pins().unwrap().names[&name];
            // Unless the next step had gone further before it died.
            assert!(found.to_string() == named || store.contains(&found), "run {run}");
        }
        // Whatever is claimed of the blob that was arriving is there, and enough is claimed. It
        // may have been deleted to be received again when the kill came.
        let claimed = store.availability(&served.hash()).groups();
        assert!(claimed.groups() >= durable || claimed.is_empty(), "run {run}: {claimed:?}");
        let mine = store.open_for_serving(&served.hash());
        for run in claimed.iter() {
            encode_part(mine.as_ref().unwrap(), run, &mut Vec::new()).unwrap();
        }
        let report = store.fsck(false, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "run {run}: {report:?}");
    }
}

/// Child: fills a disk of a few megabytes in every way, and goes on when there is space again.
#[test]
fn child_full_disk() {
    let Some(root) = env::var_os(FULL).map(PathBuf::from) else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let served = provider(elsewhere.path(), 9, 400);
    let dir = root.join("store");
    let mut kept: Vec<ContentHash> = Vec::new();
    for round in 0..3_u64 {
        let store = BlobStore::open(&dir).unwrap();
        let ballast = root.join("ballast");
        let found = rustix::fs::statvfs(&root).unwrap();
        let free = found.f_bavail * found.f_frsize;
        fs::write(&ballast, vec![1; (free - 1_500_000) as usize]).unwrap();

        // A transfer.
        let mut partial = store.partial(served.hash(), served.size()).unwrap();
        let (mut durable, mut failed) = (partial.verified().groups(), false);
        for start in (0..groups_of(served.size())).step_by(32) {
            let written = partial.write_part(&part(&served, start)).map(drop);
            let checkpoint = partial.checkpoint();
            let groups = checkpoint.groups();
            match written.and_then(|()| checkpoint.run()) {
                Ok(()) => durable = groups,
                Err(error) => {
                    is_clear(&error, &root);
                    failed = true;
                    break;
                }
            }
        }
        assert!(failed, "6.5 MB do not fit");
        drop(partial);

        // Large blobs, small blobs, streams, pins and files in place.
        let store_until_full = |size: usize, kept: &mut Vec<ContentHash>| {
            for seed in 0..100_000 {
                let blob = VerifiedBlob::of(bytes(round * 1_000_000 + seed + size as u64, size));
                let hash = blob.hash();
                match store.put_batch(&[blob]) {
                    Ok(()) => kept.push(hash),
                    Err(error) => return is_clear(&error, &root),
                }
            }
            panic!("the disk does not fill up");
        };
        store_until_full(100_000, &mut kept);
        store_until_full(15_000, &mut kept);
        store_until_full(500, &mut kept);
        let mut importer = store.importer(1 << 30);
        let refused = (0..100).find_map(|_| importer.write(&bytes(1, 100_000)).err());
        is_clear(&refused.unwrap(), &root);
        drop(importer);
        for hash in &kept {
            assert_eq!(store.verify(hash).unwrap(), Verification::Intact);
        }
        let served_here = store.open_for_serving(&served.hash()).unwrap();
        for run in store.availability(&served.hash()).groups().iter() {
            encode_part(&served_here, run, &mut Vec::new()).unwrap();
        }
        // Garbage can be collected on a full disk; that makes room.
        let gone = kept.split_off(kept.len() / 2);
        let roots = kept.iter().copied().chain([served.hash()]);
        let report = store.gc(0, roots).unwrap();
        assert_eq!(report.removed, gone.len() as u64);

        // Space is back.
        fs::remove_file(&ballast).unwrap();
        drop(store);
        let store = BlobStore::open(&dir).unwrap();
        let report = store.fsck(false, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report:?}");
        for hash in &kept {
            assert_eq!(store.verify(hash).unwrap(), Verification::Intact);
        }
        let mut partial = store.partial(served.hash(), served.size()).unwrap();
        assert!(partial.verified().groups() >= durable, "{:?} of {durable}", partial.verified());
        for start in (0..groups_of(served.size())).step_by(32) {
            partial.write_part(&part(&served, start)).unwrap();
        }
        partial.finish().unwrap();
        assert_eq!(store.verify(&served.hash()).unwrap(), Verification::Intact);
        store.delete(&served.hash()).unwrap();
        for hash in kept.drain(..) {
            store.delete(&hash).unwrap();
        }
        store.gc(0, []).unwrap();
    }
    println!("\n{PASSED}");
}

/// The error says that the disk is full, and where.
fn is_clear(error: &BlobError, root: &std::path::Path) {
    let BlobError::DiskFull { path, .. } = error else { panic!("{error:?}") };
    assert!(path.starts_with(root), "{}", path.display());
    let text = error.to_string();
    assert!(text.contains("is full") && text.contains("bytes are free"), "{text}");
}

#[test]
fn blobs_survive_a_full_disk() {
    on_a_small_disk("blobs_crashes::child_full_disk", FULL, 24, PASSED);
}
