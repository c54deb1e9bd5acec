//! Pinned encodings: a change here breaks the hash of every collection, or the talk of peers.

use ayni_protocol::blobs::collection::{
    Chunk, Collection, CollectionFile, MediaType, RelativePath,
};
use ayni_protocol::blobs::wire::{Availability, BlobRequest, GetItem, Holdings, ItemHead, Want};
use ayni_protocol::blobs::{GroupRange, GroupRanges};
use ayni_protocol::codec::{self, Canonical};
use ayni_protocol::ids::ContentHash;

fn ranges(runs: &[(u64, u64)]) -> GroupRanges {
    runs.iter().map(|(start, end)| GroupRange::new(*start, *end).expect("not empty")).collect()
}

fn hex<T: Canonical + PartialEq + std::fmt::Debug>(value: &T) -> String {
    let bytes = codec::encode_checked(value).expect("within the bounds");
    assert_eq!(codec::decode::<T>(&bytes).as_ref(), Ok(value));
    // Hashes are long and the same everywhere.
    let hash = codec_hex(ContentHash::of(b"x").as_bytes());
    codec_hex(&bytes).replace(&hash, "<hash>")
}

fn codec_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const EXPECT_COLLECTIONS: [&str; 2] = [
    "19 bytes 6590356ca85926c3cfcaf56f3df308a36b1391baf738c684c343342920c51c48",
    "265 bytes 3a2555aca545c4e0a3e429d2ada3c9a1dee7941de07745cae86589950c6114c8",
];

#[test]
fn messages() {
    let hash = ContentHash::of(b"x");
    let start = Want::Start { whole_groups_max: 256 };
    let some = Want::Ranges(ranges(&[(0, 32), (64, 65_536)]));
    let items = [start, some].map(|want| GetItem { hash, want });
    assert_eq!(
        hex(&BlobRequest::Get(items.to_vec())),
        "0002<hash>00fb0001<hash>0102002040fc00000100"
    );
    assert_eq!(hex(&BlobRequest::Have(vec![hash])), "0101<hash>");
    assert_eq!(hex(&ItemHead::Missing), "00");
    assert_eq!(hex(&ItemHead::Busy), "01");
    assert_eq!(hex(&ItemHead::Found { size: 1 << 36 }), "02fd0000000010000000");
    assert_eq!(hex(&ItemHead::Absent), "03");
    let part = Availability::of(1 << 20, &ranges(&[(3, 5), (7, 9)]));
    let holdings = [Availability::None, Availability::All { size: 250 }, part];
    assert_eq!(
        hex(&Holdings::new(holdings)),
        "03000\
         1fa02fc000010000203050709"
            .replace(char::is_whitespace, "")
    );
}

#[test]
fn collections() {
    let file = |path: &str, media_type: &str, sizes: &[u64]| CollectionFile {
        path: RelativePath::new(path).expect("a good path"),
        bytes: sizes.iter().sum(),
        media_type: MediaType::new(media_type).expect("a media type"),
        chunks: sizes
            .iter()
            .map(|bytes| Chunk { hash: ContentHash::of(&bytes.to_le_bytes()), bytes: *bytes })
            .collect(),
    };
    let hash = |files: Vec<CollectionFile>| {
        let collection = Collection::new(files).expect("well formed");
        let encoded = collection.to_bytes().expect("small");
        assert_eq!(Collection::from_bytes(&encoded), Ok(collection));
        format!("{} bytes {}", encoded.len(), ContentHash::of(&encoded))
    };
    let files = vec![
        file("data/train.jsonl", "application/json", &[1 << 20, 300, 1 << 20]),
        file("data-empty", "application/octet-stream", &[]),
        file("Läsmich.txt", "text/plain", &[5]),
    ];
    assert_eq!([hash(vec![]), hash(files)], EXPECT_COLLECTIONS);
}
