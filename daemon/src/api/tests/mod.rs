//! The server over a real socket, asked by the real client, before a small backend.

mod backend;
mod data;

use std::sync::Arc;

use bytes::Bytes;
use cli::client::{Client, ClientError};
use protocol::amount::{Credits, Height};
use protocol::api::{
    BlockRef, BlocksQuery, ErrorCode, EvaluateRequest, GenerateDone, GenerateEvent,
    GenerateRequest, HeadChoice, HistoryQuery, JobId, JobState, ModelRef, NodeEvent,
    PrivateRequest, ProofQuery, ProposalQuery, ProposalsQuery, SendRequest, StakeRequest,
    ValidatorsQuery,
};
use protocol::ids::{AccountId, BlockHash, ContentHash, HeadId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::backend::Sample;
use super::{Server, ServerOptions};

struct Running {
    client: Client,
    backend: Arc<Sample>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    dir: TempDir,
}

/// A server for the user with id `uid`, or for the user who runs the tests.
fn start(uid: Option<u32>) -> Running {
    let dir = tempfile::tempdir().expect("temporary folder");
    let options = ServerOptions {
        socket: dir.path().join("run/ayni.sock"),
        note: Some(dir.path().join("socket")),
        group_read: false,
    };
    let mut server = Server::bind(&options).expect("free path");
    server.access.own_uid = uid.unwrap_or(server.access.own_uid);
    let shutdown = CancellationToken::new();
    let backend = Arc::new(Sample::new(shutdown.clone()));
    let serving = tokio::spawn(server.serve(Arc::clone(&backend), shutdown.clone()));
    Running { client: Client::new(options.socket), backend, shutdown, serving, dir }
}

impl Running {
    /// Sends `text` as it is and reads all of the answer.
    async fn raw(&self, text: &str) -> String {
        let mut stream = UnixStream::connect(self.client.socket()).await.expect("listening");
        let mut answer = Vec::new();
        // A body that is too large is refused unread: then sending it fails, or the connection
        // is reset after the answer. What counts is the answer.
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.serving.await.expect("the server must not fail");
        assert!(!self.client.socket().exists(), "the socket is removed");
        assert!(!self.dir.path().join("socket").exists(), "the note is removed");
    }
}

fn code<T>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(error) => error.code().expect("the node's own reason"),
        Ok(_) => panic!("must be refused"),
    }
}

fn generate(prompt: &str) -> GenerateRequest {
    let head = HeadChoice::Latest;
    GenerateRequest {
        prompt: prompt.to_owned(),
        bytes: 9,
        temperature_ppm: 0,
        top_p_ppm: 1_000_000,
        stop: Vec::new(),
        seed: 1,
        head,
    }
}

#[tokio::test]
async fn queries_bodies_and_paths_reach_the_backend_and_replies_come_back() {
    let node = start(None);
    let status = node.client.status().await.expect("running");
    assert_eq!(status, backend::status());
    let range = BlocksQuery { from: Some(Height::new(7)), limit: Some(3) };
    node.client.blocks(range).await.expect("sample");
    let hash = BlockHash::from_bytes([0x11; 32]);
    assert_eq!(code(node.client.block(Height::new(9)).await), ErrorCode::NotFound);
    assert_eq!(code(node.client.block(BlockRef::Hash(hash)).await), ErrorCode::NotFound);
    let before = "8:2".parse().expect("a cursor");
    let query = HistoryQuery { account: None, before: Some(before), limit: Some(1_000) };
    let page = node.client.history(query).await.expect("sample");
    assert_eq!(page.older, Some(before));
    let next = ValidatorsQuery { height: Some(Height::new(5)) };
    assert_eq!(code(node.client.validators(next).await), ErrorCode::NotFound);
    let request = StakeRequest::Claim { node: None };
    assert_eq!(code(node.client.stake(&request).await), ErrorCode::Conflict);
    let all = ProposalsQuery { all: true, ..ProposalsQuery::default() };
    assert_eq!(code(node.client.proposals(all).await), ErrorCode::NotFound);
    let page = ProposalQuery { skip: Some(3), limit: Some(1_000) };
    assert_eq!(code(node.client.proposal(4, page).await), ErrorCode::NotFound);
    let from = ProofQuery { trusted_height: Some(Height::new(6)), ..ProofQuery::default() };
    assert_eq!(code(node.client.proof(from).await), ErrorCode::NotFound);
    let expect = [
        "blocks Some(Height(7)) 3".to_owned(),
        "block 9".to_owned(),
        format!("block {hash}"),
        "history Some(\"8:2\") 100".to_owned(),
        "validators Some(Height(5))".to_owned(),
        "Claim { node: None }".to_owned(),
        "proposals true 20".to_owned(),
        "proposal 4 Some(3) 256".to_owned(),
        "proof from Some(Height(6))".to_owned(),
    ];
    assert_eq!(node.backend.seen(), expect);
    let rules = node.client.parameters().await.expect("sample");
    assert!(rules.parameters.iter().any(|of| of.name == "quorum_ppm" && of.value > 0));
    let account = AccountId::from_bytes([5; 32]);
    let balance = node.client.balance(Some(account)).await.expect("sample");
    assert_eq!(balance.account, account);
    let receipt = node.client.store_blob(Bytes::from_static(b"text")).await.expect("sample");
    assert_eq!((receipt.hash, receipt.bytes), (ContentHash::of(b"text"), 4));
    assert_eq!(node.client.genesis().await.expect("sample"), Bytes::from_static(b"{}"));
    assert_eq!(node.client.join_string().await.expect("sample"), backend::join());
    node.end().await;
}

#[tokio::test]
async fn refusals_keep_code_message_and_hint() {
    let node = start(None);
    let request = SendRequest { to: AccountId::default(), amount_micro: Credits::from_micro(1) };
    let error = node.client.send(&request).await.expect_err("sample has no credits");
    assert_eq!(error.code(), Some(ErrorCode::InsufficientFunds));
    assert_eq!((error.exit_code(), error.hint().as_deref()), (7, Some("earn some")));
    let ClientError::Api(refusal) = &error else { panic!("the node's own reason") };
    assert_eq!(refusal.rejection.as_deref(), Some("insufficient_funds"));
    let model = ModelRef::Name("none".to_owned());
    assert_eq!(code(node.client.model(&model).await), ErrorCode::NotFound);
    assert_eq!(code(node.client.job(JobId::new(9)).await), ErrorCode::NotFound);
    assert_eq!(code(node.client.peers().await), ErrorCode::Internal, "a fault is caught");
    let relative = PrivateRequest { path: "texts".to_owned() };
    assert_eq!(code(node.client.set_private(&relative).await), ErrorCode::BadRequest);
    assert_eq!(code(node.client.store_blob(Bytes::new()).await), ErrorCode::BadRequest);
    let long = generate(&"x".repeat(protocol::limits::PROMPT_BYTES_MAX + 1));
    assert_eq!(code(node.client.generate(&model, &long).await), ErrorCode::BadRequest);
    let huge = generate(&"x".repeat(4 << 20));
    assert_eq!(code(node.client.generate(&model, &huge).await), ErrorCode::BadRequest);
    assert!(node.client.status().await.is_ok(), "none of it did harm");
    node.end().await;
}

#[tokio::test]
async fn malformed_requests_get_an_explanation() {
    let node = start(None);
    let check = async |request: &str, status: &str, expect: &str| {
        let (head, body) = request.split_once('|').unwrap_or((request, ""));
        let length = body.len();
        let text = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let answer = node.raw(&text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains(r#"{"error":{"code":""#), "{request}: {answer}");
        assert!(answer.contains(expect), "{request}: {answer}");
    };
    check("GET /v1/nothing", "404", "no such path").await;
    check("PUT /v1/status", "400", "HTTP method").await;
    check("POST /v1/credits/send|{", "400", "EOF").await;
    check(r#"POST /v1/train/join|{"model":"a","x":1}"#, "400", "unknown field").await;
    check(r#"POST /v1/train/join|{"model":"A b"}"#, "400", "neither a model id").await;
    check("GET /v1/chain/blocks?limit=x", "400", "limit").await;
    check("GET /v1/chain/blocks?lmit=1", "400", "unknown field").await;
    check("GET /v1/chain/block/-1", "400", "in the path").await;
    check("GET /v1/chain/tx/12", "400", "64 hexadecimal digits").await;
    check(r#"POST /v1/credits/stake|{"action":"steal"}"#, "400", "unknown variant").await;
    check(r#"POST /v1/credits/stake|{"action":"unjail","to":1}"#, "400", "unknown field").await;
    check(r#"POST /v1/governance/proposals|{"title":"t"}"#, "400", "change").await;
    check("GET /v1/governance/proposals/x", "400", "in the path").await;
    check("GET /v1/governance/proposals?all=maybe", "400", "all").await;
    check("GET /v1/credits/proof?trusted_height=1&trusted_hash=0", "400", "hexadecimal").await;
    check("GET /v1/credits/history?before=x", "400", "no place in the history").await;
    check("GET /v1/models/..%2Fx", "400", "in the path").await;
    let large = format!(r#"POST /v1/train/join|{{"model":"{}"}}"#, "a".repeat(2 << 20));
    check(&large, "400", "larger than").await;
    let answer = node.raw("nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    node.end().await;
}

#[tokio::test]
async fn only_the_nodes_own_user_names_paths() {
    // The user who runs the tests is then somebody else: root, who may do all but this, or
    // a user who may do nothing.
    let node = start(Some(u32::MAX - 7));
    let request = PrivateRequest { path: "/texts".to_owned() };
    assert_eq!(code(node.client.set_private(&request).await), ErrorCode::Denied);
    let root = rustix::process::geteuid().is_root();
    assert_eq!(node.client.status().await.is_ok(), root);
    node.end().await;
}

#[tokio::test]
async fn text_streams_whole_characters_and_ends_with_done() {
    let node = start(None);
    let model = ModelRef::Name("tiny".to_owned());
    let mut events = node.client.generate(&model, &generate("a")).await.expect("a stream");
    let mut text = String::new();
    let done = loop {
        match events.next().await.expect("not over").expect("well formed") {
            GenerateEvent::Text { text: piece } => text += &piece,
            other => break other,
        }
    };
    assert_eq!(text, "aé€");
    let expect = GenerateDone { head: HeadId::default(), bytes: 6, elapsed_ms: 1 };
    assert_eq!(done, GenerateEvent::Done(expect));
    assert!(events.next().await.is_none());

    // A worker that dies half-way.
    let mut events = node.client.generate(&model, &generate("die")).await.expect("a stream");
    let first = events.next().await.expect("not over").expect("well formed");
    assert_eq!(first, GenerateEvent::Text { text: "die".to_owned() });
    let last = events.next().await.expect("not over").expect("well formed");
    assert!(matches!(last, GenerateEvent::Error(e) if e.code == ErrorCode::Unavailable));
    node.end().await;
}

#[tokio::test]
async fn jobs_are_followed_to_their_end_and_cancelled() {
    let node = start(None);
    let model = ModelRef::Name("tiny".to_owned());
    let quick = EvaluateRequest { head: HeadChoice::Latest, windows: 2 };
    let job = node.client.evaluate(&model, &quick).await.expect("started");
    let mut states = Vec::new();
    let result = node.client.wait_job(job, |status| states.push(status.state)).await;
    assert_eq!(result.expect("done"), backend::evaluated());
    assert_eq!(states.last(), Some(&JobState::Done));

    let endless = EvaluateRequest { head: HeadChoice::Latest, windows: 0 };
    let job = node.client.evaluate(&model, &endless).await.expect("started");
    assert_eq!(node.client.job(job).await.expect("known").state, JobState::Running);
    let mut events = node.client.job_events(job).await.expect("a stream");
    let first = events.next().await.expect("the status now").expect("well formed");
    assert_eq!(first.state, JobState::Running);
    assert_eq!(node.client.cancel_job(job).await.expect("known").state, JobState::Cancelled);
    let last = events.next().await.expect("the end").expect("well formed");
    assert_eq!(last.state, JobState::Cancelled);
    assert!(events.next().await.is_none());
    node.end().await;
}

#[tokio::test]
async fn stopping_ends_streams_and_then_nobody_answers() {
    let node = start(None);
    let mut events = node.client.events().await.expect("a stream");
    let event = events.next().await.expect("one event").expect("well formed");
    assert_eq!(event, NodeEvent::Missed { events: 3 });
    node.client.stop().await.expect("asked");
    assert!(events.next().await.is_none(), "the stream ends with the node");
    node.serving.await.expect("the server must not fail");
    assert!(matches!(node.client.status().await, Err(ClientError::Down { .. })));
}
