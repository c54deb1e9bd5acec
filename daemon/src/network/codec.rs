//! Request-response framing: read everything up to a limit, decode canonically, or fail.
//!
//! One length-delimited frame per direction (the stream is closed after it), so the only state
//! is the limit. A failed read of a response reaches the swarm task as a failure. A failed read
//! of a *request* would be swallowed by libp2p, so malformed requests are handed on as such
//! (`None`, or bytes above the limit) and penalised there.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use protocol::codec::{self, Canonical};

use super::wire::{MetaRequest, MetaResponse, SYNC_REQUEST_BYTES_MAX, SYNC_RESPONSE_BYTES_MAX};

/// Frames of the metadata protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MetaCodec;

/// Frames of the engine's sync protocol: opaque bytes that the engine module decodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncCodec;

impl request_response::Codec for MetaCodec {
    type Protocol = StreamProtocol;
    type Request = Option<MetaRequest>;
    type Response = MetaResponse;

    async fn read_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Option<MetaRequest>>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read_value::<MetaRequest>(io).await {
            Ok(request) => Ok(Some(request)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<MetaResponse>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_value(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Option<MetaRequest>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let request = request.ok_or_else(|| invalid("only what is received can be malformed"))?;
        write_value(io, &request).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: MetaResponse,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_value(io, &response).await
    }
}

impl request_response::Codec for SyncCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        // Cut off above the limit, where decoding refuses it.
        read_up_to(io, SYNC_REQUEST_BYTES_MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_bytes(io, SYNC_RESPONSE_BYTES_MAX).await
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_bytes(io, &request).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_bytes(io, &response).await
    }
}

async fn read_value<V: Canonical>(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<V> {
    let bytes = read_bytes(io, V::BYTES_MAX).await?;
    codec::decode(&bytes).map_err(invalid)
}

async fn write_value<V: Canonical>(
    io: &mut (impl AsyncWrite + Unpin + Send),
    value: &V,
) -> io::Result<()> {
    let bytes = codec::encode_checked(value).map_err(invalid)?;
    write_bytes(io, &bytes).await
}

/// Reads until the peer closes its side; longer than `max_bytes` is an error.
async fn read_bytes(
    io: &mut (impl AsyncRead + Unpin + Send),
    max_bytes: usize,
) -> io::Result<Vec<u8>> {
    let bytes = read_up_to(io, max_bytes).await?;
    if bytes.len() > max_bytes {
        return Err(invalid(format!("frame is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// Reads until the peer closes its side, at most one byte more than `max_bytes`. Memory grows
/// with what has arrived, never with what the peer announces.
async fn read_up_to(
    io: &mut (impl AsyncRead + Unpin + Send),
    max_bytes: usize,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    io.take(limit).read_to_end(&mut bytes).await?;
    // No frame is empty: the peer closed the stream instead of answering, which is no lie.
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write_bytes(io: &mut (impl AsyncWrite + Unpin + Send), bytes: &[u8]) -> io::Result<()> {
    // The behaviour closes the stream after this returns.
    io.write_all(bytes).await
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn frames_are_bounded_and_canonical() {
        let read = async |bytes: Vec<u8>| {
            read_value::<MetaRequest>(&mut Cursor::new(bytes)).await.map_err(|error| error.kind())
        };
        let request = codec::encode(&MetaRequest::Status);
        assert_eq!(read(request.clone()).await, Ok(MetaRequest::Status));
        assert_eq!(read([request, vec![0]].concat()).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(read(Vec::new()).await, Err(io::ErrorKind::UnexpectedEof));
        let endless = vec![1; MetaRequest::BYTES_MAX + 2];
        assert_eq!(read(endless).await, Err(io::ErrorKind::InvalidData));
    }
}
