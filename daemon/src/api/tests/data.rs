//! The routes of data.

use std::io::{Cursor, Read};

use cli::client::Pieces;
use protocol::api::{
    AddMode, AddRequest, BlobFilter, BlobQuery, BlobsQuery, ErrorCode, FetchPriority, GcRequest,
    GetRequest, JobState, PinRequest, RemoveRequest, UploadQuery, VerifyRequest,
};
use protocol::ids::ContentHash;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{backend, code, start};

fn get(target: Option<&str>) -> GetRequest {
    GetRequest {
        hash: ContentHash::of(b"x"),
        providers: Vec::new(),
        bytes_max: None,
        target: target.map(str::to_owned),
        force: false,
        pin: None,
        priority: FetchPriority::Urgent,
    }
}

#[tokio::test]
async fn requests_reach_the_backend_as_they_were_made() {
    let node = start(None);
    let hash = ContentHash::of(b"x");
    let add = AddRequest {
        path: "/a".to_owned(),
        mode: AddMode::Reflink,
        name: Some("n".parse().expect("a name")),
        chunked: false,
        announce: false,
    };
    assert_eq!(code(node.client.add_data(&add).await), ErrorCode::NotFound);
    let page = BlobsQuery { only: Some(BlobFilter::Pins), after: Some(hash), limit: Some(2) };
    node.client.list_blobs(&page).await.expect("sample");
    let shown = node.client.show_blob(hash, BlobQuery { files: Some(3) }).await;
    assert_eq!(code(shown), ErrorCode::NotFound);
    let remove = RemoveRequest { hash, force: true };
    assert_eq!(code(node.client.remove_blob(&remove).await), ErrorCode::Conflict);
    let gc = GcRequest { dry_run: true };
    assert_eq!(code(node.client.collect_garbage(&gc).await), ErrorCode::NotFound);
    let verify = VerifyRequest { hash: None, repair: true };
    assert_eq!(code(node.client.verify_data(&verify).await), ErrorCode::NotFound);
    assert!(node.client.providers(hash).await.expect("sample").providers.is_empty());
    let expect = [
        format!("add {add:?}"),
        format!("blobs {page:?}"),
        format!("blob {hash} Some(3)"),
        format!("rm {hash} true"),
        "gc true".to_owned(),
        "verify false true".to_owned(),
    ];
    assert_eq!(node.backend.seen(), expect);
    let request = PinRequest { hash, name: None, lease_s: Some(9), announce: true };
    let pin = node.client.pin(&request).await.expect("sample");
    assert_eq!((pin.name.to_string(), pin.until_s), (hash.to_string(), Some(9)));
    node.end().await;
}

#[tokio::test]
async fn a_fetch_is_followed_with_its_sources_and_cancelled() {
    let node = start(None);
    let job = node.client.get_data(&get(Some("/out"))).await.expect("started");
    let mut sources = Vec::new();
    let result = node.client.wait_job(job, |status| sources.clone_from(&status.progress.sources));
    assert_eq!(result.await.expect("done"), backend::got(ContentHash::of(b"x")));
    assert_eq!((sources.len(), sources[0].bytes, sources[0].bytes_per_s), (1, 5, 6));
    let job = node.client.get_data(&get(None)).await.expect("started");
    assert_eq!(node.client.cancel_job(job).await.expect("known").state, JobState::Cancelled);
    node.end().await;
}

#[tokio::test]
async fn only_the_nodes_own_user_names_paths_of_data() {
    let relative = get(Some("out"));
    let node = start(None);
    assert_eq!(code(node.client.get_data(&relative).await), ErrorCode::BadRequest);
    node.end().await;
    // The user who runs the tests is then somebody else: root, or a user who may do nothing.
    let node = start(Some(u32::MAX - 7));
    let add = AddRequest {
        path: "/a".to_owned(),
        mode: AddMode::InPlace,
        name: None,
        chunked: false,
        announce: true,
    };
    assert_eq!(code(node.client.add_data(&add).await), ErrorCode::Denied);
    assert_eq!(code(node.client.get_data(&get(Some("/out"))).await), ErrorCode::Denied);
    let is_root = rustix::process::geteuid().is_root();
    let body = Pieces::new(Cursor::new("x"), |_| ());
    let sent = node.client.upload(&UploadQuery::default(), body).await;
    assert_eq!(sent.is_ok(), is_root, "bytes need no path");
    assert_eq!(node.client.get_data(&get(None)).await.is_ok(), is_root);
    node.end().await;
}

#[tokio::test]
async fn uploads_of_any_size_come_piece_by_piece() {
    // Larger than any other body may be.
    const BYTES: u64 = 40 << 20;
    let node = start(None);
    let options = UploadQuery {
        name: Some("a:b/c".parse().expect("a name")),
        announce: Some(false),
        bytes: Some(BYTES),
    };
    let body = Pieces::new(std::io::repeat(7).take(BYTES), |_| ());
    let receipt = node.client.upload(&options, body).await.expect("sample");
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::io::repeat(7).take(BYTES)).expect("memory");
    assert_eq!(receipt.hash, ContentHash::from_bytes(*hasher.finalize().as_bytes()));
    assert_eq!(receipt.bytes, BYTES);
    assert_eq!(node.backend.seen(), [format!("upload {options:?}")]);
    node.end().await;
}

#[tokio::test]
async fn an_upload_that_is_cut_off_is_no_blob() {
    let node = start(None);
    let mut stream = UnixStream::connect(node.client.socket()).await.expect("listening");
    let head = "POST /v1/data/upload HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.expect("listening");
    stream.shutdown().await.expect("listening");
    let mut answer = Vec::new();
    // The server may close without an answer.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    assert!(!node.backend.seen().iter().any(|call| call.starts_with("upload Up")));
    let head = "POST /v1/data/upload?name=a%20b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let name = node.raw(head).await;
    assert!(name.starts_with("HTTP/1.1 400") && name.contains("a pin's name"), "{name}");
    node.end().await;
}
