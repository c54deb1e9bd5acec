//! What a person can get wrong: each mistake gets a message that says what and how to mend it,
//! and leaves nothing half done.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cli::client::ClientError;
use protocol::amount::{Credits, Height};
use protocol::api::{
    ApiError, CreateModelRequest, ErrorCode, ModelOrigin, PrivateRequest, PublishRequest,
    SendRequest,
};
use protocol::config::Config;
use protocol::home::{Home, KeyName};
use protocol::ids::{AccountId, ContentHash};
use protocol::join::JoinString;
use protocol::model::Architecture;
use tempfile::TempDir;

use crate::process::{BALANCE, Daemon, config, genesis, secrets};

/// A node that is the only validator of its network; not started.
fn alone(folder: &TempDir, config: Config) -> Daemon {
    let keys = secrets(1);
    let genesis = genesis("alone", &keys);
    Daemon::new(&folder.path().join("node"), &keys[0], config, Some(genesis))
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Folders whose files are a database's own bookkeeping, which opening it may change.
const DATABASES: [&str; 3] = ["state", "validators", "history"];

/// Every file of a home with its bytes, but for what a start may change: the log, the locks, and
/// the bookkeeping of the databases.
fn files(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    fn visit(path: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(path).expect("a folder") {
            let entry = entry.expect("readable");
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && DATABASES.iter().any(|database| name == *database) {
                continue;
            } else if path.is_dir() {
                visit(&path, found);
            } else if name != "aynid.log" && name != "LOCK" && name != "signatures.log.lock" {
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(home.root(), &mut found);
    found
}

/// The daemon must refuse with exit code 1 and say all of `words`, on standard error; the home
/// must stay as it is.
async fn refused(node: &Daemon, words: &[&str]) {
    let before = files(&node.home);
    let (status, said) = node.refuses().await;
    assert_eq!(status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let after = files(&node.home);
    let changed: Vec<_> =
        after.iter().filter(|(at, b)| before.get(*at) != Some(b)).map(|(at, _)| at).collect();
    assert!(changed.is_empty(), "something is half done: {changed:?}");
    assert!(before.keys().all(|path| after.contains_key(path)), "something is gone");
}

#[tokio::test]
async fn a_configuration_with_a_mistake() {
    let folder = folder();
    let node = alone(&folder, config());
    let check = async |text: &str, words: &[&str]| {
        fs::write(node.home.config(), text).expect("writable");
        let path = node.home.config().display().to_string();
        refused(&node, &[words, &[path.as_str()]].concat()).await;
    };
    check("[network]\nlistn = []\n", &["unknown field `listn`", "line 2", "listen"]).await;
    check("[netwrk]\n", &["unknown field `netwrk`", "network"]).await;
    check("[worker]\nthreads = 0\n", &["[worker] threads", "1 to 1,024"]).await;
    check("[worker]\nthreads = \"two\"\n", &["line 2", "invalid type"]).await;
    check("[network]\nlisten = [\"localhost:1\"]\n", &["[network] listen", "for example"]).await;
    check("[network]\njoin = \"ayni:12\"\n", &["[network] join"]).await;
    check("[network\n", &["line 1"]).await;
    check("[log]\nlevel = \"info,=x=\"\n", &["[log]", "level"]).await;
    fs::remove_file(node.home.config()).expect("it was there");
    refused(&node, &["config.toml", "ayni --home DIR init"]).await;
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let folder = folder();
    let mut taken = config();
    let mut node = alone(&folder, taken.clone());
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = |address: std::io::Result<SocketAddr>| address.expect("bound").port();
    let udp_address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", port(udp.local_addr()));
    let tcp_address = format!("/ip4/127.0.0.1/tcp/{}", port(tcp.local_addr()));
    // The ledger is opened before the port: let it be there already.
    node.start().await;
    node.stop().await;
    for address in [udp_address, tcp_address] {
        taken.network.listen = vec![address.clone()];
        node.configure(&taken);
        let words = ["Address already in use", &address, "`listen` under [network]"];
        refused(&node, &words).await;
    }
}

/// The transport shares its TCP ports with other processes of the same user: the daemon must not.
#[tokio::test]
async fn a_tcp_port_that_another_daemon_has() {
    let (one, two) = (folder(), folder());
    let mut tcp = config();
    tcp.network.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    let mut first = alone(&one, tcp.clone());
    first.start().await;
    let listens = first.until("an address", |status| !status.listen.is_empty()).await.listen;
    let address = listens[0].split("/p2p/").next().expect("an address").to_owned();
    tcp.network.listen = vec![address.clone()];
    let mut second = alone(&two, config());
    second.start().await;
    second.stop().await;
    second.configure(&tcp);
    refused(&second, &["already in use", &address, "`listen` under [network]"]).await;
    first.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_used() {
    let folder = folder();
    let node = alone(&folder, config());
    let path = node.home.key(KeyName::Consensus);
    let good = fs::read(&path).expect("a key");
    let shown = path.display().to_string();

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
    refused(&node, &[&shown, "can be read by others", "chmod 600"]).await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");

    let secret = String::from_utf8(good[..40].to_vec()).expect("digits");
    let foreign = ["", secret.as_str(), "not a key at all\n"];
    for bytes in foreign.map(str::as_bytes).into_iter().chain([[0xFF; 65].as_slice()]) {
        fs::write(&path, bytes).expect("writable");
        refused(&node, &[&shown, "corrupt", "ayni keys import"]).await;
    }
    assert!(!node.log().contains(&secret), "a message quotes a key");
    fs::remove_file(&path).expect("it was there");
    refused(&node, &[&shown, "consensus key", "ayni keys import"]).await;
}

#[tokio::test]
async fn a_home_without_a_network() {
    let folder = folder();
    let node = Daemon::new(&folder.path().join("node"), &secrets(1)[0], config(), None);
    refused(&node, &["no network", "join string", "config.toml", "genesis.json"]).await;
    for (json, words) in [("", "malformed"), ("{}", "malformed"), ("{\"network\":", "malformed")] {
        fs::write(node.home.genesis(), json).expect("writable");
        refused(&node, &["genesis.json", words]).await;
    }
}

#[tokio::test]
async fn data_of_another_network() {
    let folder = folder();
    let mut node = alone(&folder, config());
    node.start().await;
    node.stop().await;
    let mine = fs::read(node.home.genesis()).expect("a genesis");

    let other = genesis("another", &secrets(1));
    let json = serde_json::to_vec(&other).expect("a genesis has a JSON form");
    fs::write(node.home.genesis(), json).expect("writable");
    refused(&node, &["holds data of network", "choose another data directory"]).await;

    fs::write(node.home.genesis(), mine).expect("writable");
    let mut joining = config();
    let address = "/ip4/127.0.0.1/udp/9/quic-v1".to_owned();
    let join = JoinString::new(other.chain_id(), vec![address], None).expect("a join string");
    joining.network.join = Some(join.to_string());
    node.configure(&joining);
    refused(&node, &["the join string is for chain", "use another home"]).await;

    node.configure(&config());
    let status = node.start().await;
    assert!(status.height >= Height::ZERO, "and with its own genesis all is as before");
    node.stop().await;
}

/// A home whose data are of one network joins another one: the genesis that it is given must not
/// stay behind.
#[tokio::test]
async fn a_genesis_that_the_data_refuse_is_not_kept() {
    let (one, two) = (folder(), folder());
    let mut node = alone(&one, config());
    node.start().await;
    node.stop().await;
    fs::remove_file(node.home.genesis()).expect("it was there");

    let mut other = alone(&two, config());
    other.start().await;
    let status = other.until("an address", |status| status.join_string.is_some()).await;
    let mut joining = config();
    joining.network.join = status.join_string.map(|join| join.to_string());
    node.configure(&joining);
    refused(&node, &["holds data of network", "choose another data directory"]).await;
    assert!(!node.home.genesis().exists());
    other.stop().await;
}

#[tokio::test]
async fn a_second_daemon_in_one_home() {
    let folder = folder();
    let mut node = alone(&folder, config());
    let first = node.start().await;
    let before = files(&node.home).into_keys().filter(|path| !path.starts_with(node.home.data()));
    let before: Vec<PathBuf> = before.collect();
    let (status, said) = node.refuses().await;
    assert_eq!(status.code(), Some(1));
    let holder = format!("in use by another process (pid {})", first.pid);
    assert!(said.contains(&holder) && said.contains("ayni node stop"), "{said}");
    assert!(before.iter().all(|path| path.exists()), "the first one's files are untouched");
    node.until("blocks", |status| status.height > first.height).await;
    node.stop().await;
}

#[tokio::test]
async fn a_home_too_deep_for_a_socket() {
    let folder = folder();
    let keys = secrets(1);
    let root = folder.path().join("x".repeat(100)).join("node");
    let node = Daemon::new(&root, &keys[0], config(), Some(genesis("deep", &keys)));
    refused(&node, &["at most 107", "`socket` under [api]", "shorter home"]).await;
}

fn api<T: std::fmt::Debug>(answer: Result<T, ClientError>, code: ErrorCode) -> ApiError {
    match answer.expect_err("must be refused") {
        ClientError::Api(error) if error.code == code => error,
        other => panic!("not {code:?}: {other:?}"),
    }
}

fn says(error: &ApiError, words: &[&str]) {
    let said = format!("{} {}", error.message, error.hint.as_deref().unwrap_or_default());
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said:?}");
}

#[tokio::test]
async fn folders_without_text() {
    let folder = folder();
    let mut node = alone(&folder, config());
    node.start().await;
    let data = folder.path().join("data");
    let (missing, empty, bytes) = (data.join("none"), data.join("empty"), data.join("bytes"));
    fs::create_dir_all(&empty).expect("writable");
    fs::create_dir_all(&bytes).expect("writable");
    fs::write(bytes.join("image.bin"), [0xFF, 0xD8, 0xFF]).expect("writable");
    fs::write(bytes.join("nothing"), "").expect("writable");

    let publish = async |path: &Path, name: &str| {
        let path = path.to_str().expect("a plain path").to_owned();
        let licence = "MIT".to_owned();
        let request = PublishRequest { path, name: name.to_owned(), licence, ingest: None };
        let job = node.client.publish(&request).await?;
        node.client.wait_job(job, |_| {}).await
    };
    let private = async |path: &Path| {
        let path = path.to_str().expect("a plain path").to_owned();
        node.client.set_private(&PrivateRequest { path }).await
    };
    let bad = ErrorCode::BadRequest;
    let shown = |path: &Path| path.display().to_string();
    says(&api(publish(&missing, "a").await, bad), &[&shown(&missing), "give an existing folder"]);
    says(&api(publish(&empty, "a").await, bad), &[&shown(&empty), "no UTF-8 text", "at least one"]);
    says(&api(publish(&bytes, "a").await, bad), &["no UTF-8 text", "2 files were looked at"]);
    says(&api(publish(Path::new("data"), "a").await, bad), &["must be absolute"]);
    says(&api(publish(&bytes, "A b").await, bad), &["name", "a-z"]);
    says(&api(private(&missing).await, bad), &[&shown(&missing), "give an existing folder"]);
    says(&api(private(&empty).await, bad), &["no UTF-8 text", "give a folder"]);
    says(&api(private(&bytes).await, bad), &["no UTF-8 text", "2 files were looked at"]);
    says(&api(private(&bytes.join("image.bin")).await, bad), &["is not a folder"]);
    let list = node.client.data().await.expect("it answers");
    assert_eq!((list.datasets.len(), list.private), (0, None), "nothing is half done");
    node.stop().await;
}

#[tokio::test]
async fn requests_that_the_ledger_refuses() {
    let folder = folder();
    let mut node = alone(&folder, config());
    node.start().await;
    let send = async |to: AccountId, micro: u64| {
        let request = SendRequest { to, amount_micro: Credits::from_micro(micro) };
        node.client.send(&request).await
    };
    let (me, other) = (node.identity.account, AccountId::from_bytes([7; 32]));
    let all = BALANCE.micro();
    for amount in [all, all + 1, u64::MAX] {
        let refused = api(send(other, amount).await, ErrorCode::InsufficientFunds);
        says(&refused, &["needs", "has", "ayni credits balance"]);
    }
    says(&api(send(other, 0).await, ErrorCode::BadRequest), &["the amount is zero"]);
    says(&api(send(me, 1).await, ErrorCode::BadRequest), &["own account", "receiver"]);

    let model = |suite: ContentHash, heads: u32| CreateModelRequest {
        name: "tiny".to_owned(),
        origin: ModelOrigin::Seed {
            architecture: Architecture::BytesGpt { layers: 1, width: 32, heads, context: 16 },
            tokenizer: None,
            seed: 1,
        },
        evaluation_suite: suite,
        licence: "MIT".to_owned(),
    };
    let unknown = node.client.create_model(&model(ContentHash::of(b"not here"), 2)).await;
    says(&api(unknown, ErrorCode::NotFound), &["evaluation suite", "ayni data add"]);
    let text = "some text. ".repeat(1_000);
    let suite = node.client.store_blob(text.into()).await.expect("a blob").hash;
    says(&api(node.client.create_model(&model(suite, 5)).await, ErrorCode::BadRequest), &["heads"]);
    // This node has no worker that could make the weights.
    let job = node.client.create_model(&model(suite, 2)).await.expect("a job");
    let failed = node.client.wait_job(job, |_| {}).await;
    says(&api(failed, ErrorCode::Unavailable), &["worker"]);

    assert_eq!(node.client.models().await.expect("it answers").models.len(), 0);
    let balance = node.client.balance(None).await.expect("it answers").balance_micro;
    assert!(balance >= BALANCE, "nothing was charged");
    let status = node.client.status().await.expect("it answers");
    assert_eq!(status.mempool_transactions, 0, "nothing waits");
    node.stop().await;
}
