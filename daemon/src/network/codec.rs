//! Request-response framing: read everything up to a limit, decode canonically, or fail.
//!
//! One length-delimited frame per direction (the stream is closed after it), so the only state
//! is the limit. Failing a read closes the substream; the swarm counts and penalises it.

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
    type Request = MetaRequest;
    type Response = MetaResponse;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<MetaRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        let request: MetaRequest = read_value(io).await?;
        if request.is_bounded() {
            Ok(request)
        } else {
            Err(invalid("too many hashes in one request"))
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
        request: MetaRequest,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
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
        read_bytes(io, SYNC_REQUEST_BYTES_MAX).await
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

/// Reads until the peer closes its side. Memory grows with what has arrived, never with what the
/// peer announces.
async fn read_bytes(
    io: &mut (impl AsyncRead + Unpin + Send),
    max_bytes: usize,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    io.take(limit).read_to_end(&mut bytes).await?;
    if bytes.len() > max_bytes {
        return Err(invalid(format!("frame is larger than {max_bytes} bytes")));
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
