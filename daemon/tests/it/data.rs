//! Blobs and folders between two nodes, through their interfaces, as people use them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cli::client::{ClientError, Pieces};
use protocol::api::{
    AddMode, AddRequest, BlobFilter, BlobQuery, BlobsQuery, ErrorCode, FetchPriority, GcRequest,
    GetRequest, JobResult, PinName, PinRequest, PublishRequest, RemoveRequest, UnpinRequest,
    UploadQuery, VerifyRequest,
};
use protocol::ids::ContentHash;
use tempfile::TempDir;

use crate::process::{Daemon, config, genesis, secrets};

/// Two nodes that know one another; the first one decides alone.
async fn two(folder: &Path) -> [Daemon; 2] {
    let keys = secrets(2);
    let genesis = genesis("data", &keys[..1]);
    let mut first = Daemon::new(&folder.join("first"), &keys[0], config(), Some(genesis.clone()));
    first.start().await;
    let status = first.until("an address", |status| !status.listen.is_empty()).await;
    let mut told = config();
    told.network.persistent_peers = status.listen;
    let mut second = Daemon::new(&folder.join("second"), &keys[1], told, Some(genesis));
    second.start().await;
    first.until("a peer", |status| status.peers == 1).await;
    second.until("a peer", |status| status.peers == 1).await;
    [first, second]
}

/// Bytes that cannot be compressed or shared by chance.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Every file below a folder.
fn read(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.symlink_metadata().expect("there").is_file() {
                let name = path.strip_prefix(folder).expect("below").display().to_string();
                files.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    files
}

fn add(path: &Path, name: Option<&str>) -> AddRequest {
    AddRequest {
        path: path.display().to_string(),
        mode: AddMode::Copy,
        name: name.map(|name| name.parse().expect("a name")),
        chunked: false,
        announce: true,
    }
}

fn get(hash: ContentHash, target: Option<&Path>) -> GetRequest {
    GetRequest {
        hash,
        providers: Vec::new(),
        bytes_max: None,
        target: target.map(|path| path.display().to_string()),
        force: false,
        pin: None,
        priority: FetchPriority::Normal,
    }
}

async fn added(node: &Daemon, request: &AddRequest) -> (ContentHash, JobResult) {
    let job = node.client.add_data(request).await.expect("started");
    let result = node.client.wait_job(job, |_| ()).await.expect("added");
    let JobResult::AddData { hash, .. } = result else { panic!("another result: {result:?}") };
    (hash, result)
}

/// Bytes fetched and bytes that were there.
async fn fetched(node: &Daemon, request: &GetRequest) -> (u64, u64) {
    let job = node.client.get_data(request).await.expect("started");
    let result = node.client.wait_job(job, |_| ()).await.expect("fetched");
    match result {
        JobResult::GetData { bytes_fetched, bytes_had, .. } => (bytes_fetched, bytes_had),
        other => panic!("another result: {other:?}"),
    }
}

/// Blobs removed, and kept.
async fn collected(node: &Daemon, dry_run: bool) -> (u64, u64) {
    let job = node.client.collect_garbage(&GcRequest { dry_run }).await.expect("started");
    match node.client.wait_job(job, |_| ()).await.expect("collected") {
        JobResult::GcData { blobs_removed, blobs_kept, .. } => (blobs_removed, blobs_kept),
        other => panic!("another result: {other:?}"),
    }
}

fn refusal<T>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Api(error)) => error.code,
        Err(other) => panic!("the node's own reason, not {other}"),
        Ok(_) => panic!("must be refused"),
    }
}

#[tokio::test]
async fn a_folder_travels_and_only_what_changed_travels_again() {
    let folder = TempDir::new().expect("a temporary folder");
    let [first, second] = two(folder.path()).await;
    let corpus = folder.path().join("corpus");
    fs::create_dir_all(corpus.join("deep/er")).expect("writable");
    let mut large = noise(1, 12 << 20);
    for (name, bytes) in
        [("large", &large[..]), ("small", b"text"), ("deep/er/b.txt", b"x"), ("empty", b"")]
    {
        fs::write(corpus.join(name), bytes).expect("writable");
    }
    std::os::unix::fs::symlink("/etc/hostname", corpus.join("link")).expect("writable");
    let (hash, result) = added(&first, &add(&corpus, Some("corpus"))).await;
    let JobResult::AddData { files, bytes, collection, files_skipped, announced, .. } = result
    else {
        panic!("another result: {result:?}")
    };
    assert_eq!((files, collection, files_skipped, announced), (4, true, 1, true));

    let target = folder.path().join("copy");
    let job = second.client.get_data(&get(hash, Some(&target))).await.expect("started");
    let result = second.client.wait_job(job, |_| ()).await.expect("fetched");
    let JobResult::GetData { bytes: size, bytes_fetched, bytes_had, sources, pin, .. } = result
    else {
        panic!("another result: {result:?}")
    };
    assert_eq!((size, bytes_had, pin), (bytes, 0, None));
    assert!(bytes_fetched >= bytes, "the list of files is counted, too");
    assert_eq!(sources[0].node, first.client.status().await.expect("running").node);
    assert_eq!(read(&target), read(&corpus));
    // What exists is not replaced; nothing is fetched twice.
    assert_eq!(
        refusal(second.client.get_data(&get(hash, Some(&target))).await),
        ErrorCode::Conflict
    );
    let again = GetRequest { force: true, ..get(hash, Some(&target)) };
    assert_eq!(fetched(&second, &again).await.0, 0);
    fs::write(target.join("mine"), "x").expect("writable");
    let job = second.client.get_data(&again).await.expect("started");
    let refused = second.client.wait_job(job, |_| ()).await;
    assert_eq!(refusal(refused), ErrorCode::Conflict, "a foreign file is not lost");

    // A byte in the middle and some at the start: most chunks are the same.
    large[6 << 20] ^= 1;
    large.splice(..0, *b"inserted");
    fs::write(corpus.join("large"), &large).expect("writable");
    let (changed, _) = added(&first, &add(&corpus, Some("corpus"))).await;
    let target = folder.path().join("second copy");
    let (new, had) = fetched(&second, &get(changed, Some(&target))).await;
    assert!(new < had, "{new} bytes fetched, {had} were there");
    assert_eq!(read(&target), read(&corpus));
}

#[tokio::test]
async fn what_nobody_keeps_goes_and_what_is_needed_stays() {
    let folder = TempDir::new().expect("a temporary folder");
    let [mut first, second] = two(folder.path()).await;
    let file = folder.path().join("file");
    let bytes = noise(2, 3 << 20);
    fs::write(&file, &bytes).expect("writable");
    let (hash, _) = added(&first, &add(&file, None)).await;
    assert_eq!(hash, ContentHash::of(&bytes));
    // Fetched to a file: it stays in the store until garbage is collected.
    let out = folder.path().join("out");
    let job = second.client.get_data(&get(hash, Some(&out))).await.expect("started");
    let result = second.client.wait_job(job, |_| ()).await.expect("fetched");
    let JobResult::GetData { bytes_fetched, bytes_had, sources, .. } = result else {
        panic!("another result: {result:?}")
    };
    assert_eq!((bytes_fetched, bytes_had), (3 << 20, 0));
    assert_eq!((sources.len(), sources[0].bytes), (1, 3 << 20));
    assert_eq!(fs::read(&out).expect("there"), bytes);
    assert_eq!(fetched(&second, &get(hash, None)).await, (0, 3 << 20), "pinned now");
    assert_eq!(collected(&second, true).await, (0, 1));
    let pin = PinName::from(hash);
    let gone = second.client.unpin(&UnpinRequest { pin: pin.clone() }).await.expect("pinned");
    assert_eq!(gone.pins.len(), 1);
    assert_eq!(refusal(second.client.unpin(&UnpinRequest { pin }).await), ErrorCode::NotFound);
    assert_eq!(collected(&second, true).await, (1, 0));
    assert_eq!(
        second.client.show_blob(hash, BlobQuery::default()).await.expect("there").bytes,
        3 << 20
    );
    assert_eq!(collected(&second, false).await, (1, 0));
    let none = second.client.show_blob(hash, BlobQuery::default()).await;
    assert_eq!(refusal(none), ErrorCode::NotFound);
    let found = second.client.providers(hash).await.expect("asked").providers;
    assert_eq!((found.len(), found[0].bytes_held), (1, 3 << 20));

    // A dataset on the ledger, and its shards, are needed without a pin.
    let texts = folder.path().join("texts");
    fs::create_dir(&texts).expect("writable");
    fs::write(texts.join("a.txt"), "words ".repeat(40_000)).expect("writable");
    let request = PublishRequest {
        name: "words".to_owned(),
        licence: "MIT".to_owned(),
        path: texts.display().to_string(),
        ingest: None,
    };
    let job = first.client.publish(&request).await.expect("started");
    first.client.wait_job(job, |_| ()).await.expect("published");
    let unpin = UnpinRequest { pin: "dataset:words".parse().expect("a name") };
    let manifest = first.client.unpin(&unpin).await.expect("pinned").pins[0].hash;
    let (removed, kept) = collected(&first, false).await;
    assert_eq!((removed, kept), (0, 3), "the file, the manifest, the shard");
    let shown = first.client.show_blob(manifest, BlobQuery::default()).await.expect("there");
    assert!(shown.needed && shown.pins.is_empty());
    let remove = RemoveRequest { hash: manifest, force: true };
    assert_eq!(refusal(first.client.remove_blob(&remove).await), ErrorCode::Conflict);

    // Pins and announcements outlive the process.
    first.stop().await;
    first.start().await;
    let pins = BlobsQuery { only: Some(BlobFilter::Pins), ..BlobsQuery::default() };
    let listed = first.client.list_blobs(&pins).await.expect("running").blobs;
    assert_eq!((listed.len(), listed[0].hash, listed[0].pins[0].announced), (1, hash, true));
}

#[tokio::test]
async fn a_collection_is_removed_with_the_chunks_that_nothing_else_needs() {
    let folder = TempDir::new().expect("a temporary folder");
    let keys = secrets(1);
    let genesis = genesis("rm", &keys);
    let mut node = Daemon::new(&folder.path().join("node"), &keys[0], config(), Some(genesis));
    node.start().await;
    let client = &node.client;
    let make = |name: &str, files: &[(&str, &[u8])]| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("writable");
        for (name, bytes) in files {
            fs::write(path.join(name), bytes).expect("writable");
        }
        path
    };
    let one = make("one", &[("shared", b"both have it"), ("own", b"the first")]);
    let two = make("two", &[("shared", b"both have it"), ("own", b"the second")]);
    let (one, _) = added(&node, &add(&one, Some("one"))).await;
    let (two, _) = added(&node, &add(&two, Some("two"))).await;
    let shared = ContentHash::of(b"both have it");
    let remove = |hash, force| RemoveRequest { hash, force };
    assert_eq!(refusal(client.remove_blob(&remove(one, false)).await), ErrorCode::Conflict);
    assert_eq!(refusal(client.remove_blob(&remove(shared, true)).await), ErrorCode::Conflict);
    let removed = client.remove_blob(&remove(one, true)).await.expect("forced");
    assert_eq!((removed.blobs, removed.pins.len()), (2, 1), "the list and one chunk");
    let left = client.show_blob(two, BlobQuery::default()).await.expect("there");
    let inside = left.collection.expect("a collection");
    assert_eq!((inside.files, inside.chunks, inside.chunks_here), (2, 2, 2));
    let only = BlobsQuery { only: Some(BlobFilter::Collections), ..BlobsQuery::default() };
    let listed = client.list_blobs(&only).await.expect("running");
    assert_eq!((listed.blobs.len(), listed.blobs[0].hash, listed.blobs_stored), (1, two, 3));

    // Bytes that are sent are a blob like any other.
    let body = Pieces::new(std::io::Cursor::new(noise(3, 5 << 20)), |_| ());
    let sent = client.upload(&UploadQuery::default(), body).await.expect("room");
    assert_eq!(sent.hash, ContentHash::of(&noise(3, 5 << 20)));
    let request = PinRequest { hash: sent.hash, name: None, lease_s: None, announce: false };
    assert!(client.pin(&request).await.expect("there").announced, "as it was sent");
    let request = PinRequest { hash: one, name: None, lease_s: None, announce: false };
    assert_eq!(refusal(client.pin(&request).await), ErrorCode::NotFound);
    let verify = VerifyRequest { hash: None, repair: false };
    let job = client.verify_data(&verify).await.expect("started");
    let result = client.wait_job(job, |_| ()).await.expect("read");
    assert!(matches!(result, JobResult::VerifyData { blobs: 4, damages: 0, .. }), "{result:?}");
}

#[tokio::test]
async fn a_quota_is_a_clear_refusal_and_the_fetch_goes_on_with_more_room() {
    let folder = TempDir::new().expect("a temporary folder");
    let [first, mut second] = two(folder.path()).await;
    let file = folder.path().join("file");
    fs::write(&file, noise(4, 6 << 20)).expect("writable");
    let (hash, _) = added(&first, &add(&file, None)).await;
    let mut small = config();
    small.network.persistent_peers = first.client.status().await.expect("running").listen;
    small.blobs.quota_bytes = 1 << 20;
    second.stop().await;
    second.configure(&small);
    second.start().await;
    second.until("a peer", |status| status.peers == 1).await;
    let job = second.client.get_data(&get(hash, None)).await.expect("started");
    let error = second.client.wait_job(job, |_| ()).await.expect_err("no room");
    assert!(error.to_string().contains("quota"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("quota_bytes")), "{error:?}");
    second.stop().await;
    small.blobs.quota_bytes = 0;
    second.configure(&small);
    second.start().await;
    second.until("a peer", |status| status.peers == 1).await;
    assert_eq!(fetched(&second, &get(hash, None)).await.0, 6 << 20);
}
