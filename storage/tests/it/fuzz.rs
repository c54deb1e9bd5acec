//! Replays the corpus of every fuzz target: what once was interesting stays tested.

use std::fs;
use std::path::PathBuf;

use ayni_storage::BlobStore;
use ayni_storage::blobs::{ImportMode, Name, Reference, Retention, VerifiedBlob};
use ayni_storage::snapshot::{Head, Writer};
use protocol::amount::Height;
use protocol::codec;
use protocol::ids::{BlockHash, StateRoot};

use crate::support::{CHAIN, block, body};

#[path = "../../fuzz/src/targets.rs"]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 3] =
    [("snapshot", targets::snapshot), ("logs", logs), ("blobs", targets::blobs)];

fn logs(bytes: &[u8]) {
    targets::logs(bytes);
}

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_does_no_harm() {
    for (name, target) in TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            target(&fs::read(&file).unwrap());
        }
    }
}

fn snapshot() -> Vec<u8> {
    let (block, root) = (BlockHash::from_bytes([1; 32]), StateRoot::from_bytes([2; 32]));
    let head = Head { chain: CHAIN, height: Height::new(3), block, root };
    let mut writer = Writer::new(Vec::new(), head).unwrap();
    for (key, value) in [("a", "first"), ("ab", ""), ("b", "third")] {
        writer.entry(key.as_bytes(), value.as_bytes()).unwrap();
    }
    writer.finish().unwrap().1
}

/// A log of these records: how it is made, its damage, then the records.
fn log(how: u8, damage: [u8; 4], payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![how];
    bytes.extend(damage);
    for payload in payloads {
        bytes.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(payload);
    }
    bytes
}

fn guard_record(height: u64, step: u8, value: Option<[u8; 32]>) -> Vec<u8> {
    let round = 1_u32.to_le_bytes();
    let value = value.map_or_else(Vec::new, Vec::from);
    [&[1][..], &height.to_le_bytes(), &round, &[step], &value].concat()
}

/// Whole logs, one for each owner, in the order of the targets' numbers.
fn whole_logs() -> [(&'static str, Vec<Vec<u8>>); 4] {
    let bodies = [body(4, 0, 1, 60), body(4, 0, 2, 60), body(5, 1, 3, 9)];
    let transaction = [&5_u32.to_le_bytes()[..], b"bytes"].concat();
    let signed = [guard_record(7, 0, Some([9; 32])), guard_record(7, 2, None)];
    let floor = [&[2][..], &6_u64.to_le_bytes()].concat();
    [
        ("blocks", (1..4).map(|height| codec::encode(&block(height, 50))).collect()),
        ("proposals", bodies.iter().map(codec::encode).collect()),
        ("mempool", vec![transaction.repeat(2), transaction]),
        ("guard", [&signed[..], &[floor]].concat()),
    ]
}

/// One file of each kind that the blob store has, as the target takes them.
fn blob_files() -> Vec<(&'static str, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    let small = [b"first".to_vec(), b"second".to_vec(), vec![7; 300]];
    store.put_batch(&small.map(VerifiedBlob::of)).unwrap();
    let hash = store.put_bytes(b"deleted").unwrap();
    store.delete(&hash).unwrap();
    store.pin(&[(hash, Retention::Forever), (hash, Retention::Until(9))]).unwrap();
    store.set_name(Name::new("a name").unwrap(), hash).unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"in place").unwrap();
    let imported = store.import(&path, ImportMode::InPlace, 99, &mut |_| true).unwrap();
    store.partial(hash, 70_000).unwrap().checkpoint().run().unwrap();
    let file = |path: String| fs::read(dir.path().join("blobs").join(path)).unwrap();
    let reference = file(format!("refs/{}.ref", imported.hash));
    let mut reference = Reference::decode(&reference).unwrap();
    reference.path = "/a/file".into();
    let body = |bytes: Vec<u8>, kind: u8| [&[kind | 0x40], &bytes[..bytes.len() - 32]].concat();
    let index = file("small/00000000.index".to_owned());
    let length = u16::try_from(index.len()).unwrap().to_le_bytes();
    let segment = [&[3], &length[..], &index, &file("small/00000000.data".to_owned())].concat();
    vec![
        ("bits", body(file(format!("partial/{hash}.bits")), 0)),
        ("reference", body(reference.encode(), 1)),
        ("pins", body(file("pins".to_owned()), 2)),
        ("segment", segment),
    ]
}

/// `AYNI_WRITE_CORPUS=1 cargo test -p ayni-storage --test it fuzz` writes the seeds as files.
#[test]
fn every_target_takes_its_seeds() {
    let mut seeds = vec![("snapshot", "three".to_owned(), snapshot())];
    for ((owner, payloads), number) in whole_logs().into_iter().zip(0x40..) {
        let whole = log(number, [0; 4], &payloads);
        assert_eq!(targets::logs(&whole), Some(false), "{owner}: whole and opened");
        let cut = log(number, [2, 250, 0, 0], &payloads);
        seeds.push(("logs", format!("{owner}-cut"), cut));
        let flipped = log(number, [1, 95, 0, 4], &payloads);
        seeds.push(("logs", format!("{owner}-flipped"), flipped));
        seeds.push(("logs", owner.to_owned(), whole));
    }
    let blobs = blob_files().into_iter();
    seeds.extend(blobs.map(|(kind, bytes)| ("blobs", kind.to_owned(), bytes)));
    for (name, seed, bytes) in seeds {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
            target(&bytes[..cut]);
        }
        if std::env::var_os("AYNI_WRITE_CORPUS").is_some() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(corpus(name).join(seed), bytes).unwrap();
        }
    }
}
