//! Replays the corpus of every fuzz target of blobs.

#![expect(clippy::disallowed_methods, reason = "the corpus lies in files")]

use std::fs;
use std::path::PathBuf;

use ayni_protocol::blobs::collection::{
    Chunk, Collection, CollectionFile, MediaType, RelativePath,
};
use ayni_protocol::blobs::wire::{Availability, BlobRequest, GetItem, Holdings, ItemHead, Want};
use ayni_protocol::blobs::{GroupRange, GroupRanges};
use ayni_protocol::codec;
use ayni_protocol::ids::ContentHash;

#[path = "../../../fuzz/src/blobs.rs"]
mod blobs;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 4] = [
    ("blob_request", blobs::blob_request),
    ("blob_holdings", blobs::blob_holdings),
    ("collection", blobs::collection),
    ("schedule", blobs::schedule),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_does_no_harm() {
    for (name, target) in TARGETS {
        let folder = corpus(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has a corpus");
        for file in files {
            target(&fs::read(&file).expect("a readable file"));
        }
    }
}

/// What the fuzzer starts from: something valid for every target.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let hash = ContentHash::of(b"x");
    let ranges: GroupRanges =
        [(3, 5), (30, 100)].iter().filter_map(|(from, to)| GroupRange::new(*from, *to)).collect();
    let wants = [Want::Start { whole_groups_max: 256 }, Want::Ranges(ranges.clone())];
    let items = wants.map(|want| GetItem { hash, want });
    let part = Availability::of(1 << 21, &ranges);
    let holdings = Holdings::new([Availability::None, Availability::All { size: 300 }, part]);
    let file = |path: &str, chunks: Vec<Chunk>| CollectionFile {
        path: RelativePath::new(path).expect("a good path"),
        bytes: chunks.iter().map(|chunk| chunk.bytes).sum(),
        media_type: MediaType::default(),
        chunks,
    };
    let chunk = Chunk { hash, bytes: 300 };
    let files = vec![file("a/b", vec![chunk; 2]), file("a-b", vec![]), file("c", vec![chunk])];
    let collection = Collection::new(files).expect("well formed").to_bytes().expect("small");
    // Two peers join, parts come, a request breaks, one lies, time passes.
    let script = [
        [0, 0, 0, 255, 1],
        [0, 1, 1, 100, 1],
        [4, 0, 0, 0, 9],
        [4, 1, 0, 0, 9],
        [6, 0, 0, 0, 9],
        [4, 1, 3, 0, 30],
        [6, 0, 1, 0, 9],
        [9, 0, 0, 0, 90],
        [6, 1, 5, 0, 9],
        [2, 0, 0, 0, 200],
    ];
    vec![
        ("blob_request", "get", codec::encode(&BlobRequest::Get(items.to_vec()))),
        ("blob_request", "have", codec::encode(&BlobRequest::Have(vec![hash; 2]))),
        ("blob_holdings", "three", codec::encode(&holdings)),
        ("blob_holdings", "found", codec::encode(&ItemHead::Found { size: 1 << 30 })),
        ("collection", "files", collection),
        ("schedule", "script", script.concat()),
    ]
}

/// `AYNI_WRITE_CORPUS=1 cargo test -p ayni-protocol --test it blobs::fuzz` writes the seeds.
#[test]
fn every_target_takes_its_seeds() {
    for (name, seed, bytes) in seeds() {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
        target(&bytes);
        for cut in [1, bytes.len() / 2, bytes.len() - 1] {
            target(&bytes[..cut]);
        }
        if std::env::var_os("AYNI_WRITE_CORPUS").is_some() {
            fs::create_dir_all(corpus(name)).expect("a folder");
            fs::write(corpus(name).join(seed), bytes).expect("a seed");
        }
    }
}
