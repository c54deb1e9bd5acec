//! The operations on data of a node's interface, as these commands use them.
//!
//! Requests go as JSON over the socket, and only the fields that are needed are read back: what is
//! measured here is how a node behaves, not whether its client has a method for it.
//! Deliberately absent: events. A job is looked at again and again, [`LOOK`] apart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::home::Home;
use protocol::ids::{ContentHash, NodeId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// How often a job is looked at: a hundredth of the time that a measured fetch takes, and far
/// too seldom to cost anything.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// An answer comes within this; what takes longer is a job.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// A job comes to its end within this.
const JOB_MAX: Duration = Duration::from_secs(600);
/// Longest answer read: a listing of all blobs.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The interface of one node.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    socket: PathBuf,
}

/// How far a job is.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Progress {
    /// Bytes there.
    #[serde(default)]
    pub(crate) done: u64,
    /// Bytes in all, 0 while unknown.
    #[serde(default)]
    pub(crate) total: u64,
    /// What is being done.
    #[serde(default)]
    pub(crate) message: String,
}

/// What a node says about a job.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Job {
    state: String,
    /// How far it is.
    #[serde(default)]
    pub(crate) progress: Progress,
    result: Option<Value>,
    error: Option<Value>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// With this result.
    Done(Value),
    /// With this message, hint included.
    Failed(String),
}

impl Job {
    /// How it ended, if it has.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self.state.as_str() {
            "running" => None,
            "done" => Some(Ending::Done(self.result.clone().unwrap_or(Value::Null))),
            state => {
                let error = self.error.as_ref().map(words);
                Some(Ending::Failed(error.unwrap_or_else(|| format!("it is {state}"))))
            }
        }
    }
}

/// What was added.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Added {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Its size.
    pub(crate) bytes: u64,
}

/// What was fetched.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fetched {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Its size.
    pub(crate) bytes: u64,
    /// Bytes that came over the network.
    pub(crate) bytes_fetched: u64,
    /// Bytes that were there before.
    pub(crate) bytes_had: u64,
    /// Who gave how much.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
}

/// One provider's part.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Source {
    /// Bytes that it gave.
    pub(crate) bytes: u64,
}

/// What is fetched, and where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its hash.
    pub(crate) hash: ContentHash,
    /// Who has it.
    pub(crate) providers: Vec<NodeId>,
    /// More than this is refused.
    pub(crate) bytes_max: u64,
    /// File or folder to write, or none: then it stays in the store.
    pub(crate) target: Option<&'a Path>,
}

impl Api {
    /// Of the node with this home.
    pub(crate) fn of(home: &Home) -> Self {
        Self { socket: home.root().join("run").join("ayni.sock") }
    }

    /// Puts a file or folder into the store by copying it, whole files as one blob each.
    pub(crate) async fn add(&self, path: &Path) -> Result<Added> {
        let request = json!({"path": path, "mode": "copy", "name": null, "chunked": false});
        let result = self.job_of("/v1/data/add", &request).await;
        parse(result.with_context(|| format!("{} is added", path.display()))?)
    }

    /// Starts a fetch.
    pub(crate) async fn start_get(&self, wanted: &Wanted<'_>) -> Result<u64> {
        let request = json!({
            "hash": wanted.hash,
            "providers": wanted.providers,
            "bytes_max": wanted.bytes_max,
            "target": wanted.target,
            "priority": "normal",
        });
        started(&self.post("/v1/data/get", &request).await?)
    }

    /// Fetches, and waits until all of it is there.
    pub(crate) async fn get(&self, wanted: &Wanted<'_>) -> Result<Fetched> {
        let job = self.start_get(wanted).await?;
        self.fetched(job).await.with_context(|| format!("{} is fetched", wanted.hash))
    }

    /// Waits for a fetch that was started.
    pub(crate) async fn fetched(&self, job: u64) -> Result<Fetched> {
        match self.end(job).await? {
            Ending::Done(result) => parse(result),
            Ending::Failed(why) => bail!("the fetch failed: {why}"),
        }
    }

    /// Posts something that is a job, or an answer at once; what it gave.
    pub(crate) async fn job_of(&self, path: &str, request: &Value) -> Result<Value> {
        let answer = self.post(path, request).await?;
        let Ok(job) = started(&answer) else { return Ok(answer) };
        match self.end(job).await? {
            Ending::Done(result) => Ok(result),
            Ending::Failed(why) => bail!("{path} failed: {why}"),
        }
    }

    /// A job as it is now.
    pub(crate) async fn job(&self, job: u64) -> Result<Job> {
        parse(self.get_json(&format!("/v1/jobs/{job}")).await?)
    }

    /// Waits until a job ends.
    pub(crate) async fn end(&self, job: u64) -> Result<Ending> {
        let deadline = Instant::now() + JOB_MAX;
        loop {
            let seen = self.job(job).await?;
            if let Some(ending) = seen.ending() {
                return Ok(ending);
            }
            ensure!(
                Instant::now() < deadline,
                "the job has not ended in {} s: {} of {} bytes, \"{}\"",
                JOB_MAX.as_secs(),
                seen.progress.done,
                seen.progress.total,
                seen.progress.message
            );
            sleep(LOOK).await;
        }
    }

    /// Whether the node has the whole blob.
    pub(crate) async fn has(&self, hash: ContentHash) -> Result<bool> {
        let (status, answer) = self.ask("GET", &format!("/v1/data/blobs/{hash}"), "").await?;
        match status {
            200 => {
                let bytes = |key| answer.get(key).and_then(Value::as_u64);
                Ok(bytes("bytes").context("a size")? == bytes("bytes_here").context("a size")?)
            }
            404 => Ok(false),
            _ => bail!("the node answers {status}: {}", words(&answer)),
        }
    }

    /// Posts JSON; the answer.
    pub(crate) async fn post(&self, path: &str, request: &Value) -> Result<Value> {
        self.accept(path, self.ask("POST", path, &request.to_string()).await?)
    }

    async fn get_json(&self, path: &str) -> Result<Value> {
        self.accept(path, self.ask("GET", path, "").await?)
    }

    fn accept(&self, path: &str, (status, answer): (u16, Value)) -> Result<Value> {
        ensure!((200..300).contains(&status), "{path}: {status}, {}", words(&answer));
        Ok(answer)
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let context = || format!("{method} {path} at {}", self.socket.display());
        let exchange = timeout(ANSWER_MAX, self.exchange(method, path, body)).await;
        let bytes = exchange.with_context(context)?.with_context(context)?;
        split_answer(&bytes).with_context(context)
    }

    /// One request on a connection of its own, which the node closes after its answer.
    async fn exchange(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // In one write: a node that refuses without reading the body answers all the same.
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T> {
    serde_json::from_value(value.clone()).with_context(|| format!("not as expected: {value}"))
}

fn started(answer: &Value) -> Result<u64> {
    answer.get("job").and_then(Value::as_u64).with_context(|| format!("no job in {answer}"))
}

/// The message and the hint of an error, wherever in the answer they are.
fn words(error: &Value) -> String {
    let inner = error.get("error").unwrap_or(error);
    let text = |key| inner.get(key).and_then(Value::as_str);
    match (text("message"), text("hint")) {
        (Some(message), Some(hint)) => format!("{message}; {hint}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Status and body of an HTTP answer.
fn split_answer(bytes: &[u8]) -> Result<(u16, Value)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.context("the answer breaks off in its head")?;
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.split(' ').nth(1).context("the answer has no status")?.parse()?;
    let is_chunked = |line: &str| line.to_ascii_lowercase().starts_with("transfer-encoding");
    ensure!(!head.lines().any(is_chunked), "the answer is chunked, which is not read here");
    let body = &bytes[end + 4..];
    let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? };
    Ok((status, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"job\":7}";
        let (status, answer) = split_answer(whole).expect("an answer");
        assert_eq!((status, started(&answer).expect("a job")), (200, 7));
        split_answer(&whole[..20]).expect_err("cut in the head");
        split_answer(&whole[..whole.len() - 1]).expect_err("cut in the body");
        split_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .expect_err("chunked");
    }

    #[test]
    fn failures_speak() {
        let job: Job = serde_json::from_value(json!({
            "state": "failed",
            "progress": {"done": 1, "total": 2, "message": ""},
            "result": null,
            "error": {"code": "internal", "message": "full", "hint": "free some"},
        }))
        .expect("a job");
        let Some(Ending::Failed(why)) = job.ending() else { panic!("it failed") };
        assert_eq!(why, "full; free some");
        assert_eq!(words(&json!({"error": {"message": "no"}})), "no");
    }
}
