//! The operations of data: blobs, datasets, the private folder.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use protocol::api::{
    AddRequest, BlobDetail, BlobList, BlobQuery, BlobReceipt, BlobsQuery, DataList, GcRequest,
    GetRequest, JobId, PinRequest, PinSummary, PrivateRequest, PrivateSummary, Providers,
    PublishRequest, RemoveRequest, Removed, UnpinRequest, Unpinned, UploadQuery, VerifyRequest,
};
use protocol::ids::ContentHash;
use tokio::sync::mpsc;

use super::Client;
use super::methods::{Answer, query, text};

/// Bytes read at once: as much as a socket takes.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait to be sent; with them an upload needs two MiB.
const PIECES_WAITING: usize = 8;

/// A body that a thread reads while it is sent.
pub struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl Pieces {
    /// Reads `source` to its end. `read` hears of every piece. Must be called in a tokio runtime.
    pub fn new(
        mut source: impl Read + Send + 'static,
        mut read: impl FnMut(u64) + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                let limit = u64::try_from(PIECE_BYTES).unwrap_or(u64::MAX);
                let result = source.by_ref().take(limit).read_to_end(&mut piece);
                let is_last = !matches!(result, Ok(bytes) if bytes > 0);
                if let Ok(0) = result {
                    break;
                }
                read(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                let sent = sender.blocking_send(result.map(|_| piece.into()));
                // Nobody sends any more, or nothing can be read any more.
                if sent.is_err() || is_last {
                    break;
                }
            }
        });
        Self(receiver)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Client {
    /// Stores a small blob on the node.
    pub async fn store_blob(&self, bytes: Bytes) -> Answer<BlobReceipt> {
        self.post_bytes("/v1/blobs", bytes).await
    }

    /// Stores a blob of any size on the node and pins it.
    pub async fn upload(&self, options: &UploadQuery, body: Pieces) -> Answer<BlobReceipt> {
        let parameters = [
            ("name", text(options.name.as_ref())),
            ("announce", text(options.announce)),
            ("bytes", text(options.bytes)),
        ];
        self.post_pieces(&query("/v1/data/upload", &parameters), body).await
    }

    /// Takes a file or folder of the node's machine into its store.
    pub async fn add_data(&self, request: &AddRequest) -> Answer<JobId> {
        self.start("/v1/data/add", request).await
    }

    /// Fetches a blob or a collection.
    pub async fn get_data(&self, request: &GetRequest) -> Answer<JobId> {
        self.start("/v1/data/get", request).await
    }

    /// A page of the blobs that are here.
    pub async fn list_blobs(&self, page: &BlobsQuery) -> Answer<BlobList> {
        let only = page.only.map(|only| match only {
            protocol::api::BlobFilter::All => "all",
            protocol::api::BlobFilter::Pins => "pins",
            protocol::api::BlobFilter::Collections => "collections",
        });
        let parameters =
            [("only", text(only)), ("after", text(page.after)), ("limit", text(page.limit))];
        self.get(&query("/v1/data/blobs", &parameters)).await
    }

    /// One blob.
    pub async fn show_blob(&self, hash: ContentHash, options: BlobQuery) -> Answer<BlobDetail> {
        let parameters = [("files", text(options.files))];
        self.get(&query(&format!("/v1/data/blobs/{hash}"), &parameters)).await
    }

    /// Keeps a blob.
    pub async fn pin(&self, request: &PinRequest) -> Answer<PinSummary> {
        self.post("/v1/data/pin", request).await
    }

    /// Keeps a blob no more.
    pub async fn unpin(&self, request: &UnpinRequest) -> Answer<Unpinned> {
        self.post("/v1/data/unpin", request).await
    }

    /// Removes a blob.
    pub async fn remove_blob(&self, request: &RemoveRequest) -> Answer<Removed> {
        self.post("/v1/data/rm", request).await
    }

    /// Removes what nothing keeps.
    pub async fn collect_garbage(&self, request: &GcRequest) -> Answer<JobId> {
        self.start("/v1/data/gc", request).await
    }

    /// Reads what is stored again.
    pub async fn verify_data(&self, request: &VerifyRequest) -> Answer<JobId> {
        self.start("/v1/data/verify", request).await
    }

    /// Who says that it has a blob.
    pub async fn providers(&self, hash: ContentHash) -> Answer<Providers> {
        self.get(&format!("/v1/data/providers/{hash}")).await
    }

    /// Datasets and the private folder.
    pub async fn data(&self) -> Answer<DataList> {
        self.get("/v1/data").await
    }

    /// Publishes a folder of text as a dataset.
    pub async fn publish(&self, request: &PublishRequest) -> Answer<JobId> {
        self.start("/v1/data/publish", request).await
    }

    /// Sets the folder that trains here and never leaves.
    pub async fn set_private(&self, request: &PrivateRequest) -> Answer<PrivateSummary> {
        self.post("/v1/data/private", request).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Gives some bytes, then fails.
    struct Damaged(usize);

    impl Read for Damaged {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(io::Error::other("a bad sector")) } else { Ok(count) }
        }
    }

    async fn collect(mut body: Pieces) -> Result<usize, String> {
        let mut bytes = 0;
        loop {
            match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                None => return Ok(bytes),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_whole_or_broken() {
        let length = 3 * PIECE_BYTES + 7;
        for bytes in [0, 1, PIECE_BYTES, length] {
            let source = io::Cursor::new(vec![1; bytes]);
            assert_eq!(collect(Pieces::new(source, |_| ())).await, Ok(bytes));
        }
        let broken = collect(Pieces::new(Damaged(length), |_| ())).await;
        assert_eq!(broken, Err("a bad sector".to_owned()));
    }
}
