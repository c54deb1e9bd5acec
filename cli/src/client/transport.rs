//! HTTP/1.1 over the socket: one request, one connection.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use protocol::api::ErrorBody;
use protocol::home::check_socket_path;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Client, ClientError, EventStream};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The largest reply that is read: the daemon is trusted, a mistaken socket path is not.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Client {
    /// `GET path`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.exchange(Method::GET, path, Bytes::new()).await?)
    }

    /// `GET path` for a reply that is handed on as it is.
    pub(super) async fn get_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// `DELETE path`.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.exchange(Method::DELETE, path, Bytes::new()).await?)
    }

    /// `POST path` with a JSON body.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        parse(&self.exchange(Method::POST, path, json(body)?).await?)
    }

    /// `POST path` with a raw body, or none.
    pub(super) async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        parse(&self.exchange(Method::POST, path, body).await?)
    }

    /// `GET path` for server-sent events.
    pub(super) async fn follow<T>(&self, path: &str) -> Result<EventStream<T>, ClientError> {
        self.open_stream(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` for server-sent events.
    pub(super) async fn post_follow<T>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<EventStream<T>, ClientError> {
        self.open_stream(Method::POST, path, json(body)?).await
    }

    async fn open_stream<T>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<EventStream<T>, ClientError> {
        let response = self.within(self.send_request(method, path, Full::new(body))).await?;
        if response.status().is_success() {
            return Ok(EventStream::new(response.into_body()));
        }
        let status = response.status();
        Err(refusal(status, &self.within(read(response)).await?))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        self.within(async {
            let response = self.send_request(method, path, Full::new(body)).await?;
            answer(response).await
        })
        .await
    }

    /// `POST path` with a body that comes piece by piece. There is no deadline: it takes as long
    /// as its source does.
    pub(super) async fn post_pieces<T, B>(&self, path: &str, body: B) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        // Boxed: hyper moves the body into its connection.
        let response = self.send_request(Method::POST, path, Box::pin(body)).await?;
        parse(&answer(response).await?)
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let limit: Duration = self.timeout;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(ClientError::TimedOut(limit)))
    }

    async fn send_request<B>(
        &self,
        method: Method,
        path: &str,
        body: B,
    ) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Cause>,
    {
        check_socket_path(&self.socket)?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.clone();
            match error.kind() {
                ErrorKind::PermissionDenied => ClientError::Forbidden { socket },
                _ => ClientError::Down { socket, error },
            }
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the connection, which ends when the response has been read or dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| ClientError::Malformed(e.to_string()))?;
        sender.send_request(request).await.map_err(broken)
    }
}

pub(super) fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(Box::new(error))
}

fn json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    let bytes = serde_json::to_vec(body).map_err(|e| ClientError::Malformed(e.to_string()))?;
    Ok(bytes.into())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| ClientError::Malformed(e.to_string()))
}

async fn answer(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let status = response.status();
    let bytes = read(response).await?;
    if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
}

async fn read(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let collected = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
    collected.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            ClientError::Malformed(format!("it has more than {REPLY_BYTES_MAX} bytes"))
        } else {
            ClientError::Broken(error)
        }
    })
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => ClientError::Api(body.error),
        Err(_) => ClientError::Malformed(format!("HTTP status {status} without an explanation")),
    }
}
