//! Server-sent events, read one at a time.

use std::marker::PhantomData;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::ClientError;
use super::transport::broken;

/// One event with its framing.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The daemon sends a comment every 15 s; after this long without a byte it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A stream of events; dropping it closes the connection.
pub struct EventStream<T> {
    body: Incoming,
    parser: Parser,
    kind: PhantomData<fn() -> T>,
}

impl<T> EventStream<T> {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), kind: PhantomData }
    }
}

impl<T: DeserializeOwned> EventStream<T> {
    /// The next event; `None` when the daemon has ended the stream. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        loop {
            if let Some(data) = self.parser.next_event() {
                let parsed = serde_json::from_str(&data);
                return Some(parsed.map_err(|e| ClientError::Malformed(e.to_string())));
            }
            if self.parser.buffer.len() > EVENT_BYTES_MAX {
                return Some(Err(ClientError::Malformed("an event is too long".to_owned())));
            }
            match tokio::time::timeout(SILENCE_MAX, self.body.frame()).await {
                Err(_) => return Some(Err(ClientError::TimedOut(SILENCE_MAX))),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(broken(error))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.parser.buffer.extend_from_slice(&bytes);
                    }
                }
            }
        }
    }
}

/// Cuts the byte stream into events. Names are not needed: the data says what it is.
#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    data: Option<String>,
}

impl Parser {
    /// The data of the next complete event.
    fn next_event(&mut self) -> Option<String> {
        let mut used = 0;
        let mut event = None;
        while let Some(length) = self.buffer[used..].iter().position(|b| *b == b'\n') {
            let line = self.buffer[used..used + length].strip_suffix(b"\r");
            let line = line.unwrap_or(&self.buffer[used..used + length]);
            used += length + 1;
            if line.is_empty() {
                event = self.data.take();
                if event.is_some() {
                    break;
                }
            } else if let Some(value) = line.strip_prefix(b"data:") {
                let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
                match &mut self.data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    None => self.data = Some(value.into_owned()),
                }
            }
        }
        self.buffer.drain(..used);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_alike_wherever_the_bytes_are() {
        let text = b"event: block\ndata: 1\n\n: comment\n\ndata: 2\r\ndata:3\r\n\r\ndata: cut off";
        for split in 0..=text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for part in [&text[..split], &text[split..]] {
                parser.buffer.extend_from_slice(part);
                events.extend(std::iter::from_fn(|| parser.next_event()));
            }
            assert_eq!(events, ["1", "2\n3"], "split at {split}");
        }
    }
}
